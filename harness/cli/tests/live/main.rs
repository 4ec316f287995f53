//! Live tests: whole runs of the command on real machines, few boots for many checks.
//!
//! The corpus is one test an entry and kernel; what a machine lacks for an entry is inconclusive, named, and
//! counted as ignored. Kernels and emulators come from the cache: where one is missing the tests fail and name the
//! command that fetches it. Where programs may run in place (`ptediff.vm=1` on the kernel's command line, or
//! `PTEDIFF_NATIVE=1`) the corpus runs in place, and the tests that boot machines are ignored, by name.

mod audit;
mod campaigns;
mod claims;
#[path = "../support/command.rs"]
mod command;
mod corpus;
mod machine;
mod processor;
#[path = "../support/repository.rs"]
mod repository;
mod rig;
mod swap;
mod watch;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Conclusion, Trial};
use ptediff_vm::in_place::may_run_in_place;

/// Machines that run at once: more make each other's watchdogs bark.
const MACHINES: usize = 2;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(MACHINES).min(MACHINES));
    let in_place = may_run_in_place();
    let mut trials = corpus::trials(in_place);
    let on_machines: Vec<Trial> = [
        audit::trials(),
        campaigns::trials(),
        claims::trials(),
        processor::trials(),
        rig::trials(),
        swap::trials(),
        watch::trials(),
    ]
    .into_iter()
    .flatten()
    .collect();
    trials.extend(on_machines.into_iter().map(|trial| trial.with_ignored_flag(in_place)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    machine::remove_folder();
    if !arguments.list {
        println!("{}", summary(&conclusion));
    }
    conclusion.exit_code()
}

fn summary(conclusion: &Conclusion) -> String {
    format!(
        "live: {} as they must be, {} not, {} inconclusive or not run here (named above), {} filtered out; {}",
        conclusion.num_passed,
        conclusion.num_failed,
        conclusion.num_ignored,
        conclusion.num_filtered_out,
        machine::runs()
    )
}
