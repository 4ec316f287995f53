//! The init of the machine: runs the cases, writes a line for each to the data channel, powers off.

use std::io::Write;
use std::time::Duration;

use ptediff_execute::Executor;
use ptediff_vm::guest::{E9Port, mount_file_systems, power_off};

use crate::case::{Case, Needs, options};
use crate::{cases, figures};

/// Whether kernel and CPU have user shadow stacks (arch/x86/kernel/cpu/proc.c lists it by this name).
pub(crate) fn has_shadow_stacks() -> bool {
    std::fs::read_to_string("/proc/cpuinfo")
        .is_ok_and(|text| text.split_ascii_whitespace().any(|word| word == "user_shstk"))
}

pub(crate) fn run() {
    if let Err(error) = mount_file_systems().and_then(|_| report(&mut E9Port::open()?)) {
        eprintln!("live_execute: {error}");
    }
    let Err(error) = power_off();
    eprintln!("live_execute: the machine does not power off: {error}");
}

/// Runs the cases and writes a line for each.
pub(crate) fn report(out: &mut impl Write) -> std::io::Result<()> {
    let shadow_stacks = has_shadow_stacks();
    writeln!(out, "shadow-stacks {shadow_stacks}")?;
    for case in cases::all() {
        let runs = match case.needs {
            Needs::Nothing => true,
            Needs::ShadowStack => shadow_stacks,
            Needs::NoShadowStack => !shadow_stacks,
        };
        if runs {
            writeln!(out, "case {} {}", case.name, verdict(case, shadow_stacks))?;
        }
    }
    let measured = start(shadow_stacks).and_then(|mut executor| figures::measure(&mut executor, out));
    match measured {
        Ok(()) => writeln!(out, "end"),
        Err(error) => writeln!(out, "end {}", one_line(&error)),
    }
}

fn start(shadow_stack: bool) -> Result<Executor, String> {
    Executor::start(&options(shadow_stack, Duration::from_secs(5))).map_err(|error| format!("start: {error}"))
}

/// `ok`, or `failed` and why. Each case gets an executor of its own; where there are shadow stacks, it uses them.
fn verdict(case: &Case, shadow_stack: bool) -> String {
    match start(shadow_stack).and_then(|mut executor| (case.run)(&mut executor)) {
        Ok(()) => "ok".to_owned(),
        Err(error) => format!("failed {}", one_line(&error)),
    }
}

fn one_line(text: &str) -> String {
    text.replace('\n', " | ")
}
