//! Ordinary memory: every operation, every kind of fault. Error codes: bit 0 present, 1 write, 2 user, 4 fetch.

use ptediff_reference_model::outcome::Outcome::{Executed, Failed, Loaded, Stored, Succeeded};
use ptediff_reference_model::program::Operation;

use crate::case::{
    Case, Needs, check, dontneed, execute, fork, mmap, mmap_if_free, mprotect, munmap, read, refused, store_value,
    unmapped, write,
};
use crate::process_cases::PROCESS_CASES;
use crate::shadow_stack_cases::SHADOW_STACK_CASES;

const EXIT: Operation = Operation::Exit;

/// All cases.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    MEMORY_CASES.iter().chain(PROCESS_CASES).chain(SHADOW_STACK_CASES)
}

const MEMORY_CASES: &[Case] = &[
    Case {
        name: "loads-and-stores",
        needs: Needs::Nothing,
        run: |executor| {
            let last = Loaded(store_value(6));
            let steps = [
                (0, mmap(0, 32, "rw"), Succeeded),
                (0, read(0), Loaded(0)),
                (0, write(0), Stored),
                (0, read(0), Loaded(store_value(2))),
                (0, write(0), Stored),
                (0, read(0), Loaded(store_value(4))),
                (0, write(31), Stored),
                (0, read(31), last),
                (0, read(30), Loaded(0)),
            ];
            check(executor, &steps)
        },
    },
    Case {
        name: "faults-of-unmapped-pages",
        needs: Needs::Nothing,
        run: |executor| {
            let steps = [
                (0, read(3), unmapped(3, 4)),
                (0, write(3), unmapped(3, 6)),
                (0, execute(3), unmapped(3, 0x14)),
                (0, mmap(3, 1, "rwx"), Succeeded),
                (0, write(3), Stored),
                (0, munmap(3, 1), Succeeded),
                (0, read(3), unmapped(3, 4)),
            ];
            check(executor, &steps)
        },
    },
    Case {
        name: "faults-of-protection",
        needs: Needs::Nothing,
        run: |executor| {
            let steps = [
                (0, mmap(0, 4, "r"), Succeeded),
                (0, write(0), refused(0, 6)),
                // A fetch from an absent page of a readable mapping is first served like a load
                // (arch/x86/mm/fault.c: access_error), and refused once the page is there.
                (0, execute(0), refused(0, 0x15)),
                (0, read(0), Loaded(0)),
                (0, write(0), refused(0, 7)),
                (0, execute(0), refused(0, 0x15)),
                (0, mprotect(0, 1, "rw"), Succeeded),
                (0, write(0), Stored),
                (0, mprotect(0, 1, "r"), Succeeded),
                (0, write(0), refused(0, 7)),
                (0, read(0), Loaded(store_value(7))),
                (0, mprotect(0, 1, ""), Succeeded),
                (0, read(0), refused(0, 4)),
                (0, write(0), refused(0, 6)),
                (0, execute(0), refused(0, 0x14)),
                (0, mprotect(0, 1, "r"), Succeeded),
                (0, read(0), Loaded(store_value(7))),
            ];
            check(executor, &steps)
        },
    },
    Case {
        name: "fetches",
        needs: Needs::Nothing,
        run: |executor| {
            let steps = [
                (0, mmap(5, 2, "rwx"), Succeeded),
                (0, execute(5), Executed),
                (0, write(5), Stored),
                (0, execute(5), Executed),
                (0, mprotect(5, 1, "rw"), Succeeded),
                (0, execute(5), refused(5, 0x15)),
                (0, mprotect(5, 1, "x"), Succeeded),
                (0, execute(5), Executed),
                (0, mprotect(6, 1, "rx"), Succeeded),
                (0, execute(6), Executed),
                (0, execute(7), unmapped(7, 0x14)),
                (0, execute(5), Executed),
            ];
            check(executor, &steps)
        },
    },
    Case {
        name: "errnos",
        needs: Needs::Nothing,
        run: |executor| {
            let steps = [
                (0, munmap(0, 32), Succeeded),
                (0, mprotect(0, 1, "r"), Failed(12)),
                (0, dontneed(0, 1), Failed(12)),
                (0, mmap(4, 2, "rw"), Succeeded),
                (0, mmap_if_free(5, 2), Failed(17)),
                (0, mmap_if_free(6, 2), Succeeded),
                (0, mmap(5, 1, "r"), Succeeded),
                (0, write(5), refused(5, 6)),
                (0, dontneed(3, 2), Failed(12)),
            ];
            check(executor, &steps)
        },
    },
    Case {
        name: "madvise-dontneed",
        needs: Needs::Nothing,
        run: |executor| {
            let steps = [
                (0, mmap(8, 2, "rw"), Succeeded),
                (0, write(8), Stored),
                (0, write(9), Stored),
                (0, dontneed(8, 1), Succeeded),
                (0, read(8), Loaded(0)),
                (0, read(9), Loaded(store_value(2))),
            ];
            check(executor, &steps)
        },
    },
    Case {
        name: "forks-are-apart",
        needs: Needs::Nothing,
        run: |executor| {
            let steps = [
                (0, mmap(0, 4, "rw"), Succeeded),
                (0, write(0), Stored),
                (0, fork(1), Succeeded),
                (1, read(0), Loaded(store_value(1))),
                (1, write(0), Stored),
                (0, read(0), Loaded(store_value(1))),
                (0, write(0), Stored),
                (1, read(0), Loaded(store_value(4))),
                (1, fork(3), Succeeded),
                (1, EXIT, Succeeded),
                (3, read(0), Loaded(store_value(4))),
                (3, fork(1), Succeeded),
                (1, munmap(0, 1), Succeeded),
                (1, read(0), unmapped(0, 4)),
                (3, write(0), Stored),
                (0, EXIT, Succeeded),
                (3, fork(0), Succeeded),
                (0, read(0), Loaded(store_value(14))),
                (0, write(9), unmapped(9, 6)),
                (1, write(9), unmapped(9, 6)),
                (3, write(9), unmapped(9, 6)),
                (0, fork(2), Succeeded),
                (2, read(0), Loaded(store_value(14))),
            ];
            check(executor, &steps)
        },
    },
];
