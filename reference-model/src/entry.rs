//! A page-table entry: a lossless 64-bit value with a view, and the helper algebra of the kernel.
//!
//! Sources: Intel SDM volume 3, "Paging" (hardware bits); `arch/x86/include/asm/pgtable_types.h` (software
//! bits); `arch/x86/include/asm/pgtable.h` (helpers), read in 6.12.95 and 7.2.13. Both versions agree in
//! everything that this module says.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bit 0: present.
pub const P: u64 = 1 << 0;
/// Bit 1: writable.
pub const RW: u64 = 1 << 1;
/// Bit 2: user.
pub const US: u64 = 1 << 2;
/// Bit 3: page-level write-through.
pub const PWT: u64 = 1 << 3;
/// Bit 4: page-level cache disable.
pub const PCD: u64 = 1 << 4;
/// Bit 5: accessed.
pub const A: u64 = 1 << 5;
/// Bit 6: dirty; with RW clear, in a user entry, on a CPU with shadow stacks: a shadow-stack page.
pub const D: u64 = 1 << 6;
/// Bit 7: PAT in a 4 KiB entry.
pub const PAT: u64 = 1 << 7;
/// Bit 8: global when present; `_PAGE_PROTNONE` when not.
pub const PROTNONE: u64 = 1 << 8;
/// Bit 9: `_PAGE_SPECIAL`.
pub const SPECIAL: u64 = 1 << 9;
/// Bit 10: `_PAGE_UFFD_WP`.
pub const UFFD_WP: u64 = 1 << 10;
/// Bit 11: `_PAGE_SOFT_DIRTY`.
pub const SOFT_DIRTY: u64 = 1 << 11;
/// Bit 58: `_PAGE_SAVED_DIRTY` (6.6 and later).
pub const SAVED_DIRTY: u64 = 1 << 58;
/// Bits 59..=62: protection key.
pub const PKEY: u64 = 0xf << 59;
/// Bit 63: no execute.
pub const NX: u64 = 1 << 63;
/// Bits 12..=51: frame number of a present entry.
pub const FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Bit 1 of a swap entry: `_PAGE_SWP_SOFT_DIRTY`.
pub const SWP_SOFT_DIRTY: u64 = 1 << 1;
/// Bit 2 of a swap entry: `_PAGE_SWP_UFFD_WP`.
pub const SWP_UFFD_WP: u64 = 1 << 2;
/// Bit 3 of a swap entry: `_PAGE_SWP_EXCLUSIVE`.
pub const SWP_EXCLUSIVE: u64 = 1 << 3;
/// Bits 9..=58 of a swap entry: the offset in the swap file, inverted (`arch/x86/include/asm/pgtable_64.h`).
pub const SWP_OFFSET: u64 = 0x07ff_ffff_ffff_fe00;

/// First swap type that is no swap file's (`MAX_SWAPFILES`): 26 in 6.1, 27 in 6.12, 24 in 7.2 with the
/// distribution's configurations. The lowest will do: a machine has one swap file, of type 0.
const FIRST_SPECIAL_SWAP_TYPE: u64 = 24;

/// Every bit of a 4 KiB entry outside the frame field, with its short name, from bit 0 up.
pub const BIT_NAMES: [(u64, &str); 19] = [
    (P, "P"),
    (RW, "RW"),
    (US, "US"),
    (PWT, "PWT"),
    (PCD, "PCD"),
    (A, "A"),
    (D, "D"),
    (PAT, "PAT"),
    (PROTNONE, "PROTNONE"),
    (SPECIAL, "SPECIAL"),
    (UFFD_WP, "UFFD_WP"),
    (SOFT_DIRTY, "SOFT_DIRTY"),
    (SAVED_DIRTY, "SAVED_DIRTY"),
    (1 << 52, "52"),
    (1 << 53, "53"),
    (1 << 54, "54"),
    (1 << 55, "55"),
    (1 << 56, "56"),
    (1 << 57, "57"),
];

/// Flags of a swap entry, with their short names.
const SWAP_BIT_NAMES: [(u64, &str); 3] =
    [(SWP_SOFT_DIRTY, "SOFT_DIRTY"), (SWP_UFFD_WP, "UFFD_WP"), (SWP_EXCLUSIVE, "EXCLUSIVE")];

/// One entry, raw. Never truncated to the bits that have names here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Entry(pub u64);

/// What an entry is, before any bit of it is looked at more closely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// `pte_none`: zero but for Accessed and Dirty (`_PAGE_KNL_ERRATUM_MASK`).
    None,
    /// P set: the hardware translates through it.
    Present,
    /// P clear, bit 8 set: `pte_present` for the kernel, not for the hardware; frame field inverted.
    ProtNone,
    /// A swap entry, migration entry or marker.
    NonPresent,
}

impl Entry {
    /// The all-zero entry.
    pub const NONE: Self = Self(0);
    /// `make_pte_marker(PTE_MARKER_UFFD_WP)` in 6.12 and 7.2.
    pub const UFFD_WP_MARKER: Self = Self(31 << 59 | (!1u64 << 14 >> 5));

