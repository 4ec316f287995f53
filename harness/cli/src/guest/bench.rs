//! The guest's part of `ptediff bench`: the same programs again and again, each time with more of the loop.
//!
//! The guest only sets marks; the host takes the times, as guest clocks are fiction.

use std::io::Write;

use ptediff_execute::Executor;
use ptediff_generate::{Options, program};
use ptediff_observe::Observer;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::Program;
use ptediff_trace::{Attempt, Figure, Frame, Writer};

use super::program::{Depth, RigError, Runner, run_bare};

/// Programs that are run before a phase is timed.
const WARM_UP: usize = 20;

/// Phases with the probes attached, and how far each goes.
pub const DEPTHS: [(&str, Depth); 3] =
    [("attached", Depth::Attached), ("snapshots", Depth::Observed), ("judged", Depth::Judged)];

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
