//! `ptediff replay`: corpus entries on a machine.

use std::path::Path;

use ptediff_corpus::{Corpus, StoredEntry, read_entry};

use crate::arguments::{Format, Replay};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::launch;
use crate::host::session::{Keep, follow};
use crate::report;
use crate::report::progress::Progress;

use super::request::request;

pub(super) fn run(arguments: &Replay, format: Format) -> Result<Exit, Failure> {
    let entries = entries(arguments)?;
    let programs = entries.iter().map(|stored| stored.entry.program.clone()).collect();
    let needs = entries.iter().map(|stored| stored.entry.needs.clone()).collect();
    let request = request(&arguments.machine, Task::Replay { programs, needs, repeat: 1 })?;
    let mut progress = Progress::new("entries");
    let mut channel = launch(&request, &arguments.machine.launch_options(None))?;
    // Only now: a machine that cannot be started must not cost an older trace.
    let mut keep = Keep::at(arguments.trace.as_deref())?;
    let mut results = follow(&mut channel, &mut keep, &mut progress)?;
    results.weigh(arguments.weighing);
    results.given = Some(arguments.machine.given());
    progress.finish();
    let names: Vec<&str> = entries.iter().map(|stored| stored.entry.name.as_str()).collect();
    report::replay(&results, &entries, &names, arguments.timeline, format);
    keep.finish(results.exit())
}

/// The entries asked for: files by their path, others by name in the corpus.
fn entries(arguments: &Replay) -> Result<Vec<StoredEntry>, Failure> {
    if arguments.all {
        let corpus = Corpus::open(&arguments.corpus)?;
        if corpus.names().is_empty() {
            return Err(Failure::usage(
                format!("the corpus {} has no entry", corpus.folder().display()),
                "--corpus names a folder of .json files",
            ));
        }
        return corpus.entries().map(|entry| entry.map_err(Failure::from)).collect();
    }
    arguments.entries.iter().map(|name| entry(name, &arguments.corpus)).collect()
}

/// The entry of this name: a file's path, or a name in the corpus.
pub(super) fn entry(name: &str, corpus: &Path) -> Result<StoredEntry, Failure> {
    if name.ends_with(".json") || name.contains('/') {
        return Ok(read_entry(Path::new(name))?);
    }
    Ok(Corpus::open(corpus)?.get(name)?)
}
