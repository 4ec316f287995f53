//! Runs the command under test.

use std::process::{Command, Stdio};

/// What a run of the command left.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code; -1 where a signal ended it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

/// The command's file.
pub(crate) const PTEDIFF: &str = env!("CARGO_BIN_EXE_ptediff");

/// Takes away what would change the output or the outcome.
pub(crate) fn tidy(command: &mut Command) {
    for variable in ["PTEDIFF_NATIVE", "PTEDIFF_PLANT_PANIC", "RUST_BACKTRACE", "COLUMNS"] {
        command.env_remove(variable);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
}

/// Runs it to its end.
pub(crate) fn run(mut command: Command) -> Ran {
    let output = command.output().expect("the command can be started");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
