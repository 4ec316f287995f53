//! The tables of the merged design and of 6.1, state by state. Those of the designs that were not merged are
//! claims (`harness/claims`), since their text is a seed's.

use super::*;
use crate::entry::{A, D, NX, P, PROTNONE, RW, SAVED_DIRTY, SOFT_DIRTY, UFFD_WP, US};

const MERGED: Algebra = Algebra::new(Design::SavedDirtyWithDevmap, true);
const BEFORE: Algebra = Algebra::new(Design::BeforeShadowStacks, false);

/// Write, Dirty and SavedDirty as three binary digits.
fn state(digits: u64) -> u64 {
    State { write: digits & 4 != 0, dirty: digits & 2 != 0, saved: digits & 1 != 0 }.bits()
}

fn digits(entry: u64) -> u64 {
    let State { write, dirty, saved } = State::of_entry(entry);
    u64::from(write) << 2 | u64::from(dirty) << 1 | u64::from(saved)
}

/// Checks a helper on all eight states: `expected[n]` is what becomes of the state with digits `n`.
fn check(algebra: Algebra, helper: Helper, argument: u64, expected: [u64; 8]) {
    for level in Level::ALL {
        let question = Question { level, helper, argument };
        for from in 0..8 {
            let Some(answer) = algebra.answer(question, P | state(from)) else { continue };
            // 6.12's pmd_modify drops Dirty; pud_mkwrite takes no VMA.
            let deviates =
                helper == Helper::Modify && level == Level::Pmd && algebra.design == Design::SavedDirtyWithDevmap
                    || helper == Helper::Mkwrite && argument == Question::SHADOW_STACK_VMA && level == Level::Pud;
            if !deviates {
                assert_eq!(digits(answer), expected[from as usize], "{} of {from:03b}", helper.name(level));
            }
        }
    }
}

#[test]
fn merged_helpers_follow_the_table_of_states() {
    let merged = MERGED;
    check(merged, Helper::Mkdirty, 0, [1, 1, 1, 1, 6, 7, 6, 7]);
    check(merged, Helper::Mkclean, 0, [0, 0, 0, 0, 4, 4, 4, 4]);
    check(merged, Helper::Wrprotect, 0, [0, 1, 1, 1, 0, 1, 1, 1]);
    check(merged, Helper::Mkwrite, Question::ORDINARY_VMA, [4, 6, 6, 6, 4, 6, 6, 6]);
    check(merged, Helper::Mkwrite, Question::SHADOW_STACK_VMA, [2, 3, 2, 3, 2, 3, 2, 3]);
    check(merged, Helper::MkwriteShstk, 0, [2, 3, 2, 3, 2, 3, 2, 3]);
    check(merged, Helper::MkwriteNovma, 0, [4, 5, 6, 7, 4, 5, 6, 7]);
    check(merged, Helper::Modify, P, [0, 1, 2, 3, 0, 1, 1, 1]);
    check(merged, Helper::Modify, P | RW, [4, 6, 6, 6, 4, 5, 6, 7]);
    check(merged, Helper::MkuffdWp, 0, [0, 1, 1, 1, 0, 1, 1, 1]);
}

