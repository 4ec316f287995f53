//! Process 1 of the guest: mounts, starts the session as its only child, powers off.

use std::process::{Command, ExitCode};

use ptediff_trace::{Frame, Writer};
use ptediff_vm::guest::{E9Port, mount_file_systems, power_off};

/// The hidden word that starts the session.
pub const SESSION_ARGUMENT: &str = "__session";

/// The whole life of process 1. Returns only if the machine cannot be powered off, and then panics the
/// kernel, which the host reports.
#[must_use]
pub fn run() -> ExitCode {
    if let Err(message) = serve() {
        eprintln!("ptediff init: {message}");
        if let Ok(port) = E9Port::open()
            && let Err(error) = Writer::resume(port).send(&Frame::RigFailure { message })
        {
            eprintln!("ptediff init: {error}");
        }
    }
    match power_off() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("ptediff init: power off: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    for missing in mount_file_systems().map_err(|error| error.to_string())? {
        eprintln!("ptediff init: this kernel has no {missing}");
    }
    // The head goes out first, so that a session that dies at once leaves a stream that can be read.
    let port = E9Port::open().map_err(|error| format!("port 0xE9: {error}"))?;
    Writer::new(port).flush().map_err(|error| format!("port 0xE9: {error}"))?;
    let status = Command::new("/proc/self/exe")
        .arg(SESSION_ARGUMENT)
        .env("RUST_BACKTRACE", "1")
        .status()
        .map_err(|error| format!("the session cannot be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the session in the guest ended badly: {status}")) }
}
