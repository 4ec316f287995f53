//! Sequences with the entries that were seen live, on both versions (`vm-facts`, tables A.8 and C to I of
//! the semantics digest).

mod live_shadow_stack;
mod shared;
mod swap;

use super::*;
use crate::entry::{D, SAVED_DIRTY, SOFT_DIRTY};
use crate::kernel::KernelVersion;
use crate::program::{Advice, Placement};

fn machine(version: KernelVersion, shadow_stack: bool) -> Machine {
    Machine::imagined(version, shadow_stack, true)
}

fn page(slot: usize) -> PageIndex {
    PageIndex::new(slot).unwrap()
}

fn range(first: usize, pages: usize) -> PageRange {
    PageRange::new(first, pages).unwrap()
}

fn actor(number: usize) -> ActorId {
    ActorId::new(number).unwrap()
}

fn mmap(protection: u8) -> Operation {
    let protection = Protection::from_bits(protection).unwrap();
    Operation::Mmap { range: range(0, 4), protection, placement: Placement::Fixed }
}

fn mprotect(protection: u8) -> Operation {
    Operation::Mprotect { range: range(0, 4), protection: Protection::from_bits(protection).unwrap() }
}

const READ: Operation = Operation::Read { page: FIRST };
const WRITE: Operation = Operation::Write { page: FIRST };
const EXECUTE: Operation = Operation::Execute { page: FIRST };
const WRSS: Operation = Operation::WriteShadowStack { page: FIRST };
const FORK: Operation = Operation::Fork { child: SECOND };
const SHADOW_STACK: Operation = Operation::MapShadowStack { range: ONE, token: true };
const CLEAR: Operation = Operation::ClearSoftDirty;
const FIRST: PageIndex = PageIndex::FIRST;
const SECOND: ActorId = ActorId::SECOND;
const ONE: PageRange = PageRange::FIRST_PAGE;

/// Runs steps (actor, operation) on every version given and compares the entries of page 0 of the actors.
fn check_on(versions: &[KernelVersion], name: &str, steps: &[(usize, Operation)], entries: &[(usize, u64)]) {
    for &version in versions {
        let mut model = Model::as_released(&machine(version, true));
        for (index, &(who, operation)) in steps.iter().enumerate() {
            model.step(index, &Step { actor: actor(who), operation });
        }
        for &(who, expected) in entries {
            let seen = model.entry(actor(who), FIRST).bits.0;
            assert_eq!(seen, expected, "{name} on {version}: actor {who} has {seen:#x}, not {expected:#x}");
        }
    }
}

fn check(name: &str, steps: &[(usize, Operation)], entries: &[(usize, u64)]) {
    check_on(&[KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2], name, steps, entries);
}

const WRITTEN: u64 = 0x8000_0000_0000_0867;
const PROTECTED: u64 = 0x8400_0000_0000_0825;
const PROTECTED_OLD: u64 = 0x8400_0000_0000_0805;
const ZERO_PAGE: u64 = 0x8000_0000_0000_0225;
const SHADOW: u64 = 0x8400_0000_0000_0865;

#[test]
fn entries_are_those_seen_live() {
    check("first write", &[(0, mmap(3)), (0, WRITE)], &[(0, WRITTEN)]);
    check("first read", &[(0, mmap(3)), (0, READ)], &[(0, ZERO_PAGE)]);
    check("read, then write", &[(0, mmap(3)), (0, READ), (0, WRITE)], &[(0, WRITTEN)]);
    check("to read-only", &[(0, mmap(3)), (0, WRITE), (0, mprotect(1))], &[(0, PROTECTED)]);
    check("and back", &[(0, mmap(3)), (0, WRITE), (0, mprotect(1)), (0, mprotect(3))], &[(0, WRITTEN)]);
    check("to none", &[(0, mmap(3)), (0, WRITE), (0, mprotect(0))], &[(0, 0x0400_0000_0000_0920)]);
    check("none to read-write", &[(0, mmap(3)), (0, WRITE), (0, mprotect(0)), (0, mprotect(3))], &[(0, WRITTEN)]);
    check(
        "zero page read-only and back",
        &[(0, mmap(3)), (0, READ), (0, mprotect(1)), (0, mprotect(3))],
        &[(0, ZERO_PAGE)],
    );
    check("fork", &[(0, mmap(3)), (0, WRITE), (0, FORK)], &[(0, PROTECTED), (1, PROTECTED_OLD)]);
    check("fork, child writes", &[(0, mmap(3)), (0, WRITE), (0, FORK), (1, WRITE)], &[(0, PROTECTED), (1, WRITTEN)]);
    check("clear_refs", &[(0, mmap(3)), (0, WRITE), (0, CLEAR)], &[(0, PROTECTED & !SOFT_DIRTY)]);
    check(
        "clear_refs keeps tracked pages read-only through mprotect",
        &[(0, mmap(3)), (0, WRITE), (0, CLEAR), (0, mprotect(1)), (0, mprotect(3))],
        &[(0, PROTECTED & !SOFT_DIRTY)],
    );
    check("a fork without anon_vma copies nothing", &[(0, mmap(3)), (0, READ), (0, FORK)], &[(0, ZERO_PAGE), (1, 0)]);
}

