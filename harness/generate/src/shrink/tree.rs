//! proptest's view of shrinking.

use std::collections::HashSet;

use proptest::strategy::ValueTree;
use ptediff_reference_model::program::Program;

use super::candidate::{Pass, candidate, cost};

/// A program with everything simpler that it may become.
///
/// Every candidate can be performed wherever the program can, is not empty, costs strictly less than the
/// simplest program known to fail, and is offered once: shrinking ends whatever the test says.
#[derive(Debug, Clone)]
pub struct ProgramValueTree {
    /// The simplest program that is known to fail.
    best: Program,
    /// The program on trial.
    trial: Option<Program>,
    tried: HashSet<Program>,
    pass: Pass,
    position: usize,
    /// Whether `best` changed since the first pass began.
    improved: bool,
}

impl ProgramValueTree {
    /// The tree of a program, such as a stored one.
    #[must_use]
    pub fn of(program: Program) -> Self {
        Self { best: program, trial: None, tried: HashSet::new(), pass: Pass::FIRST, position: 0, improved: false }
    }

    /// The simplest program that is known to fail.
    #[must_use]
    pub fn best(&self) -> &Program {
        &self.best
    }

    /// Puts the next candidate on trial.
    fn advance(&mut self) -> bool {
        loop {
            match candidate(&self.best, self.pass, self.position) {
                Some(program) => {
                    self.position += 1;
                    let simpler = !program.steps.is_empty() && cost(&program) < cost(&self.best);
                    if simpler && self.tried.insert(program.clone()) {
                        self.trial = Some(program);
                        return true;
                    }
                }
                None => {
                    self.position = 0;
                    match self.pass.next() {
                        Some(pass) => self.pass = pass,
                        None if self.improved => (self.pass, self.improved) = (Pass::FIRST, false),
                        None => return false,
                    }
                }
            }
        }
    }
}

impl ValueTree for ProgramValueTree {
    type Value = Program;

    fn current(&self) -> Program {
        self.trial.as_ref().unwrap_or(&self.best).clone()
    }

    fn simplify(&mut self) -> bool {
        if let Some(program) = self.trial.take() {
            self.best = program;
            self.improved = true;
            // What followed the dropped part has moved to its place.
            self.position = self.position.saturating_sub(1);
        }
        self.advance()
    }

    fn complicate(&mut self) -> bool {
        self.trial.take().is_some() && self.advance()
    }
}
