//! The helpers that say yes or no.

use super::bits::PSE;
use super::{Algebra, Design, Helper, Level, PlantedFault};
use crate::entry::{A, D, NX, P, PROTNONE, RW, SPECIAL, US};

/// Bits of a swap entry (`_PAGE_SWP_SOFT_DIRTY`, `_PAGE_SWP_UFFD_WP`, `_PAGE_SWP_EXCLUSIVE`).
pub(super) const SWP_SOFT_DIRTY: u64 = RW;
pub(super) const SWP_UFFD_WP: u64 = US;
pub(super) const SWP_EXCLUSIVE: u64 = 1 << 3;

/// `_KERNPG_TABLE` without encryption.
const TABLE: u64 = P | RW | A | D;

impl Algebra {
    pub(super) fn predicate(&self, level: Level, helper: Helper, entry: u64) -> bool {
        let flags = level.flags(entry);
        let has = |mask: u64| flags & mask != 0;
        match helper {
            Helper::Dirty => has(self.dirty_bits()),
            Helper::Shstk => self.is_shadow_stack(level, entry),
            Helper::Young => has(A),
            Helper::Write => {
                has(RW) || self.shadow_stack_counts_as_writable(level) && self.is_shadow_stack(level, entry)
            }
            // `_PAGE_KNL_ERRATUM_MASK`: some CPUs set Accessed or Dirty in an entry that is not present.
            Helper::None => entry & !(A | D) == 0,
            Helper::Present => match level {
                Level::Pte => has(P | PROTNONE),
                // PSE stays while a huge page is being split.
                Level::Pmd => has(P | PROTNONE | PSE),
                Level::Pud => has(P),
            },
            Helper::SoftDirty => has(self.soft_dirty_bit()),
            Helper::UffdWp => has(self.uffd_wp_bit()),
            Helper::Huge => has(PSE),
            Helper::Global => has(PROTNONE),
            Helper::Exec => !has(NX),
            Helper::Special => has(SPECIAL),
            Helper::Protnone => flags & (PROTNONE | P) == PROTNONE,
            Helper::Leaf => match (level, self.design.is_saved_dirty()) {
                (Level::Pud, false) => flags & (PSE | P) == PSE | P,
                _ => has(PSE),
            },
            Helper::TransHuge => flags & (PSE | self.devmap_bit()) == PSE,
            Helper::Devmap => has(self.devmap_bit()),
            Helper::Bad => match level {
                Level::Pud => has(!(TABLE | US)),
                _ => flags & !(US | A) != TABLE & !A,
            },
            Helper::SwpSoftDirty => self.configuration.soft_dirty && has(SWP_SOFT_DIRTY),
            Helper::SwpUffdWp => self.configuration.userfaultfd_write_protect && has(SWP_UFFD_WP),
            Helper::SwpExclusive => has(SWP_EXCLUSIVE),
            _ => false,
        }
    }

    /// `pte_shstk`, `pmd_shstk`, `pud_shstk`: Write=0, Dirty=1. The merged ones also want a leaf.
    fn is_shadow_stack(&self, level: Level, entry: u64) -> bool {
        let wants_leaf =
            level != Level::Pte && self.design.is_saved_dirty() && !self.is_planted(PlantedFault::ShstkWithoutLeaf);
        let leaf = if wants_leaf { PSE } else { 0 };
        self.shadow_stacks_enabled() && entry & (RW | D | leaf) == D | leaf
    }

    /// `pud_write` looks at RW alone in every design.
    fn shadow_stack_counts_as_writable(&self, level: Level) -> bool {
        self.design != Design::BeforeShadowStacks
            && (level != Level::Pud || self.is_planted(PlantedFault::PudWriteCountsShadowStacks))
    }
}
