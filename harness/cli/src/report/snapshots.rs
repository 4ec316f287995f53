//! Snapshots: for each kernel and corpus entry the timeline that was seen, whether or not the model was right.
//!
//! They lie in `snapshots/<kernel>/<entry>.snap`, in the form of `cargo insta review`. A change of one is a
//! change of the kernel's behaviour.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use ptediff_compare::{agrees, judge, records_of};
use ptediff_corpus::StoredEntry;
use ptediff_reference_model::kernel::{Change as KernelChange, Kernel, KernelVersion, changes as changes_of_kernels};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::Program;
use similar::TextDiff;

use crate::host::results::Results;

use super::timeline::timeline;

/// Lines around a change that a difference shows.
const CONTEXT: usize = 3;

/// Timelines by the entry's name.
pub type Timelines = BTreeMap<String, String>;

/// What a replay of entries gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Replayed {
    /// The timelines of the entries that were run.
    pub timelines: Timelines,
    /// Entries that the machine cannot run, each with what it lacks.
    pub not_run: BTreeMap<String, String>,
}

/// The timelines of replayed entries, which must be given in the order of the replay. `None` where the
/// results lack the machine or the records of an entry: the replay came to a bad end.
#[must_use]
pub fn timelines(results: &Results, entries: &[StoredEntry], recorded: KernelVersion) -> Option<Replayed> {
    let machine = results.machine.as_ref()?;
    let mut replayed = Replayed::default();
    for (index, stored) in entries.iter().enumerate() {
        let entry = &stored.entry;
        let missing = entry.missing(machine);
        if !missing.is_empty() {
            replayed.not_run.insert(entry.name.clone(), missing.join(", "));
            continue;
        }
        let apart = told_apart(machine, recorded, &entry.program);
        if !apart.is_empty() {
            let changes: Vec<String> = apart.iter().map(ToString::to_string).collect();
            let reason = format!("a kernel like {recorded} in {}", changes.join(", "));
            replayed.not_run.insert(entry.name.clone(), reason);
            continue;
        }
        let records = results.records.get(index)?;
        let (verdict, _) = judge(machine, &entry.program, records);
        replayed.timelines.insert(entry.name.clone(), timeline(&entry.program, records, &verdict, Some(machine)));
    }
    Some(replayed)
}

/// Name of the file beside a kernel's snapshots that names the version they were recorded on.
const RECORDED: &str = "RECORDED";

/// The version on which a kernel's snapshots were recorded.
///
/// # Errors
/// The file that says so cannot be read, or names no version.
pub fn recorded_on(folder: &Path) -> io::Result<KernelVersion> {
    let text = fs::read_to_string(folder.join(RECORDED))?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The changes in which a version differs from this machine's, as far as the program tells them apart: its snapshot
/// holds for kernels that are alike in them.
fn told_apart(machine: &Machine, recorded: KernelVersion, program: &Program) -> Vec<KernelChange> {
    let (here, there) = (machine.kernel_as_released(), Kernel::as_released(recorded, machine.facts));
    let records = records_of(machine, here, program);
    let tells = |change: &KernelChange| {
        here.has(*change) != there.has(*change) && !agrees(machine, here.moved(*change), program, &records)
    };
    changes_of_kernels().map(|info| info.change).filter(tells).collect()
}

/// The snapshots of one kernel, without insta's heads.
///
/// # Errors
/// The folder or a file in it cannot be read.
pub fn read_snapshots(folder: &Path) -> io::Result<Timelines> {
    let mut snapshots = Timelines::new();
    for file in fs::read_dir(folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "snap") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            snapshots.insert(name, body(&fs::read_to_string(&path)?).to_owned());
        }
    }
    Ok(snapshots)
}

/// What follows the head between two lines of `---`.
fn body(text: &str) -> &str {
    let after = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n"));
    after.map_or(text, |(_, body)| body)
}

/// A difference between two sets of timelines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The first set alone has the entry.
    OnlyFirst,
    /// The second set alone has the entry.
    OnlySecond,
    /// Both have it, and differ so; a unified difference.
    Differs(String),
}

/// Where two sets of timelines differ, entry by entry. Their names head the difference.
#[must_use]
pub fn changes(first: (&str, &Timelines), second: (&str, &Timelines)) -> BTreeMap<String, Change> {
    let names: BTreeSet<&String> = first.1.keys().chain(second.1.keys()).collect();
    let mut changes = BTreeMap::new();
    for name in names {
        let change = match (first.1.get(name), second.1.get(name)) {
            // insta ends a file with one newline, whatever the text ends with.
            (Some(one), Some(other)) if one.trim_end() == other.trim_end() => continue,
            (Some(one), Some(other)) => Change::Differs(difference((first.0, one), (second.0, other))),
            (Some(_), None) => Change::OnlyFirst,
            (None, _) => Change::OnlySecond,
        };
        changes.insert(name.clone(), change);
    }
    changes
}