    /// A swap entry without flags. Its offset stands for any: which slot it is the frame beside it says.
    pub const SWAPPED: Self = Self(SWP_OFFSET);

    /// The entry's kind (`arch/x86/include/asm/pgtable.h: pte_none, pte_present`).
    #[must_use]
    pub fn kind(self) -> EntryKind {
        if self.0 & !(A | D) == 0 {
            EntryKind::None
        } else if self.0 & P != 0 {
            EntryKind::Present
        } else if self.0 & PROTNONE != 0 {
            EntryKind::ProtNone
        } else {
            EntryKind::NonPresent
        }
    }

    /// Whether all bits of `mask` are set.
    #[must_use]
    pub fn has(self, mask: u64) -> bool {
        self.0 & mask == mask
    }

    /// `pte_present`: present to the kernel, PROT_NONE entries included.
    #[must_use]
    pub fn is_present(self) -> bool {
        matches!(self.kind(), EntryKind::Present | EntryKind::ProtNone)
    }

    /// Frame number, for entries that are present to the kernel. A PROT_NONE entry keeps its frame
    /// inverted against L1TF (`arch/x86/include/asm/pgtable-invert.h: protnone_mask`).
    #[must_use]
    pub fn frame_number(self) -> Option<u64> {
        match self.kind() {
            EntryKind::Present => Some((self.0 & FRAME) >> 12),
            EntryKind::ProtNone => Some((!self.0 & FRAME) >> 12),
            EntryKind::None | EntryKind::NonPresent => None,
        }
    }

    /// The entry with the frame field cleared where the field holds a frame, with the offset of
    /// [`Self::SWAPPED`] where it is a swap entry; other entries unchanged.
    #[must_use]
    pub fn without_frame(self) -> Self {
        if self.is_present() {
            Self(self.0 & !FRAME)
        } else if self.is_swapped() {
            Self(self.0 | SWP_OFFSET)
        } else {
            self
        }
    }

    /// Whether the page is swapped out: a swap entry of a swap file, not a migration entry or a marker.
    #[must_use]
    pub fn is_swapped(self) -> bool {
        self.kind() == EntryKind::NonPresent && self.0 >> 59 < FIRST_SPECIAL_SWAP_TYPE
    }

    /// The slot in the swap file that a swap entry names (`include/linux/swapops.h: swp_offset`).
    #[must_use]
    pub fn swap_slot(self) -> Option<u64> {
        self.is_swapped().then_some((!self.0 & SWP_OFFSET) >> 9)
    }

    /// Whether the entry says that a userfaultfd write-protects the page: `pte_uffd_wp` of one that is present to the
    /// kernel, `pte_swp_uffd_wp` of a swap entry, `pte_marker_uffd_wp`.
    #[must_use]
    pub fn is_uffd_wp(self) -> bool {
        match self.kind() {
            EntryKind::None => false,
            EntryKind::Present | EntryKind::ProtNone => self.has(UFFD_WP),
            EntryKind::NonPresent => self.is_swapped() && self.has(SWP_UFFD_WP) || self.marker() == Some(1),
        }
    }

    /// The names of these bits, as an entry of this kind has them: a swap entry has other flags than a present one, and
    /// what has no flag's name is the swap entry's type and slot, or the frame.
    #[must_use]
    pub fn flag_names(self, bits: u64) -> Vec<String> {
        let named: Vec<(u64, &str)> = self.flags();
        let mut names: Vec<String> =
            named.iter().filter(|(mask, _)| bits & mask != 0).map(|(_, name)| (*name).to_owned()).collect();
        let rest = named.iter().fold(bits, |rest, (mask, _)| rest & !mask);
        if rest != 0 {
            names.push(if self.kind() == EntryKind::NonPresent { "type or offset" } else { "frame field" }.to_owned());
        }
        names
    }

    /// The flags that an entry of this kind can have, with their names. A marker has none.
    #[must_use]
    pub fn flags(self) -> Vec<(u64, &'static str)> {
        match self.kind() {
            EntryKind::NonPresent if self.is_swapped() => SWAP_BIT_NAMES.to_vec(),
            EntryKind::NonPresent => Vec::new(),
            EntryKind::None | EntryKind::Present | EntryKind::ProtNone => {
                BIT_NAMES.into_iter().chain([(PKEY, "protection key"), (NX, "NX")]).collect()
            }
        }
    }

    /// Protection key, bits 59..=62.
    #[must_use]
    pub fn protection_key(self) -> u8 {
        ((self.0 & PKEY) >> 59) as u8
    }

    /// `pte_dirty`: Dirty or SavedDirty.
    #[must_use]
    pub fn is_dirty(self) -> bool {
        self.0 & (D | SAVED_DIRTY) != 0
    }

    /// `pte_shstk` on a CPU with shadow stacks: Write=0, Dirty=1.
    #[must_use]
    pub fn is_shadow_stack(self) -> bool {
        self.0 & (RW | D) == D
    }

    /// `pte_mkwrite_shstk`: the form that `pte_mkwrite` takes in a shadow-stack VMA. SavedDirty stays.
    #[must_use]
    pub fn make_writable_shadow_stack(self) -> Self {
        Self(self.0 & !RW | D)
    }

