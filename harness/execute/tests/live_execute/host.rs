//! The host: boots each machine once, with this binary inside, and reports the guest's results. Where programs may
//! run in place, the cases run here, and the tests that boot machines are ignored, by name.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use ptediff_vm::in_place::{may_run_in_place, pin_to_one_cpu};
use ptediff_vm::store::Store;
use ptediff_vm::{Activity, BackendKind, Ending, Initramfs, VmSpec, boot, without_sections};

use crate::case::Needs;
use crate::{cases, guest};

/// A machine and what it gave. Booted by the first test that asks.
struct Machine {
    name: &'static str,
    place: Place,
    report: OnceLock<Result<Report, String>>,
}

/// Where the cases run.
#[derive(Clone, Copy)]
enum Place {
    /// In a machine with this kernel.
    Emulator(BackendKind, &'static str),
    /// On this machine itself.
    Here,
}

/// What the guest wrote.
#[derive(Default)]
struct Report {
    shadow_stacks: bool,
    /// `ok` or `failed ...` by case.
    cases: BTreeMap<String, String>,
    /// Whether all cases and measurements were gone through: the text after `end`.
    end: Option<String>,
    ending: Option<Ending>,
    console: String,
}

const fn machine(name: &'static str, backend: BackendKind, kernel: &'static str) -> Machine {
    Machine { name, place: Place::Emulator(backend, kernel), report: OnceLock::new() }
}

static THIS_MACHINE: Machine = Machine { name: "native", place: Place::Here, report: OnceLock::new() };

static MACHINES: [Machine; 4] = [
    machine("bochs-6.12", BackendKind::Bochs, "6.12"),
    machine("bochs-7.2", BackendKind::Bochs, "7.2"),
    machine("qemu-6.12", BackendKind::Qemu, "6.12"),
    machine("qemu-7.2", BackendKind::Qemu, "7.2"),
];

pub(crate) fn run() -> ExitCode {
    let in_place = may_run_in_place();
    let trials = MACHINES.iter().flat_map(|machine| machine.trials(in_place));
    let here = in_place.then(|| THIS_MACHINE.trials(false)).into_iter().flatten();
    libtest_mimic::run(&Arguments::from_args(), trials.chain(here).collect()).exit_code()
}

fn is_for(needs: Needs, shadow_stacks: bool) -> bool {
    match needs {
        Needs::Nothing => true,
        Needs::ShadowStack => shadow_stacks,
        Needs::NoShadowStack => !shadow_stacks,
    }
}

impl Machine {
    fn trials(&'static self, ignored: bool) -> impl Iterator<Item = Trial> {
        let shadow_stacks = self.has_shadow_stacks();
        let for_cases = cases::all()
            .filter(move |case| is_for(case.needs, shadow_stacks))
            .map(|case| Trial::test(format!("{}::{}", self.name, case.name), || self.check_case(case.name)));
        let trials = for_cases.chain([Trial::test(format!("{}::end", self.name), || self.check_end())]);
        trials.map(move |trial| trial.with_ignored_flag(ignored))
    }

    fn has_shadow_stacks(&self) -> bool {
        match self.place {
            Place::Emulator(backend, _) => backend == BackendKind::Bochs,
            Place::Here => guest::has_shadow_stacks(),
        }
    }

    fn report(&self) -> Result<&Report, Failed> {
        let report = self.report.get_or_init(|| self.run().map_err(|error| error.to_string()));
        report.as_ref().map_err(|error| Failed::from(format!("the machine cannot be run: {error}")))
    }

    fn check_case(&self, case: &str) -> Result<(), Failed> {
        let report = self.report()?;
        match report.cases.get(case).map(String::as_str) {
            Some("ok") => Ok(()),
            Some(verdict) => Err(Failed::from(verdict)),
            None => Err(Failed::from(format!("the guest did not report this case. {}", report.how_it_ended()))),
        }
    }

