//! The host's side: boots, reads the lines, asserts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use ptediff_observe::Loader;
use ptediff_vm::in_place::may_run_in_place;
use ptediff_vm::store::Store;
use ptediff_vm::{Activity, BackendKind, Ending, Initramfs, VmSpec, boot, without_sections};

use crate::crash;
use crate::expected;
use crate::guest::{TIMED_REPORTS, TIMED_SNAPSHOTS};

/// Has this binary play the guest's part on this machine.
pub(crate) const GUEST_ARGUMENT: &str = "__guest";

pub(crate) fn run() {
    let arguments = Arguments::from_args();
    let in_place = may_run_in_place();
    let machines = [
        ("qemu", BackendKind::Qemu, "6.12"),
        ("qemu", BackendKind::Qemu, "7.2"),
        ("bochs", BackendKind::Bochs, "6.12"),
        ("bochs", BackendKind::Bochs, "7.2"),
    ];
    let trials = machines.into_iter().map(|(name, backend, kernel)| {
        Trial::test(format!("observe::{name}::{kernel}"), move || observe(backend, kernel)).with_ignored_flag(in_place)
    });
    let here = in_place.then(|| Trial::ignorable_test("observe::native", observe_here));
    libtest_mimic::run(&arguments, trials.chain(here).collect()).exit();
}

/// What the guest printed.
#[derive(Default)]
struct Lines {
    all: Vec<String>,
    marks: BTreeMap<String, Instant>,
}

impl Lines {
    fn starting(&self, head: &str) -> Vec<&str> {
        self.all.iter().filter_map(|line| line.strip_prefix(head)).collect()
    }
}

fn observe(backend: BackendKind, kernel: &str) -> Result<(), Failed> {
    judge(&run_machine(backend, kernel)?, backend == BackendKind::Bochs, kernel)
}

/// The same on this machine itself, where its kernel is one that the expected lines are from.
fn observe_here() -> Result<Completion, Failed> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let Some(kernel) = ["6.12", "7.2"].into_iter().find(|kernel| release.starts_with(&format!("{kernel}."))) else {
        return Ok(Completion::ignored_with(format!("there are no expected lines for Linux {release}")));
    };
    let output = Command::new(std::env::current_exe()?).arg(GUEST_ARGUMENT).stderr(Stdio::inherit()).output()?;
    let all: Vec<String> = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
    if !output.status.success() || all.last().is_none_or(|line| line != "end") {
        return Err(format!("the guest's part ended with {}:\n{}", output.status, all.join("\n")).into());
    }
    let shadow_stacks = all.iter().any(|line| line.starts_with("entry map-shadow-stack 0 16 "));
    judge(&Lines { all, marks: BTreeMap::new() }, shadow_stacks, kernel).map(|()| Completion::Completed)
}

fn judge(lines: &Lines, shadow_stacks: bool, kernel: &str) -> Result<(), Failed> {
    let whole = lines.all.join("\n");
    let mut failures: Vec<String> = Vec::new();
    for failed in lines.starting("check ").iter().filter(|line| line.contains(" FAILED")) {
        failures.push(format!("in the guest: {failed}"));
    }
    for name in expected_checks(!shadow_stacks) {
        if !lines.all.iter().any(|line| line.starts_with(&format!("check {name} ok"))) {
            failures.push(format!("the guest did not report `{name}`"));
        }
    }
    compare(
        "entry",
        &lines.starting("entry "),
        &expected::lines(expected::ENTRIES, shadow_stacks, kernel),
        &mut failures,
    );
    compare(
        "event",
        &lines.starting("event "),
        &expected::lines(expected::EVENTS, shadow_stacks, kernel),
        &mut failures,
    );
    report_times(lines);
    if failures.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n--- what the guest printed:\n{whole}", failures.join("\n")).into())
}

fn run_machine(backend: BackendKind, kernel: &str) -> Result<Lines, Failed> {
    let artifact = Store::open()?.kernel(kernel)?;
    let me: PathBuf = std::env::current_exe()?;
    let mut spec = VmSpec::new(backend, artifact.vmlinuz, Initramfs::with_init(without_sections(&std::fs::read(me)?)));
    spec.limit = Some(Duration::from_secs(300));
    let mut machine = boot(&spec)?;
    let (mut lines, mut buffer) = (Lines::default(), Vec::new());
    loop {
        match machine.read(&mut buffer)? {
            Activity::Bytes(_) => {
                while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if let Some(mark) = line.strip_prefix("mark ") {
                        lines.marks.insert(mark.to_owned(), Instant::now());
                    }
                    lines.all.push(line);
                }
            }
            Activity::Ended(ending) => {
                let complete = lines.all.last().is_some_and(|line| line == "end");
                if ending != Ending::PoweredOff || !complete {
                    let (seen, console) = (lines.all.join("\n"), machine.console_tail(40));
                    return Err(format!("{ending}\n--- data:\n{seen}\n--- console:\n{console}").into());
                }
                return Ok(lines);
            }
        }
    }
}

fn report_times(lines: &Lines) {
    let between = |from: &str, to: &str| Some(lines.marks.get(to)?.duration_since(*lines.marks.get(from)?));
    for loader in Loader::ALL {
        if let Some(time) = between(loader.name(), &format!("{loader} done")) {
            println!("opening by {loader}: {:.3} s", time.as_secs_f64());
        }
    }
    for (what, count) in [("snapshots", TIMED_SNAPSHOTS), ("reports", TIMED_REPORTS)] {
        if let Some(time) = between(what, &format!("{what} done")) {
            println!("{count} {what} of one actor: {:.1} us each", time.as_secs_f64() * 1e6 / f64::from(count));
        }
    }
    for line in lines.starting("figure ").iter().chain(&lines.starting("check ")) {
        println!("{line}");
    }
}

fn expected_checks(crashes: bool) -> Vec<String> {
    let of_loaders = ["missing hook", "no BTF", "loss"]
        .into_iter()
        .flat_map(|check| Loader::ALL.map(|loader| format!("{check} for {loader}")));
    let fixed = ["registration", "loaders", "lies"].map(str::to_owned);
    let witnessed = [
        "birth",
        "map",
        "write",
        "read",
        "protect-read",
        "protect-read-write",
        "map-shadow-stack",
        "fork",
        "child-write",
        "parent-write",
        "protect-none",
        "clear-refs",
        "exit",
        "protect-back",
        "unmap",
        "write-all",
        "after-lies",
    ];
    let of_crashes = crash::ATTACHED.into_iter().filter(move |_| crashes).map(|what| format!("crash with {what}"));
    fixed
        .into_iter()
        .chain(of_loaders)
        .chain(of_crashes)
        .chain(witnessed.map(|step| format!("witnesses of {step}")))
        .collect()
}

/// The lines must be exactly these, in this order.
fn compare(what: &str, seen: &[&str], expected: &[&str], failures: &mut Vec<String>) {
    for line in expected.iter().filter(|line| !seen.contains(line)) {
        failures.push(format!("{what} not seen: {line}"));
    }
    for line in seen.iter().filter(|line| !expected.contains(line)) {
        failures.push(format!("{what} seen and not expected: {line}"));
    }
    if failures.is_empty() && seen != expected {
        failures.push(format!("{what}: the order differs"));
    }
}
