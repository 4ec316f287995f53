//! `ptediff distill`: generated programs become corpus entries where they reach pairs of operations that no entry
//! reaches. Each is made as small as it can be without losing one of its new pairs. Whether a kernel agrees is for
//! `ptediff replay` to say: the entries are programs, not verdicts.

use std::collections::BTreeSet;

use ptediff_corpus::{Corpus, Entry, FoundBy, Needs, Origin};
use ptediff_generate::{Reached, reached, shrink};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::{OPERATION_NAMES, Program};

use crate::arguments::Distill;
use crate::error::Failure;
use crate::exit_code::Exit;

use super::pairs::{machines, of_campaign, of_corpus};

/// Candidates that making one program smaller may cost. The model alone is asked: each takes microseconds.
const SHRINK_BUDGET: u32 = 5000;

/// Pairs that a description names.
const NAMED: usize = 3;

pub(super) fn run(arguments: &Distill) -> Result<Exit, Failure> {
    let machines = machines();
    let mut corpus = Corpus::open(&arguments.source.corpus)?;
    let mut covered = of_corpus(&corpus, &machines)?;
    // The newest kernel that has everything: an entry that needs no more runs on the others too.
    let [.., machine] = &machines;
    let programs: Vec<(u32, Program, Reached)> = of_campaign(&arguments.source, machine).collect();
    for _ in 0..arguments.entries {
        let gain = |(_, _, reached): &&(u32, Program, Reached)| reached.pairs.difference(&covered.pairs).count();
        // The first of the best: a campaign's order is part of what makes the same corpus again.
        let Some(best) = programs.iter().rev().max_by_key(gain) else { break };
        if gain(&best) < arguments.at_least as usize {
            break;
        }
        let (index, program, found) = best;
        let new: BTreeSet<_> = found.pairs.difference(&covered.pairs).copied().collect();
        let small = smallest(machine, program, &new);
        let entry = entry(arguments, *index, small, &new);
        println!("{}: {}", corpus.add(&entry)?.display(), entry.description);
        for machine in &machines {
            if let Some(more) = reached(machine, &entry.program) {
                covered.add(&more);
            }
        }
    }
    Ok(Exit::Agree)
}

/// The program without what its new pairs do not need.
fn smallest(machine: &Machine, program: &Program, new: &BTreeSet<(usize, usize)>) -> Program {
    let mut keeps = |candidate: &Program| reached(machine, candidate).is_some_and(|seen| new.is_subset(&seen.pairs));
    shrink(program, SHRINK_BUDGET, &mut keeps, &mut |_| {}).program
}

fn entry(arguments: &Distill, index: u32, program: Program, new: &BTreeSet<(usize, usize)>) -> Entry {
    let named = new.iter().take(NAMED);
    let named: Vec<String> = named
        .map(|&(first, second)| format!("{} before {}", OPERATION_NAMES[first], OPERATION_NAMES[second]))
        .collect();
    let rest = new.len().saturating_sub(NAMED);
    let more = if rest > 0 { format!(" and {rest} more pairs of operations on one page") } else { String::new() };
    Entry {
        name: format!("pairs-seed{}-program{index}", arguments.source.seed),
        description: format!("{}{more}.", named.join(", ")),
        origin: Origin {
            found_by: FoundBy::Campaign,
            campaign_seed: Some(arguments.source.seed),
            program_index: Some(index),
            ..Origin::hand()
        },
        needs: Needs::to_behave_alike(&program),
        program,
    }
}
