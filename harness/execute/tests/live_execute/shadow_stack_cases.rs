//! Shadow stacks: with a CPU that has them, and without. Error-code bit 6: a shadow-stack access.

use std::time::Duration;

use ptediff_execute::{ExecuteError, Executor};
use ptediff_reference_model::arena::PageIndex;
use ptediff_reference_model::outcome::Fault;
use ptediff_reference_model::outcome::Outcome::{Dead, Executed, Failed, Faulted, Killed, Loaded, Stored, Succeeded};
use ptediff_reference_model::program::{FrameCount, Operation, Step};

use crate::case::{
    Case, Needs, actor, begin, check, execute, fork, mmap, mmap_if_free, mprotect, munmap, options, read, refused,
    shadow, store_value, unmapped, write, wrss,
};

const EXIT: Operation = Operation::Exit;

pub(crate) const SHADOW_STACK_CASES: &[Case] = &[
    Case { name: "shadow-stack-is-refused-where-there-is-none", needs: Needs::NoShadowStack, run: refused_by_the_cpu },
    Case {
        name: "shadow-stack-pages",
        needs: Needs::ShadowStack,
        run: |executor| {
            let steps = [
                (0, shadow(8, 2, true), Succeeded),
                (0, read(8), Loaded(0)),
                (0, write(8), refused(8, 7)),
                (0, write(9), refused(9, 7)),
                (0, execute(9), refused(9, 0x15)),
                (0, wrss(8), Stored),
                (0, read(8), Loaded(store_value(5))),
                (0, wrss(9), Stored),
                (0, write(9), refused(9, 7)),
                (0, shadow(9, 1, false), Failed(17)),
                (0, mmap_if_free(9, 1), Failed(17)),
                (0, mmap(9, 1, "rw"), Succeeded),
                (0, write(9), Stored),
                (0, munmap(8, 1), Succeeded),
                (0, wrss(8), unmapped(8, 0x46)),
            ];
            check(executor, &steps)
        },
    },
    Case {
        name: "live-shadow-stack",
        needs: Needs::ShadowStack,
        run: |executor| {
            const TOP: u64 = 0x1000_0000_9000;
            let page = PageIndex::new(8).expect("a slot");
            let enter = Operation::EnterShadowStack { page };
            let frames = |count| FrameCount::try_from(count).expect("a number of frames");
            let call = |count| Operation::Call { frames: frames(count) };
            let back = |count| Operation::Return { frames: frames(count) };
            let protection_fault = |error_code| Faulted(Fault { signal: 11, code: 10, address: 0, error_code, key: 0 });
            let steps = [
                (0, call(1), Loaded(0)),
                (0, shadow(8, 1, true), Succeeded),
                (0, enter, Loaded(TOP)),
                (0, enter, protection_fault(4)),
                (0, call(3), Loaded(TOP - 24)),
                (0, write(8), refused(8, 7)),
                (0, fork(1), Succeeded),
                (1, back(3), Loaded(TOP)),
                (1, Operation::LeaveShadowStack, Loaded(0)),
                (0, Operation::OverwriteReturn, Stored),
                (0, back(1), protection_fault(1)),
                (0, Operation::DiscardFrames { frames: FrameCount::ONE }, Loaded(TOP - 16)),
                (0, munmap(8, 1), Succeeded),
                (0, call(1), Killed(11)),
                (0, read(8), Dead),
                (1, call(1), Loaded(0)),
            ];
            check(executor, &steps)
        },
    },
    Case {
        name: "shadow-stack-store-to-ordinary-memory",
        needs: Needs::ShadowStack,
        run: |executor| {
            let steps = [
                (0, mmap(0, 4, "rw"), Succeeded),
                (0, wrss(0), refused(0, 0x46)),
                (0, write(0), Stored),
                (0, wrss(0), refused(0, 0x47)),
                (0, mprotect(0, 1, "r"), Succeeded),
                (0, wrss(0), refused(0, 0x47)),
                (0, read(0), Loaded(store_value(2))),
                (0, wrss(5), unmapped(5, 0x46)),
                (0, mmap(6, 1, "rwx"), Succeeded),
                (0, execute(6), Executed),
            ];
            check(executor, &steps)
        },
    },
    Case {
        name: "shadow-stack-through-fork",
        needs: Needs::ShadowStack,
        run: |executor| {
            let steps = [
                (0, shadow(16, 2, true), Succeeded),
                (0, wrss(16), Stored),
                (0, fork(1), Succeeded),
                (1, read(16), Loaded(store_value(1))),
                (1, wrss(16), Stored),
                (0, read(16), Loaded(store_value(1))),
                (0, wrss(16), Stored),
                (1, read(16), Loaded(store_value(4))),
                (1, fork(2), Succeeded),
                (2, write(16), refused(16, 7)),
                (2, wrss(16), Stored),
                (1, EXIT, Succeeded),
                (2, read(16), Loaded(store_value(10))),
                (0, read(16), Loaded(store_value(6))),
            ];
            check(executor, &steps)
        },
    },
    Case { name: "two-hundred-forks-with-live-shadow-stacks", needs: Needs::ShadowStack, run: two_hundred_forks },
];

/// Every signal pushes to and pops from the process's own shadow stack, in parent and child alike, after the
/// fork made its page shared.
fn two_hundred_forks(executor: &mut Executor) -> Result<(), String> {
    begin(executor)?;
    let steps = [
        (0, fork(1), Succeeded),
        (1, read(0), unmapped(0, 4)),
        (0, write(0), unmapped(0, 6)),
        (1, fork(2), Succeeded),
        (2, execute(0), unmapped(0, 0x14)),
        (1, read(0), unmapped(0, 4)),
        (2, EXIT, Succeeded),
        (1, EXIT, Succeeded),
        (0, read(0), unmapped(0, 4)),
    ];
    for round in 0..100 {
        for (number, operation, expected) in steps {
            let step = Step { actor: actor(number), operation };
            match executor.perform(0, &step) {
                Ok(outcome) if outcome == expected => {}
                other => return Err(format!("round {round}, {step}: {other:x?}, not {expected}")),
            }
        }
    }
    executor.end().map_err(|error| error.to_string())
}

fn refused_by_the_cpu(executor: &mut Executor) -> Result<(), String> {
    match Executor::start(&options(true, Duration::from_secs(1))).map(|_| ()) {
        Err(ExecuteError::NoShadowStack { errno: 95, .. }) => {}
        other => return Err(format!("an executor with shadow stacks on a CPU without: {other:?}")),
    }
    check(executor, &[(0, shadow(0, 1, false), Failed(95)), (0, mmap(0, 1, "rw"), Succeeded)])?;
    // WRSSQ is an invalid opcode; si_addr is the instruction's own address, which is told as 0.
    begin(executor)?;
    let outcome = executor.perform(0, &Step { actor: actor(0), operation: wrss(0) });
    match outcome {
        Ok(Faulted(Fault { signal: 4, code: 2, address: 0, error_code: 0, key: 0 })) => {}
        other => return Err(format!("WRSSQ on a CPU without: {other:x?}")),
    }
    executor.end().map_err(|error| error.to_string())
}
