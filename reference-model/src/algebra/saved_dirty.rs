//! The merged design's two moves of the dirty state (`mksaveddirty_shift`, `clear_saveddirty_shift`).

use super::{Algebra, PlantedFault};
use crate::entry::{D, RW, SAVED_DIRTY};

impl Algebra {
    /// In a read-only entry Dirty moves to SavedDirty; in a writable one nothing changes.
    pub(super) fn save_dirty(&self, entry: u64) -> u64 {
        if entry & RW != 0 && !self.is_planted(PlantedFault::SaveDirtyWhateverWrite) {
            return entry;
        }
        let saved = if self.is_planted(PlantedFault::SaveDirtyToBit57) { SAVED_DIRTY >> 1 } else { SAVED_DIRTY };
        let moved = if entry & D != 0 { entry | saved } else { entry };
        if self.is_planted(PlantedFault::SaveDirtyLeavesDirty) { moved } else { moved & !D }
    }

    /// In a writable entry SavedDirty moves to Dirty; in a read-only one nothing changes.
    pub(super) fn restore_dirty(&self, entry: u64) -> u64 {
        if entry & RW == 0 {
            return entry;
        }
        let moved = if entry & SAVED_DIRTY != 0 { entry | D } else { entry };
        if self.is_planted(PlantedFault::RestoreDirtyLeavesSaved) { moved } else { moved & !SAVED_DIRTY }
    }
}
