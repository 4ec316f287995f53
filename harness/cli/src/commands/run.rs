//! `ptediff run`: a campaign.

use std::path::Path;

use ptediff_corpus::{Corpus, Entry, Needs, Origin};
use ptediff_generate::Profile;
use ptediff_reference_model::verdict::Verdict;

use crate::arguments::{Format, Run};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::launch;
use crate::host::results::{Found, Results};
use crate::host::session::{Keep, follow};
use crate::report;
use crate::report::mail::{self, Attached};
use crate::report::progress::Progress;
use crate::report::reproducer::{Subject, reproducer};

use super::request::request;

/// Fewest steps of a generated program.
const MIN_STEPS: u16 = 8;

pub(super) fn run(arguments: &Run, format: Format) -> Result<Exit, Failure> {
    if let Some(profile) = &arguments.profile {
        profile.parse::<Profile>().map_err(|error| Failure::usage(error.to_string(), "see `ptediff run --help`"))?;
    }
    let task = Task::Campaign {
        seed: arguments.seed,
        first: arguments.first,
        programs: arguments.cases,
        min_steps: MIN_STEPS.min(arguments.steps),
        max_steps: arguments.steps,
        profile: arguments.profile.clone(),
    };
    let mut request = request(&arguments.machine, task)?;
    request.shrink_budget = arguments.shrink;
    request.stop_after = arguments.stop_after;
    let mut keep = Keep::at(arguments.trace.as_deref())?;
    let mut progress = Progress::new("programs");
    progress.note(&format!(
        "booting {} on {} (seed {}, {} programs of up to {} steps)",
        arguments.machine.kernel,
        arguments.machine.platform.name(),
        arguments.seed,
        arguments.cases,
        arguments.steps
    ));
    let mut channel = launch(&request, &arguments.machine.launch_options(arguments.time))?;
    let results = follow(&mut channel, &mut keep, &mut progress)?;
    progress.finish();
    let saved = save(arguments, &results)?;
    report::campaign(&results, &saved, format);
    Ok(results.exit())
}

/// Stores each divergence as a corpus entry, in its smallest form. Returns the files.
fn save(arguments: &Run, results: &Results) -> Result<Vec<String>, Failure> {
    let mut files = Vec::new();
    if results.divergences.is_empty() {
        return Ok(files);
    }
    let folder = &arguments.save;
    std::fs::create_dir_all(folder).map_err(|source| Failure::File { path: folder.clone(), source })?;
    let mut corpus = Corpus::open(folder)?;
    for found in &results.divergences {
        let release = results.machine.as_ref().map_or("", |machine| machine.release.as_str());
        let platform = arguments.machine.platform.name();
        let program = found.minimal.as_ref().map_or(&found.program, |minimal| &minimal.program);
        let stability = if found.is_stable() { "" } else { "unstable-" };
        let entry = Entry {
            name: format!("{stability}seed{}-program{}-{platform}", arguments.seed, found.index),
            description: report::divergence_headline(found),
            origin: Origin::campaign(arguments.seed, found.index, release, platform),
            needs: Needs::to_behave_alike(program),
            program: program.clone(),
        };
        match corpus.add(&entry) {
            Ok(path) => {
                files.push(path.display().to_string());
                files.extend(describe(&path, &entry, found, results)?);
            }
            Err(error) => files.push(format!("not stored: {error}")),
        }
    }
    Ok(files)
}

/// Writes the C reproducer and the report beside the entry. Returns the files.
fn describe(entry_path: &Path, entry: &Entry, found: &Found, results: &Results) -> Result<Vec<String>, Failure> {
    let Some(machine) = &results.machine else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    let mut write = |extension: &str, text: &str| {
        let path = entry_path.with_extension(extension);
        std::fs::write(&path, text).map_err(|source| Failure::File { path: path.clone(), source })?;
        files.push(path.display().to_string());
        Ok::<String, Failure>(path.display().to_string())
    };
    let verdict = found.minimal.as_ref().map_or(&found.verdict, |minimal| &minimal.verdict);
    let finding = match verdict {
        Verdict::Diverge(divergence) => mail::finding(machine, divergence),
        _ => Vec::new(),
    };
    let (name, description, program) = (&entry.name, &entry.description, &entry.program);
    let subject = Subject { name, description, machine, program, finding: &finding };
    // A program that was judged is possible on its machine.
    let source = reproducer(&subject).map_err(|error| Failure::rig(&error))?;
    let source_path = write("c", &source)?;
    let entry_path = entry_path.display().to_string();
    let attached = Attached { entry: Some(&entry_path), reproducer: Some(&source_path) };
    if let Some(text) = mail::mail(results, found, attached) {
        write("txt", &text)?;
    }
    Ok(files)
}
