//! Boots real machines and watches each of their ends. This test binary is also the machines' init: as process
//! 1 it does what the word `vm-test=` on the kernel's command line says.
//!
//! Kernels and emulators come from the store; where one is missing the test fails and names the command that
//! fetches it. Nothing is skipped.

#![expect(unsafe_code, reason = "the time-stamp counter and the processor time have no safe interface in std")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use ptediff_vm::guest;
use ptediff_vm::in_place::may_run_in_place;
use ptediff_vm::store::Store;
use ptediff_vm::{Activity, BackendKind, Ending, Initramfs, Running, VmError, VmSpec, without_sections};

const WORD: &str = "vm-test=";
/// What an init that does its work sends first.
const HELLO: &[u8] = b"hello from init\n";
const PATTERN_SIZE: usize = 1 << 20;
/// How many patterns a long stream has.
const STREAM_LENGTH: usize = 16;
const BACKENDS: [(BackendKind, &str); 2] = [(BackendKind::Bochs, "bochs"), (BackendKind::Qemu, "qemu")];

fn main() -> ExitCode {
    if guest::is_init() {
        return run_as_init();
    }
    let mut trials = Vec::new();
    for (backend, name) in BACKENDS {
        for kernel in ["6.12", "7.2"] {
            trials.push(Trial::test(format!("{name}::{kernel}::all_bytes_arrive"), move || {
                all_bytes_arrive(backend, kernel)
            }));
        }
        trials.push(Trial::test(format!("{name}::stream"), move || stream_is_whole(backend)));
        trials.push(Trial::test(format!("{name}::panic"), move || panic_is_told(backend)));
        trials.push(Trial::test(format!("{name}::hang"), move || hang_is_told(backend)));
        trials.push(Trial::test(format!("{name}::time_limit"), move || time_limit_is_told(backend)));
        trials.push(Trial::test(format!("{name}::reset"), move || reset_is_told(backend, "reset", "pci")));
        trials.push(Trial::test(format!("{name}::restart_by_triple_fault"), move || {
            reset_is_told(backend, "reset", "triple")
        }));
        trials.push(Trial::test(format!("{name}::triple_fault"), move || triple_fault_is_told(backend)));
        trials.push(Trial::test(format!("{name}::killed"), move || killed_emulator_is_told(backend)));
        trials.push(Trial::test(format!("{name}::refused"), move || refused_machine_is_a_rig_failure(backend)));
        trials.push(Trial::test(format!("{name}::dropped"), move || dropping_leaves_nothing(backend)));
        trials.push(Trial::test(format!("{name}::two_processors"), move || two_processors(backend)));
        trials.push(Trial::test(format!("{name}::same_again"), move || same_again(backend)));
    }
    trials.push(Trial::test("bochs_of_a_distribution", bochs_of_a_distribution));
    let mut arguments = Arguments::from_args();
    // Two machines at once make each other's watchdogs bark.
    arguments.test_threads.get_or_insert(1);
    // No machine inside a machine: it would take minutes to boot, and its kernel is not the one under test.
    let in_place = may_run_in_place();
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(in_place)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The guest's side. Whatever fails here ends in a kernel panic, for init may not exit.
fn run_as_init() -> ExitCode {
    let failed = |action: &str, error: std::io::Error| {
        eprintln!("vm-test-init: {action}: {error}");
        ExitCode::FAILURE
    };
    if let Err(error) = guest::mount_file_systems() {
        return failed("mount", error);
    }
    let words = guest::kernel_command_line().unwrap_or_default();
    let word = words.iter().find_map(|word| word.strip_prefix(WORD)).unwrap_or_default();
    let mut port = match guest::E9Port::open() {
        Ok(port) => port,
        Err(error) => return failed("open port 0xE9", error),
    };
    let _ = port.write_all(HELLO);
    let end = match word {
        "ok" => {
            let _ = port.write_all(&pattern());
            guest::power_off()
        }
        "stream" => {
            let pattern = pattern();
            for _ in 0..STREAM_LENGTH {
                let _ = port.write_all(&pattern);
            }
            guest::power_off()
        }
        "processors" => {
            let processors = std::thread::available_parallelism().map_or(0, usize::from);
            let _ = writeln!(port, "{processors} processors");
            guest::power_off()
        }
        "facts" => {
            let _ = port.write_all(facts().as_bytes());
            guest::power_off()
        }
        "hang" => loop {
            std::hint::spin_loop();
        },
        "reset" => guest::reset(),
        "triple-fault" => guest::triple_fault(),
        // "panic": init exits.
        _ => return ExitCode::from(7),
    };
    match end {
        Ok(never) => match never {},
        Err(error) => failed("end the machine", error),
    }
}

fn pattern() -> Vec<u8> {
    (0..PATTERN_SIZE as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// What should be the same in two machines of the same make, as far as the emulator allows.
fn facts() -> String {
    // SAFETY: the instruction reads a counter, and is allowed to every process of our kernels.
    let time_stamp = unsafe { std::arch::x86_64::_rdtsc() };
    let mut text = format!("time stamp: {time_stamp}\n");
    for path in ["/proc/cpuinfo", "/proc/meminfo", "/proc/self/maps", "/proc/sys/kernel/random/boot_id"] {
        text.push_str(&std::fs::read_to_string(path).unwrap_or_default());
    }
    text.push_str(&kernel_log());
    text
}

/// The kernel's own records, time stamps included.
fn kernel_log() -> String {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut text = String::new();
    if let Ok(mut log) = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg") {
        // One record a read, until the next one would have to be waited for.
        let mut record = vec![0; 8192];
        while let Ok(count) = log.read(&mut record) {
            text.push_str(&String::from_utf8_lossy(&record[..count]));
        }
    }
    text
}

fn spec(backend: BackendKind, kernel: &str, word: &str) -> Result<VmSpec, Failed> {
    let kernel = Store::open()?.kernel(kernel)?;
    let init = without_sections(&std::fs::read("/proc/self/exe")?);
    let mut spec = VmSpec::new(backend, kernel.vmlinuz, Initramfs::with_init(init));
    spec.command_line.push(format!("{WORD}{word}"));
    Ok(spec)
}

/// A machine's whole life.
struct Life {
    bytes: Vec<u8>,
    /// From the start of `boot` to the first byte of the channel.
    first_byte: Option<Duration>,
    whole: Duration,
    ending: Ending,
    console: String,
}

fn live(spec: &VmSpec) -> Result<Life, VmError> {
    let start = Instant::now();
    let mut machine = ptediff_vm::boot(spec)?;
    println!("  emulator started after {:.2} s", start.elapsed().as_secs_f64());
    live_on(&mut machine, start)
}

fn live_on(machine: &mut Running, start: Instant) -> Result<Life, VmError> {
    let mut bytes = Vec::new();
    let mut first_byte = None;
    loop {
        match machine.read(&mut bytes)? {
            Activity::Bytes(_) => {
                first_byte.get_or_insert_with(|| start.elapsed());
            }
            Activity::Ended(ending) => {
                let (whole, console) = (start.elapsed(), machine.console());
                return Ok(Life { bytes, first_byte, whole, ending, console });
            }
        }
    }
}

/// Says what was measured, and fails unless the end is as expected and init had begun to work.
fn check(life: &Life, expected: impl Fn(&Ending) -> bool) -> Result<(), Failed> {
    println!(
        "  first byte after {:.2} s, end after {:.2} s, {} bytes: {}",
        life.first_byte.unwrap_or_default().as_secs_f64(),
        life.whole.as_secs_f64(),
        life.bytes.len(),
        life.ending
    );
    if !life.bytes.starts_with(HELLO) {
        return Err(format!("init said {:?}, console:\n{}", head(&life.bytes), life.console).into());
    }
    if !expected(&life.ending) {
        return Err(format!("an end that was not expected: {:?}, console:\n{}", life.ending, life.console).into());
    }
    Ok(())
}

fn head(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

fn all_bytes_arrive(backend: BackendKind, kernel: &str) -> Result<(), Failed> {
    let life = live(&spec(backend, kernel, "ok")?)?;
    check(&life, |ending| *ending == Ending::PoweredOff)?;
    if life.bytes[HELLO.len()..] != pattern() {
        return Err(format!("{} bytes came, they are not the pattern", life.bytes.len()).into());
    }
    Ok(())
}

/// A Bochs that was not built by our recipe boots from a disk. (Debian 12's: it has a debugger, which writes a
/// line of its own at the end.)
fn bochs_of_a_distribution() -> Result<(), Failed> {
    let mut spec = spec(BackendKind::Bochs, "6.12", "ok")?;
    spec.emulator = Some(Store::open()?.emulator("bochs-2.7")?.program);
    spec.cpu_model = Some("tigerlake".to_owned());
    let life = live(&spec)?;
    check(&life, |ending| *ending == Ending::PoweredOff)?;
    if life.bytes[HELLO.len()..].starts_with(&pattern()) { Ok(()) } else { Err("the pattern did not arrive".into()) }
}

/// A long stream arrives whole, and reading it takes little time from the emulator.
fn stream_is_whole(backend: BackendKind) -> Result<(), Failed> {
    let spec = spec(backend, "6.12", "stream")?;
    let own_time = own_processor_time();
    let life = live(&spec)?;
    let own_time = own_processor_time().saturating_sub(own_time);
    check(&life, |ending| *ending == Ending::PoweredOff)?;
    let expected = pattern();
    let stream = &life.bytes[HELLO.len()..];
    assert_eq!(stream.len(), STREAM_LENGTH * PATTERN_SIZE);
    assert!(stream.chunks(PATTERN_SIZE).all(|chunk| chunk == expected), "the stream is damaged");
    let streaming = life.whole.saturating_sub(life.first_byte.unwrap_or_default()).as_secs_f64();
    println!(
        "  {:.2} MB/s; {:.2} s of our own processor time, preparation included",
        stream.len() as f64 / 1e6 / streaming,
        own_time.as_secs_f64()
    );
    Ok(())
}

fn own_processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn panic_is_told(backend: BackendKind) -> Result<(), Failed> {
    let life = live(&spec(backend, "6.12", "panic")?)?;
    check(&life, |ending| match ending {
        Ending::GuestPanic { message } => message.contains("Attempted to kill init"),
        _ => false,
    })
}

fn hang_is_told(backend: BackendKind) -> Result<(), Failed> {
    let mut spec = spec(backend, "6.12", "hang")?;
    // The boot itself is silent, too.
    spec.silence = Duration::from_secs(30);
    let silence = spec.silence;
    let life = live(&spec)?;
    check(&life, |ending| match ending {
        Ending::Hang { silent_for } => *silent_for >= silence && *silent_for < silence * 2,
        _ => false,
    })
}

fn time_limit_is_told(backend: BackendKind) -> Result<(), Failed> {
    let mut spec = spec(backend, "6.12", "hang")?;
    spec.limit = Some(Duration::from_secs(3));
    let life = live(&spec)?;
    println!("  end after {:.2} s: {}", life.whole.as_secs_f64(), life.ending);
    if life.ending != Ending::TimeLimit {
        return Err(format!("an end that was not expected: {:?}", life.ending).into());
    }
    // Preparation is not part of the machine's life, but of ours here.
    if life.whole < Duration::from_secs(3) || life.whole > Duration::from_secs(10) {
        return Err(format!("the limit is 3 s, the machine lived {:.1} s", life.whole.as_secs_f64()).into());
    }
    Ok(())
}

fn reset_is_told(backend: BackendKind, word: &str, way: &str) -> Result<(), Failed> {
    let mut spec = spec(backend, "6.12", word)?;
    spec.command_line.push(format!("reboot={way}"));
    check(&live(&spec)?, |ending| *ending == Ending::Reset)
}

fn triple_fault_is_told(backend: BackendKind) -> Result<(), Failed> {
    let life = live(&spec(backend, "6.12", "triple-fault")?)?;
    check(&life, |ending| *ending == Ending::TripleFault)
}

fn killed_emulator_is_told(backend: BackendKind) -> Result<(), Failed> {
    let spec = spec(backend, "6.12", "hang")?;
    let start = Instant::now();
    let mut machine = ptediff_vm::boot(&spec)?;
    let mut bytes = Vec::new();
    if let Activity::Ended(ending) = machine.read(&mut bytes)? {
        return Err(format!("the machine ended before it was killed: {ending}").into());
    }
    let status = std::process::Command::new("kill").args(["-KILL", &machine.process_id().to_string()]).status()?;
    assert!(status.success());
    let mut life = live_on(&mut machine, start)?;
    life.bytes.splice(0..0, bytes);
    check(&life, |ending| *ending == Ending::EmulatorKilled { signal: 9 })
}

fn refused_machine_is_a_rig_failure(backend: BackendKind) -> Result<(), Failed> {
    let mut spec = spec(backend, "6.12", "ok")?;
    spec.cpu_model = Some("no-such-cpu".to_owned());
    match live(&spec) {
        Err(error @ VmError::EmulatorRefused { .. }) => {
            println!("  {error}");
            assert!(error.to_string().contains("no-such-cpu"), "the emulator's reason is not told: {error}");
            Ok(())
        }
        Err(error) => Err(format!("another failure was expected: {error}").into()),
        Ok(life) => Err(format!("the machine ran: {}", life.ending).into()),
    }
}

fn dropping_leaves_nothing(backend: BackendKind) -> Result<(), Failed> {
    let mut machine = ptediff_vm::boot(&spec(backend, "6.12", "hang")?)?;
    let process = PathBuf::from(format!("/proc/{}", machine.process_id()));
    let mut bytes = Vec::new();
    while !bytes.starts_with(HELLO) {
        if let Activity::Ended(ending) = machine.read(&mut bytes)? {
            return Err(format!("the machine ended: {ending}").into());
        }
    }
    assert!(process.exists());
    drop(machine);
    assert!(!process.exists(), "the emulator is still there");
    Ok(())
}

fn two_processors(backend: BackendKind) -> Result<(), Failed> {
    let mut spec = spec(backend, "6.12", "processors")?;
    spec.cpus = 2;
    let life = live(&spec)?;
    check(&life, |ending| *ending == Ending::PoweredOff)?;
    let said = head(&life.bytes[HELLO.len()..]);
    if said == "2 processors\n" { Ok(()) } else { Err(format!("init said {said:?}").into()) }
}

/// Bochs must give the same machine again, to the last tick of every line of the kernel's log. QEMU's clock follows
/// the host's, so there only what does not hang on time is asked: CPU features and the layout of memory.
fn same_again(backend: BackendKind) -> Result<(), Failed> {
    let spec = spec(backend, "6.12", "facts")?;
    let (first, second) = (live(&spec)?, live(&spec)?);
    check(&first, |ending| *ending == Ending::PoweredOff)?;
    check(&second, |ending| *ending == Ending::PoweredOff)?;
    let facts = |life: &Life| -> Vec<String> {
        let text = String::from_utf8_lossy(&life.bytes).into_owned();
        let is_asked = |line: &str| match backend {
            BackendKind::Bochs => true,
            BackendKind::Qemu => {
                ["flags", "model name", "MemTotal", "55", "7f"].iter().any(|word| line.starts_with(word))
            }
        };
        text.lines().filter(|line| is_asked(line)).map(str::to_owned).collect()
    };
    let (first, second) = (facts(&first), facts(&second));
    assert!(first.len() > 5, "too few facts: {first:?}");
    if first == second {
        return Ok(());
    }
    let differing = first.iter().zip(&second).filter(|(one, other)| one != other).take(10);
    let differing: Vec<String> = differing.map(|(one, other)| format!("{one}\n| {other}")).collect();
    Err(format!("two machines of the same make differ:\n{}", differing.join("\n")).into())
}
