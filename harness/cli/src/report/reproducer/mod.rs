//! A program as a stand-alone C file: one that needs libc and gcc alone, performs the program with processes
//! of its own, and prints what user space can see of it. See [`reproducer`].
//!
//! What a person must read is in `main` of the generated file: step by step what is done and, as comments,
//! what the model says of it. Only what the program uses is put out.

mod expected;
mod live;
mod pieces;
mod source;

use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::program::Program;
use thiserror::Error;

pub use expected::{ExpectedStep, expected_steps};

/// What to make a reproducer of.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Name of the entry.
    pub name: &'a str,
    /// What it is for.
    pub description: &'a str,
    /// The machine of which the model's expectations are told.
    pub machine: &'a Machine,
    /// The program.
    pub program: &'a Program,
    /// What was found with it, for people: paragraphs for the head of the file; empty where nothing was.
    pub finding: &'a [String],
}

/// The machine cannot perform the program, so that nothing can be expected of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("step {index} ({step}) cannot be performed on {machine}")]
pub struct ImpossibleStep {
    /// Index of the step.
    pub index: usize,
    /// The step in words.
    pub step: String,
    /// The machine in words.
    pub machine: String,
}

/// Why there is no C source of a program.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoReproducer {
    /// Nothing can be expected of it.
    #[error(transparent)]
    Impossible(#[from] ImpossibleStep),
    /// An actor may run on a shadow stack of the program, and can call no C function then: operations of other families
    /// are not written without calls.
    #[error("step {index} ({step}) is not written as C where an actor may run on a shadow stack of the program")]
    BesideLiveStack {
        /// Index of the step.
        index: usize,
        /// The step in words.
        step: String,
    },
}

/// The C source.
///
/// # Errors
/// [`NoReproducer`].
pub fn reproducer(subject: &Subject<'_>) -> Result<String, NoReproducer> {
    let steps = expected_steps(subject.machine, subject.machine.kernel(), subject.program)?;
    if let Some(index) = source::beside_live_stack(subject.program) {
        let step = subject.program.steps[index].to_string();
        return Err(NoReproducer::BesideLiveStack { index, step });
    }
    Ok(source::source(subject, &steps))
}

/// The first step that the machine cannot perform.
fn require_possible(model: &Model, machine: &Machine, index: usize, program: &Program) -> Result<(), ImpossibleStep> {
    let step = &program.steps[index];
    if model.is_possible(step) {
        return Ok(());
    }
    Err(ImpossibleStep { index, step: step.to_string(), machine: machine_text(machine) })
}

/// The machine that is expected, in words.
fn machine_text(machine: &Machine) -> String {
    let with = if machine.shadow_stack { "with" } else { "without" };
    format!("Linux {} on a CPU {with} user shadow stacks", machine.version)
}