    /// `pte_mkclean`: soft-dirty stays.
    #[must_use]
    pub fn make_clean(self) -> Self {
        Self(self.0 & !(D | SAVED_DIRTY))
    }

    /// `pte_mkyoung`.
    #[must_use]
    pub fn make_young(self) -> Self {
        Self(self.0 | A)
    }

    /// `pte_mkold`.
    #[must_use]
    pub fn make_old(self) -> Self {
        Self(self.0 & !A)
    }

    /// Offset of a marker's swap entry, a set of `PTE_MARKER_*` bits: 1 is `PTE_MARKER_UFFD_WP`
    /// (`include/linux/swapops.h: make_pte_marker`). `SWP_PTE_MARKER` is the last swap type in 6.12 and 7.2.
    #[must_use]
    pub fn marker(self) -> Option<u64> {
        let is_marker = self.kind() == EntryKind::NonPresent && self.0 >> 59 == 31;
        is_marker.then_some(!self.0 << 5 >> 14)
    }

    /// `pte_clear_uffd_wp`.
    #[must_use]
    pub fn clear_uffd_wp(self) -> Self {
        Self(self.0 & !UFFD_WP)
    }

    /// `pte_clear_soft_dirty`.
    #[must_use]
    pub fn clear_soft_dirty(self) -> Self {
        Self(self.0 & !SOFT_DIRTY)
    }
}

impl fmt::Display for Entry {
    /// The set bits by name, `none`, or the raw value of a non-present entry; the frame field is left out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            EntryKind::None if self.0 == 0 => return write!(formatter, "none"),
            EntryKind::NonPresent => {
                return match self.marker() {
                    Some(1) => write!(formatter, "marker UFFD_WP"),
                    Some(offset) => write!(formatter, "marker {offset:#x}"),
                    None if self.is_swapped() => {
                        write!(formatter, "swap")?;
                        for (mask, name) in SWAP_BIT_NAMES {
                            if self.0 & mask != 0 {
                                write!(formatter, " {name}")?;
                            }
                        }
                        Ok(())
                    }
                    None => write!(formatter, "non-present {:#018x}", self.0),
                };
            }
            EntryKind::None | EntryKind::Present | EntryKind::ProtNone => {}
        }
        let mut separator = "";
        for (mask, name) in BIT_NAMES {
            if self.0 & mask != 0 {
                let name = if mask == PROTNONE && self.0 & P != 0 { "G" } else { name };
                write!(formatter, "{separator}{name}")?;
                separator = " ";
            }
        }
        if self.protection_key() != 0 {
            write!(formatter, "{separator}pk{}", self.protection_key())?;
            separator = " ";
        }
        if self.0 & NX != 0 {
            write!(formatter, "{separator}NX")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_told_by_their_offset() {
        assert_eq!(Entry::UFFD_WP_MARKER, Entry(0xffff_ffff_ffff_fc00));
        for (raw, marker, text) in [
            (0xffff_ffff_ffff_fc00, Some(1), "marker UFFD_WP"),
            (0xffff_ffff_ffff_fa00, Some(2), "marker 0x2"),
            (0x07ff_ffff_fffb_fe0a, None, "swap SOFT_DIRTY EXCLUSIVE"),
            (0xd7ff_ffff_fffb_fe00, None, "non-present 0xd7fffffffffbfe00"),
            (0x8000_0000_0123_4867, None, "P RW US A D SOFT_DIRTY NX"),
        ] {
            assert_eq!((Entry(raw).marker(), Entry(raw).to_string().as_str()), (marker, text));
        }
    }

    #[test]
    fn swap_entries_keep_flags_and_give_up_their_slot() {
        let swapped = Entry(0x07ff_ffff_fffb_fe0a);
        assert_eq!(swapped.swap_slot(), Some(0x200));
        assert_eq!(swapped.without_frame(), Entry(Entry::SWAPPED.0 | SWP_SOFT_DIRTY | SWP_EXCLUSIVE));
        assert!(!swapped.is_uffd_wp() && Entry(swapped.0 | SWP_UFFD_WP).is_uffd_wp());
        for other in [Entry::UFFD_WP_MARKER, Entry::NONE, Entry(0x8000_0000_0123_4867), Entry(28 << 59 | 0x1000)] {
            assert_eq!((other.is_swapped(), other.swap_slot()), (false, None), "{other}");
        }
        assert!(Entry::UFFD_WP_MARKER.is_uffd_wp());
    }

    #[test]
    fn frames_are_inverted_in_prot_none_entries_only() {
        let present = Entry(0x8000_0000_1234_5867);
        assert_eq!(present.frame_number(), Some(0x12345));
        let prot_none = Entry(!0x1234_5000 & FRAME | PROTNONE | A);
        assert_eq!(prot_none.frame_number(), Some(0x12345));
        assert_eq!(prot_none.without_frame(), Entry(PROTNONE | A));
        assert_eq!(Entry(0xffff_ffff_ffff_fc00).frame_number(), None);
    }
}
