//! The strategy, and programs by seed.

use std::ops::RangeInclusive;

use proptest::strategy::{NewTree, Strategy};
use proptest::test_runner::TestRunner;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::{MAX_STEPS, Program};

use crate::draw::draw;
use crate::profile::Profile;
use crate::seed::{program_seed, random_numbers};
use crate::shrink::ProgramValueTree;

/// What a generated program may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Number of steps; cut to `1..=MAX_STEPS`.
    pub steps: RangeInclusive<usize>,
    /// What programs favour; picked from the program's seed where there is none.
    pub profile: Option<Profile>,
}

impl Default for Options {
    fn default() -> Self {
        Self { steps: 8..=50, profile: None }
    }
}

impl Options {
    /// The fewest and the most steps.
    pub(crate) fn bounds(&self) -> (usize, usize) {
        let fewest = (*self.steps.start()).clamp(1, MAX_STEPS);
        (fewest, (*self.steps.end()).clamp(fewest, MAX_STEPS))
    }
}

/// The program with this index in the campaign with this seed.
///
/// It depends on nothing else than the arguments (and on the model, which is asked for the state that
/// each step meets), so any program of a campaign can be made again alone.
#[must_use]
pub fn program(campaign_seed: u64, index: u32, machine: &Machine, options: &Options) -> Program {
    program_of_seed(program_seed(campaign_seed, index), machine, options)
}

/// The program with this seed of its own; see [`program_seed`].
#[must_use]
pub fn program_of_seed(seed: u64, machine: &Machine, options: &Options) -> Program {
    draw(&mut random_numbers(seed), machine, options)
}

/// Programs for a machine, as a proptest strategy.
#[derive(Debug, Clone)]
pub struct ProgramStrategy {
    /// The machine whose model the programs are drawn along.
    pub machine: Machine,
    /// What they may be.
    pub options: Options,
}

impl Strategy for ProgramStrategy {
    type Tree = ProgramValueTree;
    type Value = Program;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        Ok(ProgramValueTree::of(draw(runner.rng(), &self.machine, &self.options)))
    }
}
