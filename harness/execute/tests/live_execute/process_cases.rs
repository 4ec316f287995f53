//! Processes: their ends, their reuse, their smallness, and what they tell when they fail.

use std::time::{Duration, Instant};

use ptediff_execute::{ExecuteError, Executor, Suspect, WaitStatus};
use ptediff_reference_model::arena::{ActorId, PAGE_SIZE};
use ptediff_reference_model::outcome::Outcome::{self, Loaded, Stored, Succeeded};
use ptediff_reference_model::program::{Operation, Step};

use crate::case::{Case, Needs, actor, begin, check, fork, mmap, options, page, read, unmapped, write};

const EXIT: Operation = Operation::Exit;

pub(crate) const PROCESS_CASES: &[Case] = &[
    Case { name: "first-actor-is-reused", needs: Needs::Nothing, run: first_actor_is_reused },
    Case { name: "exited-actor-is-gone", needs: Needs::Nothing, run: exited_actor_is_gone },
    Case { name: "clear-soft-dirty", needs: Needs::Nothing, run: clear_soft_dirty },
    Case { name: "killed-actor-is-reported", needs: Needs::Nothing, run: killed_actor_is_reported },
    Case { name: "hung-actor-is-reported", needs: Needs::Nothing, run: hung_actor_is_reported },
    Case { name: "dead-nursery-is-reported", needs: Needs::Nothing, run: dead_nursery_is_reported },
    Case { name: "unsound-programs-are-refused", needs: Needs::Nothing, run: unsound_programs_are_refused },
    Case { name: "actors-are-small", needs: Needs::Nothing, run: actors_are_small },
    Case { name: "executor-leaves-nothing", needs: Needs::Nothing, run: executor_leaves_nothing },
];

fn perform(executor: &mut Executor, number: usize, operation: Operation) -> Result<Outcome, ExecuteError> {
    executor.perform(0, &Step { actor: actor(number), operation })
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, not {expected:?}")) }
}

fn says<T: std::fmt::Display>(error: T) -> String {
    error.to_string()
}

fn pid(executor: &Executor, number: usize) -> Result<u32, String> {
    executor.pid(actor(number)).ok_or_else(|| format!("actor {number} is not alive"))
}

fn exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn signal(pid: u32, name: &str, number: i32) -> Result<(), String> {
    own_signal::send(pid, number).map_err(|error| format!("{name}: {error}"))
}

/// The test's own signals to actors.
mod own_signal {
    #![expect(unsafe_code, reason = "kill(2) has no safe interface in std")]

    pub(super) fn send(pid: u32, signal: i32) -> std::io::Result<()> {
        // SAFETY: kill takes integers only.
        match unsafe { libc::kill(pid as i32, signal) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    }
}

fn first_actor_is_reused(executor: &mut Executor) -> Result<(), String> {
    begin(executor)?;
    let first = pid(executor, 0)?;
    check(executor, &[(0, mmap(0, 32, "rw"), Succeeded), (0, write(7), Stored), (0, fork(2), Succeeded)])?;
    expect("actor 2 after the end", executor.pid(actor(2)), None)?;
    let mut forks = Vec::new();
    executor.begin(&mut |forked| forks.push(forked)).map_err(says)?;
    expect("forks for the second program", forks, vec![])?;
    expect("actor 0", pid(executor, 0)?, first)?;
    check(executor, &[(0, read(7), unmapped(7, 4)), (0, EXIT, Succeeded)])?;
    expect("whether the exited actor exists", exists(first), false)?;
    let mut forks = Vec::new();
    executor.begin(&mut |forked| forks.push(forked)).map_err(says)?;
    expect("forks after the exit", forks, vec![ActorId::FIRST])?;
    // A program that was not ended is ended by the next.
    perform(executor, 0, mmap(0, 1, "rw")).map_err(says)?;
    check(executor, &[(0, read(0), unmapped(0, 4)), (0, mmap(0, 1, "rw"), Succeeded)])?;
    begin(executor)?;
    perform(executor, 0, fork(1)).map_err(says)?;
    check(executor, &[(0, fork(1), Succeeded)])
}

fn exited_actor_is_gone(executor: &mut Executor) -> Result<(), String> {
    begin(executor)?;
    for _ in 0..20 {
        perform(executor, 0, fork(1)).map_err(says)?;
        let child = pid(executor, 1)?;
        expect("whether the child exists", exists(child), true)?;
        expect("exit", perform(executor, 1, EXIT).map_err(says)?, Succeeded)?;
        expect("whether the child exists", exists(child), false)?;
        expect("pid of the child", executor.pid(actor(1)), None)?;
    }
    executor.end().map_err(says)
}

/// Bit 55 of /proc/pid/pagemap.
fn soft_dirty(pid: u32, number: usize) -> Result<bool, String> {
    use std::os::unix::fs::FileExt as _;
    let pagemap = std::fs::File::open(format!("/proc/{pid}/pagemap")).map_err(says)?;
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, page(number).address() / PAGE_SIZE * 8).map_err(says)?;
    Ok(u64::from_le_bytes(entry) >> 55 & 1 == 1)
}

