//! `ptediff compare`: the same programs on two kernels.

use std::thread::available_parallelism;

use ptediff_corpus::Corpus;
use ptediff_reference_model::program::Program;

use crate::arguments::{Compare, Format};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::LaunchOptions;
use crate::pair::{Machines, Side, pair};
use crate::report::pair::{exit, json, print};

use super::request::request;

/// How often the witnesses are asked: as in a campaign.
const WITNESS_EVERY: u16 = 64;

pub(super) fn run(arguments: &mut Compare, format: Format) -> Result<Exit, Failure> {
    let given = if arguments.corpus_alone { Some(corpus(arguments)?) } else { None };
    let mut request = request(&arguments.machine, Task::Replay { programs: Vec::new(), needs: Vec::new(), repeat: 1 })?;
    request.witness_every = arguments.machine.witness_every.unwrap_or(WITNESS_EVERY);
    let side = |kernel: &str| {
        let options = LaunchOptions { kernel: kernel.to_owned(), ..arguments.machine.launch_options(None) };
        Side { kernel: kernel.to_owned(), options }
    };
    let jobs = arguments.jobs.unwrap_or_else(|| available_parallelism().map_or(1, usize::from));
    let machines = Machines { base: side(&arguments.base), new: side(&arguments.new), request, at_once: jobs > 1 };
    let start = std::time::Instant::now();
    let campaign = (arguments.seed, arguments.first, arguments.cases, arguments.steps);
    let paired = pair(&machines, given, campaign)?;
    match format {
        Format::Human => print(&machines, &paired, start.elapsed()),
        Format::Json => println!("{}", json(&machines, &paired, start.elapsed())),
    }
    Ok(exit(&paired))
}

fn corpus(arguments: &Compare) -> Result<Vec<Program>, Failure> {
    let corpus = Corpus::open(&arguments.corpus)?;
    corpus.entries().map(|stored| Ok(stored?.entry.program)).collect()
}
