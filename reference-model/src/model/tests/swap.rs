//! Swap and KSM: the entries that were seen live (QEMU, all three kernels; C.10 and J of the semantics digest).

use super::*;
use crate::entry::{SWP_EXCLUSIVE, SWP_OFFSET, SWP_SOFT_DIRTY, SWP_UFFD_WP, UFFD_WP};
use crate::outcome::Outcome;
use crate::uffd::{UffdFeatures, UffdId, UffdMode};

const OLD: &[KernelVersion] = &[KernelVersion::LINUX_6_1];
const ALL: &[KernelVersion] = &[KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2];
const OUT: Operation = Operation::Madvise { range: ONE, advice: Advice::PageOut };
const SWAPPED: u64 = SWP_OFFSET;
/// P US A SOFT_DIRTY NX.
const CAME_IN: u64 = 0x8000_0000_0000_0825;

fn advise(advice: Advice) -> Operation {
    Operation::Madvise { range: range(0, 2), advice }
}

#[test]
fn pages_go_out_and_come_in() {
    let out = [(0, mmap(3)), (0, WRITE), (0, OUT)];
    let with = |further: &[(usize, Operation)]| [&out[..], further].concat();
    check_on(ALL, "out", &out, &[(0, SWAPPED | SWP_SOFT_DIRTY | SWP_EXCLUSIVE)]);
    check_on(OLD, "load in 6.1", &with(&[(0, READ)]), &[(0, CAME_IN)]);
    check("load", &with(&[(0, READ)]), &[(0, 0x8000_0000_0000_0827)]);
    check_on(ALL, "store", &with(&[(0, WRITE)]), &[(0, WRITTEN)]);
    check_on(ALL, "clear_refs", &with(&[(0, CLEAR)]), &[(0, SWAPPED | SWP_EXCLUSIVE)]);
    check_on(ALL, "mprotect", &with(&[(0, mprotect(1))]), &[(0, SWAPPED | SWP_SOFT_DIRTY | SWP_EXCLUSIVE)]);
    check_on(ALL, "fork", &with(&[(0, FORK)]), &[(0, SWAPPED | SWP_SOFT_DIRTY), (1, SWAPPED | SWP_SOFT_DIRTY)]);
    check_on(ALL, "fork, load", &with(&[(0, FORK), (1, READ)]), &[(0, SWAPPED | SWP_SOFT_DIRTY), (1, CAME_IN)]);
    let alone = with(&[(0, FORK), (1, Operation::Exit), (0, READ)]);
    check_on(&[KernelVersion::LINUX_6_12], "the last entry", &alone, &[(0, 0x8000_0000_0000_0827)]);
    check_on(&[KernelVersion::LINUX_7_2], "the last entry", &alone, &[(0, CAME_IN)]);
    check_on(ALL, "the zero page stays", &[(0, mmap(3)), (0, READ), (0, OUT)], &[(0, ZERO_PAGE)]);
    let free = Operation::Madvise { range: ONE, advice: Advice::Free };
    check_on(ALL, "free", &with(&[(0, free)]), &[(0, 0)]);
    check_on(ALL, "given up, dropped", &[(0, mmap(3)), (0, WRITE), (0, free), (0, OUT)], &[(0, 0)]);
    let rewritten = [(0, mmap(3)), (0, WRITE), (0, free), (0, WRITE), (0, OUT)];
    check("given up, written, kept", &rewritten, &[(0, WRITTEN)]);
    check_on(OLD, "given up, written, kept", &rewritten, &[(0, WRITTEN & !A)]);
    check("shadow stack", &[(0, SHADOW_STACK), (0, OUT), (0, READ)], &[(0, 0x8000_0000_0000_0865)]);
}

#[test]
fn a_loaded_value_survives_the_swap() {
    for &version in ALL {
        let mut model = Model::as_released(&machine(version, false));
        let steps = [(0, mmap(3)), (0, WRITE), (0, OUT), (0, FORK), (1, WRITE), (0, READ), (1, READ)];
        let outcomes: Vec<_> = steps
            .into_iter()
            .enumerate()
            .map(|(index, (who, operation))| model.step(index, &Step { actor: actor(who), operation }).outcome)
            .collect();
        let value = |index| Some(Outcome::Loaded(crate::program::store_value(index)));
        assert_eq!((outcomes[5], outcomes[6]), (value(1), value(4)), "{version}");
    }
}

#[test]
fn protected_pages_keep_their_mark_in_swap() {
    let uffd = UffdId::FIRST;
    let protect = |protect| (0, Operation::UffdWriteProtect { uffd, range: ONE, protect });
    let steps = [
        (0, mmap(3)),
        (0, Operation::UffdOpen { uffd, features: UffdFeatures::SIGBUS }),
        (0, Operation::UffdRegister { uffd, range: ONE, mode: UffdMode::WriteProtect }),
        (0, WRITE),
        protect(true),
        (0, OUT),
    ];
    let with = |further: &[(usize, Operation)]| [&steps[..], further].concat();
    let marked = SWAPPED | SWP_SOFT_DIRTY | SWP_UFFD_WP | SWP_EXCLUSIVE;
    check_on(ALL, "out", &steps, &[(0, marked)]);
    check_on(ALL, "unprotected", &with(&[protect(false)]), &[(0, marked & !SWP_UFFD_WP)]);
    check_on(ALL, "and protected again", &with(&[protect(false), protect(true)]), &[(0, marked)]);
    check_on(ALL, "fork", &with(&[(0, FORK)]), &[(0, marked & !SWP_EXCLUSIVE), (1, SWAPPED | SWP_SOFT_DIRTY)]);
    check_on(ALL, "load", &with(&[(0, READ)]), &[(0, CAME_IN | UFFD_WP)]);
}

#[test]
fn equal_pages_are_merged() {
    let merge =
        [(0, mmap(3)), (0, advise(Advice::PopulateWrite)), (0, advise(Advice::Mergeable)), (0, Operation::MergePages)];
    // P US A NX: page 0 is replaced by page 1, which comes later.
    let drops = [KernelVersion::LINUX_6_1, KernelVersion::new(6, 12, 117), KernelVersion::LINUX_7_2];
    check_on(&drops, "replaced", &merge, &[(0, 0x8000_0000_0000_0025)]);
    check_on(&[KernelVersion::LINUX_6_12], "replaced, soft-dirty kept", &merge, &[(0, 0x8000_0000_0000_0825)]);
    let unmerged = [&merge[..], &[(0, advise(Advice::Unmergeable))]].concat();
    check_on(OLD, "unmerged in 6.1", &unmerged, &[(0, WRITTEN)]);
    check_on(&drops[1..], "unmerged", &unmerged, &[(0, 0x8000_0000_0000_0025)]);
    for &version in ALL {
        let mut model = Model::as_released(&machine(version, false));
        for (index, (who, operation)) in merge.into_iter().enumerate() {
            model.step(index, &Step { actor: actor(who), operation });
        }
        let (first, second) = (model.entry(actor(0), FIRST), model.entry(actor(0), page(1)));
        assert_eq!(first.frame, second.frame, "{version}");
        assert_eq!(second.bits.0, CAME_IN, "{version}");
    }
}
