//! The guest's part of `ptediff bench`: the same programs again and again, each time with more of the loop.
//!
//! The guest only sets marks; the host takes the times, as guest clocks are fiction.

use std::io::Write;

use ptediff_execute::Executor;
use ptediff_generate::{Options, program};
use ptediff_observe::{Loader, Observer, ObserverOptions, ProbeObserver, Witnesses};
use ptediff_reference_model::arena::{ARENA_PAGES, ActorId, PageIndex, PageRange};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::{Operation, Placement, Program, Protection, Step};
use ptediff_trace::{Attempt, Figure, Frame, Writer};

use super::program::{Depth, RigError, Runner, run_bare};

/// Programs that are run before a phase is timed.
const WARM_UP: usize = 20;

/// Phases with the probes attached, and how far each goes.
pub const DEPTHS: [(&str, Depth); 3] =
    [("attached", Depth::Attached), ("snapshots", Depth::Observed), ("judged", Depth::Judged)];

/// Times that each loader loads, attaches and observes a storm; by turns with the other.
const LOADER_ROUNDS: usize = 4;

/// Room for the events of a storm, which are read at once: an event takes 56 bytes in it.
const LOADER_RING: u32 = 1 << 24;

fn programs(machine: &Machine, seed: u64, count: u32, max_steps: u16) -> Vec<Program> {
    let options = Options { steps: 8..=usize::from(max_steps), profile: None };
    (0..count).map(|index| program(seed, index, machine, &options)).collect()
}

fn mark<W: Write>(writer: &mut Writer<W>, name: &str, value: f64) -> Result<(), RigError> {
    writer
        .send(&Frame::Figures(vec![Figure { name: name.to_owned(), value }]))
        .map_err(|error| RigError::of("the trace cannot be written", &error))
}

/// The phases before any probe is attached: generation, and the bare programs.
///
/// # Errors
/// The rig failed.
pub fn bare<W: Write>(
    writer: &mut Writer<W>,
    executor: &mut Executor,
    machine: &Machine,
    seed: u64,
    count: u32,
    max_steps: u16,
) -> Result<(), RigError> {
    mark(writer, "generate begins", 0.0)?;
    let made = programs(machine, seed, count, max_steps);
    mark(writer, "generate ends", 0.0)?;
    let steps: usize = made.iter().map(|program| program.steps.len()).sum();
    mark(writer, "programs", f64::from(count))?;
    mark(writer, "steps", steps as f64)?;
    for program in made.iter().take(WARM_UP) {
        run_bare(executor, program)?;
    }
    mark(writer, "bare begins", 0.0)?;
    for program in &made {
        run_bare(executor, program)?;
    }
    mark(writer, "bare ends", 0.0)
}

/// Steps of the storm; all but two change the protection of all pages, which is an event a page.
const STORM_STEPS: usize = 1000;

/// A program that gives as many events as possible for what its steps cost.
fn storm() -> Program {
    let range = PageRange::new(0, ARENA_PAGES).expect("the arena");
    let map = Operation::Mmap { range, protection: Protection::READ_WRITE, placement: Placement::Fixed };
    let writes = ARENA_PAGES;
    let protect = (0..STORM_STEPS - writes - 1).map(|number| {
        let protection = if number % 2 == 0 { Protection::READ } else { Protection::READ_WRITE };
        Operation::Mprotect { range, protection }
    });
    let operations = std::iter::once(map)
        .chain((0..writes).map(|page| Operation::Write { page: PageIndex::new(page).expect("a page of the arena") }))
        .chain(protect);
    Program { steps: operations.map(|operation| Step { actor: ActorId::FIRST, operation }).collect() }
}

/// The loaders side by side: load, attach, a storm with the probes attached and unread, all events read at once; and
/// the storm without probes. By turns, so that what else the host does meets all. A failure takes the writer along.
///
/// # Errors
/// The rig failed.
pub fn loaders<W: Write>(
    mut writer: Writer<W>,
    start: &dyn Fn() -> Result<Executor, RigError>,
    machine: &Machine,
) -> Result<Writer<W>, RigError> {
    let storm = storm();
    for _ in 0..LOADER_ROUNDS {
        let mut bare = start()?;
        mark(&mut writer, "unobserved storm begins", 0.0)?;
        run_bare(&mut bare, &storm)?;
        mark(&mut writer, "unobserved storm ends", 1.0)?;
        drop(bare);
        for loader in Loader::built_in() {
            writer = turn(loader, start()?, machine, &storm, writer)?;
        }
    }
    Ok(writer)
}

/// One loader's turn.
fn turn<W: Write>(
    loader: Loader,
    executor: Executor,
    machine: &Machine,
    storm: &Program,
    mut writer: Writer<W>,
) -> Result<Writer<W>, RigError> {
    let failed = |error| RigError::of("the probes of a loader", &error);
    let options = ObserverOptions { ring_bytes: LOADER_RING, ..ObserverOptions::default() };
    mark(&mut writer, &format!("{loader} load begins"), 0.0)?;
    let mut observer = ProbeObserver::load(loader, &options).map_err(failed)?;
    mark(&mut writer, &format!("{loader} load ends"), 1.0)?;
    mark(&mut writer, &format!("{loader} attach begins"), 0.0)?;
    observer.attach().map_err(failed)?;
    mark(&mut writer, &format!("{loader} attach ends"), 1.0)?;
    observer.set_nursery(executor.nursery_pid());
    let witnesses = Witnesses::open(observer.description()).map_err(failed)?;
    let mut runner = Runner::new(machine.clone(), executor, observer, witnesses, writer);
    mark(&mut runner.writer, &format!("{loader} storm begins"), 0.0)?;
    runner.run_to(storm, Depth::Unread)?;
    mark(&mut runner.writer, &format!("{loader} storm ends"), 1.0)?;
    let mut transitions = Vec::with_capacity(STORM_STEPS * ARENA_PAGES);
    mark(&mut runner.writer, &format!("{loader} read begins"), 0.0)?;
    let lost = runner.drain(&mut transitions)?;
    mark(&mut runner.writer, &format!("{loader} read ends"), transitions.len() as f64)?;
    if lost > 0 {
        return Err(RigError(format!("{loader} lost {lost} events in a ring buffer of {LOADER_RING} bytes")));
    }
    Ok(runner.writer)
}

/// The phases with probes: each of [`DEPTHS`], then the whole loop.
///
/// # Errors
/// The rig failed.
pub fn observed<O: Observer, W: Write>(
    runner: &mut Runner<O, W>,
    seed: u64,
    count: u32,
    max_steps: u16,
) -> Result<(), RigError> {
    let made = programs(&runner.machine, seed, count, max_steps);
    for program in made.iter().take(WARM_UP) {
        runner.run_to(program, Depth::Judged)?;
    }
    for (name, depth) in DEPTHS {
        mark(&mut runner.writer, &format!("{name} begins"), 0.0)?;
        for program in &made {
            runner.run_to(program, depth)?;
        }
        mark(&mut runner.writer, &format!("{name} ends"), 0.0)?;
    }
    mark(&mut runner.writer, "whole begins", 0.0)?;
    for (index, program) in made.iter().enumerate() {
        runner.run(index as u32, Attempt::First, program)?;
    }
    mark(&mut runner.writer, "whole ends", 0.0)
}
