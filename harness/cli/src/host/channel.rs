//! Where a trace comes from: a virtual machine, or a session on this very machine.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout};

use ptediff_vm::{Activity, Ending, Running, VmError};

/// A running session.
pub enum Channel {
    /// In a virtual machine.
    Machine(Box<Running>),
    /// In place, as a child process.
    Native {
        /// The session.
        child: Child,
        /// Its stream.
        stream: ChildStdout,
    },
}

impl Channel {
    /// Waits for bytes, or the end.
    ///
    /// # Errors
    /// The rig failed.
    pub fn read(&mut self, buffer: &mut Vec<u8>) -> Result<Activity, VmError> {
        match self {
            Self::Machine(running) => running.read(buffer),
            Self::Native { child, stream } => {
                let mut chunk = [0; 1 << 16];
                let failed = |source| VmError::Io { action: "read the session's trace".to_owned(), source };
                match stream.read(&mut chunk).map_err(failed)? {
                    0 => {
                        let status = child.wait().map_err(failed)?;
                        Ok(Activity::Ended(match (status.code(), status.signal()) {
                            (Some(0), _) => Ending::PoweredOff,
                            (Some(code), _) => Ending::EmulatorExited { code },
                            (None, signal) => Ending::EmulatorKilled { signal: signal.unwrap_or(0) },
                        }))
                    }
                    length => {
                        buffer.extend_from_slice(&chunk[..length]);
                        Ok(Activity::Bytes(length))
                    }
                }
            }
        }
    }

    /// The process that carries the session.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        match self {
            Self::Machine(running) => running.process_id(),
            Self::Native { child, .. } => child.id(),
        }
    }

    /// Ends it.
    pub fn kill(&mut self) {
        match self {
            Self::Machine(running) => running.kill(),
            // It may have ended by itself; then there is nothing to kill.
            Self::Native { child, .. } => drop(child.kill()),
        }
    }

    /// The console's last lines; empty for a session in place.
    #[must_use]
    pub fn console_tail(&self, lines: usize) -> String {
        match self {
            Self::Machine(running) => running.console_tail(lines),
            Self::Native { .. } => String::new(),
        }
    }
}
