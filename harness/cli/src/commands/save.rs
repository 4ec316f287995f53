//! Stores divergences as corpus entries. A verdict is never lost because a file could not be written: what
//! was stored and what was not goes into the report, and the reasons to standard error.

use std::path::Path;

use ptediff_corpus::{Corpus, CorpusError, Entry, Needs, Origin};
use ptediff_reference_model::program::Program;
use ptediff_trace::WorkList;

use crate::error::{Failure, complain};
use crate::host::results::{Alone, Finish, FoundCluster, Results};
use crate::report;

use super::describe::describe;

/// Entries that may have the name of one cluster, a number behind it.
const MOST_OF_A_NAME: u32 = 99;

/// Refuses, before anything is run, a folder in which nothing could be stored because it is none.
pub(super) fn check_folder(folder: &Path) -> Result<(), Failure> {
    if folder.exists() && !folder.is_dir() {
        return Err(Failure::usage(
            format!("{} is not a folder", folder.display()),
            "--save takes the folder for the corpus entries of divergences",
        ));
    }
    Ok(())
}

/// Stores the program that stands for each cluster in its smallest form, with its reproducer and its report. Returns a
/// line for each file, or that there is none.
pub(super) fn save(folder: &Path, results: &Results) -> Vec<String> {
    let deadly = deadly(results);
    if results.divergences.is_empty() && deadly.is_none() {
        return Vec::new();
    }
    let opened = match std::fs::create_dir_all(folder) {
        Ok(()) => Corpus::open(folder).map_err(Failure::from),
        Err(error) => Err(Failure::unwritable(folder, error)),
    };
    let mut corpus = match opened {
        Ok(corpus) => corpus,
        Err(failure) => {
            complain(failure);
            return vec![format!("nothing: {} cannot be used", folder.display())];
        }
    };
    let mut files: Vec<String> =
        results.clusters().iter().flat_map(|cluster| store(&mut corpus, cluster, results)).collect();
    files.extend(deadly.map(|entry| match corpus.add(&entry) {
        Ok(path) => path.display().to_string(),
        Err(error) => not_stored(&entry, error),
    }));
    files
}

/// The program that kills the kernel, in its smallest form.
fn deadly(results: &Results) -> Option<Entry> {
    let running = results.running.as_ref()?;
    let Some(Alone::Dies { program, .. }) = &running.alone else { return None };
    let Finish::KernelDied(how) = &results.ending else { return None };
    let platform = results.machine.as_ref().map_or("", |machine| machine.platform.as_str());
    let name = format!("deadly-seed{}-program{}-{platform}", seed(results), running.index);
    Some(entry(results, name, running.index, program, how.clone()))
}

fn store(corpus: &mut Corpus, cluster: &FoundCluster<'_>, results: &Results) -> Vec<String> {
    let found = cluster.representative;
    let platform = results.machine.as_ref().map_or("", |machine| machine.platform.as_str());
    let stability = if found.is_stable() { "" } else { "unstable-" };
    let name = format!("{stability}{}-{platform}", cluster.key.file_name());
    let mut entry = entry(results, name.clone(), found.index, found.smallest().0, report::divergence_headline(found));
    let mut added = corpus.add(&entry);
    // Another campaign's program for the same cluster stays.
    for number in 2..=MOST_OF_A_NAME {
        if !matches!(added, Err(CorpusError::Taken { .. })) {
            break;
        }
        entry.name = format!("{name}-{number}");
        added = corpus.add(&entry);
    }
    match added {
        Ok(path) => {
            let mut files = vec![path.display().to_string()];
            match describe(&path, &entry, cluster, results) {
                Ok(more) => files.extend(more),
                Err(failure) => {
                    complain(failure);
                    files.push(format!("not the description of {}: see above", entry.name));
                }
            }
            files
        }
        Err(error) => vec![not_stored(&entry, error)],
    }
}

fn not_stored(entry: &Entry, error: CorpusError) -> String {
    let line = format!("not {}: {}", entry.name, short(&error));
    complain(error.into());
    line
}

fn short(error: &CorpusError) -> &'static str {
    match error {
        CorpusError::Full { .. } => "the file system is full",
        CorpusError::ReadOnly { .. } => "the folder cannot be written",
        CorpusError::Taken { .. } => "another program has that name",
        _ => "see above",
    }
}

/// The campaign's seed; 0 where there was none.
fn seed(results: &Results) -> u64 {
    match results.campaign.as_ref().map(|campaign| &campaign.work) {
        Some(WorkList::Generated { seed, .. }) => *seed,
        Some(WorkList::Given(_)) | None => 0,
    }
}

fn entry(results: &Results, name: String, index: u32, program: &Program, description: String) -> Entry {
    let machine = results.machine.as_ref();
    let release = machine.map_or("", |machine| machine.release.as_str());
    let platform = machine.map_or("", |machine| machine.platform.as_str());
    Entry {
        name,
        description,
        origin: Origin::campaign(seed(results), index, release, platform),
        needs: Needs::to_behave_alike(program),
        program: program.clone(),
    }
}
