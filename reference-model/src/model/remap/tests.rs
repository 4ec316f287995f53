//! mremap, kernel by kernel, with the entries and results that were seen live.

use super::*;
use crate::arena::PageRange;
use crate::kernel::KernelVersion;
use crate::machine::Machine;
use crate::program::{Advice, Operation, Placement, Protection, Step};

const ALL: [KernelVersion; 3] = [KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2];
const OLDER: [KernelVersion; 2] = [KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12];
const SAVED_DIRTY_DESIGN: [KernelVersion; 2] = [KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2];
/// With DontunmapTakesOriginalAlong.
const UNTOLD: [KernelVersion; 2] = [KernelVersion::new(6, 1, 190), KernelVersion::new(6, 12, 113)];
const NEWEST: [KernelVersion; 1] = [KernelVersion::LINUX_7_2];

const WRITTEN: u64 = 0x8000_0000_0000_0867;
const PROTECTED: u64 = 0x8400_0000_0000_0825;
const PROTECTED_OLD: u64 = 0x8400_0000_0000_0805;
const ZERO_PAGE: u64 = 0x8000_0000_0000_0225;
const ZERO_PAGE_MOVED: u64 = ZERO_PAGE | SOFT_DIRTY;
const SHADOW: u64 = 0x8400_0000_0000_0865;

const OK: Outcome = Outcome::Succeeded;
const REFUSED: Outcome = Outcome::Failed(EFAULT);

fn range(first: usize, pages: usize) -> PageRange {
    PageRange::new(first, pages).unwrap()
}

fn page(slot: usize) -> PageIndex {
    PageIndex::new(slot).unwrap()
}

fn map_as(first: usize, pages: usize, protection: Protection) -> (usize, Operation) {
    (0, Operation::Mmap { range: range(first, pages), protection, placement: Placement::Fixed })
}

fn map(first: usize, pages: usize) -> (usize, Operation) {
    map_as(first, pages, Protection::READ_WRITE)
}

fn write(slot: usize) -> (usize, Operation) {
    (0, Operation::Write { page: page(slot) })
}

fn read(slot: usize) -> (usize, Operation) {
    (0, Operation::Read { page: page(slot) })
}

fn resized(from: (usize, usize), to: (usize, usize)) -> (usize, Operation) {
    (0, Operation::Mremap { range: range(from.0, from.1), to: range(to.0, to.1), keep: false })
}

fn moved(first: usize, pages: usize, to: usize) -> (usize, Operation) {
    resized((first, pages), (to, pages))
}

fn kept(first: usize, pages: usize, to: usize) -> (usize, Operation) {
    (0, Operation::Mremap { range: range(first, pages), to: range(to, pages), keep: true })
}

fn in_place(first: usize, pages: usize, new: u8) -> (usize, Operation) {
    (0, Operation::MremapResize { range: range(first, pages), pages: new })
}

fn locked(first: usize, pages: usize) -> (usize, Operation) {
    (0, Operation::Mlock { range: range(first, pages) })
}

const CLEAR: (usize, Operation) = (0, Operation::ClearSoftDirty);
const FORK: (usize, Operation) = (0, Operation::Fork { child: ActorId::SECOND });

/// Runs steps on each of the versions: the last one must give `outcome`, and leave these entries
/// (actor, slot, bits).
fn check(
    name: &str,
    versions: &[KernelVersion],
    steps: &[(usize, Operation)],
    outcome: Outcome,
    entries: &[(usize, usize, u64)],
) {
    for &version in versions {
        let mut model = model_after(version, &steps[..steps.len() - 1]);
        let &(actor, operation) = steps.last().expect("a step");
        let last = model.step(steps.len() - 1, &Step { actor: ActorId::new(actor).unwrap(), operation });
        assert_eq!(last.outcome, Some(outcome), "{name} on {version}");
        for &(actor, slot, expected) in entries {
            let seen = model.entry(ActorId::new(actor).unwrap(), page(slot)).bits.0;
            assert_eq!(seen, expected, "{name} on {version}: page {slot} of actor {actor} is {seen:#x}");
        }
    }
}