fn clear_soft_dirty(executor: &mut Executor) -> Result<(), String> {
    begin(executor)?;
    for operation in [mmap(0, 2, "rw"), write(0), fork(1)] {
        perform(executor, 0, operation).map_err(says)?;
    }
    let (parent, child) = (pid(executor, 0)?, pid(executor, 1)?);
    expect("soft-dirty before", [soft_dirty(parent, 0)?, soft_dirty(child, 0)?], [true, true])?;
    expect("clear", perform(executor, 1, Operation::ClearSoftDirty).map_err(says)?, Succeeded)?;
    expect(
        "soft-dirty after the child cleared its own",
        [soft_dirty(parent, 0)?, soft_dirty(child, 0)?],
        [true, false],
    )?;
    expect("store", perform(executor, 1, write(0)).map_err(says)?, Stored)?;
    expect("soft-dirty after the store", soft_dirty(child, 0)?, true)?;
    for _ in 0..100 {
        // More times than a process has descriptors to lose.
        expect("clear", perform(executor, 0, Operation::ClearSoftDirty).map_err(says)?, Succeeded)?;
    }
    // The eventfd is the only one.
    expect("descriptors", std::fs::read_dir(format!("/proc/{parent}/fd")).map_err(says)?.count(), 1)?;
    executor.end().map_err(says)
}

fn killed_actor_is_reported(executor: &mut Executor) -> Result<(), String> {
    begin(executor)?;
    perform(executor, 0, fork(1)).map_err(says)?;
    for number in [1, 0] {
        signal(pid(executor, number)?, "SIGKILL", libc::SIGKILL)?;
        let died = Instant::now();
        match perform(executor, number, read(0)) {
            Err(error @ ExecuteError::ActorDied { actor: of, status: WaitStatus::Killed(libc::SIGKILL) }) => {
                expect("actor", of.index(), number)?;
                expect("suspect", error.suspect(), Suspect::RigOrKernel)?;
            }
            other => return Err(format!("a killed actor gave {other:?}")),
        }
        if died.elapsed() > Duration::from_millis(500) {
            return Err(format!("the death was seen after {:?}", died.elapsed()));
        }
        expect("pid", executor.pid(actor(number)), None)?;
    }
    executor.end().map_err(says)?;
    // Death between programs.
    begin(executor)?;
    executor.end().map_err(says)?;
    signal(pid(executor, 0)?, "SIGKILL", libc::SIGKILL)?;
    begin(executor)?;
    match perform(executor, 0, mmap(0, 1, "rw")) {
        Err(ExecuteError::ActorDied { .. }) => {}
        other => return Err(format!("an actor killed between programs gave {other:?}")),
    }
    executor.end().map_err(says)?;
    check(executor, &[(0, mmap(0, 1, "rw"), Succeeded), (0, read(0), Loaded(0))])
}

fn hung_actor_is_reported(_: &mut Executor) -> Result<(), String> {
    let mut executor = Executor::start(&options(false, Duration::from_millis(50))).map_err(says)?;
    for (number, operation) in [(0, read(0)), (1, read(0)), (0, EXIT)] {
        begin(&mut executor)?;
        perform(&mut executor, 0, fork(1)).map_err(says)?;
        let hung = pid(&executor, number)?;
        signal(hung, "SIGSTOP", libc::SIGSTOP)?;
        match perform(&mut executor, number, operation) {
            Err(ExecuteError::TimedOut { who, .. }) => expect("who", who, format!("actor {number}"))?,
            other => return Err(format!("a stopped actor gave {other:?}")),
        }
        executor.end().map_err(says)?;
        expect("whether the hung actor exists", exists(hung), false)?;
    }
    check(&mut executor, &[(0, read(0), unmapped(0, 4))])
}

fn dead_nursery_is_reported(_: &mut Executor) -> Result<(), String> {
    let mut executor = Executor::start(&options(false, Duration::from_secs(1))).map_err(says)?;
    signal(executor.nursery_pid(), "SIGKILL", libc::SIGKILL)?;
    match executor.begin(&mut |_| {}) {
        Err(error @ ExecuteError::NurseryDied { status: WaitStatus::Killed(libc::SIGKILL), .. }) => {
            expect("suspect", error.suspect(), Suspect::Rig)
        }
        other => Err(format!("a dead nursery gave {other:?}")),
    }
}

fn unsound_programs_are_refused(executor: &mut Executor) -> Result<(), String> {
    begin(executor)?;
    match perform(executor, 2, read(0)) {
        Err(error @ ExecuteError::NoSuchActor { .. }) => expect("suspect", error.suspect(), Suspect::Program)?,
        other => return Err(format!("an actor that does not exist gave {other:?}")),
    }
    perform(executor, 0, fork(1)).map_err(says)?;
    for (number, child) in [(0, 1), (0, 0), (1, 1)] {
        match perform(executor, number, fork(child)) {
            Err(ExecuteError::ActorTaken { actor: taken }) => expect("taken", taken.index(), child)?,
            other => return Err(format!("a fork of a living actor gave {other:?}")),
        }
    }
    executor.end().map_err(says)
}

fn actors_are_small(executor: &mut Executor) -> Result<(), String> {
    begin(executor)?;
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", pid(executor, 0)?)).map_err(says)?;
    // Code, shared memory, and a shadow stack where there is one; the kernel's vsyscall page is in every list.
    let own: Vec<_> = maps.lines().filter(|line| !line.ends_with("[vsyscall]")).collect();
    if own.len() > 3 || !own.iter().all(|line| line.starts_with("1000200")) {
        return Err(format!("an actor has mappings of no use:\n{maps}"));
    }
    executor.end().map_err(says)
}

fn executor_leaves_nothing(_: &mut Executor) -> Result<(), String> {
    let mut executor = Executor::start(&options(false, Duration::from_secs(1))).map_err(says)?;
    begin(&mut executor)?;
    perform(&mut executor, 0, fork(1)).map_err(says)?;
    let pids = [executor.nursery_pid(), pid(&executor, 0)?, pid(&executor, 1)?];
    drop(executor);
    expect("processes after the executor", pids.map(exists), [false; 3])
}
