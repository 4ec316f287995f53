//! The C reproducers of the whole corpus: they compile without a warning, and what they print inside real
//! machines is what the model says. This test binary is also the machines' init, which runs them one after
//! the other. Where programs may run in place the files run there, and the tests that boot machines are ignored, by
//! name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use ptediff::guest::machine::Evidence;
use ptediff::guest::quiet::quieten;
use ptediff::host::launch::{kernel_image, own_executable};
use ptediff::report::reproducer::{ExpectedStep, NoReproducer, Subject, expected_steps, reproducer};
use ptediff_compare::{agrees, records_of};
use ptediff_corpus::{Corpus, Entry, Needs};
use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::Program;
use ptediff_vm::guest;
use ptediff_vm::in_place::{may_run_in_place, pin_to_one_cpu};
use ptediff_vm::store::Store;
use ptediff_vm::{Activity, BackendKind, Ending, Initramfs, VmSpec, without_sections};

/// Where the compiled files lie in the guest.
const FOLDER: &str = "/reproducers";
/// Begins the line that names the next file's output.
const OUTPUT_OF: &str = "=== ";
/// The last line.
const END: &str = "=== end";
/// Characters of a line that mail carries unbroken.
const WIDTH: usize = 79;
/// The guest's memory: each entry is a static file of three quarters of a MiB, and the corpus grows.
const MEMORY_MIB: u32 = 2048;
/// Fewest entries that a machine must have run: a corpus that is not found must not pass.
const FEWEST: usize = 30;

fn main() -> ExitCode {
    if guest::is_init() {
        return run_as_init();
    }
    let in_place = may_run_in_place();
    let mut trials = vec![
        Trial::test("host::every_entry_compiles", || compiled().map(|_| ()).map_err(Failed::from)),
        Trial::test("host::other_output_is_noticed", other_output_is_noticed),
    ];
    let on_machines = [
        Trial::test("qemu::6.1", || prints_what_is_expected(BackendKind::Qemu, "6.1")),
        Trial::test("qemu::6.12", || prints_what_is_expected(BackendKind::Qemu, "6.12")),
        Trial::test("qemu::7.2::divergences_are_described", divergences_are_described),
        Trial::test("bochs::6.12", || prints_what_is_expected(BackendKind::Bochs, "6.12")),
        Trial::test("bochs::7.2", || prints_what_is_expected(BackendKind::Bochs, "7.2")),
    ];
    trials.extend(on_machines.into_iter().map(|trial| trial.with_ignored_flag(in_place)));
    if in_place {
        trials.push(Trial::test("native", prints_what_is_expected_here));
    }
    let mut arguments = Arguments::from_args();
    // Two machines at once make each other's watchdogs bark.
    arguments.test_threads.get_or_insert(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The guest's side. Whatever fails here ends in a kernel panic, for init may not exit.
fn run_as_init() -> ExitCode {
    let run = || -> std::io::Result<std::convert::Infallible> {
        guest::mount_file_systems()?;
        run_files(Path::new(FOLDER), &mut guest::E9Port::open()?)?;
        guest::power_off()
    };
    let error = match run() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("reproducer-test-init: {error}");
    ExitCode::FAILURE
}

/// Runs the files of a folder one after the other; what they print follows their names.
fn run_files(folder: &Path, out: &mut impl std::io::Write) -> std::io::Result<()> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|file| file.map(|file| file.path())).collect::<Result<_, _>>()?;
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        writeln!(out, "{OUTPUT_OF}{name}")?;
        let output = Command::new(&file).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        out.write_all(&output.stdout)?;
        if !output.status.success() {
            writeln!(out, "{}", output.status)?;
        }
    }
    writeln!(out, "{END}")
}

struct Compiled {
    entry: Entry,
    file: Vec<u8>,
}

/// Every entry of the corpus, made into C and compiled once for all trials.
fn compiled() -> Result<&'static [Compiled], String> {
    static COMPILED: OnceLock<Result<Vec<Compiled>, String>> = OnceLock::new();
    COMPILED.get_or_init(compile_all).as_deref().map_err(Clone::clone)
}

fn compile_all() -> Result<Vec<Compiled>, String> {
    let corpus = Corpus::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).map_err(|e| e.to_string())?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (mut all, mut without) = (Vec::new(), 0);
    for stored in corpus.entries() {
        let entry = stored.map_err(|error| error.to_string())?.entry;
        let machine =
            Machine::imagined(KernelVersion::LINUX_6_12, Needs::to_behave_alike(&entry.program).shadow_stack, true);
        // Words that would end a comment, or begin one, must do no harm.
        let finding = ["A finding with */ and /* and ??/ in it.".to_owned()];
        let text = match source(&entry, &machine, &finding) {
            Err(error @ NoReproducer::BesideLiveStack { .. }) => {
                println!("no reproducer: {}: {error}", entry.name);
                without += 1;
                continue;
            }
            other => other.map_err(|error| error.to_string())?,
        };
        if let Some(line) = text.lines().find(|line| width(line) > WIDTH) {
            return Err(format!("{}: a line is too long: {line}", entry.name));
        }
        let file = compile(folder.path(), &entry.name, &text)?;
        all.push(Compiled { entry, file });
    }
    // Distilled entries mix the families; those that people wrote hardly ever do.
    if without > all.len() / 4 { Err(format!("{without} entries without a reproducer")) } else { Ok(all) }
}

