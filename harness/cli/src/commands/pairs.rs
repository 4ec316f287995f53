//! `ptediff pairs`: which operations meet on a page, in the corpus and in a campaign. No machine is started: what
//! a program reaches, and which programs a campaign has, follows from the model.

use std::collections::BTreeSet;

use ptediff_corpus::Corpus;
use ptediff_generate::{Options, Reached, program, reached};
use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::{OPERATION_NAMES, Program};

use crate::arguments::{Format, Pairs};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::report::pair_table::pair_table;

use super::run::MIN_STEPS;

/// Machines that the corpus is made for: every version, with all that its kernels can have.
pub(super) fn machines() -> [Machine; 3] {
    [KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2]
        .map(|version| Machine::imagined(version, true, true))
}

pub(super) fn run(arguments: &Pairs, format: Format) -> Result<Exit, Failure> {
    let machines = machines();
    let corpus = of_corpus(&Corpus::open(&arguments.corpus)?, &machines)?;
    let mut campaign = Reached::default();
    for machine in &machines {
        for (_, _, more) in of_campaign(arguments, machine) {
            campaign.add(&more);
        }
    }
    match format {
        Format::Human => print!("{}", pair_table(&corpus.pairs, &campaign.pairs)),
        Format::Json => {
            let named = |pairs: &BTreeSet<(usize, usize)>| -> Vec<[&str; 2]> {
                pairs.iter().map(|&(first, second)| [OPERATION_NAMES[first], OPERATION_NAMES[second]]).collect()
            };
            println!("{}", serde_json::json!({ "corpus": named(&corpus.pairs), "campaign": named(&campaign.pairs) }));
        }
    }
    Ok(Exit::Agree)
}

/// The campaign's programs on a machine, with what each reaches and its index.
pub(super) fn of_campaign(arguments: &Pairs, machine: &Machine) -> impl Iterator<Item = (u32, Program, Reached)> {
    let most = usize::from(arguments.steps);
    let options = Options { steps: usize::from(MIN_STEPS).min(most)..=most, profile: None };
    (0..arguments.cases).filter_map(move |index| {
        let program = program(arguments.seed, index, machine, &options);
        let reached = reached(machine, &program)?;
        Some((index, program, reached))
    })
}

/// What the corpus reaches, each entry on every machine that has what it needs.
pub(super) fn of_corpus(corpus: &Corpus, machines: &[Machine]) -> Result<Reached, Failure> {
    let mut all = Reached::default();
    for stored in corpus.entries() {
        let entry = stored?.entry;
        for machine in machines.iter().filter(|machine| entry.missing(machine).is_empty()) {
            if let Some(more) = reached(machine, &entry.program) {
                all.add(&more);
            }
        }
    }
    Ok(all)
}
