//! The subcommands, a file each.

mod bench;
mod diff;
mod doctor;
mod explain;
mod judge;
mod mutants;
mod replay;
mod report;
mod repro;
mod request;
mod rules;
mod run;
mod session;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::arguments::{Arguments, Command};
use crate::error::Failure;
use crate::exit_code::Exit;

/// Parses the command line, runs the command, and turns whatever happens into an exit code.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == crate::guest::init::SESSION_ARGUMENT) {
        return session::run();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing is left to be done if even this cannot be printed.
            drop(error.print());
            return if asked_for { Exit::Agree } else { Exit::Usage }.into();
        }
    };
    match catch_unwind(AssertUnwindSafe(|| dispatch(&arguments))) {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(failure)) => {
            let exit = failure.exit();
            eprintln!("{:?}", miette::Report::new(failure));
            exit.into()
        }
        Err(_) => {
            eprintln!("ptediff: this is a bug in ptediff itself, not in the kernel (exit 131)");
            Exit::Internal.into()
        }
    }
}

fn dispatch(arguments: &Arguments) -> Result<Exit, Failure> {
    let format = arguments.format;
    match &arguments.command {
        Command::Run(run) => run::run(run, format),
        Command::Replay(replay) => replay::run(replay, format),
        Command::Judge(judge) => judge::run(judge, format),
        Command::Doctor(doctor) => doctor::run(doctor, format),
        Command::Explain(explain) => explain::run(explain, format),
        Command::Bench(bench) => bench::run(bench, format),
        Command::Mutants(mutants) => mutants::run(mutants, format),
        Command::Rules => rules::run(format),
        Command::Repro(repro) => repro::run(repro),
        Command::Report(report) => report::run(report),
        Command::Diff(diff) => diff::run(diff, format),
    }
}
