//! The command line of `cargo xtask`.

use std::env;
use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use clap::{Parser, Subcommand};
use miette::MietteHandlerOpts;
use ptediff_archive::archive_sources::Archive;
use ptediff_archive::{Kernels, Listing, SetUpLock, SkippedSuite};
use ptediff_vm::store::Store;

use crate::error::TaskError;
use crate::progress::{Terminal, note, talkative_step};
use crate::recipes::Recipes;
use crate::setup::{Backend, KernelRequest, Needs, provide};
use crate::{cargo, lint, tidy};

/// Set-up of a fresh machine, then run, test and ci.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Set up what is named; without options, what `run` needs
    Setup {
        /// Kernel by series (6.18), version (6.12.113) or release (6.1.0-57); with =KERNEL the name stands for that
        /// one (6.12=6.12.118); may be repeated
        #[arg(long = "kernel", value_name = "NAME[=KERNEL]")]
        kernels: Vec<String>,
        /// Emulator: bochs, bochs-2.7 or qemu; may be repeated
        #[arg(long = "backend", value_name = "NAME")]
        backends: Vec<String>,
        /// Kernel that our own modules are built for; may be repeated
        #[arg(long = "modules", value_name = "NAME")]
        modules: Vec<String>,
        /// Kernel whose own mm and x86 selftests are built, 6.12; takes a minute or two, and no test needs them
        #[arg(long = "selftests", value_name = "NAME")]
        selftests: Vec<String>,
        /// Everything that run, test and ci need, crates included
        #[arg(long, conflicts_with_all = ["kernels", "backends", "modules", "selftests"])]
        all: bool,
    },
    /// List the kernels that the archive serves, and whether the cache has them
    Kernels {
        /// Drop this kernel from the cache instead; may be repeated
        #[arg(long = "drop", value_name = "NAME")]
        dropped: Vec<String>,
    },
    /// Set up what the main job needs, build ptediff and run a campaign
    Run {
        /// Passed on to `ptediff run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Set up what the tests need and run them all
    Test {
        /// Passed on to `cargo test --workspace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run the linters, then the tests
    Ci {
        /// Only the linters
        #[arg(long)]
        lint_only: bool,
    },
    /// Check the import table of ARCHITECTURE.md
    Tidy,
}

/// What a failure of the rig, as opposed to one of the kernel under test, exits with. `cargo xtask run` may
/// stand in a `git bisect run`: there 1 and 2 blame the kernel, so no failure of ours may use them.
const RIG_FAILURE: u8 = 130;
/// What a shell has for a program that SIGPIPE kills.
const CLOSED_PIPE: u8 = 141;
/// A command line that cannot be understood.
const USAGE: u8 = 129;

/// Parses the command line, performs the task and reports its failure.
#[must_use]
pub fn main() -> ExitCode {
    // Lines are left whole, so that commands and paths can be copied. A hook is there already only if this
    // is called twice.
    let _ = miette::set_hook(Box::new(|_| Box::new(MietteHandlerOpts::new().wrap_lines(false).build())));
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    run(arguments).unwrap_or_else(|error| {
        eprintln!("Error: {:?}", miette::Report::new(error));
        ExitCode::from(RIG_FAILURE)
    })
}

/// Performs the task.
///
/// # Errors
/// [`TaskError`] if a step of the task cannot be done. A program that was run at the user's wish and failed
/// is no error here: its exit code becomes ours.
pub fn run(arguments: Arguments) -> Result<ExitCode, TaskError> {
    let recipes = Recipes::load()?;
    match arguments.task {
        Task::Setup { all: true, .. } => set_up_everything(&recipes),
        Task::Setup { kernels, backends, modules, selftests, all: _ } => {
            let kernels = kernels.iter().map(|name| KernelRequest::parse(name)).collect();
            let backends = backends.iter().map(|name| Backend::from_name(name)).collect::<Result<_, _>>()?;
            set_up(&recipes, Needs { kernels, backends, modules, selftests, ..Needs::default() })
        }
        Task::Kernels { dropped } => kernels(&recipes, &dropped),
        Task::Run { arguments } => run_campaign(&recipes, &arguments),
        Task::Test { arguments } => run_tests(&recipes, &arguments),
        Task::Ci { lint_only } => check_everything(&recipes, lint_only),
        Task::Tidy => {
            tidy::check_import_table()?;
            note("the import table holds");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Nothing named is what `run` needs.
fn set_up(recipes: &Recipes, named: Needs) -> Result<ExitCode, TaskError> {
    let needs = if named == Needs::default() { Needs::of_run() } else { named };
    provide(recipes, &needs)?;
    note("set-up is complete");
    Ok(ExitCode::SUCCESS)
}

fn set_up_everything(recipes: &Recipes) -> Result<ExitCode, TaskError> {
    provide(recipes, &Needs { lint: true, ..Needs::of_tests(recipes) })?;
    cargo::fetch()?;
    note("set-up is complete");
    Ok(ExitCode::SUCCESS)
}

/// Lists what the archive serves, or drops kernels of the cache.
fn kernels(recipes: &Recipes, dropped: &[String]) -> Result<ExitCode, TaskError> {
    let store = Store::open()?;
    let terminal = Terminal::default();
    let lock = SetUpLock::take(&store, &terminal)?;
    if !dropped.is_empty() {
        for name in dropped {
            note(&format!("kernel {} is dropped", store.drop_kernel(name)?));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let archive = Archive::of_this_machine()?;
    let Listing { kernels, skipped } = Kernels::new(&store, &archive, &recipes.kernels, &lock, &terminal).list()?;
    let mut text = String::new();
    for kernel in &kernels {
        let place = if store.kernel(&kernel.release).is_ok() { ", in the cache" } else { "" };
        let lacks: String = kernel.lacks.iter().map(|lack| format!(" ({lack})")).collect();
        text += &format!("{} {} {}{place}{lacks}\n", kernel.version, kernel.release, kernel.suite);
    }
    for SkippedSuite { suite, reason } in &skipped {
        text += &format!("{suite} is skipped: {reason}\n");
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever read it has all that they want.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::from(CLOSED_PIPE)),
        Err(error) => Err(TaskError::io("write", Path::new("standard output"))(error)),
    }
}

fn run_campaign(recipes: &Recipes, arguments: &[OsString]) -> Result<ExitCode, TaskError> {
    cargo::check_flags(|name| env::var_os(name))?;
    provide(recipes, &Needs::of_run())?;
    let program = talkative_step("building ptediff", cargo::build_release)?;
    // Replaces this process, so that signals and exit codes are ptediff's own.
    let cause = Command::new(&program).arg("run").args(arguments).exec();
    Err(TaskError::NotStarted {
        task: "running the campaign".to_owned(),
        program: program.display().to_string(),
        cause,
        remedy: "build again with `cargo build --release`".to_owned(),
    })
}

fn run_tests(recipes: &Recipes, arguments: &[OsString]) -> Result<ExitCode, TaskError> {
    cargo::check_flags(|name| env::var_os(name))?;
    provide(recipes, &Needs::of_tests(recipes))?;
    cargo::fetch()?;
    let mut command = cargo::command();
    command.args(["test", "--locked", "--workspace"]).args(arguments);
    Ok(exit_code(cargo::status_of(&mut command)?))
}

fn check_everything(recipes: &Recipes, lint_only: bool) -> Result<ExitCode, TaskError> {
    cargo::check_flags(|name| env::var_os(name))?;
    provide(recipes, &Needs { build: true, lint: true, ..Needs::default() })?;
    let complaints = lint::run()?;
    if !complaints.is_empty() {
        note(&format!("these linters complain: {}", complaints.join(", ")));
        return Ok(ExitCode::FAILURE);
    }
    note("no linter complains");
    if lint_only { Ok(ExitCode::SUCCESS) } else { run_tests(recipes, &[]) }
}

/// A program's exit code as ours; one that a signal ended counts as failed.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Task, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace()).map(|arguments| arguments.task)
    }

    #[test]
    fn arguments_are_passed_on_with_and_without_dashes() {
        let check = |line: &str, expected: &[&str]| match parse(line).expect("a command line") {
            Task::Run { arguments } | Task::Test { arguments } => assert_eq!(arguments, expected, "{line}"),
            other => panic!("{other:?}"),
        };
        check("xtask run", &[]);
        check("xtask run --cases 5", &["--cases", "5"]);
        check("xtask run -- --cases 5", &["--cases", "5"]);
        check("xtask test -p xtask -- --nocapture", &["-p", "xtask", "--", "--nocapture"]);
    }

    #[test]
    fn options_that_contradict_are_refused() {
        parse("xtask setup --all --kernel 7.2").expect_err("all and one");
        parse("xtask polish").expect_err("no such task");
    }
}
