//! All programs of a small alphabet, shortest first: whether the property holds of each on a machine that does what the
//! model says, and which are the shortest on which the inference is wrong.

use super::imagined::Imagined;
use super::inference::{Decision, Visible, Wrong, decide, visible};
use super::tracker::{Case, Tracker, Violation};
use crate::arena::{ActorId, PageIndex, PageRange};
use crate::machine::Machine;
use crate::model::Model;
use crate::program::{Advice, Operation, Placement, Program, Protection, Step};
use crate::uffd::{UffdFeatures, UffdId, UffdMode};

/// What is asked of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    /// Whether the inference is wrong.
    Inference,
    /// Whether the property holds.
    Property(UffdFeatures),
}

/// The alphabet: two pages, two actors. An operation that is said to be for setting up occurs once at most.
fn alphabet(question: Question) -> Vec<(Step, bool)> {
    const SET_UP: bool = true;
    let first = PageIndex::FIRST;
    let page = PageRange::FIRST_PAGE;
    let both = PageRange::new(0, 2).expect("two pages");
    let uffd = UffdId::FIRST;
    let of_first = |operation| Step { actor: ActorId::FIRST, operation };
    let of_second = |operation| Step { actor: ActorId::SECOND, operation };
    let advise = |range, advice| of_first(Operation::Madvise { range, advice });
    let features = match question {
        Question::Inference => UffdFeatures::NONE,
        Question::Property(features) => features,
    };
    let features = features.with(UffdFeatures::SIGBUS);
    let mut letters = vec![
        (
            of_first(Operation::Mmap { range: both, protection: Protection::READ_WRITE, placement: Placement::Fixed }),
            SET_UP,
        ),
        (of_first(Operation::UffdOpen { uffd, features }), SET_UP),
        (of_first(Operation::UffdRegister { uffd, range: both, mode: UffdMode::WriteProtect }), SET_UP),
        (of_first(Operation::UffdWriteProtect { uffd, range: page, protect: true }), SET_UP),
        (of_first(Operation::UffdWriteProtect { uffd, range: page, protect: false }), SET_UP),
        (of_first(Operation::Read { page: first }), SET_UP),
        (of_first(Operation::Fork { child: ActorId::SECOND }), SET_UP),
        (of_second(Operation::Exit), SET_UP),
        (advise(both, Advice::PopulateWrite), SET_UP),
        (advise(both, Advice::Mergeable), SET_UP),
        (of_first(Operation::MergePages), SET_UP),
        (advise(page, Advice::PageOut), SET_UP),
        (of_first(Operation::Write { page: first }), !SET_UP),
    ];
    if question != Question::Inference {
        letters.extend([
            (of_second(Operation::Write { page: first }), !SET_UP),
            (of_first(Operation::MadviseDontneed { range: page }), SET_UP),
            (of_first(Operation::UffdUnregister { uffd, range: both }), SET_UP),
            (of_first(Operation::UffdCopy { uffd, range: page, protect: true }), SET_UP),
        ]);
    }
    letters
}

/// A program, and how the inference is wrong at its last step.
pub type Found = (Program, Wrong);

/// A program on which the property fails.
pub type Failed = (Program, Box<Violation>);

struct Search {
    question: Question,
    alphabet: Vec<(Step, bool)>,
    found: Vec<Found>,
    failed: Option<Failed>,
    programs: u64,
}

impl Search {
    fn through(machine: &Machine, question: Question, longest: usize) -> Self {
        let alphabet = alphabet(question);
        let mut search = Self { question, alphabet, found: Vec::new(), failed: None, programs: 0 };
        for length in 1..=longest {
            let start = (Imagined::new(Model::new(machine)), Tracker::new(machine.kernel()));
            search.extend(&mut Vec::new(), &start, length);
        }
        search
    }
}

/// For each way in which the inference can be wrong one program of the fewest steps, `longest` at most, on a machine
/// that does what the model says; and the number of programs that were looked at.
#[must_use]
pub fn shortest(machine: &Machine, longest: usize) -> (Vec<Found>, u64) {
    let search = Search::through(machine, Question::Inference, longest);
    (search.found, search.programs)
}

/// Looks for a program of `longest` steps at most on which the property fails, with a userfaultfd of these features.
/// The number of programs that were looked at.
///
/// # Errors
/// The program.
pub fn every_program(machine: &Machine, features: UffdFeatures, longest: usize) -> Result<u64, Failed> {
    let search = Search::through(machine, Question::Property(features), longest);
    search.failed.map_or(Ok(search.programs), Err)
}

impl Search {
    /// All programs that begin as this one and have `left` steps more. The last of them is a store.
    fn extend(&mut self, steps: &mut Vec<usize>, state: &(Imagined, Tracker), left: usize) {
        for letter in 0..self.alphabet.len() {
            let (step, is_set_up) = self.alphabet[letter];
            let is_store = matches!(step.operation, Operation::Write { .. });
            // Nothing can be done before there is memory, and only a store decides.
            let is_spent = is_set_up && steps.contains(&letter);
            if is_spent || steps.is_empty() != (letter == 0) || left == 1 && !is_store || self.failed.is_some() {
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
                self.note(steps, seen, case);
            } else {
                self.extend(steps, &(machine, tracker), left - 1);
            }
            steps.pop();
        }
    }

    fn note(&mut self, steps: &[usize], seen: Option<Visible>, case: Option<Case>) {
        let program = || Program { steps: steps.iter().map(|&letter| self.alphabet[letter].0).collect() };
        match (seen, case, self.question) {
            (_, Some(Case::Violated(violation)), Question::Property(_)) => self.failed = Some((program(), violation)),
            (Some(visible), Some(case @ (Case::Message(_) | Case::Silence(_))), Question::Inference) => {
                let (Case::Message(circumstance) | Case::Silence(circumstance)) = case else { return };
                let is_false = decide(visible) == Decision::Message;
                let same = |(_, known): &Found| (known.is_false, known.circumstance) == (is_false, circumstance);
                if is_false != matches!(case, Case::Message(_)) && !self.found.iter().any(same) {
                    self.found.push((program(), Wrong { step: steps.len() - 1, is_false, circumstance }));
                }
            }
            _ => {}
        }
    }
}
