//! The two moves of the dirty state in the designs that were not merged (`pte_mkcow`, `pte_clear_cow`).

use super::{Algebra, PlantedFault};
use crate::entry::D;

impl Algebra {
    /// Dirty is cleared and `_PAGE_COW` set, whatever the entry says; nothing without shadow stacks.
    pub(super) fn make_cow(&self, entry: u64) -> u64 {
        if self.shadow_stacks_enabled() { entry & !D | self.saved_dirty_bit() } else { entry }
    }

    /// Dirty is set and `_PAGE_COW` cleared, whatever the entry says; nothing without shadow stacks.
    pub(super) fn clear_cow(&self, entry: u64) -> u64 {
        if !self.shadow_stacks_enabled() {
            return entry;
        }
        let cleared = entry & !self.saved_dirty_bit();
        if self.is_planted(PlantedFault::ClearCowLeavesClean) { cleared } else { cleared | D }
    }
}