fn width(line: &str) -> usize {
    line.chars().fold(0, |column, letter| if letter == '\t' { (column / 8 + 1) * 8 } else { column + 1 })
}

fn source(entry: &Entry, machine: &Machine, finding: &[String]) -> Result<String, NoReproducer> {
    let (name, description, program) = (&entry.name, &entry.description, &entry.program);
    reproducer(&Subject { name, description, machine, program, finding })
}

fn compile(folder: &Path, name: &str, text: &str) -> Result<Vec<u8>, String> {
    let (source, program) = (folder.join(format!("{name}.c")), folder.join(name));
    fs::write(&source, text).map_err(|error| error.to_string())?;
    let output = Command::new("gcc")
        .args(["-Wall", "-Wextra", "-Werror", "-O1", "-static", "-s", "-o"])
        .arg(&program)
        .arg(&source)
        .output()
        .map_err(|error| format!("gcc cannot be started ({error}); it is one of the packages of the set-up"))?;
    if !output.status.success() {
        return Err(format!("{name}:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::read(&program).map_err(|error| error.to_string())
}

/// One boot runs every entry that the machine can run.
fn prints_what_is_expected(backend: BackendKind, kernel: &str) -> Result<(), Failed> {
    let package = Store::open()?.kernel(kernel)?.package_version;
    let version = KernelVersion::of_release(&package)?;
    // This guest turns no swap on: such entries are named as not run.
    let machine = Machine { swap: false, ..Machine::imagined(version, backend == BackendKind::Bochs, true) };
    let fit = fitting(&machine)?;
    let mut initramfs = Initramfs::with_init(without_sections(&own_executable()?));
    initramfs.add_directory(FOLDER.trim_start_matches('/'), 0o755);
    for compiled in &fit {
        let path = format!("{}/{}", FOLDER.trim_start_matches('/'), compiled.entry.name);
        initramfs.add_file(&path, 0o755, compiled.file.clone());
    }
    compare_all(&machine, &fit, &output_of(backend, kernel, initramfs)?)
}

/// The same on this machine itself.
fn prints_what_is_expected_here() -> Result<(), Failed> {
    use std::os::unix::fs::PermissionsExt as _;
    let evidence = Evidence::gather("native", None)?;
    let machine = evidence.machine("native", evidence.may_have_shadow_stack(), None)?;
    let fit = fitting(&machine)?;
    for note in pin_to_one_cpu()?.into_iter().chain(quieten()) {
        println!("{note}");
    }
    let folder = tempfile::tempdir()?;
    for compiled in &fit {
        let path = folder.path().join(&compiled.entry.name);
        fs::write(&path, &compiled.file)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let mut output = Vec::new();
    run_files(folder.path(), &mut output)?;
    compare_all(&machine, &fit, &String::from_utf8_lossy(&output))
}

/// The entries that the machine can run, and that meet no defect which its version is known to have: what they are
/// expected to print is what is right.
fn fitting(machine: &Machine) -> Result<Vec<&'static Compiled>, Failed> {
    let (able, unable): (Vec<_>, Vec<_>) =
        compiled()?.iter().partition(|compiled| compiled.entry.missing(machine).is_empty());
    for compiled in unable {
        println!("not run: {}: it needs {}", compiled.entry.name, compiled.entry.missing(machine).join(", "));
    }
    let meets_defect = |compiled: &&Compiled| {
        let program = &compiled.entry.program;
        let released = machine.kernel_as_released();
        let printed = |kernel| expected_steps(machine, kernel, program).ok();
        // pagemap shows of an empty entry what its VMA says, which no record holds.
        !agrees(machine, released, program, &records_of(machine, machine.kernel(), program))
            || printed(machine.kernel()) != printed(released)
    };
    let (met, fit): (Vec<&Compiled>, Vec<&Compiled>) = able.into_iter().partition(meets_defect);
    for compiled in met {
        println!("not run: {}: Linux {} is known to do otherwise", compiled.entry.name, machine.version);
    }
    if fit.len() < FEWEST {
        return Err(format!("only {} entries fit this machine", fit.len()).into());
    }
    Ok(fit)
}

/// All were run, and what they printed is what the model says.
fn compare_all(machine: &Machine, fit: &[&Compiled], text: &str) -> Result<(), Failed> {
    if !text.trim_end().ends_with(END) {
        return Err(format!("the guest did not run them all; its last words:\n{text}").into());
    }
    let mut different = Vec::new();
    for compiled in fit {
        let entry = &compiled.entry;
        let seen = section(text, &entry.name).ok_or_else(|| format!("no output of {}", entry.name))?;
        let steps = expected_steps(machine, machine.kernel(), &entry.program).map_err(|error| error.to_string())?;
        if let Err(difference) = compare(&entry.program, &steps, seen) {
            different.push(format!("{}: {difference}", entry.name));
        }
    }
    if different.is_empty() { Ok(()) } else { Err(different.join("\n").into()) }
}

fn output_of(backend: BackendKind, kernel: &str, initramfs: Initramfs) -> Result<String, Failed> {
    let mut spec = VmSpec::new(backend, kernel_image(kernel)?, initramfs);
    spec.limit = Some(Duration::from_secs(300));
    // The kernel unpacks the files into a tmpfs, half of memory at most, and goes on without those that do not fit.
    spec.memory_mib = MEMORY_MIB;
    let mut running = ptediff_vm::boot(&spec)?;
    let mut bytes = Vec::new();
    loop {
        match running.read(&mut bytes)? {
            Activity::Ended(Ending::PoweredOff) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Activity::Ended(ending) => {
                let text = String::from_utf8_lossy(&bytes);
                return Err(format!("{ending}\n{}\nThe data:\n{text}", running.console_tail(20)).into());
            }
            Activity::Bytes(_) => {}
        }
    }
}

/// What this file printed.
fn section<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let head = format!("{OUTPUT_OF}{name}\n");
    let begin = text.find(&head)? + head.len();
    let length = text[begin..].find(OUTPUT_OF)?;
    Some(&text[begin..begin + length])
}

/// Whether the output is the expected one, raw words left out; the first line that is not.
fn compare(program: &Program, steps: &[ExpectedStep], seen: &str) -> Result<(), String> {
    let mut expected = Vec::new();
    for (index, (step, wanted)) in program.steps.iter().zip(steps).enumerate() {
        expected.push(format!("step {index}, {step}"));
        expected.push(format!("  -> {}", wanted.result));
        expected.extend(wanted.pages.iter().map(|page| format!("  {page}")));
    }
    let mut lines = seen.lines();
    if !lines.next().is_some_and(|line| line.starts_with("Linux ")) {
        return Err("the first line is not the kernel's release".to_owned());
    }
    let seen: Vec<&str> = lines.map(|line| line.rsplit_once(" (0x").map_or(line, |(text, _)| text)).collect();
    for index in 0..expected.len().max(seen.len()) {
        let (wanted, got) = (expected.get(index).map(String::as_str), seen.get(index).copied());
        if wanted != got {
            return Err(format!("line {index}: expected {wanted:?}, seen {got:?}"));
        }
    }
    Ok(())
}

/// A campaign that judges 7.2 by the rules of 6.12 finds the difference between them, and writes the report and
/// the reproducer beside the entry.
fn divergences_are_described() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let output = Command::new(env!("CARGO_BIN_EXE_ptediff"))
        .args(["run", "--platform", "qemu", "--kernel", "7.2", "--judge-as", "6.12", "--seed", "3"])
        .args(["--cases", "6000", "--stop-after", "1", "--save"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let stored: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("stored")).map(str::trim).collect();
    let [entry, source, report] = stored.as_slice() else {
        return Err(format!("an entry, a reproducer and a report were not stored:\n{said}").into());
    };
    let name = Path::new(entry).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    compile(folder.path(), &format!("{name}-again"), &fs::read_to_string(source)?)?;
    let text = fs::read_to_string(report)?;
    if let Some(line) = text.lines().find(|line| width(line) > WIDTH) {
        return Err(format!("a line is too long: {line}").into());
    }
    for wanted in [
        "ptediff: Linux 7.2",
        "judged as  Linux 6.12 (as asked)",
        "possible, but it was judged as another version",
        entry,
        source,
    ] {
        // A path that is longer than a line is cut there.
        let joined: String = text.split(['\n', '\\', ' ']).collect();
        let wanted: String = wanted.split(' ').collect();
        if !joined.contains(&wanted) {
            return Err(format!("the report does not say `{wanted}`:\n{text}").into());
        }
    }
    Ok(())
}

/// The comparison of the other trials can fail: each line of an output, changed or left out, is noticed.
fn other_output_is_noticed() -> Result<(), Failed> {
    let compiled = compiled()?.iter().find(|compiled| compiled.entry.name == "fork-parent-writes-first");
    let entry = &compiled.ok_or("the corpus has no fork-parent-writes-first")?.entry;
    let machine = Machine::imagined(KernelVersion::LINUX_6_12, false, false);
    let steps = expected_steps(&machine, machine.kernel(), &entry.program)?;
    let mut lines = vec!["Linux 6.12".to_owned()];
    for (index, (step, wanted)) in entry.program.steps.iter().zip(&steps).enumerate() {
        lines.push(format!("step {index}, {step}"));
        lines.push(format!("  -> {}", wanted.result));
        lines.extend(wanted.pages.iter().map(|page| format!("  {page} (0x8180000000000123)")));
    }
    compare(&entry.program, &steps, &lines.join("\n"))?;
    for index in 0..lines.len() {
        let mut changed = lines.clone();
        changed[index].insert_str(0, "un");
        let mut shorter = lines.clone();
        shorter.remove(index);
        for text in [changed.join("\n"), shorter.join("\n")] {
            if compare(&entry.program, &steps, &text).is_ok() {
                return Err(format!("nothing was noticed of line {index}").into());
            }
        }
    }
    Ok(())
}
