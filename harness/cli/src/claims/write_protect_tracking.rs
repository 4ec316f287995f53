//! userfaultfd write-protect tracking, live: generated programs, judged by the property and by the inference.

use std::collections::BTreeMap;

use ptediff_claims::{Effort, Evidence};
use ptediff_corpus::Needs;
use ptediff_generate::shrink;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::tracking::inference::{self, Wrong};
use ptediff_reference_model::tracking::{Circumstance, Tally, imagined, judge, search};

use crate::guest::request::Task;
use crate::host::launch::Platform;

use super::programs::{Boot, boot};
use super::{ClaimFailure, LiveCheck, Machines};

/// The live checks of this system.
pub(super) const LIVE: &[LiveCheck] = &[
    LiveCheck { claim: "tracking.message-iff-protected", run: message_iff_protected },
    LiveCheck { claim: "tracking.inference-is-wrong", run: inference_is_wrong },
];

/// Where programs are run: how many for the property, representatively and in full, and how many for the inference.
const PLACES: [(Platform, &str, [u32; 2], [u32; 2]); 5] = [
    (Platform::Bochs, "6.12", [250, 1500], [0, 500]),
    (Platform::Bochs, "7.2", [0, 1500], [0, 500]),
    (Platform::Qemu, "6.1", [300, 3000], [0, 1000]),
    (Platform::Qemu, "6.12", [0, 3000], [300, 1000]),
    (Platform::Qemu, "7.2", [300, 3000], [0, 1000]),
];

/// What programs favour.
const PROFILE: &str = "tracking";
const SEED: u64 = 2019;
const FEWEST_STEPS: u16 = 8;
const MOST_STEPS: u16 = 50;

/// Candidates that shrinking one program may cost; each is run on the model alone.
const SHRINK_BUDGET: u32 = 20_000;

fn campaign(programs: u32) -> Task {
    Task::Campaign {
        seed: SEED,
        first: 0,
        programs,
        min_steps: FEWEST_STEPS,
        max_steps: MOST_STEPS,
        profile: Some(PROFILE.to_owned()),
    }
}

fn listed(program: &Program) -> String {
    program.steps.iter().enumerate().map(|(index, step)| format!("  {index}  {step}\n")).collect()
}

fn message_iff_protected(machines: &Machines, effort: Effort) -> Result<Vec<Evidence>, ClaimFailure> {
    let mut evidence = Vec::new();
    for (platform, kernel, programs, _) in PLACES {
        let programs = programs[usize::from(effort == Effort::Full)];
        if programs == 0 {
            continue;
        }
        let boot = boot(machines, platform, kernel, campaign(programs))?;
        let mut tally = Tally::default();
        for ran in &boot.programs {
            match judge(boot.machine.kernel_as_released(), &ran.program, &ran.records) {
                Ok(judged) => tally.add(&judged),
                Err(violation) => {
                    let what = format!("{kernel} on {}: {violation}\n{}", platform.name(), listed(&ran.program));
                    return Err(ClaimFailure::Refuted(what));
                }
            }
        }
        // What the thread is about must have been met, with and without protection.
        for circumstance in [Circumstance::SharedByFork, Circumstance::SwappedOut] {
            if tally.messages[circumstance as usize] == 0 || tally.silences[circumstance as usize] == 0 {
                let what = format!("{kernel} on {}: too few stores to pages for {circumstance}", platform.name());
                return Err(ClaimFailure::Inconclusive(what));
            }
        }
        evidence.push(boot.evidence(
            tally.cases,
            "stores to registered pages",
            format!("{} programs; {tally}", boot.programs.len()),
        ));
    }
    Ok(evidence)
}