    /// The machine is what it claims to be, went through everything and ended as it was told to.
    fn check_end(&self) -> Result<(), Failed> {
        let report = self.report()?;
        if report.shadow_stacks != self.has_shadow_stacks() {
            return Err(Failed::from(format!("the guest says shadow stacks: {}", report.shadow_stacks)));
        }
        match (report.end.as_deref(), &report.ending) {
            (Some(""), Some(Ending::PoweredOff)) => Ok(()),
            // This machine goes on.
            (Some(""), None) if matches!(self.place, Place::Here) => Ok(()),
            (Some(error), _) if !error.is_empty() => Err(Failed::from(error)),
            _ => Err(Failed::from(report.how_it_ended())),
        }
    }

    fn run(&self) -> Result<Report, Box<dyn std::error::Error>> {
        match self.place {
            Place::Emulator(backend, kernel) => self.boot(backend, kernel),
            Place::Here => run_here(),
        }
    }

    fn boot(&self, backend: BackendKind, kernel: &str) -> Result<Report, Box<dyn std::error::Error>> {
        let kernel = Store::open()?.kernel(kernel)?;
        let init = without_sections(&std::fs::read(std::env::current_exe()?)?);
        let mut spec = VmSpec::new(backend, kernel.vmlinuz, Initramfs::with_init(init));
        spec.limit = Some(Duration::from_secs(300));
        let mut machine = boot(&spec)?;
        let mut report = Report::default();
        let mut clock = Clock { machine: self.name, emulator: machine.process_id(), started: None };
        let mut bytes = Vec::new();
        loop {
            let activity = machine.read(&mut bytes)?;
            while let Some(length) = bytes.iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8_lossy(&bytes[..length]).into_owned();
                bytes.drain(..=length);
                report.take(&line, Some(&mut clock));
            }
            if let Activity::Ended(ending) = activity {
                report.ending = Some(ending);
                report.console = machine.console_tail(20);
                return Ok(report);
            }
        }
    }
}

/// The guest's part on this machine. Its lines come all at once, so that they say nothing about time.
fn run_here() -> Result<Report, Box<dyn std::error::Error>> {
    pin_to_one_cpu()?;
    let mut lines = Vec::new();
    guest::report(&mut lines)?;
    let mut report = Report::default();
    for line in String::from_utf8(lines)?.lines() {
        report.take(line, None);
    }
    Ok(report)
}

impl Report {
    fn take(&mut self, line: &str, clock: Option<&mut Clock>) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "shadow-stacks" => self.shadow_stacks = rest == "true",
            "case" => {
                let (name, verdict) = rest.split_once(' ').unwrap_or((rest, ""));
                self.cases.insert(name.to_owned(), verdict.to_owned());
            }
            "start" => drop(clock.map(|clock| clock.start(rest))),
            "stop" => drop(clock.map(|clock| clock.stop(rest))),
            "end" => self.end = Some(rest.to_owned()),
            _ => self.end = Some(format!("the guest wrote a line that is not understood: {line}")),
        }
    }

    fn how_it_ended(&self) -> String {
        let ending = self.ending.as_ref().map_or_else(|| "the machine has no end".to_owned(), Ending::to_string);
        format!("{ending}. The console's last lines:\n{}", self.console)
    }
}

/// The host's clocks: guest clocks are fiction. Time of day says what a user sees; the emulator's processor
/// time says what things cost, also on a busy host.
struct Clock {
    machine: &'static str,
    emulator: u32,
    started: Option<(Instant, Duration, u32)>,
}

impl Clock {
    fn start(&mut self, rest: &str) {
        let count = rest.rsplit(' ').next().and_then(|count| count.parse().ok());
        self.started = count.map(|count| (Instant::now(), self.processor_time(), count));
    }

    fn stop(&mut self, name: &str) {
        if let Some((start, processor_start, count)) = self.started.take() {
            let elapsed = start.elapsed() / count;
            let processor = (self.processor_time() - processor_start) / count;
            eprintln!("{}: {name}: {elapsed:?} each, {processor:?} of the processor, {count} times", self.machine);
        }
    }

    /// User time of the emulator: field 14 of /proc/pid/stat, in hundredths of a second.
    fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.emulator)).unwrap_or_default();
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        let hundredths = after_name.split(' ').nth(11).and_then(|field| field.parse().ok()).unwrap_or(0);
        Duration::from_millis(10 * hundredths)
    }
}
