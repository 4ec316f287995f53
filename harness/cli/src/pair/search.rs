//! Where two kernels part: found, seen again, clustered, made smaller.

use std::collections::BTreeMap;

use ptediff_compare::{PairDifference, first_difference, judge};
use ptediff_generate::{Options, program};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::Verdict;

use crate::error::Failure;
use crate::host::results::Results;

use super::machines::{Machines, in_common, records_of_both};

/// Programs that one boot of each machine runs.
const BATCH: usize = 1_000;
/// Runs of a program that parts, besides the first.
const RERUNS: usize = 3;
/// Rounds of making a program smaller, a boot of each machine each.
const ROUNDS: usize = 8;

/// Programs that part in the same way.
#[derive(Debug)]
pub struct PairCluster {
    /// How they part.
    pub difference: PairDifference,
    /// The programs, by index.
    pub members: Vec<usize>,
    /// Re-runs of the one that was looked at which parted in the same way, of how many.
    pub stability: (usize, usize),
    /// The smallest program found, and the step at which it parts.
    pub program: Program,
    /// The step.
    pub step: usize,
    /// What each side recorded of that step.
    pub records: [StepRecord; 2],
    /// What the model says of each side, judged as the version that it is.
    pub verdicts: [Verdict; 2],
}

/// What a comparison gave.
#[derive(Debug)]
pub struct Paired {
    /// The machines, base first.
    pub machines: [Machine; 2],
    /// Programs that both ran.
    pub programs: usize,
    /// Programs that a machine could not run, or of which one recorded fewer steps without a difference before.
    pub incomplete: usize,
    /// Where they part.
    pub clusters: Vec<PairCluster>,
}

/// Runs the programs on both, generated ones where none are given.
///
/// # Errors
/// A machine cannot be started, or it came to a bad end.
pub fn pair(
    machines: &Machines,
    given: Option<Vec<Program>>,
    campaign: (u64, u32, u32, u16),
) -> Result<Paired, Failure> {
    let [base, new] = machines.run(&[], None)?;
    let described = |results: &Results| {
        let none = || Failure::Rig { message: "a machine did not say what it is".to_owned(), help: None };
        results.machine.clone().ok_or_else(none)
    };
    let each = [described(&base)?, described(&new)?];
    let common = in_common(&each[0], &each[1]);
    let programs = given.unwrap_or_else(|| {
        let (seed, first, cases, steps) = campaign;
        let options = Options { steps: 8.min(usize::from(steps))..=usize::from(steps), profile: None };
        (first..first.saturating_add(cases)).map(|index| program(seed, index, &common, &options)).collect()
    });
    // Both are judged as the base's version, so that both stop at the same places.
    let run = |programs: &[Program]| machines.run(programs, Some(common.judged_version()));
    let mut found: BTreeMap<PairDifference, Vec<usize>> = BTreeMap::new();
    let mut incomplete = 0;
    for (batch, part) in programs.chunks(BATCH).enumerate() {
        let results = run(part)?;
        for (index, program) in part.iter().enumerate() {
            let Some([base, new]) = records_of_both(&results, index) else {
                incomplete += 1;
                continue;
            };
            match first_difference(program, base, new) {
                Some((_, difference)) => found.entry(difference).or_default().push(batch * BATCH + index),
                None if base.len() != new.len() || base.is_empty() => incomplete += 1,
                None => {}
            }
        }
    }
    let mut clusters = Vec::new();
    for (difference, members) in found {
        let shortest = members.iter().copied().min_by_key(|&member| programs[member].steps.len());
        let Some(shortest) = shortest.map(|member| &programs[member]) else { continue };
        clusters.push(examine(&run, &each, &common, difference, members, shortest)?);
    }
    Ok(Paired { machines: each, programs: programs.len(), incomplete, clusters })
}

/// Runs programs on both kernels.
type Runner<'run> = &'run dyn Fn(&[Program]) -> Result<[Results; 2], Failure>;

/// Runs a program again, makes it smaller, and asks the model.
fn examine(
    run: Runner<'_>,
    each: &[Machine; 2],
    common: &Machine,
    difference: PairDifference,
    members: Vec<usize>,
    first: &Program,
) -> Result<PairCluster, Failure> {
    let parts = |results: &[Results; 2], index: usize, program: &Program| {
        let [base, new] = records_of_both(results, index)?;
        first_difference(program, base, new).filter(|(_, seen)| *seen == difference).map(|(step, _)| step)
    };
    let again = vec![first.clone(); RERUNS];
    let results = run(&again)?;
    let same = (0..RERUNS).filter(|&index| parts(&results, index, first).is_some()).count();
    let mut smallest = first.clone();
    if same == RERUNS {
        for _ in 0..ROUNDS {
            let candidates = smaller(&smallest, common);
            if candidates.is_empty() {
                break;
            }
            let results = run(&candidates)?;
            let parting = candidates.iter().enumerate().filter_map(|(index, candidate)| {
                let step = parts(&results, index, candidate)?;
                Some(Program { steps: candidate.steps[..=step].to_vec() })
            });
            match parting.min_by_key(|program| program.steps.len()) {
                Some(better) if better.steps.len() < smallest.steps.len() => smallest = better,
                _ => break,
            }
        }
    }
    // Of what is shown both sides are asked once more.
    let results = run(std::slice::from_ref(&smallest))?;
    let [base, new] = records_of_both(&results, 0).unwrap_or_default();
    let (step, _) = first_difference(&smallest, base, new).unwrap_or((0, difference.clone()));
    let verdicts = [judge(&each[0], &smallest, base).0, judge(&each[1], &smallest, new).0];
    let (Some(of_base), Some(of_new)) = (base.get(step), new.get(step)) else {
        return Err(Failure::Rig { message: format!("{}: nothing was recorded", difference.text()), help: None });
    };
    let records = [of_base.clone(), of_new.clone()];
    Ok(PairCluster { difference, members, stability: (same, RERUNS), program: smallest, step, records, verdicts })
}

/// The program without one of its parts, for parts of each size, as far as every step stays possible.
fn smaller(program: &Program, machine: &Machine) -> Vec<Program> {
    let length = program.steps.len();
    let mut candidates = Vec::new();
    let mut size = length / 2;
    while size > 0 {
        for begin in (0..length).step_by(size) {
            let mut steps = program.steps.clone();
            steps.drain(begin..(begin + size).min(length));
            let candidate = Program { steps };
            if !candidate.steps.is_empty() && is_possible(&candidate, machine) {
                candidates.push(candidate);
            }
        }
        size /= 2;
    }
    candidates
}

fn is_possible(program: &Program, machine: &Machine) -> bool {
    let mut model = Model::new(machine);
    program.steps.iter().enumerate().all(|(index, step)| {
        let is_possible = model.is_possible(step);
        if is_possible {
            model.step(index, step);
        }
        is_possible
    })
}