#[test]
fn before_shadow_stacks_dirty_stays_where_it_is() {
    check(BEFORE, Helper::Mkdirty, 0, [2, 3, 2, 3, 6, 7, 6, 7]);
    check(BEFORE, Helper::Mkclean, 0, [0, 1, 0, 1, 4, 5, 4, 5]);
    check(BEFORE, Helper::Wrprotect, 0, [0, 1, 2, 3, 0, 1, 2, 3]);
    check(BEFORE, Helper::Mkwrite, 0, [4, 5, 6, 7, 4, 5, 6, 7]);
    check(BEFORE, Helper::Modify, P, [0, 1, 2, 3, 0, 1, 2, 3]);
    check(BEFORE, Helper::MkuffdWp, 0, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn pmd_modify_of_6_12_drops_dirty_and_that_of_7_2_keeps_it() {
    let question = Question { level: Level::Pmd, helper: Helper::Modify, argument: P };
    let read_only = |design| digits(Algebra::new(design, true).answer(question, P | RW | D).expect("a helper"));
    assert_eq!((read_only(Design::SavedDirtyWithDevmap), read_only(Design::SavedDirty)), (0, 1));
}

#[test]
fn frames_are_inverted_when_the_presence_changes() {
    let present = 0x8000_0000_1234_5000 | P | US | A;
    let question = Question { level: Level::Pte, helper: Helper::Modify, argument: PROTNONE | A };
    let none = MERGED.answer(question, present).expect("a helper");
    assert_eq!(none, !0x1234_5000 & crate::entry::FRAME | PROTNONE | A);
    let number = |entry| MERGED.answer(Question::of(Level::Pte, Helper::Pfn), entry);
    assert_eq!((number(present), number(none)), (Some(0x12345), Some(0x12345)));
    let back = Question { level: Level::Pte, helper: Helper::Modify, argument: P | US | A | NX };
    assert_eq!(MERGED.answer(back, none), Some(present));
}

#[test]
fn helpers_exist_where_the_kernels_have_them() {
    let has = |design, name: &str| {
        let algebra = Algebra::new(design, true);
        let known = Level::ALL
            .iter()
            .any(|level| Helper::ALL.iter().any(|helper| helper.name(*level) == name && algebra.has(*level, *helper)));
        u8::from(known)
    };
    for (name, expected) in [
        ("pte_wrprotect", [1, 1, 1, 1, 1]),
        ("pte_shstk", [0, 1, 1, 1, 1]),
        ("pud_shstk", [0, 0, 0, 1, 1]),
        ("pte_mkcow", [0, 1, 1, 0, 0]),
        ("pte_mksaveddirty", [0, 0, 0, 1, 1]),
        ("pmd_mkspecial", [0, 0, 0, 1, 1]),
        ("pte_devmap", [1, 1, 1, 1, 0]),
        ("pud_mkuffd_wp", [0, 0, 0, 0, 0]),
        ("pud_modify", [0, 0, 0, 1, 1]),
    ] {
        assert_eq!(Design::ALL.map(|design| has(design, name)), expected, "{name}");
    }
}

#[test]
fn a_domain_has_each_of_its_entries_once() {
    let domain = Domain { base: 1 << 20, mask: NX | RW | SAVED_DIRTY };
    let entries: Vec<u64> = domain.entries().collect();
    assert_eq!(entries.len() as u64, domain.count());
    assert!(entries.is_sorted() && entries.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(entries.iter().all(|entry| entry & !domain.mask == domain.base));
    assert_eq!(Domain::EVERY_BIT.count_ones(), 19);
    assert_eq!(Domain::MAIN_BITS & !Domain::EVERY_BIT, 0);
    for base in Domain::BASES {
        assert_eq!(base & Domain::EVERY_BIT, 0, "{base:#x}");
    }
}

/// Values seen on 6.12 in Bochs with shadow stacks, frame numbers left out.
#[test]
fn live_values_come_about_by_the_helpers() {
    let page = Entry(P | US | A | NX);
    let written = MERGED.make_writable(MERGED.make_dirty(page));
    assert_eq!(written.0, 0x8000_0000_0000_0867);
    assert_eq!(MERGED.write_protect(written).0, 0x8400_0000_0000_0825);
    assert_eq!(MERGED.modify(written, page.0).0, 0x8400_0000_0000_0825);
    let stack = MERGED.make_writable_shadow_stack(MERGED.make_dirty(page));
    assert_eq!(stack.0, 0x8400_0000_0000_0865);
    assert_eq!(MERGED.write_protect(stack).0, 0x8400_0000_0000_0825);
    assert_eq!(MERGED.make_uffd_wp(written).0, 0x8400_0000_0000_0825 | UFFD_WP);
    assert_eq!(BEFORE.write_protect(BEFORE.make_writable(BEFORE.make_dirty(page))).0, 0x8000_0000_0000_0865);
    assert_eq!(MERGED.make_clean(written).0 & (D | SAVED_DIRTY | SOFT_DIRTY), SOFT_DIRTY);
}

#[track_caller]
fn check_letters(entry: u64, vma_flags: u64, letters: &str) {
    assert_eq!(Place::of_vma(vma_flags).letters(Entry(entry)), letters, "{entry:#x} with {vma_flags:#x}");
}

/// Entries as they were seen on 6.12, in VMAs with and without VM_WRITE (bit 1) and VM_SHADOW_STACK (bit 37).
#[test]
fn live_entries_have_the_letters_of_the_text() {
    const SHADOW_STACK_VMA: u64 = 1 << 37 | 0x3;
    check_letters(0x8400_0000_0000_0825, 0x3, "(a)");
    check_letters(0x8400_0000_0000_0825, 0x1, "(a) or (b)");
    check_letters(0x8400_0000_0000_0865, SHADOW_STACK_VMA, "(c)");
    check_letters(0x8000_0000_0000_0865, SHADOW_STACK_VMA, "(c)");
    check_letters(0x8400_0000_0000_0825, SHADOW_STACK_VMA, "(d)");
    check_letters(0x8000_0000_0000_0865, 0x3, "(e)");
    check_letters(0x8000_0000_0000_0867, 0x3, "");
    check_letters(0x8000_0000_0000_0225, 0x1, "");
    check_letters(0x8400_0000_0000_0024, 0x3, "");
}
