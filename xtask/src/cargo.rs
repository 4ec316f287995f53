//! Cargo, called from within `cargo xtask`.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

use crate::error::TaskError;
use crate::progress::talkative_step;
use ptediff_archive::tool::command_line;

/// The target of `.cargo/config.toml`: crates for other systems are never needed.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The workspace's own directory.
#[must_use]
pub fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Cargo in the workspace's directory, with its output where the user sees it.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Refuses an environment that replaces the flags of `.cargo/config.toml`: they link statically, and the
/// file that runs here must run in the guest.
///
/// # Errors
/// [`TaskError::FlagsReplaced`] naming the variable.
pub fn check_flags(variable: impl Fn(&str) -> Option<OsString>) -> Result<(), TaskError> {
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
        // Cargo lets even an empty value replace the configured flags.
        if let Some(value) = variable(name) {
            let keeps_static = value.to_string_lossy().contains("target-feature=+crt-static");
            // The first of the two that is set is the one that counts.
            return if keeps_static { Ok(()) } else { Err(TaskError::FlagsReplaced { variable: name }) };
        }
    }
    Ok(())
}

/// `cargo metadata` of the workspace alone.
///
/// # Errors
/// [`TaskError`] if cargo fails.
pub fn metadata() -> Result<String, TaskError> {
    let mut command = command();
    command.args(["metadata", "--offline", "--no-deps", "--format-version", "1"]);
    let output = command.stderr(Stdio::inherit()).output().map_err(|cause| not_started(&command, cause))?;
    if !output.status.success() {
        return Err(failed("reading the workspace's metadata", &command, output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Gets every crate of the lock file, so that all builds work without the network from then on.
///
/// # Errors
/// [`TaskError`] if a crate is missing and cannot be downloaded.
pub fn fetch() -> Result<(), TaskError> {
    let fetch = |offline: bool| {
        let mut command = command();
        command.args(["fetch", "--locked", "--quiet", "--target", TARGET]).stdin(Stdio::null());
        if offline {
            command.arg("--offline").stderr(Stdio::null());
        }
        match status_of(&mut command)? {
            status if status.success() => Ok(()),
            status => Err(failed("downloading crates", &command, status)),
        }
    };
    // Whatever keeps cargo from doing without the network, the second attempt reports.
    fetch(true).or_else(|_| talkative_step("crates of Cargo.lock", || fetch(false)))
}

/// Builds the `ptediff` program in the release profile and returns its path.
///
/// # Errors
/// [`TaskError`] if the build fails.
pub fn build_release() -> Result<PathBuf, TaskError> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        executable: Option<PathBuf>,
    }

    let mut command = command();
    command.args(["build", "--release", "--locked", "--package", "ptediff", "--bin", "ptediff"]);
    command.args(["--message-format", "json-render-diagnostics"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|cause| not_started(&command, cause))?;
    let mut program = None;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            match serde_json::from_str::<Message>(&line) {
                Ok(message) if message.reason == "compiler-artifact" => program = message.executable.or(program),
                // Other messages, of other forms, are of no interest here.
                Ok(_) | Err(_) => {}
            }
        }
    }
    let status = child.wait().map_err(|cause| not_started(&command, cause))?;
    if !status.success() {
        return Err(failed("building ptediff", &command, status));
    }
    program.ok_or_else(|| TaskError::Malformed {
        what: "the output of `cargo build`".to_owned(),
        reason: "it names no executable".to_owned(),
    })
}

/// Runs cargo with the user's terminal, whatever the outcome.
///
/// # Errors
/// [`TaskError::NotStarted`] only.
pub fn status_of(command: &mut Command) -> Result<ExitStatus, TaskError> {
    command.status().map_err(|cause| not_started(command, cause))
}

fn not_started(command: &Command, cause: std::io::Error) -> TaskError {
    TaskError::NotStarted {
        task: "calling cargo".to_owned(),
        program: command.get_program().to_string_lossy().into_owned(),
        cause,
        remedy: "call this program as `cargo xtask`".to_owned(),
    }
}

fn failed(task: &str, command: &Command, status: ExitStatus) -> TaskError {
    let ending = format!("ended with {status}");
    TaskError::Cargo { task: task.to_owned(), command: command_line(command), ending }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_drop_static_linking_are_refused() {
        let check = |set: &[(&str, &str)], refused: Option<&str>| {
            let found = check_flags(|name| {
                let value = set.iter().find(|(variable, _)| *variable == name);
                value.map(|(_, value)| value.into())
            });
            let variable = found.err().map(|error| match error {
                TaskError::FlagsReplaced { variable } => variable,
                other => panic!("{other}"),
            });
            assert_eq!(variable, refused, "{set:?}");
        };
        check(&[], None);
        check(&[("RUSTFLAGS", "-D warnings")], Some("RUSTFLAGS"));
        check(&[("RUSTFLAGS", "")], Some("RUSTFLAGS"));
        check(&[("RUSTFLAGS", "-D warnings -C target-feature=+crt-static")], None);
        check(&[("CARGO_ENCODED_RUSTFLAGS", "-Cdebuginfo=0")], Some("CARGO_ENCODED_RUSTFLAGS"));
        check(&[("CARGO_ENCODED_RUSTFLAGS", "-C\u{1f}target-feature=+crt-static"), ("RUSTFLAGS", "-Dwarnings")], None);
    }
}