fn difference(first: (&str, &str), second: (&str, &str)) -> String {
    let texts = (format!("{}\n", first.1.trim_end()), format!("{}\n", second.1.trim_end()));
    let difference = TextDiff::from_lines(&texts.0, &texts.1);
    difference.unified_diff().context_radius(CONTEXT).header(first.0, second.0).to_string()
}

/// What is wrong with a kernel's snapshots, in words; empty where nothing is. A snapshot without an entry is
/// wrong (it would never be looked at again), but for those of entries that this machine cannot run.
#[must_use]
pub fn complaints(snapshots: &Timelines, replayed: &Replayed) -> Vec<String> {
    changes(("snapshot", snapshots), ("seen", &replayed.timelines))
        .into_iter()
        .filter_map(|(name, change)| match change {
            Change::OnlyFirst if replayed.not_run.contains_key(&name) => None,
            Change::OnlyFirst => Some(format!("{name}: a snapshot that no entry refers to")),
            Change::OnlySecond => Some(format!("{name}: an entry without a snapshot")),
            Change::Differs(difference) => Some(format!("{name}: changed\n{difference}")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(entries: &[(&str, &str)]) -> Timelines {
        entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn check(snapshots: &[(&str, &str)], seen: &[(&str, &str)], not_run: &[&str], expected: &[&str]) {
        let not_run = not_run.iter().map(|name| ((*name).to_owned(), "reason".to_owned())).collect();
        let replayed = Replayed { timelines: set(seen), not_run };
        assert_eq!(complaints(&set(snapshots), &replayed), expected);
    }

    #[test]
    fn what_is_not_as_it_was_is_named() {
        check(&[("a", "1\n2")], &[("a", "1\n2\n")], &[], &[]);
        check(&[("a", "1\n"), ("b", "1\n")], &[("a", "1\n")], &["b"], &[]);
        check(&[("a", "1\n"), ("b", "1\n")], &[("a", "1\n")], &[], &["b: a snapshot that no entry refers to"]);
        check(&[("a", "1\n")], &[("a", "1\n"), ("b", "1\n")], &[], &["b: an entry without a snapshot"]);
        check(
            &[("a", "1\n2\n3\n")],
            &[("a", "1\n5\n3\n")],
            &[],
            &["a: changed\n--- snapshot\n+++ seen\n@@ -1,3 +1,3 @@\n 1\n-2\n+5\n 3\n"],
        );
    }

    #[test]
    fn a_snapshot_holds_for_kernels_that_are_alike_where_it_tells() {
        use ptediff_reference_model::arena::{ActorId, PageRange};
        use ptediff_reference_model::program::{Advice, Operation, Placement, Protection, Step};
        let range = PageRange::new(0, 2).expect("two pages");
        let operations = [
            Operation::Mmap { range, protection: Protection::READ_WRITE, placement: Placement::Fixed },
            Operation::Madvise { range, advice: Advice::PopulateWrite },
            Operation::Madvise { range, advice: Advice::Mergeable },
            Operation::MergePages,
        ];
        let steps = operations.map(|operation| Step { actor: ActorId::FIRST, operation }).to_vec();
        let (merging, mapping) = (Program { steps: steps.clone() }, Program { steps: steps[..1].to_vec() });
        let recorded = KernelVersion::new(6, 12, 95);
        let check = |version, program: &Program, expected: &[KernelChange]| {
            let machine = Machine::imagined(version, true, true);
            assert_eq!(told_apart(&machine, recorded, program), expected, "{version}");
        };
        check(KernelVersion::new(6, 12, 118), &merging, &[KernelChange::KsmReplaceDropsSoftDirty]);
        check(KernelVersion::new(6, 12, 118), &mapping, &[]);
        check(KernelVersion::new(6, 12, 113), &merging, &[]);
    }

    #[test]
    fn the_head_of_insta_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a.snap"), "---\nsource: x\n---\n  0  one\n---\n").expect("a file");
        fs::write(folder.path().join("b.snap.new"), "pending").expect("a file");
        assert_eq!(read_snapshots(folder.path()).expect("readable"), set(&[("a", "  0  one\n---\n")]));
    }
}
