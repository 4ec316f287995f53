//! Shared anonymous memory.

use super::*;

const ALL: &[KernelVersion] = &[KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2];
const BEFORE_7_2: &[KernelVersion] = &[KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12];
const ONLY_7_2: &[KernelVersion] = &[KernelVersion::LINUX_7_2];
/// Mapped by a load in a writable VMA.
const MAPPED: u64 = WRITTEN & !(D | SOFT_DIRTY);
/// Mapped by a load without RW.
const MAPPED_READ_ONLY: u64 = MAPPED & !RW;

fn shared(protection: u8) -> Operation {
    let protection = Protection::from_bits(protection).unwrap();
    Operation::MmapShared { range: range(0, 4), protection, placement: Placement::Fixed }
}

const DONTNEED: Operation = Operation::MadviseDontneed { range: ONE };
const EXIT: Operation = Operation::Exit;

#[test]
fn faults_find_the_page_of_the_object() {
    check_on(ALL, "first write", &[(0, shared(3)), (0, WRITE)], &[(0, WRITTEN)]);
    check_on(ALL, "first read", &[(0, shared(3)), (0, READ)], &[(0, MAPPED)]);
    check_on(ALL, "first read, read-only", &[(0, shared(1)), (0, READ)], &[(0, MAPPED_READ_ONLY)]);
    check_on(ALL, "read, then write", &[(0, shared(3)), (0, READ), (0, WRITE)], &[(0, MAPPED | D)]);
    check_on(ALL, "fork", &[(0, shared(3)), (0, WRITE), (0, FORK)], &[(0, WRITTEN), (1, 0)]);
    check_on(ALL, "child writes", &[(0, shared(3)), (0, WRITE), (0, FORK), (1, WRITE)], &[(0, WRITTEN), (1, WRITTEN)]);
    let clean = [(0, shared(3)), (0, READ), (0, FORK), (1, READ)];
    check_on(ALL, "child reads a clean page", &clean, &[(0, MAPPED), (1, MAPPED)]);
}

#[test]
fn a_dirty_folio_shows_in_7_2() {
    for (name, steps) in [
        ("child reads", vec![(0, shared(3)), (0, FORK), (1, WRITE), (0, READ)]),
        ("dropped", vec![(0, shared(3)), (0, WRITE), (0, DONTNEED), (0, READ)]),
        ("dropped, dirty by the CPU", vec![(0, shared(3)), (0, READ), (0, WRITE), (0, DONTNEED), (0, READ)]),
        ("child's, dirty by the CPU", vec![(0, shared(3)), (0, FORK), (1, READ), (1, WRITE), (1, EXIT), (0, READ)]),
    ] {
        check_on(BEFORE_7_2, name, &steps, &[(0, MAPPED)]);
        check_on(ONLY_7_2, name, &steps, &[(0, WRITTEN)]);
    }
    let clean = [(0, shared(3)), (0, READ), (0, DONTNEED), (0, READ)];
    check_on(ALL, "dropped clean", &clean, &[(0, MAPPED)]);
    let notified = [(0, shared(3)), (0, WRITE), (0, CLEAR), (0, DONTNEED), (0, READ)];
    check_on(ALL, "dirty, but write-notified", &notified, &[(0, MAPPED_READ_ONLY)]);
}

#[test]
fn write_notification_follows_soft_dirty() {
    let cleared = [(0, shared(3)), (0, WRITE), (0, CLEAR)];
    check("clear_refs", &cleared, &[(0, PROTECTED & !SOFT_DIRTY)]);
    let with = |more: &[(usize, Operation)]| [&cleared[..], more].concat();
    check_on(ALL, "and a store", &with(&[(0, WRITE)]), &[(0, WRITTEN)]);
    check("and mprotect", &with(&[(0, mprotect(1)), (0, mprotect(3))]), &[(0, PROTECTED & !SOFT_DIRTY)]);
    // Soft-dirty again, but vm_page_prot of `rwx` lacks RW too.
    check("and mprotect after a store", &with(&[(0, WRITE), (0, mprotect(7))]), &[(0, PROTECTED & !NX)]);
    check_on(
        ALL,
        "mprotect and back",
        &[(0, shared(3)), (0, READ), (0, mprotect(1)), (0, mprotect(3))],
        &[(0, MAPPED)],
    );
}

