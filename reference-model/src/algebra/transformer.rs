//! The helpers that make an entry of an entry.

use super::bits::{PSE, flip_on_change_of_presence, inversion};
use super::predicate::{SWP_EXCLUSIVE, SWP_SOFT_DIRTY, SWP_UFFD_WP};
use super::{Algebra, Design, Helper, Level, PlantedFault, Question};
use crate::entry::{A, D, NX, P, PROTNONE, RW, SPECIAL};

impl Algebra {
    pub(super) fn transform(&self, level: Level, helper: Helper, argument: u64, entry: u64) -> u64 {
        match helper {
            Helper::Mkclean => self.make_clean_at(entry),
            Helper::Mkdirty => self.make_dirty_at(level, entry),
            Helper::Mkold => entry & !A,
            Helper::Mkyoung => entry | A,
            Helper::Wrprotect => self.write_protect_at(level, entry),
            // pud_mkwrite takes no VMA; a kernel without shadow stacks has no such VMAs (VM_SHADOW_STACK is 0).
            Helper::Mkwrite
                if argument == Question::SHADOW_STACK_VMA
                    && self.design.is_saved_dirty()
                    && self.configuration.shadow_stack
                    && level != Level::Pud =>
            {
                entry & !RW | D
            }
            Helper::Mkwrite => self.make_writable_at(level, entry),
            Helper::MkwriteNovma => entry | RW,
            Helper::MkwriteShstk if self.design.is_cow() => self.clear_cow(entry),
            Helper::MkwriteShstk => entry & !RW | D,
            Helper::Mkcow => self.make_cow(entry),
            Helper::ClearCow => self.clear_cow(entry),
            Helper::Mksaveddirty => self.save_dirty(entry),
            Helper::ClearSaveddirty => self.restore_dirty(entry),
            Helper::MkuffdWp => {
                let marked = entry | self.uffd_wp_bit();
                let protects = self.design.is_saved_dirty()
                    && self.configuration.userfaultfd_write_protect
                    && !self.is_planted(PlantedFault::MkuffdWpLeavesWrite);
                if protects { self.write_protect_at(level, marked) } else { marked }
            }
            Helper::ClearUffdWp => entry & !self.uffd_wp_bit(),
            Helper::MksoftDirty => entry | self.soft_dirty_bit(),
            Helper::ClearSoftDirty => entry & !self.soft_dirty_bit(),
            Helper::Mkexec => entry & !NX,
            Helper::Mkspecial => entry | SPECIAL,
            Helper::Mkdevmap => entry | self.devmap_bit() | if level == Level::Pte { SPECIAL } else { 0 },
            Helper::Mkhuge => entry | PSE,
            Helper::Clrhuge => entry & !PSE,
            Helper::Mkglobal => entry | PROTNONE,
            Helper::Clrglobal => entry & !PROTNONE,
            Helper::Mkinvalid => Self::make_invalid(level, entry),
            Helper::Modify => self.modify_at(level, entry, argument),
            Helper::SwpMksoftDirty if self.configuration.soft_dirty => entry | SWP_SOFT_DIRTY,
            Helper::SwpClearSoftDirty if self.configuration.soft_dirty => entry & !SWP_SOFT_DIRTY,
            Helper::SwpMkuffdWp if self.configuration.userfaultfd_write_protect => entry | SWP_UFFD_WP,
            Helper::SwpClearUffdWp if self.configuration.userfaultfd_write_protect => entry & !SWP_UFFD_WP,
            Helper::SwpMkexclusive => entry | SWP_EXCLUSIVE,
            Helper::SwpClearExclusive => entry & !SWP_EXCLUSIVE,
            _ => entry,
        }
    }

    fn make_clean_at(&self, entry: u64) -> u64 {
        let bits = if self.is_planted(PlantedFault::MkcleanLeavesSavedDirty) { D } else { self.dirty_bits() };
        entry & !bits
    }

