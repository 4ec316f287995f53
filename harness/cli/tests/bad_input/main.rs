//! Everything wrong that a user can give: each ends with its exit code, a paragraph on standard error that names
//! the place where there is one, no panic, and nothing half-written.
//!
//! Disks that are full or read-only are made in a mount namespace, which needs root. Without it those cases are
//! inconclusive: they are named, counted as ignored, and never pass. Where programs may run in place, the case that
//! has them refused is ignored.

mod case;
#[path = "../support/command.rs"]
mod command;
mod commands;
mod disks;
mod entries;
#[path = "../support/traces.rs"]
mod trace_maker;
mod traces;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use ptediff_vm::in_place::may_run_in_place;

use case::Case;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if let [_, word, root] = words.as_slice()
        && word == disks::STAGE_WORD
    {
        return disks::stage(root.as_ref());
    }
    let may_mount = case::may_mount();
    let in_place = may_run_in_place();
    let mut trials = Vec::new();
    let mut inconclusive = Vec::new();
    let cases: Vec<Case> =
        [entries::cases(), traces::cases(), commands::cases(), disks::cases()].into_iter().flatten().collect();
    for case in cases {
        let lacks_mount = case.mount.is_some() && !may_mount;
        if lacks_mount {
            inconclusive.push(case.name);
        }
        let cannot = lacks_mount || (case.needs_no_leave && in_place);
        trials.push(Trial::test(case.name, move || case::check(&case)).with_ignored_flag(cannot));
    }
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    if !inconclusive.is_empty() {
        println!("inconclusive without root and mounts: {} ({})", inconclusive.len(), inconclusive.join(", "));
    }
    conclusion.exit_code()
}
