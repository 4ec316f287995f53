//! The shortest programs on which the inference is wrong: all programs of a small alphabet, shortest first.

use super::imagined::Imagined;
use super::inference::{Decision, Wrong, decide, visible};
use super::tracker::{Case, Tracker};
use crate::arena::{ActorId, PageIndex, PageRange};
use crate::machine::Machine;
use crate::model::Model;
use crate::program::{Advice, Operation, Placement, Program, Protection, Step};
use crate::uffd::{UffdFeatures, UffdId, UffdMode};

/// The alphabet: two pages, two actors. An operation that is said to be for setting up occurs once at most.
fn alphabet() -> Vec<(Step, bool)> {
    const SET_UP: bool = true;
    let first = PageIndex::FIRST;
    let page = PageRange::FIRST_PAGE;
    let both = PageRange::new(0, 2).expect("two pages");
    let uffd = UffdId::FIRST;
    let of_first = |operation| Step { actor: ActorId::FIRST, operation };
    let advise = |range, advice| of_first(Operation::Madvise { range, advice });
    vec![
        (
            of_first(Operation::Mmap { range: both, protection: Protection::READ_WRITE, placement: Placement::Fixed }),
            SET_UP,
        ),
        (of_first(Operation::UffdOpen { uffd, features: UffdFeatures::SIGBUS }), SET_UP),
        (of_first(Operation::UffdRegister { uffd, range: both, mode: UffdMode::WriteProtect }), SET_UP),
        (of_first(Operation::UffdWriteProtect { uffd, range: page, protect: true }), SET_UP),
        (of_first(Operation::UffdWriteProtect { uffd, range: page, protect: false }), SET_UP),
        (of_first(Operation::Read { page: first }), SET_UP),
        (of_first(Operation::Fork { child: ActorId::SECOND }), SET_UP),
        (Step { actor: ActorId::SECOND, operation: Operation::Exit }, SET_UP),
        (advise(both, Advice::PopulateWrite), SET_UP),
        (advise(both, Advice::Mergeable), SET_UP),
        (of_first(Operation::MergePages), SET_UP),
        (advise(page, Advice::PageOut), SET_UP),
        (of_first(Operation::Write { page: first }), !SET_UP),
    ]
}

/// A program, and how the inference is wrong at its last step.
pub type Found = (Program, Wrong);

struct Search {
    alphabet: Vec<(Step, bool)>,
    machine: Machine,
    found: Vec<Found>,
    programs: u64,
}

/// For each way in which the inference can be wrong one program of the fewest steps, `longest` at most, on a machine
/// that does what the model says; and the number of programs that were looked at.
#[must_use]
pub fn shortest(machine: &Machine, longest: usize) -> (Vec<Found>, u64) {
    let mut search = Search { alphabet: alphabet(), machine: machine.clone(), found: Vec::new(), programs: 0 };
    for length in 1..=longest {
        let start = (Imagined::new(Model::new(&search.machine)), Tracker::new(machine.dialect));
        search.extend(&mut Vec::new(), &start, length);
    }
    (search.found, search.programs)
}

impl Search {
    /// All programs that begin as this one and have `left` steps more. The last of them is a store.
    fn extend(&mut self, steps: &mut Vec<usize>, state: &(Imagined, Tracker), left: usize) {
        for letter in 0..self.alphabet.len() {
            let (step, is_set_up) = self.alphabet[letter];
            let is_store = matches!(step.operation, Operation::Write { .. });
            // Nothing can be done before there is memory, and only a store decides.
            if is_set_up && steps.contains(&letter) || steps.is_empty() != (letter == 0) || left == 1 && !is_store {
                continue;
            }
            let (mut machine, mut tracker) = state.clone();
            let seen = match step.operation {
                Operation::Write { page } => {
                    visible(tracker.observed(), tracker.is_registered(step.actor, page), step.actor, page)
                }
                _ => None,
            };
            let Some(record) = machine.step(&step) else { continue };
            let case = tracker.step(steps.len(), &step, &record);
            steps.push(letter);
            if left == 1 {
                self.programs += 1;
                if let (Some(visible), Some(Case::Message(circumstance) | Case::Silence(circumstance))) = (seen, &case)
                {
                    let decision = decide(visible);
                    let came = matches!(case, Some(Case::Message(_)));
                    if (decision == Decision::Message) != came {
                        let is_false = decision == Decision::Message;
                        self.note(steps, Wrong { step: steps.len() - 1, is_false, circumstance: *circumstance });
                    }
                }
            } else {
                self.extend(steps, &(machine, tracker), left - 1);
            }
            steps.pop();
        }
    }

    fn note(&mut self, steps: &[usize], wrong: Wrong) {
        let same = |(_, known): &Found| (known.is_false, known.circumstance) == (wrong.is_false, wrong.circumstance);
        if !self.found.iter().any(same) {
            let steps = steps.iter().map(|&letter| self.alphabet[letter].0).collect();
            self.found.push((Program { steps }, wrong));
        }
    }
}
