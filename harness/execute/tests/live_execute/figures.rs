//! Costs: the guest does things many times and says when it starts and stops, the host holds the clock.

use std::io::Write;

use ptediff_execute::Executor;
use ptediff_reference_model::program::{Operation, Step};

use crate::case::{actor, begin, fork, mmap, mprotect, munmap, read, write};

const EXIT: Operation = Operation::Exit;

/// Eighteen operations, two of them forks.
const MIX: usize = 18;

fn mix() -> [(usize, Operation); MIX] {
    [
        (0, mmap(0, 8, "rw")),
        (0, write(0)),
        (0, write(1)),
        (0, read(2)),
        (0, fork(1)),
        (1, write(0)),
        (0, write(0)),
        (1, read(1)),
        (0, mprotect(0, 4, "r")),
        (0, write(1)),
        (0, mprotect(0, 4, "rw")),
        (0, fork(2)),
        (2, write(1)),
        (2, munmap(0, 2)),
        (0, write(1)),
        (1, EXIT),
        (2, read(2)),
        (0, read(0)),
    ]
}

/// Writes `start NAME COUNT` and `stop NAME` around each measured loop.
pub(crate) fn measure(executor: &mut Executor, out: &mut impl Write) -> Result<(), String> {
    let mut measured = |name: &str, count: usize, body: &mut dyn FnMut() -> Result<(), String>| {
        writeln!(out, "start {name} {count}").map_err(|error| error.to_string())?;
        for _ in 0..count {
            body()?;
        }
        writeln!(out, "stop {name}").map_err(|error| error.to_string())
    };
    begin(executor)?;
    let mut perform = |number: usize, operation: Operation| {
        let step = Step { actor: actor(number), operation };
        executor.perform(0, &step).map(|_| ()).map_err(|error| format!("{step}: {error}"))
    };
    perform(0, mmap(0, 8, "rw"))?;
    perform(0, write(0))?;
    measured("handshake with one load", 20_000, &mut || perform(0, read(0)))?;
    measured("fault with signal", 5_000, &mut || perform(0, read(20)))?;
    measured("fork and exit", 500, &mut || perform(0, fork(1)).and_then(|()| perform(1, EXIT)))?;
    measured("soft-dirty clear", 500, &mut || perform(0, Operation::ClearSoftDirty))?;
    executor.end().map_err(|error| error.to_string())?;
    measured("program of 18 operations with two forks", 300, &mut || {
        begin(executor)?;
        for (index, (number, operation)) in mix().into_iter().enumerate() {
            let step = Step { actor: actor(number), operation };
            executor.perform(index, &step).map_err(|error| format!("{step}: {error}"))?;
        }
        executor.end().map_err(|error| error.to_string())
    })
}