#[test]
fn contents_live_as_long_as_the_object() {
    let loaded = |name: &str, steps: &[(usize, Operation)], expected: u64| {
        for &version in ALL {
            let mut model = Model::as_released(&machine(version, false));
            let mut outcome = None;
            for (index, &(who, operation)) in steps.iter().enumerate() {
                outcome = model.step(index, &Step { actor: actor(who), operation }).outcome;
            }
            assert_eq!(outcome, Some(crate::outcome::Outcome::Loaded(expected)), "{name} on {version}");
        }
    };
    let stored = crate::program::store_value(1);
    let unmap = Operation::Munmap { range: ONE };
    loaded("dropped", &[(0, shared(3)), (0, WRITE), (0, DONTNEED), (0, READ)], stored);
    loaded("child", &[(0, shared(3)), (0, WRITE), (0, FORK), (0, unmap), (1, READ)], stored);
    loaded("mapped anew", &[(0, shared(3)), (0, WRITE), (0, shared(3)), (0, READ)], 0);
    loaded("private", &[(0, shared(3)), (0, WRITE), (0, mmap(3)), (0, READ)], 0);
}

#[test]
fn advice_and_locks_know_shared_memory() {
    let refused = |advice, expected| {
        let mut model = Model::as_released(&machine(KernelVersion::LINUX_7_2, false));
        model.step(0, &Step { actor: actor(0), operation: shared(3) });
        let operation = Operation::Madvise { range: ONE, advice };
        assert_eq!(model.step(1, &Step { actor: actor(0), operation }).outcome, Some(expected), "{advice:?}");
    };
    use crate::outcome::Outcome::{Failed, Succeeded};
    refused(Advice::Free, Failed(22));
    refused(Advice::WipeOnFork, Failed(22));
    refused(Advice::KeepOnFork, Succeeded);
    refused(Advice::DontFork, Succeeded);
    let lock = Operation::Mlock { range: ONE };
    check_on(ALL, "mlock loads", &[(0, shared(3)), (0, lock)], &[(0, MAPPED)]);
    check_on(ALL, "mlock, made writable", &[(0, shared(1)), (0, lock), (0, mprotect(3))], &[(0, MAPPED)]);
    let cold = Operation::Madvise { range: ONE, advice: Advice::Cold };
    let both = [(0, shared(3)), (0, WRITE), (0, FORK), (1, WRITE), (0, cold)];
    check_on(ALL, "cold, mapped twice", &both, &[(0, WRITTEN)]);
    check_on(ALL, "cold", &[(0, shared(3)), (0, WRITE), (0, cold)], &[(0, WRITTEN & !A)]);
}

#[test]
fn moved_mappings_keep_their_place_in_the_object() {
    let to = range(8, 1);
    let moved = |keep| Operation::Mremap { range: ONE, to, keep };
    let there = |operation: fn(PageIndex) -> Operation| operation(page(8));
    let read_there = there(|page| Operation::Read { page });
    let write_there = there(|page| Operation::Write { page });
    check_on(ALL, "left behind", &[(0, shared(3)), (0, READ), (0, moved(true))], &[(0, 0)]);
    let both = [(0, shared(3)), (0, READ), (0, moved(true)), (0, READ)];
    check_on(ALL, "and found again", &both, &[(0, MAPPED)]);
    for keep in [false, true] {
        for &version in ALL {
            let mut model = Model::as_released(&machine(version, false));
            let back = Operation::Mremap { range: to, to: ONE, keep: false };
            let steps = [shared(3), WRITE, DONTNEED, moved(keep), write_there, read_there, back, READ];
            let mut outcome = None;
            for (index, operation) in steps.into_iter().enumerate() {
                outcome = model.step(index, &Step { actor: actor(0), operation }).outcome;
            }
            let stored = crate::outcome::Outcome::Loaded(crate::program::store_value(4));
            assert_eq!(outcome, Some(stored), "{version}, keep {keep}");
        }
    }
}

#[test]
fn a_mapping_that_grows_leaves_its_object_as_it_is() {
    use crate::outcome::Outcome::{Failed, Faulted};
    let last = |steps: &[Operation]| {
        let mut model = Model::as_released(&machine(KernelVersion::LINUX_6_12, false));
        let mut given = None;
        for (index, &operation) in steps.iter().enumerate() {
            given = Some(model.step(index, &Step { actor: actor(0), operation }));
        }
        given.expect("a step")
    };
    let grown = [shared(3), Operation::MremapResize { range: range(0, 4), pages: 6 }];
    let with = |operation| last(&[grown[0], grown[1], operation]);
    let fault = crate::outcome::Fault { signal: 7, code: 2, address: page(4).address(), error_code: 0x6, key: 0 };
    assert_eq!(with(Operation::Write { page: page(4) }).outcome, Some(Faulted(fault)));
    let populate = |range| Operation::Madvise { range, advice: Advice::PopulateRead };
    for (first, faults) in [(3, 3), (4, 1)] {
        let step = with(populate(range(first, 2)));
        assert_eq!((step.outcome, step.transitions.len()), (Some(Failed(14)), faults), "from page {first}");
    }
    let step = with(Operation::Mlock { range: range(2, 3) });
    assert_eq!((step.outcome, step.transitions.len()), (Some(Failed(12)), 4));
}
