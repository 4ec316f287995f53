//! What can keep an operation from having an outcome.

use std::fmt;
use std::io;
use std::time::Duration;

use ptediff_reference_model::arena::ActorId;
use ptediff_reference_model::outcome::Fault;
use thiserror::Error;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitStatus {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

impl WaitStatus {
    /// The status as `waitpid` gives it for a process that ended.
    #[must_use]
    pub fn from_raw(raw: i32) -> Self {
        if libc::WIFSIGNALED(raw) { Self::Killed(libc::WTERMSIG(raw)) } else { Self::Exited(libc::WEXITSTATUS(raw)) }
    }
}

impl fmt::Display for WaitStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(status) => write!(formatter, "exited with status {status}"),
            Self::Killed(signal) => write!(formatter, "was killed by signal {signal}"),
        }
    }
}

/// Who may be to blame for an [`ExecuteError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    /// Our own rig, or the machine it runs on: nothing is said about the kernel's memory management.
    Rig,
    /// The rig or the kernel under test: an actor ended, hung or faulted where it should not.
    RigOrKernel,
    /// The program: it names an actor that is not there. A checked program cannot cause this.
    Program,
}

/// Why the executor could not start, or an operation has no outcome.
#[derive(Debug, Error)]
pub enum ExecuteError {
    /// A system call of the harness itself failed while it prepared or drove the actors.
    #[error("{doing} failed")]
    Harness {
        /// What was being done.
        doing: &'static str,
        /// The failure.
        source: io::Error,
    },
    /// A system call that the nursery makes to prepare itself failed.
    #[error("the nursery could not prepare itself: {call} failed with errno {errno}")]
    Preparation {
        /// The system call.
        call: &'static str,
        /// What it gave.
        errno: i32,
    },
    /// A shadow stack was asked for, and the kernel or the CPU has none.
    #[error("no user shadow stack: {call} failed with errno {errno} (95 says that the CPU or the kernel lacks it)")]
    NoShadowStack {
        /// The system call.
        call: &'static str,
        /// What it gave.
        errno: i32,
    },
    /// The shadow stack was enabled, and was off again after a task switch: the CPU (an emulated one) does not
    /// bring back the CET state by XRSTORS, or the kernel does not ask for it.
    #[error("the nursery's shadow stack was enabled but did not survive a task switch (XSAVES/XRSTORS of CET state)")]
    ShadowStackLost,
    /// The nursery did not end on the shadow stack that it was told to switch to.
    #[error("the nursery's shadow stack pointer is {found:#x} after the switch, not {expected:#x}")]
    ShadowStackNotSwitched {
        /// Where it should stand.
        expected: u64,
        /// Where it stands.
        found: u64,
    },
    /// The nursery ended. A new executor must be started.
    #[error("the nursery {status}, asked for {doing}")]
    NurseryDied {
        /// How.
        status: WaitStatus,
        /// What it was last asked for.
        doing: &'static str,
    },
    /// The nursery could not fork actor 0 (`clone` gave this errno).
    #[error("the nursery could not fork actor 0: errno {errno}")]
    ForkFailed {
        /// What `clone` gave.
        errno: i32,
    },
    /// An actor ended that was not told to, or ended otherwise than told.
    #[error("actor {} {status}, unasked", actor.index())]
    ActorDied {
        /// The actor.
        actor: ActorId,
        /// How it ended.
        status: WaitStatus,
    },
    /// A process did not answer, or did not end, in time. It is left to [`crate::Executor::end`] to kill it.
    #[error("{who} did not answer within {after:?}")]
    TimedOut {
        /// The process: `the nursery`, `actor 0`.
        who: String,
        /// How long was waited.
        after: Duration,
    },
    /// A process could not be ended even by SIGKILL.
    #[error("{who} did not end within {after:?} of SIGKILL")]
    Unkillable {
        /// The process.
        who: String,
        /// How long was waited.
        after: Duration,
    },
    /// A process faulted elsewhere than at the access that was asked for (a control-protection fault, say).
    #[error("{who} faulted at the instruction at {instruction:#x}, which was not its access: {fault}")]
    StrayFault {
        /// The process.
        who: String,
        /// The signal.
        fault: Fault,
        /// Address of the instruction.
        instruction: u64,
    },
    /// An answer that says neither success nor failure.
    #[error("{who} gave an answer without sense: value {value:#x}, stage {stage}")]
    Senseless {
        /// The process.
        who: String,
        /// The answer's value.
        value: u64,
        /// The answer's stage.
        stage: u64,
    },
    /// `/proc/self/clear_refs` could not be opened.
    #[error("actor {} could not open /proc/self/clear_refs: errno {errno} (is /proc mounted?)", actor.index())]
    ClearRefs {
        /// The actor.
        actor: ActorId,
        /// What `open` gave.
        errno: i32,
    },
    /// `/proc/self/mem` could not be opened.
    #[error("actor {} could not open /proc/self/mem: errno {errno} (is /proc mounted?)", actor.index())]
    ProcMem {
        /// The actor.
        actor: ActorId,
        /// What `open` gave.
        errno: i32,
    },
    /// The arena of actor 0 could not be emptied after a program.
    #[error("munmap of the whole arena failed with errno {errno}")]
    ArenaNotEmptied {
        /// What `munmap` gave.
        errno: i32,
    },
    /// A step names an actor that is not alive.
    #[error("actor {} is not alive", actor.index())]
    NoSuchActor {
        /// The actor.
        actor: ActorId,
    },
    /// A fork names a child that is alive already.
    #[error("actor {} is alive already", actor.index())]
    ActorTaken {
        /// The actor.
        actor: ActorId,
    },
}

impl ExecuteError {
    /// Who may be to blame, as far as it can be told from here.
    #[must_use]
    pub fn suspect(&self) -> Suspect {
        match self {
            Self::Harness { .. }
            | Self::Preparation { .. }
            | Self::NoShadowStack { .. }
            | Self::ShadowStackLost
            | Self::ShadowStackNotSwitched { .. }
            | Self::NurseryDied { .. }
            | Self::ForkFailed { .. }
            | Self::ClearRefs { .. }
            | Self::ProcMem { .. } => Suspect::Rig,
            Self::ActorDied { .. }
            | Self::TimedOut { .. }
            | Self::Unkillable { .. }
            | Self::StrayFault { .. }
            | Self::Senseless { .. }
            | Self::ArenaNotEmptied { .. } => Suspect::RigOrKernel,
            Self::NoSuchActor { .. } | Self::ActorTaken { .. } => Suspect::Program,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_status_from_raw() {
        let check = |raw, expected| assert_eq!(WaitStatus::from_raw(raw), expected);
        check(0, WaitStatus::Exited(0));
        check(0x2a00, WaitStatus::Exited(42));
        check(9, WaitStatus::Killed(9));
        check(0x8b, WaitStatus::Killed(11));
    }
}
