//! Exit codes. They suit `git bisect run`: 125 skips a commit, 128 and above stop the bisection, so that no
//! innocent commit is blamed for a failure of the rig.
//!
//! Code 2 needs a machine that dies, so a live run gives it; a recorded trace knows verdicts and whether it is
//! whole, and `ptediff judge` of the trace of a machine that died says 130, a trace that was cut.

use std::process::ExitCode;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// 0: everything that was compared agreed.
    Agree = 0,
    /// 1: a stable divergence between kernel and model.
    Diverge = 1,
    /// 2: the kernel under test died, with the session running: panic, oops, triple fault, reset, or hang in the middle
    /// of a program.
    KernelDied = 2,
    /// 125: it cannot be told: inconclusive verdicts, a machine that lacks what was
    /// asked for or ends before the session in it begins, time ran out before anything was compared.
    CannotTell = 125,
    /// 129: the command line or an input file is wrong.
    Usage = 129,
    /// 130: our rig failed: emulator, probes, cache, stream, or guest and host disagree.
    Rig = 130,
    /// 131: a bug in ptediff itself (a panic). `PTEDIFF_PLANT_PANIC=1` in the environment plants one, for the
    /// tests of this code.
    Internal = 131,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The documented meaning, one line.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Agree => "agree",
            Self::Diverge => "diverge",
            Self::KernelDied => "the kernel under test died",
            Self::CannotTell => "cannot tell",
            Self::Usage => "usage or input error",
            Self::Rig => "the rig failed",
            Self::Internal => "internal error",
        }
    }
}
