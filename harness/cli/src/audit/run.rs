//! Telling programs on a machine, each more than once.

use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;

use crate::error::Failure;
use crate::host::results::{Finish, Results, reason};

use super::{Finding, Telling, Told, combined, decide};

/// Times that each program runs: what is said must be said twice.
const RUNS: usize = 2;

/// What a machine tells of defects. `boot` runs programs on it; where it dies of one, the others run on another.
///
/// # Errors
/// `boot` fails, or the rig did.
pub fn told_by(
    mut telling: Vec<Telling>,
    boot: &mut dyn FnMut(&[Program]) -> Result<Results, Failure>,
) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    while !telling.is_empty() {
        let programs: Vec<Program> =
            telling.iter().flat_map(|one| std::iter::repeat_n(one.program.clone(), RUNS)).collect();
        let results = boot(&programs)?;
        if let Finish::RigFailed(message) | Finish::BadTrace(message) = &results.ending {
            return Err(Failure::Rig { message: message.clone(), help: None });
        }
        if let Some(disagreement) = results.disagreements.first() {
            return Err(Failure::Rig { message: disagreement.clone(), help: None });
        }
        let whole = (results.records.len() / RUNS).min(telling.len());
        let rest = telling.split_off(whole);
        if let Some(machine) = &results.machine {
            findings.extend(
                telling.into_iter().enumerate().map(|(index, telling)| told(machine, &results, index, telling)),
            );
        }
        let mut rest = rest.into_iter();
        match (&results.ending, rest.next()) {
            (Finish::KernelDied(how), Some(deadly)) => {
                findings.push(Finding::of(deadly, Told::Died(how.clone())));
                telling = rest.collect();
            }
            (ending, next) => {
                let why = format!("the machine ended early: {}", ending_of(&results, ending));
                findings.extend(next.into_iter().chain(rest).map(|telling| telling.not_told(&why)));
                break;
            }
        }
    }
    Ok(combined(findings))
}

fn told(machine: &Machine, results: &Results, index: usize, telling: Telling) -> Finding {
    let own = index * RUNS..(index + 1) * RUNS;
    let undecided = results.undecided.iter().find(|(index, _)| own.contains(&(*index as usize)));
    let told = match undecided {
        Some((_, why)) => Told::CannotTell(reason(why)),
        None => {
            let runs: Vec<&[StepRecord]> = results.records[own].iter().map(Vec::as_slice).collect();
            decide(machine, telling.defect, &telling.program, &runs)
        }
    };
    Finding::of(telling, told)
}

/// Why a machine says nothing more.
#[must_use]
pub fn ending_of(results: &Results, ending: &Finish) -> String {
    match (&results.refused, ending) {
        (Some(refused), _) => format!("it lacks {}", refused.missing.join(", ")),
        (None, Finish::NeverBegan(how)) => format!("it never began: {how}"),
        (None, Finish::KernelDied(how) | Finish::RigFailed(how) | Finish::BadTrace(how)) => how.clone(),
        (None, Finish::TimeLimit) => "its time ran out".to_owned(),
        (None, Finish::Finished | Finish::Refused) => "it has finished".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use ptediff_compare::kept_of;
    use ptediff_reference_model::kernel::{Change, KernelVersion};
    use ptediff_reference_model::verdict::Inconclusive;

    use super::*;
    use crate::audit::search;

    /// A boot of a kernel that dies of a program of index `dies_of`, if any; with the programs that it did run.
    fn booted(machine: &Machine, programs: &[Program], dies_of: Option<usize>) -> Results {
        let run = &programs[..dies_of.unwrap_or(programs.len())];
        let records = run.iter().map(|program| kept_of(machine, machine.kernel(), program)).collect();
        let ending = dies_of.map_or(Finish::Finished, |_| Finish::KernelDied("an oops".to_owned()));
        Results { machine: Some(machine.clone()), records, ending, ..Results::default() }
    }

    fn two() -> (Machine, Vec<Telling>) {
        let machine = Machine::imagined(KernelVersion::LINUX_6_12, false, true);
        let telling = search(&machine, &[Change::CloseKeepsUffdWp, Change::KsmReplaceDropsSoftDirty]);
        let first = |defect| telling.iter().find(|telling| telling.defect == defect).expect("one is found").clone();
        let two = vec![first(Change::CloseKeepsUffdWp), first(Change::KsmReplaceDropsSoftDirty)];
        (machine, two)
    }

    #[test]
    fn a_kernel_that_dies_of_one_program_is_asked_about_the_others() {
        let (machine, telling) = two();
        let mut boots = 0;
        let findings = told_by(telling, &mut |programs| {
            boots += 1;
            Ok(booted(&machine, programs, (boots == 1).then_some(1)))
        });
        let told: Vec<Told> = findings.unwrap().into_iter().map(|finding| finding.told).collect();
        assert_eq!(told, [Told::Died("an oops".to_owned()), Told::Absent]);
        assert_eq!(boots, 2);
    }

    #[test]
    fn what_a_run_could_not_decide_is_not_decided() {
        let (machine, telling) = two();
        let findings = told_by(telling, &mut |programs| {
            let undecided = vec![(3, Inconclusive::MissingFeature { feature: "ksmd".to_owned() })];
            Ok(Results { undecided, ..booted(&machine, programs, None) })
        });
        let told: Vec<Told> = findings.unwrap().into_iter().map(|finding| finding.told).collect();
        assert_eq!(told, [Told::Absent, Told::CannotTell("the machine lacks ksmd".to_owned())]);
    }

    #[test]
    fn a_rig_that_fails_is_no_finding() {
        let (_, telling) = two();
        let ending = Finish::RigFailed("no probes".to_owned());
        let failed = told_by(telling, &mut |_| Ok(Results { ending: ending.clone(), ..Results::default() }));
        assert!(matches!(failed, Err(Failure::Rig { .. })));
    }
}
