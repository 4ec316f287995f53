//! Which bits mean what in which design, and the arithmetic of frame fields.

use super::{Algebra, Design, Level};
use crate::entry::{A, D, FRAME, P, PAT, PCD, PKEY, PWT, SAVED_DIRTY, SOFT_DIRTY, SPECIAL, UFFD_WP};

/// `_PAGE_DEVMAP` where `_PAGE_BIT_SOFTW4` is 58: before bit 58 was wanted for `_PAGE_COW` (6.1).
pub const DEVMAP_BIT_58: u64 = 1 << 58;
/// `_PAGE_DEVMAP` where `_PAGE_BIT_SOFTW4` is 57: the `_PAGE_COW` series and 6.12.
pub const DEVMAP_BIT_57: u64 = 1 << 57;
/// `_PAGE_BIT_SOFTW5`, 58: `_PAGE_COW`, later `_PAGE_SAVED_DIRTY`.
pub const SAVED_DIRTY_OR_COW: u64 = SAVED_DIRTY;
/// The bits that the CPU ignores in a present user leaf of 4-level paging with protection keys: 9 to 11 and 52 to
/// 58 (SDM 3A, table 5-20).
pub const FREE_FOR_SOFTWARE: u64 = 0b111 << 9 | 0x7f << 52;

/// Bit 7 in an entry of a higher level: it maps a page.
pub(super) const PSE: u64 = PAT;
/// Bit 12 in a leaf of a higher level.
const PAT_LARGE: u64 = 1 << 12;

impl Level {
    /// The frame field of a leaf of this level: `PTE_PFN_MASK`, `PHYSICAL_PMD_PAGE_MASK`, `PHYSICAL_PUD_PAGE_MASK`.
    #[must_use]
    pub fn leaf_frame(self) -> u64 {
        match self {
            Self::Pte => FRAME,
            Self::Pmd => FRAME & !0x1f_ffff,
            Self::Pud => FRAME & !0x3fff_ffff,
        }
    }

    /// `pte_pfn`'s, `pmd_pfn_mask`, `pud_pfn_mask`: the frame field of this very entry.
    pub(super) fn frame_field(self, entry: u64) -> u64 {
        if entry & PSE != 0 { self.leaf_frame() } else { FRAME }
    }

    /// `pte_flags`, `pmd_flags`, `pud_flags`.
    pub(super) fn flags(self, entry: u64) -> u64 {
        let field = if self == Self::Pte { FRAME } else { self.frame_field(entry) };
        entry & !field
    }
}

/// `__pte_needs_invert`: an entry that is not empty and that the CPU finds absent has its frame field inverted.
fn needs_inversion(entry: u64) -> bool {
    entry != 0 && entry & P == 0
}

/// `protnone_mask`.
pub(super) fn inversion(entry: u64) -> u64 {
    if needs_inversion(entry) { !0 } else { 0 }
}

/// `flip_protnone_guard`: the field is inverted when the entry becomes present to the CPU, or absent.
pub(super) fn flip_on_change_of_presence(old: u64, new: u64, field: u64) -> u64 {
    if needs_inversion(old) == needs_inversion(new) { new } else { new ^ field }
}

impl Algebra {
    /// `pte_pfn`, `pmd_pfn`, `pud_pfn`.
    pub(super) fn frame_number(level: Level, entry: u64) -> u64 {
        let field = if level == Level::Pte { FRAME } else { level.frame_field(entry) };
        ((entry ^ inversion(entry)) & field) >> 12
    }

    /// The bit that holds the dirty state of a read-only entry: `_PAGE_SAVED_DIRTY`, `_PAGE_COW`, or none.
    #[must_use]
    pub fn saved_dirty_bit(&self) -> u64 {
        match self.design {
            Design::BeforeShadowStacks => 0,
            // Defined as 0 where the configuration lacks shadow stacks.
            Design::Cow2021 | Design::Cow2022 if !self.configuration.shadow_stack => 0,
            _ => SAVED_DIRTY_OR_COW,
        }
    }

    /// `_PAGE_DIRTY_BITS`.
    #[must_use]
    pub fn dirty_bits(&self) -> u64 {
        D | self.saved_dirty_bit()
    }

    /// `_PAGE_DEVMAP`.
    #[must_use]
    pub fn devmap_bit(&self) -> u64 {
        match self.design {
            Design::BeforeShadowStacks => DEVMAP_BIT_58,
            Design::Cow2021 | Design::Cow2022 | Design::SavedDirtyWithDevmap => DEVMAP_BIT_57,
            Design::SavedDirty => 0,
        }
    }

    /// `_PAGE_SOFT_DIRTY`.
    #[must_use]
    pub fn soft_dirty_bit(&self) -> u64 {
        if self.configuration.soft_dirty { SOFT_DIRTY } else { 0 }
    }

    /// `_PAGE_UFFD_WP`.
    #[must_use]
    pub fn uffd_wp_bit(&self) -> u64 {
        if self.configuration.userfaultfd_write_protect { UFFD_WP } else { 0 }
    }

    /// `_PAGE_CHG_MASK`, `_HPAGE_CHG_MASK`: what `pte_modify` and its like keep of the old entry. The `_PAGE_COW`
    /// series of 2021 and of January 2022 did not put their bit in: `pte_modify` loses it. Version 2 (September
    /// 2022) did.
    #[must_use]
    pub fn kept_by_modify(&self, level: Level) -> u64 {
        let common =
            FRAME | PCD | PWT | SPECIAL | A | D | self.soft_dirty_bit() | self.devmap_bit() | self.uffd_wp_bit();
        let saved = if self.design.is_saved_dirty() { SAVED_DIRTY } else { 0 };
        let own = match (level, self.design.is_cow()) {
            // PAT was added to the one mask, and PAT_LARGE to the other, after those series.
            (Level::Pte, true) => 0,
            (Level::Pte, false) => PAT,
            (_, true) => PSE,
            (_, false) => PSE | PAT_LARGE,
        };
        common | saved | own
    }

    /// The bits of [`FREE_FOR_SOFTWARE`] to which this kernel gives no meaning in a user leaf.
    #[must_use]
    pub fn free_software_bits(&self) -> u64 {
        FREE_FOR_SOFTWARE
            & !(SPECIAL | self.uffd_wp_bit() | self.soft_dirty_bit() | self.devmap_bit() | self.saved_dirty_bit())
            & !PKEY
    }

    /// `cpu_feature_enabled(X86_FEATURE_SHSTK)`. The merged kernels' configuration switches X86_FEATURE_USER_SHSTK
    /// off and not this one (`asm/disabled-features.h`; 7.2: `Kconfig.cpufeatures`): for them only the CPU counts.
    #[must_use]
    pub fn shadow_stacks_enabled(&self) -> bool {
        match self.design {
            Design::BeforeShadowStacks => false,
            Design::Cow2021 | Design::Cow2022 => self.configuration.shadow_stack && self.shadow_stack_cpu,
            Design::SavedDirtyWithDevmap | Design::SavedDirty => self.shadow_stack_cpu,
        }
    }
}
