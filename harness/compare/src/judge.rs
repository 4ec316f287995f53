//! The judge: what the kernel was meant to do, and where it did otherwise, what the table of changes makes of it.
//!
//! A program is compared with the kernel's intended behaviour. From a difference on it is compared with the kernels that
//! [`crate::explanation`] lists: if the defects that the version is known to have account for all that was seen, the
//! comparison goes on with them, so that what follows is judged too; the program diverges all the same.

use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::mutation::Mutation;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::{Program, Step};
use ptediff_reference_model::rule::Rule;
use ptediff_reference_model::verdict::{Difference, Divergence, Explanation, Inconclusive, Verdict};

use crate::comparison::{Compared, Comparison};
use crate::explanation::{follow, known_defects, others};
use crate::tally::Tally;

/// Judges one program, step by step.
#[derive(Debug, Clone)]
pub struct Judge {
    machine: Machine,
    comparison: Comparison,
    /// A wrong model's differences are nobody's to explain.
    is_mutant: bool,
    difference: Option<(Difference, Option<Rule>)>,
    /// The first difference, as long as known defects explain everything.
    known: Option<Divergence>,
}

/// Where a program stands after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Nothing differs, or what did is explained by defects that are known.
    GoesOn,
    /// Something differs: [`Judge::explain`] is next, once the record holds all that witnesses have to say.
    Differs,
    /// It cannot be told.
    CannotTell(Inconclusive),
}

/// Judges a whole program.
#[must_use]
pub fn judge(machine: &Machine, program: &Program, records: &[StepRecord]) -> (Verdict, Tally) {
    let mut judge = Judge::new(machine);
    let verdict = judge.run(program, records);
    (verdict, judge.comparison.tally().clone())
}

impl Judge {
    /// A judge for one program on this machine.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        Self::with_model(machine, Model::new(machine), false)
    }

    /// A judge with a wrong model.
    #[must_use]
    pub fn with_mutation(machine: &Machine, mutation: Mutation) -> Self {
        Self::with_model(machine, Model::with_mutation(machine, mutation), true)
    }

    fn with_model(machine: &Machine, model: Model, is_mutant: bool) -> Self {
        let comparison = Comparison::new(model, true);
        Self { machine: machine.clone(), comparison, is_mutant, difference: None, known: None }
    }

    /// The model as it stands.
    #[must_use]
    pub fn model(&self) -> &Model {
        self.comparison.model()
    }

    /// What was compared so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        self.comparison.tally()
    }

    /// What the witnesses hold against the probe in the record of the step that was judged last, if anything.
    #[must_use]
    pub fn witness_contradiction(&self, step: usize, record: &StepRecord) -> Option<Inconclusive> {
        self.comparison.witness_contradiction(step, record)
    }

    /// Whether the program met a known defect, so that it diverges whatever follows.
    #[must_use]
    pub fn has_met_defect(&self) -> bool {
        self.known.is_some()
    }

    /// Judges all steps of a program.
    pub fn run(&mut self, program: &Program, records: &[StepRecord]) -> Verdict {
        for (index, (step, record)) in program.steps.iter().zip(records).enumerate() {
            match self.step(index, step, record) {
                Progress::GoesOn => {}
                Progress::CannotTell(why) => return Verdict::Inconclusive(why),
                Progress::Differs => {
                    if let Some(divergence) = self.explain(program, &records[..=index]) {
                        return Verdict::Diverge(Box::new(divergence));
                    }
                }
            }
        }
        self.end(program, records.len())
    }

    /// Judges one step.
    pub fn step(&mut self, index: usize, step: &Step, record: &StepRecord) -> Progress {
        match self.comparison.step(index, step, record) {
            Compared::Agrees => Progress::GoesOn,
            Compared::CannotTell(why) => Progress::CannotTell(why),
            Compared::Differs(difference, rule) => {
                self.difference = Some((difference, rule));
                Progress::Differs
            }
        }
    }

    /// Looks for what explains the difference at the last of the records. `None` where the version's known defects do:
    /// the program goes on.
    ///
    /// # Panics
    /// When the last step did not [differ](Progress::Differs).
    pub fn explain(&mut self, program: &Program, records: &[StepRecord]) -> Option<Divergence> {
        let (difference, rule) = self.difference.take().expect("explained is what differed");
        let step = records.len() - 1;
        let met = self.known.as_ref().map_or_else(Vec::new, |known| known.explanation.changes().to_vec());
        if self.is_mutant {
            return Some(Divergence { step, difference, rule, explanation: Explanation::Unexplained, met });
        }
        for defects in known_defects(&self.machine) {
            let kernel = defects.iter().fold(self.machine.kernel(), |kernel, &defect| kernel.with(defect));
            let Some(comparison) = follow(&self.machine, kernel, program, records) else { continue };
            let mut tally = self.comparison.tally().clone();
            tally.steps += 1;
            self.comparison = comparison.with_tally(tally);
            let explanation = Explanation::KnownDefects(defects);
            match &mut self.known {
                Some(known) => known.explanation = explanation,
                None => self.known = Some(Divergence { step, difference, rule, explanation, met }),
            }
            return None;
        }
        let explanation = others(&self.machine, program, records);
        Some(Divergence { step, difference, rule, explanation, met })
    }

    /// The verdict on a program that is over, after so many of its steps were recorded.
    #[must_use]
    pub fn end(&self, program: &Program, recorded: usize) -> Verdict {
        // With a defect on, the model may not know how to go on.
        let stops = program.steps.get(recorded).is_some_and(|next| !self.model().is_possible(next));
        match &self.known {
            Some(known) if recorded == program.steps.len() || stops => Verdict::Diverge(Box::new(known.clone())),
            None if recorded == program.steps.len() => Verdict::Agree,
            _ => Verdict::Inconclusive(Inconclusive::Truncated { steps: program.steps.len(), recorded }),
        }
    }
}

/// Whether the model applies the divergence's rule in the diverging step. Where it does not, an earlier step's rule left
/// an entry that should have stayed so.
#[must_use]
pub fn is_rule_of_the_step(machine: &Machine, program: &Program, divergence: &Divergence) -> bool {
    let mut model = Model::new(machine);
    let mut steps = program.steps.iter().enumerate().take(divergence.step + 1);
    let last = steps.try_fold(None, |_, (index, step)| model.is_possible(step).then(|| Some(model.step(index, step))));
    let Some(Some(expectation)) = last else { return false };
    let by_event = || expectation.transitions.iter().map(|transition| transition.rule);
    divergence.rule.is_some_and(|rule| {
        expectation.outcome_rule == Some(rule) || expectation.fired.contains(&rule) || by_event().any(|one| one == rule)
    })
}

#[cfg(test)]
mod tests;
