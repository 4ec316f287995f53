//! Shrinking by execution, bounded and logged.

use proptest::strategy::ValueTree;
use ptediff_reference_model::program::Program;

use super::tree::ProgramValueTree;

/// One candidate that was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShrinkStep {
    /// Number of the execution, from 1.
    pub execution: u32,
    /// Steps of the candidate.
    pub steps: usize,
    /// Whether it still diverges, and is what is shrunk from now on.
    pub kept: bool,
}

/// What shrinking gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// The simplest program that was found to diverge still.
    pub program: Program,
    /// Steps of the program that it was made from.
    pub from_steps: usize,
    /// Candidates that were executed.
    pub executions: u32,
    /// The budget ended the search: a simpler program may exist.
    pub exhausted: bool,
}

/// Makes a diverging program simpler, executing at most `budget` candidates.
///
/// `diverges` executes a candidate and says whether it still diverges; it is never asked about the same
/// program twice, nor about `program` itself. `log` hears of every execution.
pub fn shrink(
    program: &Program,
    budget: u32,
    diverges: &mut dyn FnMut(&Program) -> bool,
    log: &mut dyn FnMut(ShrinkStep),
) -> Shrunk {
    let mut tree = ProgramValueTree::of(program.clone());
    let mut executions = 0;
    let mut more = tree.simplify();
    while more && executions < budget {
        executions += 1;
        let candidate = tree.current();
        let kept = diverges(&candidate);
        log(ShrinkStep { execution: executions, steps: candidate.steps.len(), kept });
        more = if kept { tree.simplify() } else { tree.complicate() };
    }
    Shrunk { program: tree.best().clone(), from_steps: program.steps.len(), executions, exhausted: more }
}
