//! Planted failures: the rig's own tests of trust. Each is asked for by name with the hidden `--plant`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use ptediff_reference_model::outcome::{Fault, Outcome};
use ptediff_reference_model::program::Operation;
use ptediff_trace::Attempt;

use ptediff_observe::Lie;

/// A failure to be planted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Plant {
    /// The kernel panics in the middle of the program with this index.
    Panic(u32),
    /// The kernel panics whenever an actor exits, in whatever program.
    PanicAtExit,
    /// The guest hangs, silent, in the middle of the program with this index.
    Hang(u32),
    /// The guest powers off in the middle of the program with this index.
    PowerOff(u32),
    /// The machine is reset by a triple fault in the middle of the program with this index.
    TripleFault(u32),
    /// The guest's process aborts in the middle of the program with this index.
    Abort(u32),
    /// mprotect fails with EINVAL where it must fail with ENOMEM: a change of the kernel, as far as anyone
    /// behind the executor can see.
    Errno,
    /// The same, but only when a program runs for the first time: a divergence that is not stable.
    ErrnoOnce,
    /// A refused access gives a hardware error code without bit 2 (user mode): a defect of the CPU.
    ErrorCode,
    /// The observer lies about a field; the name is one of `ptediff_observe`'s lies.
    Lie(String),
    /// The guest's verdict on the program with this index is swapped, so that host and guest disagree.
    Verdict(u32),
}

/// A plant that has no such name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a plant: panic@N, hang@N, power-off@N, triple-fault@N, abort@N, verdict@N (N: index of a program), panic-at-exit, errno, errno-once, error-code or lie:NAME, such as lie:entry.RW"
)]
pub struct UnknownPlant(String);

impl FromStr for Plant {
    type Err = UnknownPlant;
    fn from_str(text: &str) -> Result<Self, UnknownPlant> {
        let unknown = || UnknownPlant(text.to_owned());
        if let Some(lie) = text.strip_prefix("lie:") {
            return lie.parse::<Lie>().map(|lie| Self::Lie(lie.to_string())).map_err(|_| unknown());
        }
        match text {
            "errno" => return Ok(Self::Errno),
            "panic-at-exit" => return Ok(Self::PanicAtExit),
            "errno-once" => return Ok(Self::ErrnoOnce),
            "error-code" => return Ok(Self::ErrorCode),
            _ => {}
        }
        let (name, index) = text.split_once('@').ok_or_else(unknown)?;
        let index = index.parse().map_err(|_| unknown())?;
        match name {
            "panic" => Ok(Self::Panic(index)),
            "hang" => Ok(Self::Hang(index)),
            "power-off" => Ok(Self::PowerOff(index)),
            "triple-fault" => Ok(Self::TripleFault(index)),
            "abort" => Ok(Self::Abort(index)),
            "verdict" => Ok(Self::Verdict(index)),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic(index) => write!(formatter, "panic@{index}"),
            Self::Hang(index) => write!(formatter, "hang@{index}"),
            Self::PowerOff(index) => write!(formatter, "power-off@{index}"),
            Self::TripleFault(index) => write!(formatter, "triple-fault@{index}"),
            Self::Abort(index) => write!(formatter, "abort@{index}"),
            Self::Verdict(index) => write!(formatter, "verdict@{index}"),
            Self::Errno => write!(formatter, "errno"),
            Self::ErrnoOnce => write!(formatter, "errno-once"),
            Self::PanicAtExit => write!(formatter, "panic-at-exit"),
            Self::ErrorCode => write!(formatter, "error-code"),
            Self::Lie(name) => write!(formatter, "lie:{name}"),
        }
    }
}

impl TryFrom<String> for Plant {
    type Error = UnknownPlant;
    fn try_from(text: String) -> Result<Self, UnknownPlant> {
        text.parse()
    }
}

impl From<Plant> for String {
    fn from(plant: Plant) -> Self {
        plant.to_string()
    }
}

impl Plant {
    /// The outcome of a step as the planted kernel gives it.
    #[must_use]
    pub fn distort(&self, attempt: Attempt, operation: &Operation, outcome: Outcome) -> Outcome {
        const ENOMEM: i32 = 12;
        const EINVAL: i32 = 22;
        /// SDM 3A 4.7: the access came from user mode.
        const USER_MODE: u32 = 1 << 2;
        let due = match self {
            Self::Errno => true,
            Self::ErrnoOnce => attempt == Attempt::First,
            _ => false,
        };
        match (operation, outcome) {
            (Operation::Mprotect { .. }, Outcome::Failed(ENOMEM)) if due => Outcome::Failed(EINVAL),
            (_, Outcome::Faulted(fault)) if *self == Self::ErrorCode => {
                Outcome::Faulted(Fault { error_code: fault.error_code & !USER_MODE, ..fault })
            }
            _ => outcome,
        }
    }

    /// Whether another machine has it too, that shares the kernel or the CPU with this one.
    #[must_use]
    pub fn is_shared(&self, same_kernel: bool, same_cpu: bool) -> bool {
        match self {
            Self::ErrorCode => same_cpu,
            Self::Errno | Self::ErrnoOnce => same_kernel,
            _ => false,
        }
    }

    /// Carries the failure out if it is due at this operation. Called before each step, and only inside a virtual
    /// machine.
    ///
    /// # Errors
    /// The failure could not be brought about.
    pub fn strike_at(&self, operation: &Operation) -> std::io::Result<()> {
        match (self, operation) {
            (Self::PanicAtExit, Operation::Exit) => std::fs::write("/proc/sysrq-trigger", "c"),
            _ => Ok(()),
        }
    }

    /// Carries the failure out if it is due in this program. Called in the middle of each program, and only
    /// inside a virtual machine.
    ///
    /// # Errors
    /// The failure could not be brought about.
    pub fn strike(&self, program: u32) -> std::io::Result<()> {
        match self {
            Self::Panic(index) if *index == program => std::fs::write("/proc/sysrq-trigger", "c"),
            Self::Hang(index) if *index == program => loop {
                std::hint::spin_loop();
            },
            Self::PowerOff(index) if *index == program => ptediff_vm::guest::power_off().map(|_| ()),
            Self::TripleFault(index) if *index == program => ptediff_vm::guest::triple_fault().map(|_| ()),
            Self::Abort(index) if *index == program => std::process::abort(),
            _ => Ok(()),
        }
    }
}
