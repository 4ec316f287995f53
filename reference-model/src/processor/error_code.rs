//! The error code of a page fault (SDM 4.7, figure "Page-Fault Error Code").

use core::fmt;

/// The bits that the processor pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// P: there is a translation, or a reserved bit in the way.
    pub const PRESENT: u32 = 1 << 0;
    /// W/R: the access was a write.
    pub const WRITE: u32 = 1 << 1;
    /// U/S: the access was a user-mode one.
    pub const USER: u32 = 1 << 2;
    /// RSVD: a reserved bit of an entry is set.
    pub const RESERVED: u32 = 1 << 3;
    /// I/D: the access was an instruction fetch, and CR4.SMEP or IA32_EFER.NXE is set.
    pub const FETCH: u32 = 1 << 4;
    /// PK: the rights of the page's protection key refuse the access.
    pub const KEY: u32 = 1 << 5;
    /// SS: the access was a shadow-stack access.
    pub const SHADOW_STACK: u32 = 1 << 6;

    /// Every bit with its name in the SDM.
    pub const NAMES: [(u32, &'static str); 7] = [
        (Self::PRESENT, "P"),
        (Self::WRITE, "W"),
        (Self::USER, "U"),
        (Self::RESERVED, "RSVD"),
        (Self::FETCH, "I"),
        (Self::KEY, "PK"),
        (Self::SHADOW_STACK, "SS"),
    ];
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#04x}", self.0)?;
        let mut separator = " (";
        for (bit, name) in Self::NAMES {
            if self.0 & bit != 0 {
                write!(formatter, "{separator}{name}")?;
                separator = " ";
            }
        }
        formatter.write_str(if separator == " " { ")" } else { " ()" })
    }
}
