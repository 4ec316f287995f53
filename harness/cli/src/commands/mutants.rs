//! `ptediff mutants`: every output bit of every rule is flipped, and the recorded traces must notice.

use std::collections::BTreeMap;
use std::path::Path;

use ptediff_compare::Judge;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::mutation::{self, Mutation, Output};
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::rule::Rule;
use ptediff_reference_model::verdict::Verdict;
use ptediff_trace::{Attempt, Decoder, Frame};

use crate::arguments::{Format, Mutants};
use crate::error::Failure;
use crate::exit_code::Exit;

/// A recorded program that agreed, and the rules that fired in it.
struct Recorded {
    machine: usize,
    program: Program,
    records: Vec<StepRecord>,
    fired: Vec<bool>,
}

pub(super) fn run(arguments: &Mutants, format: Format) -> Result<Exit, Failure> {
    let mut machines = Vec::new();
    let mut recorded = Vec::new();
    for path in &arguments.traces {
        read(path, &mut machines, &mut recorded)?;
    }
    if recorded.is_empty() {
        return Err(Failure::usage(
            "the traces hold no program that agreed",
            "record some with `ptediff run --trace FILE`",
        ));
    }
    // A rule of other kernels cannot be wrong on these.
    let is_spoken =
        |mutant: &Mutation| machines.iter().any(|machine: &Machine| mutant.rule.info().holds_on(machine.kernel()));
    let mutants: Vec<Mutation> = mutation::all().into_iter().filter(is_spoken).collect();
    let survivors: Vec<Mutation> =
        mutants.iter().copied().filter(|mutant| !is_killed(*mutant, &machines, &recorded)).collect();
    let killed = mutants.len() - survivors.len();
    let score = killed as f64 * 100.0 / mutants.len() as f64;
    let reasons: Vec<(Mutation, &'static str)> =
        survivors.iter().map(|&mutant| (mutant, reason(mutant, &machines, &recorded))).collect();
    match format {
        Format::Human => {
            println!("{} programs recorded in {} traces", recorded.len(), arguments.traces.len());
            println!("mutants {}, killed {killed}, score {score:.2} %", mutants.len());
            let mut grouped: BTreeMap<(&str, String), Vec<String>> = BTreeMap::new();
            for (mutant, why) in &reasons {
                grouped.entry((why, mutant.rule.to_string())).or_default().push(mutant.output.to_string());
            }
            for ((why, rule), outputs) in grouped {
                println!("survivor {rule}: {} ({why})", outputs.join(", "));
            }
        }
        Format::Json => {
            let survivors: Vec<_> = reasons
                .iter()
                .map(|(mutant, why)| serde_json::json!({ "mutant": mutant.to_string(), "reason": why }))
                .collect();
            println!(
                "{}",
                serde_json::json!({
                    "programs": recorded.len(), "mutants": mutants.len(), "killed": killed,
                    "score": score, "survivors": survivors,
                })
            );
        }
    }
    Ok(if score >= arguments.at_least { Exit::Agree } else { Exit::Diverge })
}

fn read(path: &Path, machines: &mut Vec<Machine>, recorded: &mut Vec<Recorded>) -> Result<(), Failure> {
    let bytes = std::fs::read(path).map_err(|source| Failure::File { path: path.to_owned(), source })?;
    let failed = |message: String| Failure::Trace { path: path.to_owned(), message };
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    let mut current: Option<(Program, Vec<StepRecord>)> = None;
    let mut machine = None;
    while let Some(frame) = decoder.next_frame().map_err(|error| failed(error.to_string()))? {
        match frame {
            Frame::Machine(described) => {
                machine = Some(machines.len());
                machines.push(described);
            }
            Frame::ProgramBegin { attempt: Attempt::First, program, .. } => current = Some((program, Vec::new())),
            Frame::StepDone(done) => {
                if let Some((_, records)) = &mut current {
                    records.push(done.record);
                }
            }
            Frame::ProgramEnd { verdict, .. } => {
                if let (Some((program, records)), Verdict::Agree, Some(machine)) = (current.take(), verdict, machine) {
                    let mut judge = Judge::new(&machines[machine]);
                    if judge.run(&program, &records) == Verdict::Agree {
                        let fired = judge.tally().confirmed.iter().map(|count| *count > 0).collect();
                        recorded.push(Recorded { machine, program, records, fired });
                    }
                }
            }
            _ => {}
        }
    }
    decoder.finish().map_err(|error| failed(error.to_string()))
}

/// A mutant is killed by a program on which it does not agree. Only programs in which the rule fires can.
fn is_killed(mutant: Mutation, machines: &[Machine], recorded: &[Recorded]) -> bool {
    recorded.iter().filter(|program| program.fired[mutant.rule.index()]).any(|program| {
        let mut judge = Judge::with_mutation(&machines[program.machine], mutant);
        judge.run(&program.program, &program.records) != Verdict::Agree
    })
}

/// Why a mutant lives, as far as it can be told.
fn reason(mutant: Mutation, machines: &[Machine], recorded: &[Recorded]) -> &'static str {
    let frame_is_the_zero_page = matches!(
        mutant.rule,
        Rule::ZeroPage | Rule::ZeroPageUffdWp | Rule::ForkChildZeroPage | Rule::ForkParentSkipped
    );
    if mutant.output == Output::Exclusive && frame_is_the_zero_page {
        return "equivalent: the rule's frame is the zero page, which has no PageAnonExclusive";
    }
    let frame_is_none = matches!(
        mutant.rule,
        Rule::ClearRefsMarker
            | Rule::ForkParentMarker
            | Rule::ForkChildMarker
            | Rule::ProtectMarker
            | Rule::UffdMarkerDropped
            | Rule::UffdMarkerKept
            | Rule::UffdMarkerSet
            | Rule::UffdMarkerStale
            | Rule::UffdMissingEntryKept
    );
    if mutant.output == Output::Exclusive && frame_is_none {
        return "equivalent: the rule's entry has no frame";
    }
    let fired = recorded.iter().any(|program| program.fired[mutant.rule.index()]);
    if !fired {
        return if matches!(mutant.rule, Rule::ShadowStackUnsupported | Rule::ControlUnsupported)
            && machines.iter().all(|machine| machine.shadow_stack)
        {
            "the rule needs a machine without shadow stacks, and none is among the traces"
        } else if mutant.rule == Rule::PkeyAllocUnsupported && machines.iter().all(|machine| machine.protection_keys) {
            "the rule needs a machine without protection keys, and none is among the traces"
        } else {
            "the rule fired in no recorded program"
        };
    }
    "nothing that is compared depends on it in the recorded programs"
}