#[test]
fn advice_does_what_was_seen_live() {
    let advise = |advice| Operation::Madvise { range: ONE, advice };
    let (cold, read, write) = (advise(Advice::Cold), advise(Advice::PopulateRead), advise(Advice::PopulateWrite));
    check("cold", &[(0, mmap(3)), (0, WRITE), (0, cold)], &[(0, WRITTEN & !A)]);
    check("cold, read again", &[(0, mmap(3)), (0, WRITE), (0, cold), (0, READ)], &[(0, WRITTEN)]);
    check("cold leaves the zero page", &[(0, mmap(3)), (0, READ), (0, cold)], &[(0, ZERO_PAGE)]);
    check("cold leaves shared pages", &[(0, mmap(3)), (0, WRITE), (0, FORK), (0, cold)], &[(0, PROTECTED)]);
    check("cold PROT_NONE", &[(0, mmap(3)), (0, WRITE), (0, mprotect(0)), (0, cold)], &[(0, 0x0400_0000_0000_0900)]);
    check("cold shadow stack", &[(0, SHADOW_STACK), (0, cold)], &[(0, SHADOW & !A)]);
    check("populate read", &[(0, mmap(3)), (0, read)], &[(0, ZERO_PAGE)]);
    check("populate write", &[(0, mmap(3)), (0, write)], &[(0, WRITTEN)]);
    check("populate write over the zero page", &[(0, mmap(3)), (0, READ), (0, write)], &[(0, WRITTEN)]);
    check("populate write of a shared page", &[(0, mmap(3)), (0, WRITE), (0, FORK), (1, write)], &[(1, WRITTEN)]);
    check("populate read without the right", &[(0, mmap(2)), (0, read)], &[(0, 0)]);
    check("populate write without the right", &[(0, mmap(1)), (0, write)], &[(0, 0)]);
    check(
        "populate write of a shadow stack",
        &[(0, SHADOW_STACK), (0, CLEAR), (0, write)],
        &[(0, PROTECTED & !SOFT_DIRTY)],
    );
}

#[test]
fn forks_heed_advice() {
    let advise = |advice| Operation::Madvise { range: ONE, advice };
    let (wipe, keep) = (advise(Advice::WipeOnFork), advise(Advice::KeepOnFork));
    let (dont, fork_again) = (advise(Advice::DontFork), advise(Advice::DoFork));
    check("wiped", &[(0, mmap(3)), (0, WRITE), (0, wipe), (0, FORK)], &[(0, WRITTEN), (1, 0)]);
    check(
        "wiped, written",
        &[(0, mmap(3)), (0, WRITE), (0, wipe), (0, FORK), (1, WRITE)],
        &[(0, WRITTEN), (1, WRITTEN)],
    );
    check("kept", &[(0, mmap(3)), (0, WRITE), (0, wipe), (0, keep), (0, FORK)], &[(0, PROTECTED), (1, PROTECTED_OLD)]);
    check("absent", &[(0, mmap(3)), (0, WRITE), (0, dont), (0, FORK), (1, READ)], &[(0, WRITTEN), (1, 0)]);
    check(
        "not absent",
        &[(0, mmap(3)), (0, WRITE), (0, dont), (0, fork_again), (0, FORK)],
        &[(0, PROTECTED), (1, PROTECTED_OLD)],
    );
    // The child's VMA has no anon_vma after a wipe, so its own child gets no entries of the zero page.
    let grandchild = Operation::Fork { child: actor(2) };
    let wiped_twice = [(0, mmap(3)), (0, WRITE), (0, wipe), (0, FORK), (1, keep), (1, READ), (1, grandchild)];
    check("wiped, grandchild", &wiped_twice, &[(1, ZERO_PAGE), (2, 0)]);
}