/// A way in which the inference is wrong.
type Way = (bool, &'static str);

fn way(wrong: &Wrong) -> Way {
    (wrong.is_false, wrong.circumstance.name())
}

fn name(way: Way) -> String {
    format!("{} ({})", if way.0 { "false message" } else { "missed message" }, way.1)
}

/// What is said of one machine.
#[derive(Default)]
struct Ways {
    right: u64,
    wrong: BTreeMap<Way, u64>,
    /// The program of the fewest steps, up to the store that is decided wrongly.
    shortest: BTreeMap<Way, Program>,
}

impl Ways {
    fn of(boot: &Boot) -> Self {
        let mut ways = Self::default();
        for ran in &boot.programs {
            let verdicts = inference::judge(boot.machine.kernel_as_released(), &ran.program, &ran.records);
            ways.right += verdicts.right;
            for wrong in verdicts.wrong {
                *ways.wrong.entry(way(&wrong)).or_default() += 1;
                let length = wrong.step + 1;
                let known = ways.shortest.entry(way(&wrong)).or_insert_with(|| ran.program.clone());
                if length < known.steps.len() {
                    *known = Program { steps: ran.program.steps[..length].to_vec() };
                }
            }
        }
        ways
    }
}

/// Whether the inference is wrong in this way at the last step, on a machine that does what the model says.
fn is_wrong_in(machine: &Machine, program: &Program, wanted: Way) -> bool {
    imagined::records(Model::new(machine), program).is_some_and(|records| {
        let wrong = inference::judge(machine.kernel_as_released(), program, &records).wrong;
        wrong.iter().any(|wrong| way(wrong) == wanted && wrong.step + 1 == program.steps.len())
    })
}

fn inference_is_wrong(machines: &Machines, effort: Effort) -> Result<Vec<Evidence>, ClaimFailure> {
    let mut evidence = Vec::new();
    let longest = if effort == Effort::Full { 8 } else { 7 };
    for (platform, kernel, _, programs) in PLACES {
        let place = format!("{kernel} on {}", platform.name());
        let programs = programs[usize::from(effort == Effort::Full)];
        if programs == 0 {
            continue;
        }
        let boot_of_campaign = boot(machines, platform, kernel, campaign(programs))?;
        let machine = &boot_of_campaign.machine;
        let ways = Ways::of(&boot_of_campaign);
        // Shrunk over the model, then run again on the kernel, together with what the search over all programs found.
        let mut candidates: Vec<(Way, &str, Program)> = Vec::new();
        for (&wanted, program) in &ways.shortest {
            let mut still = |candidate: &Program| is_wrong_in(machine, candidate, wanted);
            let shrunk = shrink(program, SHRINK_BUDGET, &mut still, &mut |_| {}).program;
            candidates.push((wanted, "shrunk", shrunk));
        }
        for (program, wrong) in search::shortest(machine, longest).0 {
            candidates.push((way(&wrong), "searched", program));
        }
        let given: Vec<Program> = candidates.iter().map(|(_, _, program)| program.clone()).collect();
        let needs = given.iter().map(Needs::of).collect();
        let replayed = boot(machines, platform, kernel, Task::Replay { programs: given, needs, repeat: 1 })?;
        let mut lengths: BTreeMap<(Way, &str), usize> = BTreeMap::new();
        for ((wanted, origin, program), ran) in candidates.iter().zip(&replayed.programs) {
            let wrong = inference::judge(machine.kernel_as_released(), &ran.program, &ran.records).wrong;
            if wrong.iter().any(|wrong| way(wrong) == *wanted && wrong.step + 1 == program.steps.len()) {
                lengths.insert((*wanted, origin), program.steps.len());
            }
        }
        // Peter Xu's counter-examples: a page that is protected while fork shares it, a page that comes from swap.
        for wanted in [(false, "COW"), (true, "swap")] {
            if !ways.wrong.contains_key(&wanted) || !lengths.contains_key(&(wanted, "searched")) {
                let what = format!("{place}: no {} was seen", name(wanted));
                return Err(ClaimFailure::Refuted(what));
            }
        }
        let wrong: u64 = ways.wrong.values().sum();
        let counted: Vec<String> =
            ways.wrong.iter().map(|(&wanted, count)| format!("{} {count}", name(wanted))).collect();
        let shortest: Vec<String> = lengths
            .iter()
            .map(|((wanted, origin), length)| format!("{} {length} steps ({origin})", name(*wanted)))
            .collect();
        let note = format!("{wrong} decisions wrong: {}; shortest live: {}", counted.join(", "), shortest.join(", "));
        let cases = ways.right + wrong;
        evidence.push(Evidence {
            seconds: (boot_of_campaign.wall + replayed.wall).as_secs_f64(),
            ..boot_of_campaign.evidence(cases, "decisions", note)
        });
    }
    Ok(evidence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptediff_reference_model::kernel::KernelVersion;

    #[test]
    fn shrinking_over_the_model_reaches_what_the_search_finds() {
        let machine = Machine::imagined(KernelVersion::LINUX_6_12, false, true);
        for (program, wrong) in search::shortest(&machine, 6).0 {
            assert!(is_wrong_in(&machine, &program, way(&wrong)), "{program:?}");
            let mut longer = program.clone();
            longer.steps.insert(1, program.steps[0]);
            assert!(is_wrong_in(&machine, &longer, way(&wrong)));
            let mut still = |candidate: &Program| is_wrong_in(&machine, candidate, way(&wrong));
            let shrunk = shrink(&longer, SHRINK_BUDGET, &mut still, &mut |_| {}).program;
            assert_eq!(shrunk.steps.len(), program.steps.len());
        }
    }
}
