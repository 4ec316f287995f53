//! Mutants of the model: one output of one rule is wrong.
//!
//! A campaign's recorded traces must kill them. A mutant that survives names either a rule that the
//! programs do not exercise or an output that nothing compares.

use std::fmt;

use crate::entry::{BIT_NAMES, FRAME, NX};
use crate::outcome::{Fault, Outcome};
use crate::rule::{Kind, RULES, Rule};

/// An output of a rule that can be flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Output {
    /// This bit of the entry.
    EntryBit(u8),
    /// The frame in the entry.
    Frame,
    /// Success becomes EINVAL and the reverse; a retired access becomes a signal.
    Succeeds,
    /// This bit of the errno.
    ErrnoBit(u8),
    /// This bit of the loaded value.
    ValueBit(u8),
    /// This bit of the signal number.
    SignalBit(u8),
    /// This bit of `si_code`.
    CodeBit(u8),
    /// This bit of `si_addr`.
    AddressBit(u8),
    /// This bit of the hardware error code.
    ErrorCodeBit(u8),
    /// Whether the transition is seen at all.
    Transition,
    /// `FAULT_FLAG_WRITE` of the transition.
    WriteFlag,
    /// This bit of the transition's `vm_flags`.
    VmFlag(u8),
    /// The frame's mapcount in the transition.
    Mapcount,
    /// `PageAnonExclusive` of the frame after a transition.
    Exclusive,
    /// `VM_SOFTDIRTY` of the VMA.
    SoftDirtyFlag,
    /// Whether the VMA has an anon_vma.
    AnonVma,
    /// Whether the anon_vma may be shared with merged neighbours (its chain is singular).
    Singular,
    /// `VM_ACCOUNT` of the VMA.
    Account,
    /// `vm_pgoff` of the VMA.
    Displacement,
    /// This bit of a protection key: the one chosen, or `si_pkey`.
    KeyBit(u8),
    /// This bit of the rights that the thread has to pages of the key.
    RightsBit(u8),
    /// Whether a signal pushes its frame on the shadow stack.
    Pushed,
    /// Whether `vm_page_prot` of a shared VMA lacks RW for write notification.
    PageProtection,
    /// Whether the folio of a shmem object becomes dirty.
    FolioDirty,
}

impl fmt::Display for Output {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EntryBit(bit) => {
                let mask = 1u64 << bit;
                match BIT_NAMES.iter().find(|(named, _)| *named == mask) {
                    Some((_, name)) => write!(formatter, "entry.{name}"),
                    None if mask == NX => write!(formatter, "entry.NX"),
                    None => write!(formatter, "entry.bit{bit}"),
                }
            }
            Self::Frame => write!(formatter, "entry.frame"),
            Self::Succeeds => write!(formatter, "succeeds"),
            Self::ErrnoBit(bit) => write!(formatter, "errno.bit{bit}"),
            Self::ValueBit(bit) => write!(formatter, "value.bit{bit}"),
            Self::SignalBit(bit) => write!(formatter, "signal.bit{bit}"),
            Self::CodeBit(bit) => write!(formatter, "si_code.bit{bit}"),
            Self::AddressBit(bit) => write!(formatter, "si_addr.bit{bit}"),
            Self::ErrorCodeBit(bit) => write!(formatter, "error_code.bit{bit}"),
            Self::Transition => write!(formatter, "transition"),
            Self::WriteFlag => write!(formatter, "transition.write"),
            Self::VmFlag(bit) => write!(formatter, "transition.vm_flags.bit{bit}"),
            Self::Mapcount => write!(formatter, "transition.mapcount"),
            Self::Exclusive => write!(formatter, "exclusive"),
            Self::SoftDirtyFlag => write!(formatter, "vma.soft_dirty"),
            Self::AnonVma => write!(formatter, "vma.anon_vma"),
            Self::Singular => write!(formatter, "vma.anon_vma_singular"),
            Self::Account => write!(formatter, "vma.account"),
            Self::Displacement => write!(formatter, "vma.pgoff"),
            Self::KeyBit(bit) => write!(formatter, "key.bit{bit}"),
            Self::RightsBit(bit) => write!(formatter, "rights.bit{bit}"),
            Self::Pushed => write!(formatter, "pushed"),
            Self::PageProtection => write!(formatter, "vma.page_prot.RW"),
            Self::FolioDirty => write!(formatter, "folio.dirty"),
        }
    }
}

/// One wrong output of one rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mutation {
    /// The rule that is wrong.
    pub rule: Rule,
    /// What is wrong about it.
    pub output: Output,
}

impl fmt::Display for Mutation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} / {}", self.rule, self.output)
    }
}

/// Every mutant there is: each output of each rule in [`RULES`].
#[must_use]
pub fn all() -> Vec<Mutation> {
    let mut mutants = Vec::new();
    for info in &RULES {
        let rule = info.rule;
        mutants.extend(outputs(rule, info.kind).into_iter().map(|output| Mutation { rule, output }));
    }
    mutants
}

/// Bits of `vm_flags` that a mutant may flip: those of [`crate::model::VM_FLAGS_COMPARED`].
pub(crate) const VM_FLAG_BITS: [u8; 16] = [0, 1, 2, 3, 9, 12, 13, 17, 25, 27, 31, 32, 33, 34, 35, 37];

