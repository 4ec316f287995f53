//! The counter-design of the thread: no mark in the entry, but an inference from what the kernel sees anyway.
//!
//! Jerome Glisse, 21 January 2019: forward a write fault to user space only if the page is not write-protected because
//! of fork, KSM or swap. *"For fork() the mapcount will tell you if page is write protected for COW. For KSM it is easy
//! check the page flag. For swap you can use the page lock to synchronize"*: such a page is locked, or under writeback.

use super::observed::{Circumstance, Observed};
use super::tracker::{Case, Tracker};
use crate::arena::{ActorId, PageIndex};
use crate::entry::{EntryKind, RW};
use crate::kernel::Kernel;
use crate::observation::{FrameName, StepRecord};
use crate::program::{Operation, Program};

/// What the kernel sees of a page whose entry does not let a store through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visible {
    /// `VM_UFFD_WP`.
    pub is_registered: bool,
    /// `page_mapcount`, the entry of the fault included.
    pub mapcount: usize,
    /// `PageKsm`.
    pub is_merged: bool,
    /// `PageLocked`, by anybody but the fault itself, or `PageWriteback`.
    pub is_locked: bool,
}

/// What is done about the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The user is told.
    Message,
    /// The page is copied or reused, and nobody told.
    CopyOnWrite,
}

/// The decision by inference.
#[must_use]
pub fn decide(visible: Visible) -> Decision {
    let explained = visible.mapcount > 1 || visible.is_merged || visible.is_locked;
    if visible.is_registered && !explained { Decision::Message } else { Decision::CopyOnWrite }
}

/// What the kernel would see of a page that a store cannot write to; `None` where there is no page to be seen, or no
/// fault. A page that was swapped out is seen when it has come in, which the fault itself waits for: zram writes and
/// reads at once, so that it is neither locked by anybody else nor under writeback.
#[must_use]
pub fn visible(observed: &Observed, is_registered: bool, actor: ActorId, page: PageIndex) -> Option<Visible> {
    let entry = observed.entry(actor, page);
    let frame = entry.frame;
    let (mapcount, is_merged) = match entry.bits.kind() {
        EntryKind::None | EntryKind::ProtNone => return None,
        EntryKind::Present if entry.bits.has(RW) => return None,
        // The zero page has no mapcount, and no flag.
        EntryKind::Present if frame == FrameName::ZERO => (0, false),
        EntryKind::Present => (observed.mapcount(frame), observed.is_merged(frame)),
        EntryKind::NonPresent if entry.bits.is_swapped() => (1, false),
        EntryKind::NonPresent => return None,
    };
    Some(Visible { is_registered, mapcount, is_merged, is_locked: false })
}

/// A store for which the inference decides otherwise than the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    /// Index of the step in its program.
    pub step: usize,
    /// Whether the user would be told of a page that was not protected; otherwise would not be told of one that was.
    pub is_false: bool,
    /// What the store met.
    pub circumstance: Circumstance,
}

/// What the inference would have decided in the course of a program.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// Decisions that were as the kernel's messages.
    pub right: u64,
    /// Those that were not.
    pub wrong: Vec<Wrong>,
}

/// Compares the inference with the messages that came.
#[must_use]
pub fn judge(kernel: Kernel, program: &Program, records: &[StepRecord]) -> Verdicts {
    let mut tracker = Tracker::new(kernel);
    let mut verdicts = Verdicts::default();
    for (index, (step, record)) in program.steps.iter().zip(records).enumerate() {
        let seen = match step.operation {
            Operation::Write { page } => {
                visible(tracker.observed(), tracker.is_registered(step.actor, page), step.actor, page)
            }
            _ => None,
        };
        let case = tracker.step(index, step, record);
        let (Some(visible), Some(Case::Message(circumstance) | Case::Silence(circumstance))) = (seen, &case) else {
            continue;
        };
        let came = matches!(case, Some(Case::Message(_)));
        match (decide(visible), came) {
            (Decision::Message, true) | (Decision::CopyOnWrite, false) => verdicts.right += 1,
            (decision, _) => verdicts.wrong.push(Wrong {
                step: index,
                is_false: decision == Decision::Message,
                circumstance: *circumstance,
            }),
        }
    }
    verdicts
}
