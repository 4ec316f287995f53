//! Writes the C reproducer and the mailable report of a divergence beside its corpus entry.

use std::path::Path;

use ptediff_corpus::Entry;
use ptediff_reference_model::verdict::Verdict;

use crate::error::Failure;
use crate::host::results::{FoundCluster, Results};
use crate::report::mail::{self, Attached};
use crate::report::reproducer::{NoReproducer, Subject, reproducer};

/// Writes both. Returns the files.
pub(super) fn describe(
    entry_path: &Path,
    entry: &Entry,
    cluster: &FoundCluster<'_>,
    results: &Results,
) -> Result<Vec<String>, Failure> {
    let Some(machine) = &results.machine else { return Ok(Vec::new()) };
    let finding = match cluster.representative.smallest().1 {
        Verdict::Diverge(divergence) => mail::finding(machine, divergence),
        _ => Vec::new(),
    };
    let (name, description, program) = (&entry.name, &entry.description, &entry.program);
    let subject = Subject { name, description, machine, program, finding: &finding };
    // A program that was judged is possible on its machine, up to the step that diverged at the least.
    let mut files = match reproducer(&subject) {
        Ok(source) => vec![write(entry_path, "c", &source)?],
        Err(error @ NoReproducer::Impossible(_)) => return Err(Failure::rig(&error)),
        Err(error) => {
            eprintln!("no reproducer of {name}: {error}");
            Vec::new()
        }
    };
    let entry_path_text = entry_path.display().to_string();
    let attached = Attached { entry: Some(&entry_path_text), reproducer: files.first().map(String::as_str) };
    if let Some(text) = mail::mail(results, cluster, attached) {
        files.push(write(entry_path, "txt", &text)?);
    }
    Ok(files)
}

fn write(entry_path: &Path, extension: &str, text: &str) -> Result<String, Failure> {
    let path = entry_path.with_extension(extension);
    std::fs::write(&path, text).map_err(|error| Failure::unwritable(&path, error))?;
    Ok(path.display().to_string())
}
