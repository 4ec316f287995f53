//! The three verdicts on a program: agree, diverge, inconclusive.

use serde::{Deserialize, Serialize};

use crate::arena::{ActorId, PageIndex};
use crate::expectation::{EntryExpectation, TransitionExpectation};
use crate::kernel::Change;
use crate::observation::{ObservedEntry, Transition, WitnessMismatch};
use crate::outcome::Outcome;
use crate::rule::Rule;

/// The verdict on one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything that was compared is as the model says.
    Agree,
    /// The first step at which something is not.
    Diverge(Box<Divergence>),
    /// It cannot be told.
    Inconclusive(Inconclusive),
}

/// The first difference between kernel and model in a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// Index of the diverging step.
    pub step: usize,
    /// What differs.
    pub difference: Difference,
    /// The rule that made the expectation, where one can be named.
    pub rule: Option<Rule>,
    /// What the table of changes makes of it.
    pub explanation: Explanation,
    /// Defects of this version that the program met before, and that the expectation takes into account.
    pub met: Vec<Change>,
}

/// What the table of changes makes of a divergence: a kernel that has these changes, or lacks them, would have agreed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Explanation {
    /// Defects that the table gives this version: all of them together.
    KnownDefects(Vec<Change>),
    /// Defects that this version should not have any more, or not yet: each alone explains it.
    FixMissing(Vec<Change>),
    /// Designs that this version has, or has not, by the table, and for which the reverse explains it: each alone.
    ChangeMoved(Vec<Change>),
    /// Nothing in the table explains it.
    Unexplained,
}

impl Explanation {
    /// The changes that it names.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        match self {
            Self::KnownDefects(changes) | Self::FixMissing(changes) | Self::ChangeMoved(changes) => changes,
            Self::Unexplained => &[],
        }
    }

    /// Whether nothing but defects that the version is known to have is needed.
    #[must_use]
    pub fn is_known(&self) -> bool {
        matches!(self, Self::KnownDefects(_))
    }
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// The actor got something else back.
    Outcome {
        /// What the model says.
        expected: Outcome,
        /// What the actor got.
        seen: Outcome,
    },
    /// An entry after the step.
    Entry {
        /// Actor whose page table holds the entry.
        actor: ActorId,
        /// Page that the entry maps.
        page: PageIndex,
        /// What the model says.
        expected: EntryExpectation,
        /// What the probe saw.
        seen: ObservedEntry,
    },
    /// A transition inside the step: another one, one too many, or one too few.
    Transition {
        /// Index in the step's list of transitions.
        index: usize,
        /// What the model says at this index.
        expected: Option<TransitionExpectation>,
        /// What the probe saw there.
        seen: Option<Transition>,
    },
    /// Actors are alive that must not be, or the reverse; bit `n` for actor `n`.
    Alive {
        /// What the model says.
        expected: u8,
        /// What was seen.
        seen: u8,
    },
    /// The kernel's own view in `/proc/pid/pagemap`.
    Pagemap {
        /// Whose pagemap.
        actor: ActorId,
        /// Page of the word.
        page: PageIndex,
        /// What the model says, under the mask of compared bits.
        expected: u64,
        /// What was read, under the same mask.
        seen: u64,
    },
}

/// Why no verdict can be given. Never agreement, never blame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inconclusive {
    /// The probes counted events that the reader did not get.
    EventsLost {
        /// Step at which the loss was seen.
        step: usize,
        /// How many.
        lost: u32,
    },
    /// A witness contradicts the probe: the rig lies, not the kernel.
    ProbeContradicted {
        /// Step at which the witness was asked.
        step: usize,
        /// The first contradiction.
        mismatch: WitnessMismatch,
    },
    /// pagemap gives other frames than the probe.
    FrameContradicted {
        /// Step at which the witness was asked.
        step: usize,
        /// Whose pagemap.
        actor: ActorId,
        /// The page.
        page: PageIndex,
    },
    /// The record has more or fewer steps than the program: the stream was cut.
    Truncated {
        /// Steps in the program.
        steps: usize,
        /// Steps in the record.
        recorded: usize,
    },
    /// The machine lacks what the program needs.
    MissingFeature {
        /// What is missing.
        feature: String,
    },
    /// The program kills an actor by its own access outside the arena's rules, or another rig failure.
    Rig {
        /// What happened.
        message: String,
    },
}