#[test]
fn freed_pages_are_clean_and_writable() {
    let (free, write) = (
        Operation::Madvise { range: ONE, advice: Advice::Free },
        Operation::Madvise { range: ONE, advice: Advice::PopulateWrite },
    );
    const FREED: u64 = WRITTEN & !(A | D);
    check("free", &[(0, mmap(3)), (0, WRITE), (0, free)], &[(0, FREED)]);
    check("free, read", &[(0, mmap(3)), (0, WRITE), (0, free), (0, READ)], &[(0, FREED | A)]);
    check("free, written", &[(0, mmap(3)), (0, WRITE), (0, free), (0, WRITE)], &[(0, WRITTEN)]);
    check(
        "free of a shared page",
        &[(0, mmap(3)), (0, WRITE), (0, FORK), (0, free)],
        &[(0, FREED & !RW), (1, PROTECTED_OLD)],
    );
    check("free leaves the zero page", &[(0, mmap(3)), (0, READ), (0, free)], &[(0, ZERO_PAGE)]);
    check("free, fork", &[(0, mmap(3)), (0, WRITE), (0, free), (0, FORK)], &[(0, FREED & !RW), (1, FREED & !RW)]);
    check(
        "a clean exclusive page is writable again at once",
        &[(0, mmap(3)), (0, WRITE), (0, mprotect(1)), (0, free), (0, mprotect(3))],
        &[(0, FREED)],
    );
    let shadow = 0x8000_0000_0000_0805;
    check("free of a shadow stack", &[(0, SHADOW_STACK), (0, free)], &[(0, shadow)]);
    check("free of a shadow stack, WRSS", &[(0, SHADOW_STACK), (0, free), (0, WRSS)], &[(0, SHADOW)]);
    // Populating marks the folio dirty, not its entry; with a second mapping it is then left alone.
    let dirty_folio = [(0, mmap(3)), (0, WRITE), (0, free), (0, write), (0, READ), (0, FORK), (0, free)];
    check("free of a dirty folio that is shared", &dirty_folio, &[(0, FREED & !RW | A)]);
}

#[test]
fn locked_memory_is_there() {
    let (lock, unlock) = (Operation::Mlock { range: ONE }, Operation::Munlock { range: ONE });
    let dontneed = Operation::MadviseDontneed { range: ONE };
    check("writable", &[(0, mmap(3)), (0, lock)], &[(0, WRITTEN)]);
    check("read-only", &[(0, mmap(1)), (0, lock)], &[(0, ZERO_PAGE)]);
    check("made writable", &[(0, mmap(1)), (0, lock), (0, mprotect(3))], &[(0, WRITTEN)]);
    check("no access", &[(0, mmap(0)), (0, lock)], &[(0, 0)]);
    check("not discarded", &[(0, mmap(3)), (0, lock), (0, dontneed)], &[(0, WRITTEN)]);
    check("discarded", &[(0, mmap(3)), (0, lock), (0, unlock), (0, dontneed)], &[(0, 0)]);
    check("the child's is not locked", &[(0, mmap(3)), (0, lock), (0, FORK), (1, dontneed)], &[(0, PROTECTED), (1, 0)]);
    check("shadow stack", &[(0, SHADOW_STACK), (0, dontneed), (0, lock)], &[(0, 0)]);
}

#[test]
fn shadow_stack_entries_are_those_seen_live() {
    check("token", &[(0, SHADOW_STACK)], &[(0, SHADOW)]);
    check("fork", &[(0, SHADOW_STACK), (0, FORK)], &[(0, PROTECTED), (1, PROTECTED_OLD)]);
    check("fork, child WRSS", &[(0, SHADOW_STACK), (0, FORK), (1, WRSS)], &[(0, PROTECTED), (1, SHADOW)]);
    check("plain store", &[(0, SHADOW_STACK), (0, WRITE)], &[(0, SHADOW)]);
    check("clear_refs", &[(0, SHADOW_STACK), (0, CLEAR)], &[(0, PROTECTED & !SOFT_DIRTY)]);
    check("clear_refs, WRSS", &[(0, SHADOW_STACK), (0, CLEAR), (0, WRSS)], &[(0, SHADOW)]);
    let narrow =
        |protection| Operation::Mprotect { range: ONE, protection: Protection::from_bits(protection).unwrap() };
    check("read-only keeps Dirty", &[(0, SHADOW_STACK), (0, narrow(1))], &[(0, SHADOW)]);
    check("none", &[(0, SHADOW_STACK), (0, narrow(0))], &[(0, 0x0400_0000_0000_0960)]);
    check("none and back", &[(0, SHADOW_STACK), (0, narrow(0)), (0, narrow(3))], &[(0, SHADOW)]);
}

