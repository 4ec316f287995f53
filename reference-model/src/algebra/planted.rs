//! Helpers that are wrong on purpose: a check that does not see them is worth nothing.

/// One mistake in one helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PlantedFault {
    /// `mksaveddirty_shift` shifts by one too few.
    SaveDirtyToBit57,
    /// `mksaveddirty_shift` does not clear Dirty.
    SaveDirtyLeavesDirty,
    /// `mksaveddirty_shift` acts on writable entries too.
    SaveDirtyWhateverWrite,
    /// `clear_saveddirty_shift` does not clear SavedDirty.
    RestoreDirtyLeavesSaved,
    /// `pte_mkclean` forgets SavedDirty.
    MkcleanLeavesSavedDirty,
    /// `pte_mkdirty` forgets the shift.
    MkdirtyWithoutSave,
    /// `pte_mkdirty` forgets soft-dirty.
    MkdirtyForgetsSoftDirty,
    /// `pte_modify` takes each branch for the other.
    ModifyBranchesSwapped,
    /// `pte_modify` does not invert the frame when the presence changes.
    ModifyForgetsInversion,
    /// 6.12's `pmd_modify` keeps Dirty, as 7.2's does.
    PmdModifyKeepsDirty,
    /// `pte_mkuffd_wp` does not write-protect.
    MkuffdWpLeavesWrite,
    /// `pmd_shstk` and `pud_shstk` do not ask for a leaf.
    ShstkWithoutLeaf,
    /// `pud_write` takes a shadow stack for writable, as the lower levels do.
    PudWriteCountsShadowStacks,
    /// `pte_clear_cow` does not set Dirty (a fault of the designs that were not merged).
    ClearCowLeavesClean,
}

impl PlantedFault {
    /// Every fault in a helper of the merged design.
    pub const OF_SAVED_DIRTY: [Self; 13] = [
        Self::SaveDirtyToBit57,
        Self::SaveDirtyLeavesDirty,
        Self::SaveDirtyWhateverWrite,
        Self::RestoreDirtyLeavesSaved,
        Self::MkcleanLeavesSavedDirty,
        Self::MkdirtyWithoutSave,
        Self::MkdirtyForgetsSoftDirty,
        Self::ModifyBranchesSwapped,
        Self::ModifyForgetsInversion,
        Self::PmdModifyKeepsDirty,
        Self::MkuffdWpLeavesWrite,
        Self::ShstkWithoutLeaf,
        Self::PudWriteCountsShadowStacks,
    ];
}
