//! One access with all that it depends on, and its outcome in one word.
//!
//! Compiled into host and guest.

use crate::processor::{
    ACCESSED, Access, Context, DIRTY, Decision, Entries, ErrorCode, Kind, LEVELS, Mode, Mutant, Paging, Rule, decide_as,
};

/// Bits of [`Case::control`]: the access, and the processor's state.
pub mod control {
    /// The access is made at CPL 3.
    pub const USER: u32 = 1 << 0;
    /// It is a write.
    pub const WRITE: u32 = 1 << 1;
    /// It is an instruction fetch.
    pub const FETCH: u32 = 1 << 2;
    /// It is a shadow-stack access.
    pub const SHADOW: u32 = 1 << 3;
    /// It is made by WRUSS at CPL 0.
    pub const WRUSS: u32 = 1 << 4;
    /// A supervisor-mode read of the same address goes before it.
    pub const TWICE: u32 = 1 << 5;
    /// EFLAGS.AC.
    pub const AC: u32 = 1 << 8;
    /// CR0.WP.
    pub const WP: u32 = 1 << 9;
    /// CR4.SMEP.
    pub const SMEP: u32 = 1 << 10;
    /// CR4.SMAP.
    pub const SMAP: u32 = 1 << 11;
    /// CR4.PKE.
    pub const PKE: u32 = 1 << 12;
    /// CR4.PKS.
    pub const PKS: u32 = 1 << 13;
    /// CR4.CET.
    pub const CET: u32 = 1 << 14;
    /// IA32_EFER.NXE.
    pub const NXE: u32 = 1 << 15;
    /// Access-disable for key 1 in PKRU.
    pub const PKRU_AD: u32 = 1 << 16;
    /// Write-disable for key 1 in PKRU.
    pub const PKRU_WD: u32 = 1 << 17;
    /// Access-disable for key 1 in IA32_PKRS.
    pub const PKRS_AD: u32 = 1 << 18;
    /// Write-disable for key 1 in IA32_PKRS.
    pub const PKRS_WD: u32 = 1 << 19;

    /// The bits with their names, for reports.
    pub const NAMES: [(u32, &str); 18] = [
        (USER, "user"),
        (WRITE, "write"),
        (FETCH, "fetch"),
        (SHADOW, "shadow-stack"),
        (WRUSS, "WRUSS"),
        (TWICE, "twice"),
        (AC, "EFLAGS.AC"),
        (WP, "CR0.WP"),
        (SMEP, "CR4.SMEP"),
        (SMAP, "CR4.SMAP"),
        (PKE, "CR4.PKE"),
        (PKS, "CR4.PKS"),
        (CET, "CR4.CET"),
        (NXE, "EFER.NXE"),
        (PKRU_AD, "PKRU.AD1"),
        (PKRU_WD, "PKRU.WD1"),
        (PKRS_AD, "PKRS.AD1"),
        (PKRS_WD, "PKRS.WD1"),
    ];
}

/// What a register of key rights holds while its CR4 bit is clear: everything but key 0 is refused, so that a
/// processor that obeys it all the same is noticed.
pub const RIGHTS_WHILE_OFF: u32 = 0xffff_fffc;

/// An access and all that it depends on. Frame numbers are left out of the entries: the guest adds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// Bits of [`control`].
    pub control: u32,
    /// The entries before the access, without frame numbers.
    pub entries: Entries,
}

/// The processor that runs the guest, as far as cases depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Its address translation.
    pub paging: Paging,
    /// The bits of [`control`] among AC to NXE that it has.
    pub features: u32,
}

/// PKRU or IA32_PKRS for these rights to pages of key 1. Key 2 is closed and key 15 has the two bits exchanged, so that
/// an access by a wrong key is noticed; key 0 is open.
#[must_use]
pub fn key_rights(access_disable: bool, write_disable: bool) -> u32 {
    let (access, write) = (u32::from(access_disable), u32::from(write_disable));
    access << 2 | write << 3 | 0x30 | write << 30 | access << 31
}

impl Case {
    /// The processor's state.
    #[must_use]
    pub fn context(&self, machine: &Machine) -> Context {
        let has = |bit: u32| self.control & bit != 0;
        let user_keys = has(control::PKE);
        let supervisor_keys = has(control::PKS);
        Context {
            paging: machine.paging,
            write_protect: has(control::WP),
            smep: has(control::SMEP),
            smap: has(control::SMAP),
            alignment_check: has(control::AC),
            user_keys,
            supervisor_keys,
            shadow_stacks: has(control::CET),
            supports_shadow_stacks: machine.features & control::CET != 0,
            execute_disable: has(control::NXE),
            pkru: if user_keys { key_rights(has(control::PKRU_AD), has(control::PKRU_WD)) } else { RIGHTS_WHILE_OFF },
            pkrs: if supervisor_keys {
                key_rights(has(control::PKRS_AD), has(control::PKRS_WD))
            } else {
                RIGHTS_WHILE_OFF
            },
        }
    }

