//! Records as a machine would give them that does what the model says: to search for programs, and to see a mutated
//! model caught.

use crate::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex};
use crate::expectation::ExpectedFrame;
use crate::model::Model;
use crate::observation::{EntryChange, FrameName, ObservedEntry, StepRecord};
use crate::outcome::Outcome;
use crate::program::{Program, Step};

/// A machine that follows a model, step by step.
#[derive(Debug, Clone)]
pub struct Imagined {
    model: Model,
    entries: [[ObservedEntry; ARENA_PAGES]; ACTORS],
    steps: usize,
}

impl Imagined {
    /// A machine that does as the model says.
    #[must_use]
    pub fn new(model: Model) -> Self {
        Self { model, entries: [[ObservedEntry::NONE; ARENA_PAGES]; ACTORS], steps: 0 }
    }

    /// Performs a step; `None` where it is impossible.
    pub fn step(&mut self, step: &Step) -> Option<StepRecord> {
        if !self.model.is_possible(step) {
            return None;
        }
        let expectation = self.model.step(self.steps, step);
        self.steps += 1;
        let mut changes = Vec::new();
        for actor in ActorId::all().filter(|&actor| self.model.is_alive(actor)) {
            for page in (0..ARENA_PAGES).filter_map(|slot| PageIndex::new(slot).ok()) {
                let expected = self.model.entry(actor, page);
                let frame = match expected.frame {
                    ExpectedFrame::None => FrameName::NONE,
                    ExpectedFrame::Zero => FrameName::ZERO,
                    ExpectedFrame::Frame(number) => FrameName(number as u16 + 2),
                };
                let entry = ObservedEntry { bits: expected.bits, frame };
                let known = &mut self.entries[actor.index()][page.index()];
                if *known != entry {
                    *known = entry;
                    changes.push(EntryChange { actor, page, entry });
                }
            }
        }
        for actor in ActorId::all().filter(|&actor| !self.model.is_alive(actor)) {
            self.entries[actor.index()] = [ObservedEntry::NONE; ARENA_PAGES];
        }
        Some(StepRecord {
            outcome: expectation.outcome.unwrap_or(Outcome::Dead),
            alive: self.model.alive(),
            changes,
            transitions: Vec::new(),
            lost: 0,
            witness: None,
        })
    }
}

/// The records of a whole program; `None` where a step is impossible.
#[must_use]
pub fn records(model: Model, program: &Program) -> Option<Vec<StepRecord>> {
    let mut machine = Imagined::new(model);
    program.steps.iter().map(|step| machine.step(step)).collect()
}