#[test]
fn entries_move_with_their_bits_and_become_soft_dirty() {
    let saved = &SAVED_DIRTY_DESIGN;
    check("written", &ALL, &[map(0, 1), write(0), moved(0, 1, 4)], OK, &[(0, 0, 0), (0, 4, WRITTEN)]);
    check("tracked", saved, &[map(0, 1), write(0), CLEAR, moved(0, 1, 4)], OK, &[(0, 4, PROTECTED)]);
    check("zero page", &ALL, &[map(0, 1), read(0), moved(0, 1, 4)], OK, &[(0, 0, 0), (0, 4, ZERO_PAGE_MOVED)]);
    check("target emptied", &ALL, &[map(0, 2), write(0), map(4, 2), write(5), moved(0, 2, 4)], OK, &[(0, 5, 0)]);
    let none = (0, Operation::Mprotect { range: range(0, 1), protection: Protection::NONE });
    let steps = [map(0, 1), write(0), CLEAR, none, moved(0, 1, 4)];
    check("PROT_NONE", saved, &steps, OK, &[(0, 4, 0x0400_0000_0000_0920)]);
    let free = (0, Operation::Madvise { range: range(0, 1), advice: Advice::Free });
    let steps = [map(0, 1), write(0), free, moved(0, 1, 4)];
    check("freed", &ALL, &steps, OK, &[(0, 4, 0x8000_0000_0000_0807)]);
    let steps = [map(0, 1), write(0), FORK, moved(0, 1, 4)];
    check("shared", saved, &steps, OK, &[(0, 4, PROTECTED), (1, 0, PROTECTED_OLD)]);
    let stack = (0, Operation::MapShadowStack { range: range(0, 1), token: true });
    check("shadow stack", saved, &[stack, moved(0, 1, 4)], OK, &[(0, 0, 0), (0, 4, SHADOW)]);
}

#[test]
fn refusals_change_what_each_version_changes() {
    let two = [map(0, 1), write(0), map_as(1, 1, Protection::READ), map(8, 3), write(8), write(10)];
    let and = |last: (usize, Operation)| [&two[..], &[last]].concat();
    let overlap = Outcome::Failed(EINVAL);
    let across = [(0, 0, WRITTEN), (0, 8, 0), (0, 10, WRITTEN)];
    check("beyond its VMA", &OLDER, &and(moved(0, 2, 8)), REFUSED, &across);
    check("of several VMAs", &NEWEST, &and(moved(0, 2, 8)), OK, &[(0, 0, 0), (0, 8, WRITTEN), (0, 10, WRITTEN)]);
    check("and longer", &OLDER, &and(resized((0, 2), (8, 3))), REFUSED, &[(0, 0, WRITTEN), (0, 8, 0), (0, 10, 0)]);
    let untouched = [(0, 0, WRITTEN), (0, 8, WRITTEN), (0, 10, WRITTEN)];
    check("and longer", &NEWEST, &and(resized((0, 2), (8, 3))), REFUSED, &untouched);
    check("shorter", &ALL, &and(resized((0, 2), (8, 1))), OK, &[(0, 0, 0), (0, 8, WRITTEN), (0, 10, WRITTEN)]);
    check("nothing mapped", &ALL, &and(moved(4, 1, 8)), REFUSED, &untouched);
    check("overlap", &ALL, &and(moved(0, 1, 0)), overlap, &untouched);
    check("overlap, nothing mapped", &OLDER, &and(moved(4, 2, 5)), REFUSED, &untouched);
    check("overlap, nothing mapped", &NEWEST, &and(moved(4, 2, 5)), overlap, &untouched);
    let keep_longer = (0, Operation::Mremap { range: range(0, 1), to: range(8, 2), keep: true });
    check("kept and longer", &ALL, &and(keep_longer), overlap, &untouched);
    let gap = [map(0, 1), write(0), map(2, 1), write(2), map(9, 1), write(9), moved(0, 3, 8)];
    check("a gap's target stays", &NEWEST, &gap, OK, &[(0, 8, WRITTEN), (0, 9, WRITTEN), (0, 10, WRITTEN), (0, 2, 0)]);
}

#[test]
fn mappings_change_their_length_in_place() {
    let no_room = Outcome::Failed(ENOMEM);
    check("grown", &ALL, &[map(0, 2), in_place(0, 2, 4), write(3)], Outcome::Stored, &[(0, 3, WRITTEN)]);
    check("from within", &ALL, &[map(0, 2), in_place(1, 1, 3), write(3)], Outcome::Stored, &[]);
    check("not out of its middle", &ALL, &[map(0, 2), in_place(0, 1, 2)], no_room, &[]);
    check("not over another", &ALL, &[map(0, 2), map(3, 1), in_place(0, 2, 4)], no_room, &[]);
    check("beyond its VMA", &ALL, &[map(0, 1), in_place(0, 2, 3)], REFUSED, &[]);
    check("unmapped", &ALL, &[in_place(0, 1, 2)], REFUSED, &[]);
    check("no length", &ALL, &[in_place(0, 1, 0)], Outcome::Failed(EINVAL), &[]);
    check("the same", &ALL, &[map(0, 1), write(0), in_place(0, 4, 4)], OK, &[(0, 0, WRITTEN)]);
    let others = [map(0, 1), write(0), map_as(1, 1, Protection::READ), read(1), map(4, 1), write(4)];
    let shrunk = [&others[..], &[in_place(0, 5, 1)]].concat();
    check("whatever is in the tail", &ALL, &shrunk, OK, &[(0, 0, WRITTEN), (0, 1, 0), (0, 4, 0)]);
    check("locked", &ALL, &[map(0, 1), locked(0, 1), in_place(0, 1, 2)], OK, &[(0, 1, WRITTEN)]);
    let longer = [map(0, 1), locked(0, 1), map(4, 2), read(5), resized((0, 1), (4, 2))];
    check("locked, moved, longer", &ALL, &longer, OK, &[(0, 4, WRITTEN), (0, 5, WRITTEN)]);
}