#[test]
fn refusals_have_the_hardware_error_code() {
    let refused = |name: &str, steps: &[(usize, Operation)], code: i32, error_code: u32| {
        let mut model = Model::new(&machine(KernelVersion::LINUX_6_12, true));
        let mut outcome = None;
        for (index, &(who, operation)) in steps.iter().enumerate() {
            outcome = model.step(index, &Step { actor: actor(who), operation }).outcome;
        }
        let fault = crate::outcome::Fault { signal: 11, code, address: FIRST.address(), error_code, key: 0 };
        assert_eq!(outcome, Some(crate::outcome::Outcome::Faulted(fault)), "{name}");
    };
    refused("read of nothing", &[(0, READ)], 1, 0x4);
    refused("write of nothing", &[(0, WRITE)], 1, 0x6);
    refused("fetch from nothing", &[(0, EXECUTE)], 1, 0x14);
    refused("WRSS to nothing", &[(0, WRSS)], 1, 0x46);
    refused("write to read-only", &[(0, mmap(1)), (0, WRITE)], 2, 0x6);
    refused("write to the zero page, read-only", &[(0, mmap(1)), (0, READ), (0, WRITE)], 2, 0x7);
    refused("fetch of data maps the zero page first", &[(0, mmap(3)), (0, EXECUTE)], 2, 0x15);
    refused("read of PROT_NONE", &[(0, mmap(3)), (0, WRITE), (0, mprotect(0)), (0, READ)], 2, 0x4);
    refused("plain store to a shadow stack", &[(0, SHADOW_STACK), (0, WRITE)], 2, 0x7);
    refused("WRSS to ordinary memory", &[(0, mmap(3)), (0, WRITE), (0, WRSS)], 2, 0x47);
}

#[test]
fn kernels_differ_in_how_mprotect_merges() {
    let left = Operation::Mprotect { range: range(0, 2), protection: Protection::READ };
    let back = Operation::Mprotect { range: range(0, 2), protection: Protection::READ_WRITE };
    // Pages 0-1 become a VMA of their own, unpopulated; the rest is written, cleared, and merged again.
    let steps = [
        (0, mmap(3)),
        (0, Operation::Write { page: page(3) }),
        (0, left),
        (0, CLEAR),
        (0, Operation::Mmap { range: range(0, 2), protection: Protection::READ, placement: Placement::Fixed }),
        (0, back),
    ];
    for (version, merged_soft_dirty) in [(KernelVersion::LINUX_6_12, true), (KernelVersion::LINUX_7_2, true)] {
        let mut model = Model::as_released(&machine(version, true));
        for (index, &(who, operation)) in steps.iter().enumerate() {
            model.step(index, &Step { actor: actor(who), operation });
        }
        assert_eq!(model.mapping(actor(0), page(3)).unwrap().soft_dirty, merged_soft_dirty, "{version}");
    }
    // The reverse: the changed part is clean, its neighbour is dirty. 6.12 forgets by mistake, 7.2 keeps.
    let steps = [
        (0, mmap(3)),
        (0, left),
        (0, CLEAR),
        (0, Operation::Mmap { range: range(2, 2), protection: Protection::READ_WRITE, placement: Placement::Fixed }),
        (0, back),
    ];
    for (version, merged_soft_dirty) in [(KernelVersion::LINUX_6_12, false), (KernelVersion::LINUX_7_2, true)] {
        let mut model = Model::as_released(&machine(version, true));
        for (index, &(who, operation)) in steps.iter().enumerate() {
            model.step(index, &Step { actor: actor(who), operation });
        }
        assert_eq!(model.mapping(actor(0), page(3)).unwrap().soft_dirty, merged_soft_dirty, "{version}");
    }
}

#[test]
fn without_shadow_stacks_the_system_call_is_refused_and_dirty_moves_all_the_same() {
    let mut model = Model::new(&machine(KernelVersion::LINUX_7_2, false));
    let step = |model: &mut Model, index, operation| model.step(index, &Step { actor: actor(0), operation }).outcome;
    assert_eq!(step(&mut model, 0, SHADOW_STACK), Some(crate::outcome::Outcome::Failed(95)));
    step(&mut model, 1, mmap(3));
    step(&mut model, 2, WRITE);
    step(&mut model, 3, mprotect(1));
    let entry = model.entry(actor(0), FIRST).bits;
    assert!(entry.has(SAVED_DIRTY) && !entry.has(D), "{entry}");
}

