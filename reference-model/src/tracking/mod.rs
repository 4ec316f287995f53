//! Which pages the user write-protected by userfaultfd: the question of the thread of January 2019, as a property.
//!
//! *A store gives a write-protect message if and only if its page was write-protected by the user and that was not
//! resolved since.* The [`Tracker`] follows a program by its operations and their results alone. It is independent of
//! [`crate::model`]: it knows nothing of entries, dirty bits, or the paths of a fault. What was seen of entries tells
//! only why a page had no RW bit where a store met one ([`Circumstance`]), and which pages ksmd replaced.
//!
//! What ends the protection of a page, besides resolving it:
//!
//! - its content goes: MADV_DONTNEED, munmap, a new mapping over it, MADV_FREE and then reclaim;
//! - it is not registered any more: UFFDIO_UNREGISTER, close (6.1 leaves the marks), mremap without EVENT_REMAP (6.1.176
//!   leaves them too). A range that was registered anew, for missing pages alone, keeps its marks in all of these, and
//!   they count again when it is registered for write-protection again;
//! - the page is a child's, and its parent's userfaultfd lacks EVENT_FORK;
//! - a store resolves it by itself: UFFD_FEATURE_WP_ASYNC, or while the range is registered for something else;
//! - **ksmd replaces the page by an equal one.** Nobody is asked and nobody told: the next store is *missed*. The
//!   property counts those stores apart ([`Tally::lost_to_merging`]).
//!
//! [`inference`] is the other design of the thread, which does without a mark in the entry.

pub mod imagined;
pub mod inference;
mod observed;
mod page;
pub mod search;
mod tracker;

pub use observed::{Circumstance, Observed};
pub use tracker::{Case, Tracker, Violation};

use std::fmt;

use serde::Serialize;

use crate::kernel::Kernel;
use crate::observation::StepRecord;
use crate::program::Program;

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Stores to pages of a range that is registered for write-protection whose message, or its absence, was checked.
    pub cases: u64,
    /// Messages that were due and came, by what else held the page read-only, in the order of [`Circumstance::ALL`].
    pub messages: [u64; Circumstance::ALL.len()],
    /// Messages that were not due and did not come, in the same order.
    pub silences: [u64; Circumstance::ALL.len()],
    /// Stores that WP_ASYNC resolved without a message.
    pub resolved_by_store: u64,
    /// Stores without a message to pages whose protection ksmd dropped.
    pub lost_to_merging: u64,
    /// Stores to pages of which the results of the operations do not tell whether they are protected.
    pub undetermined: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.cases += other.cases;
        for (sum, count) in self.messages.iter_mut().zip(other.messages) {
            *sum += count;
        }
        for (sum, count) in self.silences.iter_mut().zip(other.silences) {
            *sum += count;
        }
        self.resolved_by_store += other.resolved_by_store;
        self.lost_to_merging += other.lost_to_merging;
        self.undetermined += other.undetermined;
    }

    /// Counts a case.
    fn count(&mut self, case: &Case) {
        match case {
            Case::Undetermined => self.undetermined += 1,
            Case::ResolvedByStore => self.resolved_by_store += 1,
            Case::Message(circumstance) => self.messages[*circumstance as usize] += 1,
            Case::Silence(circumstance) => self.silences[*circumstance as usize] += 1,
            Case::LostToMerging => self.lost_to_merging += 1,
            Case::Violated(_) => {}
        }
        if !matches!(case, Case::Undetermined) {
            self.cases += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_name = |counts: &[u64]| {
            let met = Circumstance::ALL.iter().zip(counts).filter(|(_, count)| **count > 0);
            met.map(|(circumstance, count)| format!("{circumstance} {count}")).collect::<Vec<_>>().join(", ")
        };
        let sum = |counts: &[u64]| counts.iter().sum::<u64>();
        write!(
            formatter,
            "{} stores to registered pages: {} messages due and come ({}), {} not due and not come ({}), {} resolved by \
             WP_ASYNC, {} lost to KSM, {} undetermined",
            self.cases,
            sum(&self.messages),
            by_name(&self.messages),
            sum(&self.silences),
            by_name(&self.silences),
            self.resolved_by_store,
            self.lost_to_merging,
            self.undetermined
        )
    }
}

/// Judges what was recorded of a program; the first store that breaks the property, with its step.
///
/// # Errors
/// The violation.
pub fn judge(kernel: Kernel, program: &Program, records: &[StepRecord]) -> Result<Tally, Box<Violation>> {
    let mut tracker = Tracker::new(kernel);
    let mut tally = Tally::default();
    for (index, (step, record)) in program.steps.iter().zip(records).enumerate() {
        let Some(case) = tracker.step(index, step, record) else { continue };
        if let Case::Violated(violation) = case {
            return Err(violation);
        }
        tally.count(&case);
    }
    Ok(tally)
}

#[cfg(test)]
mod tests;