fn outputs(rule: Rule, kind: Kind) -> Vec<Output> {
    let mut outputs = Vec::new();
    let is_entry = matches!(
        kind,
        Kind::EntryByCpu
            | Kind::EntryByFault
            | Kind::EntryByFork
            | Kind::EntryByProtect
            | Kind::EntryByClearRefs
            | Kind::EntryByAdvice
            | Kind::EntryByMove
            | Kind::EntryZap
    );
    if is_entry {
        outputs.extend((0..64).filter(|bit| FRAME & (1 << bit) == 0).map(Output::EntryBit));
        outputs.push(Output::Frame);
    }
    if is_entry && !matches!(kind, Kind::EntryByCpu | Kind::EntryByAdvice | Kind::EntryByMove | Kind::EntryZap) {
        outputs.push(Output::Transition);
        outputs.push(Output::WriteFlag);
        outputs.extend(VM_FLAG_BITS.map(Output::VmFlag));
        outputs.push(Output::Mapcount);
        if rule != Rule::SharedBeyond {
            // It leaves no frame.
            outputs.push(Output::Exclusive);
        }
    }
    match kind {
        Kind::Success | Kind::Stored | Kind::Executed | Kind::Dead => outputs.push(Output::Succeeds),
        Kind::Killed => {
            outputs.push(Output::Succeeds);
            outputs.extend((0..6).map(Output::SignalBit));
        }
        Kind::SignalFrame => outputs.push(Output::Pushed),
        Kind::Errno => {
            outputs.push(Output::Succeeds);
            outputs.extend((0..8).map(Output::ErrnoBit));
        }
        Kind::Loaded => {
            outputs.push(Output::Succeeds);
            outputs.extend((0..64).map(Output::ValueBit));
        }
        Kind::Fault => {
            outputs.push(Output::Succeeds);
            outputs.extend((0..6).map(Output::SignalBit));
            outputs.extend((0..5).map(Output::CodeBit));
            outputs.extend((0..48).map(Output::AddressBit));
            outputs.extend([0, 1, 2, 3, 4, 5, 6, 15].map(Output::ErrorCodeBit));
            outputs.extend((0..4).map(Output::KeyBit));
        }
        Kind::Vma => {
            outputs.extend([Output::SoftDirtyFlag, Output::AnonVma]);
            if rule == Rule::VmaShared {
                // VM_ACCOUNT of a shared VMA never changes, and nothing that it could merge with differs in it.
                outputs.push(Output::PageProtection);
            } else {
                outputs.push(Output::Account);
            }
            if matches!(rule, Rule::VmaFork | Rule::VmaAnonPrepare) {
                outputs.push(Output::Singular);
            }
            if matches!(rule, Rule::VmaMoved | Rule::VmaKept) {
                outputs.push(Output::Displacement);
            }
            if rule == Rule::VmaFork {
                outputs.push(Output::PageProtection);
            }
        }
        Kind::Returned => {
            outputs.push(Output::Succeeds);
            outputs.extend((0..32).map(Output::ValueBit));
            outputs.extend((0..2).map(Output::RightsBit));
        }
        Kind::Key => outputs.extend((0..4).map(Output::KeyBit)),
        Kind::KeyAndRights => {
            outputs.extend((0..4).map(Output::KeyBit));
            outputs.extend((0..2).map(Output::RightsBit));
        }
        Kind::PageProtection => outputs.push(Output::PageProtection),
        Kind::Folio => outputs.push(Output::FolioDirty),
        _ => {}
    }
    outputs
}

impl Mutation {
    /// The entry bits that this mutation flips when `rule` writes an entry.
    pub(crate) fn entry_flip(self, rule: Rule) -> u64 {
        match self.output {
            Output::EntryBit(bit) if self.rule == rule => 1 << bit,
            _ => 0,
        }
    }

    /// Whether this is the mutation of `output` of `rule`.
    pub(crate) fn is(self, rule: Rule, output: Output) -> bool {
        self.rule == rule && self.output == output
    }

    /// The outcome as the mutant says it.
    pub(crate) fn outcome(self, rule: Rule, outcome: Outcome) -> Outcome {
        if self.rule != rule {
            return outcome;
        }
        match (self.output, outcome) {
            (
                Output::Succeeds,
                Outcome::Succeeded | Outcome::Executed | Outcome::Stored | Outcome::Loaded(_) | Outcome::Returned(_),
            ) => Outcome::Failed(22),
            (Output::Succeeds, _) => Outcome::Succeeded,
            (Output::ErrnoBit(bit), Outcome::Failed(errno)) => Outcome::Failed(errno ^ (1 << bit)),
            (Output::ValueBit(bit), Outcome::Loaded(value)) => Outcome::Loaded(value ^ (1 << bit)),
            (Output::ValueBit(bit), Outcome::Returned(value)) => Outcome::Returned(value ^ (1 << bit)),
            (Output::KeyBit(bit), Outcome::Faulted(fault)) => {
                Outcome::Faulted(Fault { key: fault.key ^ (1 << bit), ..fault })
            }
            (Output::SignalBit(bit), Outcome::Faulted(fault)) => {
                Outcome::Faulted(Fault { signal: fault.signal ^ (1 << bit), ..fault })
            }
            (Output::CodeBit(bit), Outcome::Faulted(fault)) => {
                Outcome::Faulted(Fault { code: fault.code ^ (1 << bit), ..fault })
            }
            (Output::AddressBit(bit), Outcome::Faulted(fault)) => {
                Outcome::Faulted(Fault { address: fault.address ^ (1 << bit), ..fault })
            }
            (Output::ErrorCodeBit(bit), Outcome::Faulted(fault)) => {
                Outcome::Faulted(Fault { error_code: fault.error_code ^ (1 << bit), ..fault })
            }
            (Output::SignalBit(bit), Outcome::Killed(signal)) => Outcome::Killed(signal ^ (1 << bit)),
            (_, outcome) => outcome,
        }
    }
}