#[test]
fn userfaultfd_does_what_was_seen_live() {
    use crate::uffd::{UffdFeatures, UffdId, UffdMode};
    let uffd = UffdId::FIRST;
    let open =
        |features: UffdFeatures| (0, Operation::UffdOpen { uffd, features: UffdFeatures::SIGBUS.with(features) });
    let plain = open(UffdFeatures::NONE);
    let register = |mode| (0, Operation::UffdRegister { uffd, range: ONE, mode });
    let (missing, wp) = (register(UffdMode::Missing), register(UffdMode::WriteProtect));
    let protect = (0, Operation::UffdWriteProtect { uffd, range: ONE, protect: true });
    let free = (0, Operation::UffdWriteProtect { uffd, range: ONE, protect: false });
    let copy = |protect| (0, Operation::UffdCopy { uffd, range: ONE, protect });
    let zero = (0, Operation::UffdZeropage { uffd, range: ONE });
    let map = (0, mmap(3));
    let marker = Entry::UFFD_WP_MARKER.0;
    let (old, new) = (&[KernelVersion::LINUX_6_1][..], &[KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2][..]);
    let guarded = 0x8400_0000_0000_0c25;
    type Row<'a> = (&'a [KernelVersion], &'a str, &'a [(usize, Operation)], u64);
    let rows: [Row<'_>; 21] = [
        (new, "protected", &[map, (0, WRITE), plain, wp, protect], guarded),
        (old, "protected, 6.1", &[map, (0, WRITE), plain, wp, protect], 0x8000_0000_0000_0c65),
        (new, "protected zero page", &[map, (0, READ), plain, wp, protect], 0x8000_0000_0000_0625),
        (new, "and back", &[map, (0, WRITE), plain, wp, protect, free], WRITTEN),
        (old, "and back, 6.1", &[map, (0, WRITE), plain, wp, protect, free], 0x8000_0000_0000_0865),
        (new, "not exclusive", &[map, (0, WRITE), (0, FORK), plain, wp, protect, free], PROTECTED),
        (new, "SIGBUS leaves it", &[map, (0, WRITE), plain, wp, protect, (0, WRITE)], guarded),
        (new, "to writable", &[map, (0, WRITE), plain, wp, protect, (0, mprotect(1)), (0, mprotect(3))], guarded),
        (new, "copied", &[map, plain, missing, copy(false)], WRITTEN),
        (new, "copied, read-only", &[(0, mmap(1)), plain, missing, copy(false)], PROTECTED),
        (new, "copied, protected", &[map, plain, wp, copy(true)], guarded),
        (old, "copied, protected, 6.1", &[map, plain, wp, copy(true)], 0x8000_0000_0000_0c65),
        (new, "zero page", &[map, plain, missing, zero], ZERO_PAGE),
        (new, "nothing without markers", &[map, plain, wp, protect], 0),
        (new, "marker", &[map, open(UffdFeatures::WP_UNPOPULATED), wp, protect], marker),
        (
            new,
            "marker, read",
            &[map, open(UffdFeatures::WP_UNPOPULATED), wp, protect, (0, READ)],
            0x8000_0000_0000_0625,
        ),
        (new, "marker, written", &[map, open(UffdFeatures::WP_UNPOPULATED), wp, protect, (0, WRITE)], guarded),
        (new, "marker freed", &[map, open(UffdFeatures::WP_UNPOPULATED), wp, protect, free], 0),
        (new, "marker, asynchronous", &[map, open(UffdFeatures::WP_ASYNC), wp, protect, (0, WRITE)], WRITTEN),
        (new, "closed", &[map, (0, WRITE), plain, wp, protect, (0, Operation::UffdClose { uffd })], WRITTEN),
        (
            &[KernelVersion::new(6, 1, 190)],
            "closed, before CVE-2024-36881 was fixed",
            &[map, (0, WRITE), plain, wp, protect, (0, Operation::UffdClose { uffd })],
            0x8000_0000_0000_0c65,
        ),
    ];
    for (versions, name, steps, entry) in rows {
        check_on(versions, name, steps, &[(0, entry)]);
    }
}
