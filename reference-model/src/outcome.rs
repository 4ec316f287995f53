//! What an operation gave back to the actor that performed it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of one operation, seen from user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The system call succeeded, and where it returns an address, returned the one asked for.
    Succeeded,
    /// The system call returned another address than the fixed one asked for.
    Elsewhere(u64),
    /// The system call failed with this errno.
    Failed(i32),
    /// The load gave this value.
    Loaded(u64),
    /// The store retired.
    Stored,
    /// The fetch was allowed: the first byte of the page was executed.
    Executed,
    /// The access was refused and the actor got a signal.
    Faulted(Fault),
    /// The system call or instruction gave this number: a key of `pkey_alloc`, the PKRU that RDPKRU read.
    Returned(u64),
    /// The actor was killed by this signal: the kernel could not deliver one to its handler.
    Killed(u8),
    /// Nobody was there to act: the actor had been killed, or its parent before it was to be forked.
    Dead,
    /// The access waits for a userfaultfd to be answered; this is the message that was read from it.
    Waits(FaultMessage),
}

/// A page fault's message, as it is read from a userfaultfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FaultMessage {
    /// `UFFD_PAGEFAULT_FLAG_*`: 1 for a store, 2 for a write-protected entry.
    pub flags: u64,
    /// Address of the page.
    pub address: u64,
}

/// A signal that an access raised, as its handler saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fault {
    /// Signal number (11 SIGSEGV, 7 SIGBUS, 4 SIGILL).
    pub signal: u8,
    /// `si_code` (1 MAPERR, 2 ACCERR, 10 CPERR ...).
    pub code: i32,
    /// `si_addr`; 0 for an undefined instruction, where it is the instruction's own address.
    pub address: u64,
    /// Hardware error code. Of a page fault: bit 0 P, 1 W, 2 U, 4 I, 5 PK, 6 SHSTK; of a control-protection
    /// exception (`CPERR`): 1 near return, 4 RSTORSSP.
    pub error_code: u32,
    /// `si_pkey`: the VMA's protection key with `si_code` 4 (PKUERR), 0 with others.
    pub key: u32,
}

/// Name of an errno that the operations of ptediff can meet.
#[must_use]
pub fn errno_name(errno: i32) -> &'static str {
    match errno {
        1 => "EPERM",
        2 => "ENOENT",
        3 => "ESRCH",
        9 => "EBADF",
        11 => "EAGAIN",
        12 => "ENOMEM",
        13 => "EACCES",
        14 => "EFAULT",
        16 => "EBUSY",
        17 => "EEXIST",
        22 => "EINVAL",
        28 => "ENOSPC",
        34 => "ERANGE",
        38 => "ENOSYS",
        75 => "EOVERFLOW",
        95 => "EOPNOTSUPP",
        _ => "errno",
    }
}

fn signal_name(signal: u8) -> &'static str {
    match signal {
        4 => "SIGILL",
        5 => "SIGTRAP",
        7 => "SIGBUS",
        11 => "SIGSEGV",
        _ => "signal",
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded => write!(formatter, "ok"),
            Self::Elsewhere(address) => write!(formatter, "mapped elsewhere, at {address:#x}"),
            Self::Failed(errno) => write!(formatter, "{} ({errno})", errno_name(*errno)),
            Self::Loaded(value) => write!(formatter, "loaded {value:#x}"),
            Self::Stored => write!(formatter, "stored"),
            Self::Executed => write!(formatter, "executed"),
            Self::Faulted(fault) => write!(formatter, "{fault}"),
            Self::Returned(value) => write!(formatter, "gave {value:#x}"),
            Self::Killed(signal) => write!(formatter, "killed by {} ({signal})", signal_name(*signal)),
            Self::Dead => write!(formatter, "dead"),
            Self::Waits(FaultMessage { flags, address }) => {
                let store = if flags & 1 != 0 { "store" } else { "load" };
                let kind = if flags & 2 != 0 { "a write-protected" } else { "a missing" };
                write!(formatter, "waits: {store} to {kind} page at {address:#x} (flags {flags:#x})")
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = signal_name(self.signal);
        let code = match (self.signal, self.code) {
            (11, 1) => "MAPERR",
            (11, 2) => "ACCERR",
            (11, 4) => "PKUERR",
            (11, 10) => "CPERR",
            (11, 128) => "KERNEL",
            _ => "code",
        };
        write!(
            formatter,
            "{signal}({}) {code}({}) at {:#x}, error code {:#x}",
            self.signal, self.code, self.address, self.error_code
        )?;
        if self.key != 0 {
            write!(formatter, ", key {}", self.key)?;
        }
        Ok(())
    }
}
