//! The subcommands, a file each.

mod audit;
mod bench;
mod changes;
mod claims;
mod compare;
mod deaths;
mod describe;
mod diff;
mod distill;
mod doctor;
mod explain;
mod judge;
mod matrix;
mod mutants;
mod opinions;
mod pairs;
mod replay;
mod report;
mod repro;
mod request;
mod rules;
mod run;
mod save;
mod session;
mod trust;
mod watch;

use std::any::Any;
use std::io::IsTerminal;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::arguments::{Arguments, Command};
use crate::error::{Failure, complain};
use crate::exit_code::Exit;
use crate::guest::watch::{START_ARGUMENT, start};

/// Set to 1 it plants a panic; see [`Exit::Internal`].
const PLANTED_PANIC: &str = "PTEDIFF_PLANT_PANIC";

/// Parses the command line, runs the command, and turns whatever happens into an exit code.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == crate::guest::init::SESSION_ARGUMENT) {
        return session::run();
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == START_ARGUMENT) {
        return start(std::env::args_os().skip(2));
    }
    let mut arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Nothing is left to be done if even this cannot be printed.
            drop(error.print());
            return if asked_for { Exit::Agree } else { Exit::Usage }.into();
        }
    };
    // Lines of a log are not wrapped: a path and its place stay in one piece.
    let hook = miette::set_hook(Box::new(|_| {
        let wrap = std::io::stderr().is_terminal();
        Box::new(miette::MietteHandlerOpts::new().wrap_lines(wrap).break_words(wrap).build())
    }));
    drop(hook);
    keep_quiet_about_closed_output();
    match catch_unwind(AssertUnwindSafe(|| dispatch(&mut arguments))) {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(failure)) => {
            let exit = failure.exit();
            complain(failure);
            exit.into()
        }
        // Whoever read our output went away: not our failure. As a shell has it for SIGPIPE.
        Err(panic) if is_broken_pipe(panic.as_ref()) => ExitCode::from(CLOSED_PIPE),
        Err(_) => {
            eprintln!("ptediff: this is a bug in ptediff itself, not in the kernel (exit 131)");
            Exit::Internal.into()
        }
    }
}

/// Exit code of a program that SIGPIPE kills, in a shell. Above 127, so that `git bisect run` stops.
const CLOSED_PIPE: u8 = 141;

/// Whether the panic is `println!` meeting an output that is closed.
fn is_broken_pipe(panic: &(dyn Any + Send)) -> bool {
    let message = panic.downcast_ref::<String>().map_or("", String::as_str);
    message.starts_with("failed printing to std") && message.contains("Broken pipe")
}

/// A panic of [`is_broken_pipe`] says nothing: `ptediff claims | head` has all that it wants.
///
/// It stays a panic, as it unwinds: machines that run are ended on the way. SIGPIPE's own way would leave them, and
/// would kill us for a dead emulator's closed socket, which is a failure of the rig that must be told.
fn keep_quiet_about_closed_output() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !is_broken_pipe(panic.payload()) {
            usual(panic);
        }
    }));
}

fn dispatch(arguments: &mut Arguments) -> Result<Exit, Failure> {
    assert!(std::env::var_os(PLANTED_PANIC).is_none_or(|value| value != "1"), "{PLANTED_PANIC}=1");
    let format = arguments.format;
    match &mut arguments.command {
        Command::Run(run) => run::run(run, format),
        Command::Replay(replay) => replay::run(replay, format),
        Command::Judge(judge) => judge::run(judge, format),
        Command::Doctor(doctor) => doctor::run(doctor, format),
        Command::Explain(explain) => explain::run(explain, format),
        Command::Bench(bench) => bench::run(bench, format),
        Command::Mutants(mutants) => mutants::run(mutants, format),
        Command::Audit(audit) => audit::run(audit, format),
        Command::Compare(compare) => compare::run(compare, format),
        Command::Matrix(matrix) => matrix::run(matrix, format),
        Command::Rules => rules::run(format),
        Command::Changes(arguments) => changes::run(arguments, format),
        Command::Repro(repro) => repro::run(repro),
        Command::Report(report) => report::run(report),
        Command::Diff(diff) => diff::run(diff, format),
        Command::Pairs(pairs) => pairs::run(pairs, format),
        Command::Distill(distill) => distill::run(distill),
        Command::Trust(trust) => trust::run(trust, format),
        Command::Watch(watch) => watch::run(watch, format),
        Command::Claims(claims) => claims::run(claims, format),
    }
}
