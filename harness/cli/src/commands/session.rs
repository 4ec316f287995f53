//! The hidden command that runs a session: in the guest, where init starts it, or in place.

use std::io::{self, Write};
use std::process::ExitCode;

use ptediff_trace::Writer;
use ptediff_vm::guest::E9Port;
use ptediff_vm::in_place::may_run_in_place;

use crate::guest::{GuestRequest, REQUEST_PATH, session};

/// Runs the session of the request file named by the second argument, onto standard output; without one,
/// the guest's own request, onto port 0xE9, where init has written the head.
pub(super) fn run() -> ExitCode {
    let path = std::env::args_os().nth(2);
    let ended = match &path {
        Some(_) if !may_run_in_place() => Err(io::Error::other(
            "programs are not run on this machine itself without leave (see `ptediff run --help`)",
        )),
        Some(path) => read(path.as_ref()).and_then(|request| {
            // The request was made for this session alone.
            std::fs::remove_file(path)?;
            session::run(&request, Writer::new(io::stdout().lock()))
        }),
        None => read(REQUEST_PATH.as_ref()).and_then(|request| session::run(&request, Writer::resume(E9Port::open()?))),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "ptediff session: {error}");
            ExitCode::FAILURE
        }
    }
}

fn read(path: &std::path::Path) -> io::Result<GuestRequest> {
    serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)
}
