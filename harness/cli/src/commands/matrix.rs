//! `ptediff matrix`: corpus and a campaign on every kernel, and what that says of the table of changes.

use std::path::Path;

use ptediff_archive::archive_sources::Archive;
use ptediff_archive::{ArchiveError, Kernels, KernelsRecipe, Progress as Told, SetUpLock, Silent};
use ptediff_corpus::Corpus;
use ptediff_vm::store::Store;

use crate::arguments::{Format, Matrix};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::launch;
use crate::host::results::Results;
use crate::host::session::{Keep, follow};
use crate::report::matrix::{Row, exit, json, print};
use crate::report::progress::Progress;

use super::request::request;
use super::run::MIN_STEPS;
use super::save::{check_folder, save};

/// A kernel of the matrix.
struct Wanted {
    /// As the user gave it, or the release that the archive serves.
    name: String,
    /// Whether it has to be fetched first, and goes again unless it is kept.
    is_fetched: bool,
}

pub(super) fn run(arguments: &mut Matrix, format: Format) -> Result<Exit, Failure> {
    check_folder(&arguments.save)?;
    let store = Store::open()?;
    let corpus = Corpus::open(&arguments.corpus)?;
    let (wanted, skipped) = wanted(&arguments.kernels, &store)?;
    let mut rows = Vec::new();
    for Wanted { name, is_fetched } in wanted {
        if is_fetched {
            eprintln!("matrix: kernel {name} is fetched");
            with_archive(&store, |kernels| kernels.fetch(&name).map(drop))?;
        }
        arguments.machine.kernel.clone_from(&name);
        let row = match on(arguments, &corpus) {
            Ok((replayed, generated)) => {
                save(&arguments.save.join(name.replace('/', "-")), &generated);
                Row::of(name.clone(), replayed, generated)
            }
            Err(failure) => Row::not_run(name.clone(), failure.to_string()),
        };
        eprintln!("matrix: {}", row.line());
        rows.push(row);
        if is_fetched && !arguments.keep {
            with_archive(&store, |kernels| Ok(kernels.drop(&name).map(drop)?))?;
        }
    }
    match format {
        Format::Human => print(&rows, &skipped),
        Format::Json => println!("{}", json(&rows, &skipped)),
    }
    Ok(exit(&rows))
}

/// The kernels that are named, else all that the archive serves; and the suites that could not be asked, with why.
fn wanted(names: &[String], store: &Store) -> Result<(Vec<Wanted>, Vec<String>), Failure> {
    let is_there = |name: &str| name.contains('/') || Path::new(name).is_file() || store.kernel(name).is_ok();
    if !names.is_empty() {
        let wanted = names.iter().map(|name| Wanted { name: name.clone(), is_fetched: !is_there(name) });
        return Ok((wanted.collect(), Vec::new()));
    }
    let listing = with_archive(store, |kernels| kernels.list())?;
    let wanted = listing.kernels.into_iter().map(|offered| {
        let is_fetched = !is_there(&offered.release);
        Wanted { name: offered.release, is_fetched }
    });
    let skipped = listing.skipped.into_iter().map(|skipped| format!("{}: {}", skipped.suite, skipped.reason));
    Ok((wanted.collect(), skipped.collect()))
}

/// Does something with the archive, while nobody else changes the cache.
fn with_archive<T>(store: &Store, work: impl FnOnce(&Kernels<'_>) -> Result<T, ArchiveError>) -> Result<T, Failure> {
    let told: &dyn Told = &Silent;
    let rig = |error: ArchiveError| Failure::rig(&error);
    let lock = SetUpLock::take(store, told).map_err(rig)?;
    let archive = Archive::of_this_machine().map_err(rig)?;
    let recipe = KernelsRecipe::load().map_err(rig)?;
    work(&Kernels::new(store, &archive, &recipe, &lock, told)).map_err(rig)
}

/// The corpus, then the campaign, on the machine that the arguments name by now.
fn on(arguments: &Matrix, corpus: &Corpus) -> Result<(Results, Results), Failure> {
    let mut entries = Vec::new();
    for stored in corpus.entries() {
        entries.push(stored?.entry);
    }
    let programs = entries.iter().map(|entry| entry.program.clone()).collect();
    let needs = entries.into_iter().map(|entry| entry.needs).collect();
    let replayed = go(arguments, Task::Replay { programs, needs, repeat: 1 })?;
    let campaign = Task::Campaign {
        seed: arguments.seed,
        first: 0,
        programs: arguments.cases,
        min_steps: MIN_STEPS.min(arguments.steps),
        max_steps: arguments.steps,
        profile: None,
    };
    Ok((replayed, go(arguments, campaign)?))
}

fn go(arguments: &Matrix, task: Task) -> Result<Results, Failure> {
    let mut request = request(&arguments.machine, task)?;
    request.shrink_budget = arguments.shrink;
    request.stop_after = u32::MAX;
    let mut channel = launch(&request, &arguments.machine.launch_options(None))?;
    let mut results = follow(&mut channel, &mut Keep::default(), &mut Progress::silent())?;
    results.given = Some(arguments.machine.given());
    Ok(results)
}
