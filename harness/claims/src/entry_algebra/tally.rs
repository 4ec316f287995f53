//! Counting what a check looked at.

use crate::claim::{Cases, Refuted};

/// A check in progress.
#[derive(Debug, Default)]
pub(super) struct Tally {
    count: u64,
}

impl Tally {
    /// One more case, which must hold; `what` is said where it does not.
    pub(super) fn must(&mut self, holds: bool, what: impl FnOnce() -> String) -> Result<(), Refuted> {
        self.count += 1;
        if holds { Ok(()) } else { Err(Refuted { what: what() }) }
    }

    /// All cases held.
    pub(super) fn of(self, unit: &'static str) -> Result<Cases, Refuted> {
        Ok(Cases { count: self.count, unit })
    }
}