    /// The access.
    #[must_use]
    pub fn access(&self) -> Access {
        let has = |bit: u32| self.control & bit != 0;
        let mode = if has(control::USER) || has(control::WRUSS) { Mode::User } else { Mode::Supervisor };
        let kind = match (has(control::SHADOW), has(control::WRITE), has(control::FETCH)) {
            (true, false, _) => Kind::ShadowStackRead,
            (true, true, _) => Kind::ShadowStackWrite,
            (false, true, _) => Kind::Write,
            (false, false, true) => Kind::Fetch,
            (false, false, false) => Kind::Read,
        };
        Access { mode, kind }
    }

    /// The level whose entry maps the page, or the last one that would be looked at.
    #[must_use]
    pub fn last_level(&self) -> usize {
        let is_large = |level: usize| self.entries[level - 1] & crate::processor::PAGE_SIZE != 0;
        if is_large(3) {
            3
        } else if is_large(2) {
            2
        } else {
            1
        }
    }
}

/// An outcome in one word. What is no page fault, no flag and no effect of the access has a bit that must be clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome(pub u64);

impl Outcome {
    /// The access was refused by a page fault, whose error code stands in bits 0 to 6.
    pub const FAULT: u64 = 1 << 7;
    /// From here up: Accessed after the access, by level.
    pub const ACCESSED_SHIFT: u32 = 8;
    /// From here up: bit 6 after the access, by level.
    pub const DIRTY_SHIFT: u32 = 13;
    /// Another bit of an entry changed.
    pub const ENTRY_CHANGED: u64 = 1 << 18;
    /// CR2 is not the address.
    pub const WRONG_ADDRESS: u64 = 1 << 19;
    /// Memory holds what was written.
    pub const STORED: u64 = 1 << 20;
    /// The read gave what was in memory.
    pub const LOADED: u64 = 1 << 21;
    /// The read that goes before the access was refused; its error code stands in bits 24 to 30.
    pub const FIRST_FAULT: u64 = 1 << 22;
    /// Memory holds neither what was there nor what was written.
    pub const MEMORY_SPOILT: u64 = 1 << 23;
    /// From here up: the error code of the read that goes before.
    pub const FIRST_CODE_SHIFT: u32 = 24;
    /// From here up: the vector of an exception that is no page fault.
    pub const VECTOR_SHIFT: u32 = 32;
    /// From here up: bits 7 to 15 of the error code, which no access may set.
    pub const REST_OF_CODE_SHIFT: u32 = 40;

    /// The flags of entries, by level.
    #[must_use]
    #[inline(always)]
    pub fn flags(entries: &Entries) -> u64 {
        let mut word = 0;
        for (level, entry) in entries.iter().enumerate() {
            word |= ((entry & ACCESSED) / ACCESSED) << (Self::ACCESSED_SHIFT as usize + level);
            word |= ((entry & DIRTY) / DIRTY) << (Self::DIRTY_SHIFT as usize + level);
        }
        word
    }

    /// The page fault's error code, if there was one.
    #[must_use]
    pub fn fault(self) -> Option<ErrorCode> {
        (self.0 & Self::FAULT != 0).then_some(ErrorCode(self.0 as u32 & 0x7f))
    }
}

/// What the model says of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expectation {
    /// The outcome, with Accessed clear where it is not specified.
    pub outcome: Outcome,
    /// The bits of the outcome that are specified.
    pub mask: u64,
    /// The rule that decided the access.
    pub rule: Rule,
    /// The decision on the access itself.
    pub decision: Decision,
}

/// What the model says of a case, with a planted mistake or without.
#[must_use]
#[inline(always)]
pub fn expect(mutant: Option<Mutant>, context: &Context, case: &Case) -> Expectation {
    let mut word = 0;
    let mut entries = case.entries;
    let mut unspecified: Entries = [0; LEVELS];
    if case.control & control::TWICE != 0 {
        let before = Access { mode: Mode::Supervisor, kind: Kind::Read };
        let first = decide_as(mutant, context, before, &entries);
        if let Some(code) = first.fault {
            word |= Outcome::FIRST_FAULT | u64::from(code.0) << Outcome::FIRST_CODE_SHIFT;
        }
        entries = first.after;
        unspecified = first.unspecified;
    }
    let access = case.access();
    let decision = decide_as(mutant, context, access, &entries);
    match decision.fault {
        Some(code) => word |= Outcome::FAULT | u64::from(code.0),
        None => match access.kind {
            Kind::Write | Kind::ShadowStackWrite => word |= Outcome::STORED,
            Kind::Read => word |= Outcome::LOADED,
            Kind::Fetch | Kind::ShadowStackRead => {}
        },
    }
    word |= Outcome::flags(&decision.after);
    let mut open = u64::from(decision.unspecified_code);
    let first_and_last = unspecified.iter().zip(&decision.unspecified);
    for (level, ((first, last), after)) in first_and_last.zip(&decision.after).enumerate() {
        let flag = (first | last) & !after & ACCESSED;
        open |= (flag / ACCESSED) << (Outcome::ACCESSED_SHIFT as usize + level);
    }
    Expectation { outcome: Outcome(word & !open), mask: !open, rule: decision.rule, decision }
}