    fn make_dirty_at(&self, level: Level, entry: u64) -> u64 {
        let soft_dirty = if self.is_planted(PlantedFault::MkdirtyForgetsSoftDirty) { 0 } else { self.soft_dirty_bit() };
        match self.design {
            Design::BeforeShadowStacks => entry | D | soft_dirty,
            Design::Cow2021 | Design::Cow2022 => {
                // 2021: the higher levels look at RW, so that a shadow stack there gets the bit beside Dirty.
                let writable = match (self.design, level) {
                    (Design::Cow2021, Level::Pmd | Level::Pud) => entry & RW != 0,
                    _ => self.predicate(level, Helper::Write, entry),
                };
                let saves = self.shadow_stacks_enabled() && !writable;
                entry | soft_dirty | if saves { self.saved_dirty_bit() } else { D }
            }
            Design::SavedDirtyWithDevmap | Design::SavedDirty => {
                let dirty = entry | D | soft_dirty;
                if self.is_planted(PlantedFault::MkdirtyWithoutSave) { dirty } else { self.save_dirty(dirty) }
            }
        }
    }

    fn write_protect_at(&self, level: Level, entry: u64) -> u64 {
        let read_only = entry & !RW;
        match self.design {
            Design::BeforeShadowStacks => read_only,
            Design::Cow2021 | Design::Cow2022 if self.predicate(level, Helper::Dirty, read_only) => {
                self.make_cow(read_only)
            }
            Design::Cow2021 | Design::Cow2022 => read_only,
            Design::SavedDirtyWithDevmap | Design::SavedDirty => self.save_dirty(read_only),
        }
    }

    fn make_writable_at(&self, level: Level, entry: u64) -> u64 {
        let writable = entry | RW;
        match self.design {
            Design::BeforeShadowStacks => writable,
            Design::Cow2021 | Design::Cow2022 if self.predicate(level, Helper::Dirty, writable) => {
                self.clear_cow(writable)
            }
            Design::Cow2021 | Design::Cow2022 => writable,
            Design::SavedDirtyWithDevmap | Design::SavedDirty => self.restore_dirty(writable),
        }
    }

    /// `pmd_mkinvalid`, `pud_mkinvalid`: the frame is taken out by the entry's own field and put back by a leaf's.
    fn make_invalid(level: Level, entry: u64) -> u64 {
        let flags = level.flags(entry) & !(P | PROTNONE);
        let address = Self::frame_number(level, entry) << 12;
        (address ^ inversion(flags)) & level.leaf_frame() | flags
    }

    fn modify_at(&self, level: Level, entry: u64, protection: u64) -> u64 {
        let mask = self.kept_by_modify(level);
        // pmd_modify alone drops Dirty there, and so the dirty state of a writable huge page.
        let drops_dirty =
            self.pmd_modify_drops_dirty && level == Level::Pmd && !self.is_planted(PlantedFault::PmdModifyKeepsDirty);
        let kept = if drops_dirty { mask & !D } else { mask };
        let changed = entry & kept | protection & !mask;
        let field = if self.is_planted(PlantedFault::ModifyForgetsInversion) { 0 } else { level.leaf_frame() };
        let flip = |changed: u64| flip_on_change_of_presence(entry, changed, field);
        match self.design {
            Design::BeforeShadowStacks => flip(changed),
            // Made clean and dirty again, so that the new RW decides which bit is set.
            Design::Cow2021 | Design::Cow2022 => {
                let is_dirty = self.predicate(level, Helper::Dirty, changed);
                let refresh = self.shadow_stacks_enabled() && is_dirty;
                flip(if refresh { self.make_dirty_at(level, self.make_clean_at(changed)) } else { changed })
            }
            // By the old RW, so that a shadow stack, which has none, stays one.
            Design::SavedDirtyWithDevmap | Design::SavedDirty => {
                let was_writable = entry & RW != 0;
                let saves = was_writable != self.is_planted(PlantedFault::ModifyBranchesSwapped);
                if saves { self.save_dirty(flip(changed)) } else { self.restore_dirty(flip(changed)) }
            }
        }
    }
}
