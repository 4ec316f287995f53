//! What the model expects: never vaguer than it must be, and every vagueness with its reason.

use serde::{Deserialize, Serialize};

use crate::arena::{ActorId, PageIndex};
use crate::entry::Entry;
use crate::observation::Cause;
use crate::outcome::Outcome;
use crate::rule::Rule;

/// A frame as the model knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ExpectedFrame {
    /// No frame.
    None,
    /// The zero page.
    Zero,
    /// The frame with this number in the model: the same number is the same frame.
    Frame(u32),
}

/// Why a bit may have either value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vagueness {
    /// Hardware may set Accessed for a translation that it only prefetches (SDM 3A 4.8, 4.10.2.3).
    EarlyAccessed,
}

impl Vagueness {
    /// The reason in words, for reports.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::EarlyAccessed => "hardware may set Accessed for a speculative translation (SDM 3A 4.8)",
        }
    }
}

/// What an entry must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryExpectation {
    /// The entry, frame field clear. Bits outside `unspecified` must be as here.
    pub bits: Entry,
    /// Bits that may have either value.
    pub unspecified: u64,
    /// Why they may.
    pub reason: Option<Vagueness>,
    /// The frame it must hold.
    pub frame: ExpectedFrame,
}

impl EntryExpectation {
    /// The all-zero entry, nothing left open.
    pub const NONE: Self = Self { bits: Entry::NONE, unspecified: 0, reason: None, frame: ExpectedFrame::None };
}

/// What a transition must be; see [`crate::observation::Transition`] for the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionExpectation {
    /// Kernel function at which it must be seen.
    pub cause: Cause,
    /// Actor whose page table holds the entry.
    pub actor: ActorId,
    /// Page that the entry maps.
    pub page: PageIndex,
    /// Entry before.
    pub before: EntryExpectation,
    /// Entry after.
    pub after: EntryExpectation,
    /// Bits of `vm_flags` under [`crate::model::VM_FLAGS_COMPARED`].
    pub vm_flags: u64,
    /// The fault is for a write.
    pub write: bool,
    /// Mappings of the frame in `after`.
    pub mapcount: u16,
    /// `PageAnonExclusive` of the frame in `after`.
    pub anon_exclusive: bool,
    /// The rule that wrote `after`.
    pub rule: Rule,
}

/// What one step must give.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepExpectation {
    /// What the actor gets back.
    pub outcome: Option<Outcome>,
    /// The rule that decided the outcome.
    pub outcome_rule: Option<Rule>,
    /// Transitions, in order.
    pub transitions: Vec<TransitionExpectation>,
    /// Every rule that fired, with repetitions, in order.
    pub fired: Vec<Rule>,
}
