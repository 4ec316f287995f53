//! What `/proc/pid/pagemap` must say of an entry: the invariant of `ptediff watch` that concerns two views of one page.
//!
//! Source: `fs/proc/task_mmu.c`: `pte_to_pagemap_entry`, `pagemap_pmd_range` (6.12: with `pagemap_hugetlb_range`),
//! read in 6.1, 6.12 and 7.2; bits by Documentation/admin-guide/mm/pagemap.rst.

use crate::entry::{Entry, EntryKind, SOFT_DIRTY, SWP_SOFT_DIRTY, SWP_UFFD_WP, UFFD_WP};

/// Its stable identifier.
pub const IDENTIFIER: &str = "pagemap.agrees";

/// What holds, with its exceptions.
pub const STATEMENT: &str = "The pagemap of a process says of every entry that does not change meanwhile whether it is present or swapped, the frame or the swap type and slot, uffd-wp, and soft-dirty where the entry has it. Excepted are VM_PFNMAP VMAs, which pagemap shows as holes; of huge pages soft-dirty, and all of what is not present.";

/// The kernel functions and documents that it comes from.
pub const SOURCE: &str =
    "fs/proc/task_mmu.c: pte_to_pagemap_entry, pagemap_pmd_range, pagemap_hugetlb_range; mm/pagewalk.c: walk_page_test";

/// Bits of a word.
mod word {
    pub(super) const DETAILS: u64 = (1 << 55) - 1;
    pub(super) const SOFT_DIRTY: u64 = 1 << 55;
    pub(super) const UFFD_WP: u64 = 1 << 57;
    pub(super) const SWAPPED: u64 = 1 << 62;
    pub(super) const PRESENT: u64 = 1 << 63;
}

/// Bits of the details of a swapped page that are the swap file's number (`MAX_SWAPFILES_SHIFT`).
const SWAP_TYPE_BITS: u32 = 5;

/// What a word says that contradicts the entry; `None` where they agree. `shift` is 12 for a pte, 21 or 30 for a huge
/// page's entry; `page` the number of the page in it, of 4 KiB.
#[must_use]
pub fn contradiction(entry: Entry, shift: u32, page: u64, word: u64) -> Option<String> {
    let is_huge = shift > 12;
    let says = |bit: u64| word & bit != 0;
    let details = word & word::DETAILS;
    let (present, swapped) = match entry.kind() {
        EntryKind::Present | EntryKind::ProtNone => (true, false),
        EntryKind::None => (false, false),
        EntryKind::NonPresent if is_huge => return None,
        EntryKind::NonPresent => (false, true),
    };
    if says(word::PRESENT) != present {
        return Some(format!("pagemap says present {}", u8::from(!present)));
    }
    if says(word::SWAPPED) != swapped {
        return Some(format!("pagemap says swapped {}", u8::from(!swapped)));
    }
    if let Some(first) = entry.frame_number() {
        // A huge page's frame field begins at its own size; bit 12 is PAT there.
        let frame = (first >> (shift - 12) << (shift - 12)) + page;
        if details != frame {
            return Some(format!("pagemap says frame {details:#x}, the entry {frame:#x}"));
        }
    }
    if let Some(slot) = entry.swap_slot() {
        let expected = entry.0 >> 59 | slot << SWAP_TYPE_BITS;
        if details != expected {
            return Some(format!("pagemap says swap type and slot {details:#x}, the entry {expected:#x}"));
        }
    }
    let marked = match entry.kind() {
        EntryKind::None => false,
        EntryKind::NonPresent => entry.has(SWP_UFFD_WP) || entry.is_uffd_wp(),
        EntryKind::Present | EntryKind::ProtNone => entry.has(UFFD_WP),
    };
    if says(word::UFFD_WP) != marked {
        return Some(format!("pagemap says uffd-wp {}", u8::from(!marked)));
    }
    let soft_dirty = if swapped { entry.has(SWP_SOFT_DIRTY) } else { present && entry.has(SOFT_DIRTY) };
    (soft_dirty && !is_huge && !says(word::SOFT_DIRTY)).then(|| "pagemap says soft-dirty 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{A, D, NX, P, PROTNONE, RW, US};

    const FRAME: u64 = 0x1234;
    const USED: u64 = P | RW | US | A | D | NX | FRAME << 12;

    #[track_caller]
    fn check(entry: u64, shift: u32, page: u64, word: u64, says: Option<&str>) {
        let seen = contradiction(Entry(entry), shift, page, word);
        match says {
            None => assert_eq!(seen, None),
            Some(says) => assert!(seen.as_ref().is_some_and(|seen| seen.contains(says)), "{seen:?}"),
        }
    }

    #[test]
    fn present_pages() {
        let word = word::PRESENT | FRAME;
        check(USED, 12, 0, word, None);
        check(USED, 12, 0, word | word::SOFT_DIRTY, None);
        check(USED | SOFT_DIRTY, 12, 0, word | word::SOFT_DIRTY, None);
        check(USED | SOFT_DIRTY, 12, 0, word, Some("soft-dirty 0"));
        check(USED, 12, 0, word + 1, Some("frame 0x1235"));
        check(USED, 12, 0, FRAME, Some("present 0"));
        check(USED, 12, 0, word | word::UFFD_WP, Some("uffd-wp 1"));
        check(USED & !RW | UFFD_WP, 12, 0, word, Some("uffd-wp 0"));
        check(USED, 12, 0, word | word::SWAPPED, Some("swapped 1"));
        // PROT_NONE: the frame is inverted in the entry.
        check(PROTNONE | !(FRAME << 12) & 0x000f_ffff_ffff_f000, 12, 0, word, None);
    }

    #[test]
    fn nothing_is_neither_present_nor_swapped() {
        check(0, 12, 0, 0, None);
        check(0, 12, 0, word::SOFT_DIRTY, None);
        check(0, 12, 0, word::PRESENT | FRAME, Some("present 1"));
        check(0, 12, 0, word::SWAPPED, Some("swapped 1"));
    }

    #[test]
    fn swapped_pages() {
        let (kind, slot) = (3u64, 0x77u64);
        let entry = kind << 59 | !(slot << 9) & 0x07ff_ffff_ffff_fe00;
        assert_eq!(Entry(entry).swap_slot(), Some(slot));
        let word = word::SWAPPED | kind | slot << 5;
        check(entry, 12, 0, word, None);
        check(entry, 12, 0, word + 1, Some("swap type and slot"));
        check(entry | SWP_UFFD_WP, 12, 0, word, Some("uffd-wp 0"));
        check(entry | SWP_SOFT_DIRTY, 12, 0, word, Some("soft-dirty 0"));
        check(entry, 12, 0, word::PRESENT | word, Some("present 1"));
    }

    #[test]
    fn huge_pages_are_counted_through() {
        let huge = P | RW | US | A | D | 1 << 7 | 0x4000_0000;
        let word = word::PRESENT | (0x4_0000 + 5);
        check(huge, 21, 5, word, None);
        check(huge | 1 << 12, 21, 5, word, None);
        check(huge, 21, 6, word, Some("frame"));
        check(huge | SOFT_DIRTY, 21, 5, word, None);
    }
}