#[test]
fn dont_unmap_leaves_a_vma_without_entries() {
    let steps = [map(0, 1), write(0), kept(0, 1, 4)];
    check("written", &ALL, &steps, OK, &[(0, 0, 0), (0, 4, WRITTEN)]);
    let discard = |first| (0, Operation::MadviseDontneed { range: range(first, 1) });
    let unlocked = |slot| [map(0, 3), locked(0, 3), kept(0, 1, 8), discard(slot)];
    check("what moved is locked", &ALL, &unlocked(8), Outcome::Failed(EINVAL), &[(0, 8, WRITTEN)]);
    check("what is left is not", &ALL, &unlocked(0), OK, &[]);
    check("the rest neither", &UNTOLD, &unlocked(1), OK, &[(0, 1, 0)]);
    check("the rest still is", &ALL, &unlocked(1), Outcome::Failed(EINVAL), &[(0, 1, WRITTEN)]);
    // Without an anon_vma fork leaves the zero page out.
    let whole = [map(0, 1), write(0), kept(0, 1, 4), read(0), FORK];
    check("whole, no anon_vma", &ALL, &whole, OK, &[(0, 0, ZERO_PAGE), (1, 0, 0)]);
    let part = [map(0, 2), write(0), kept(0, 1, 4), read(0), FORK];
    check("part, its anon_vma", &ALL, &part, OK, &[(1, 0, ZERO_PAGE & !crate::entry::A)]);
}

/// Whether two pages are one VMA shows when one is written and the other read: fork copies the zero page of a
/// VMA that has an anon_vma.
#[test]
fn moved_vmas_merge_where_vm_pgoff_goes_on() {
    let copied = ZERO_PAGE_MOVED & !crate::entry::A;
    let merged = |name, versions: &[KernelVersion], steps: &[(usize, Operation)], slot, seen| {
        check(name, versions, &[steps, &[FORK]].concat(), OK, &[(1, slot, seen)]);
    };
    let beside = [map(0, 2), read(0), moved(0, 1, 2), write(1)];
    merged("unwritten, beside itself", &ALL, &beside, 2, copied);
    let kept_beside = [map(0, 1), read(0), kept(0, 1, 1), write(0)];
    merged("kept beside itself", &UNTOLD, &kept_beside, 1, copied);
    merged("kept beside itself", &ALL, &kept_beside, 1, 0);
    let back = [map(0, 1), write(0), moved(0, 1, 8), map(1, 1), read(1), moved(8, 1, 0)];
    merged("back beside an unwritten one", &OLDER, &back, 1, 0);
    merged("back beside an unwritten one", &NEWEST, &back, 1, ZERO_PAGE & !crate::entry::A);
    let displaced = [map(0, 1), write(0), map(4, 1), read(4), moved(0, 1, 3)];
    merged("displaced", &ALL, &displaced, 4, 0);
    let next = [map(0, 1), map(2, 1), write(2), in_place(0, 1, 2), read(0)];
    merged("grown to the next one", &ALL, &next, 0, ZERO_PAGE & !crate::entry::A);
}

#[test]
fn soft_dirtiness_of_the_vma_travels() {
    for (version, expected) in
        [(KernelVersion::LINUX_6_1, false), (KernelVersion::LINUX_6_12, false), (KernelVersion::LINUX_7_2, true)]
    {
        // A new VMA moves beside a tracked one.
        let steps = [map(0, 2), CLEAR, map(4, 2), moved(4, 2, 2)];
        let mut model = model_after(version, &steps);
        assert_eq!(model.mapping(ActorId::FIRST, page(0)).unwrap().soft_dirty, expected, "{version}");
        assert_eq!(model.vma_range(ActorId::FIRST, page(3)), PageRange::new(0, 4).ok());
        // Alone it keeps its flag, and its pages know where they were.
        let apart = [map(0, 2), write(0), CLEAR, moved(0, 2, 6)];
        model = model_after(version, &apart);
        assert!(!model.mapping(ActorId::FIRST, page(6)).unwrap().soft_dirty);
        assert_eq!(model.home(ActorId::FIRST, page(7)), Some(page(1)));
    }
}

fn model_after(version: KernelVersion, steps: &[(usize, Operation)]) -> Model {
    let mut model = Model::as_released(&Machine::imagined(version, version != KernelVersion::LINUX_6_1, true));
    for (index, &(actor, operation)) in steps.iter().enumerate() {
        model.step(index, &Step { actor: ActorId::new(actor).unwrap(), operation });
    }
    model
}
