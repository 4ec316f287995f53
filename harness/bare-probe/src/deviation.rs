//! What emulators are known to do against the SDM. Nothing is masked: a case that deviates in exactly this way is
//! counted under the deviation's name in each run, and one that deviates in any other way is a mismatch.
//!
//! Compiled into host and guest.

use crate::case::{Case, Expectation, Outcome};
use crate::fact::MADE;
use crate::processor::ErrorCode;

/// The processors that are known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Processor {
    /// Any other: nothing is known of it.
    Other = 0,
    /// Bochs 3.0 with the patches of `vm-images/bochs`.
    Bochs = 1,
    /// QEMU's translator, 10.0.
    Qemu = 2,
}

impl Processor {
    /// The one of this number; an unknown number is that of no known processor.
    #[must_use]
    pub fn of(number: u64) -> Self {
        match number {
            1 => Self::Bochs,
            2 => Self::Qemu,
            _ => Self::Other,
        }
    }
}

/// A deviation of an emulator from the SDM.
pub struct Deviation {
    /// Its name in reports.
    pub name: &'static str,
    /// Who deviates.
    pub processor: Processor,
    /// What the SDM says and what the emulator does; why it is no mistake of the model.
    pub reason: &'static str,
    /// The outcome with the deviation, if the case is one of those that show it.
    pub outcome: fn(&Case, &Expectation) -> Option<Outcome>,
}

/// All that are known.
pub const KNOWN_EMULATOR_DEVIATIONS: &[Deviation] = &[Deviation {
    name: "qemu-reserved-without-present",
    processor: Processor::Qemu,
    reason: "SDM 3A 4.7, RSVD flag: reserved bits are not checked in an entry whose P flag is 0, so RSVD comes with P. \
             QEMU 10.0 sets RSVD alone (0x08 where 0x09 belongs).",
    outcome: reserved_without_present,
}];

/// A deviation in the answer to a fact.
pub struct FactDeviation {
    /// Its name in reports.
    pub name: &'static str,
    /// Who deviates.
    pub processor: Processor,
    /// The fact.
    pub fact: &'static str,
    /// The answer.
    pub answer: &'static [u64],
    /// What the SDM says and what the emulator does.
    pub reason: &'static str,
}

/// All that are known of facts.
pub const KNOWN_FACT_DEVIATIONS: &[FactDeviation] = &[FactDeviation {
    name: "bochs-pkrs-reserved-bits",
    processor: Processor::Bochs,
    fact: "pkrs-reserved-bits",
    answer: &[MADE, MADE, 0xffff_ffff],
    reason: "SDM 4, IA32_PKRS: bits 63:32 are reserved, and WRMSR that sets one is #GP(0). Bochs 3.0 drops the upper \
             half (cpu/msr.cc keeps the value in 32 bits).",
}];

fn reserved_without_present(_: &Case, expected: &Expectation) -> Option<Outcome> {
    const PRESENT: u64 = ErrorCode::PRESENT as u64;
    const RESERVED: u64 = ErrorCode::RESERVED as u64;
    let word = expected.outcome.0;
    let mut changed = word;
    if word & RESERVED != 0 {
        changed &= !PRESENT;
    }
    if word & RESERVED << Outcome::FIRST_CODE_SHIFT != 0 {
        changed &= !(PRESENT << Outcome::FIRST_CODE_SHIFT);
    }
    (changed != word).then_some(Outcome(changed))
}

/// Room for counts of deviations in a block's record.
pub const MOST_DEVIATIONS: usize = 8;
