//! The matrix of kernels: a line each, and what was seen of each change against the table.

use std::collections::BTreeMap;

use ptediff_compare::{Evidence, Standing};
use ptediff_reference_model::kernel::{Change, changes};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::verdict::Explanation;

use crate::exit_code::Exit;
use crate::host::results::{Finish, Results};

/// One kernel of the matrix.
#[derive(Debug)]
pub struct Row {
    /// The kernel, as it was named.
    name: String,
    /// The machine; none where none could be started.
    machine: Option<Machine>,
    /// Programs of the corpus, then generated ones.
    counts: [Counts; 2],
    /// Programs that met each defect which the version is known to have.
    known: BTreeMap<Change, u32>,
    /// Clusters that no known defect explains, by name, with the number of their programs.
    others: Vec<(String, usize)>,
    /// What was seen of the changes.
    evidence: Evidence,
    /// Seconds of both boots.
    seconds: f64,
    /// Why the row is not whole.
    failed: Option<String>,
}

/// What became of programs.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    programs: u32,
    agree: u32,
    diverge: u32,
    /// Not run: the machine lacks what they need.
    lacking: u32,
    /// Without a verdict for another reason.
    inconclusive: u32,
}

impl Counts {
    fn of(results: &Results) -> Self {
        let undecided: u32 = results.inconclusive.values().map(|(programs, _)| programs).sum();
        let lacking: u32 = results
            .inconclusive
            .iter()
            .filter(|(reason, _)| reason.starts_with("the machine lacks"))
            .map(|(_, (programs, _))| programs)
            .sum();
        Self {
            programs: results.programs,
            agree: results.agreed,
            diverge: results.divergences.len() as u32,
            lacking,
            inconclusive: undecided - lacking,
        }
    }
}

impl Row {
    /// A row of what the corpus and the campaign gave.
    #[must_use]
    pub fn of(name: String, replayed: Results, generated: Results) -> Self {
        let mut known: BTreeMap<Change, u32> = BTreeMap::new();
        let mut others: BTreeMap<String, usize> = BTreeMap::new();
        let mut evidence = Evidence::default();
        let mut failed = None;
        for results in [&replayed, &generated] {
            evidence.add(&results.evidence);
            for cluster in results.clusters() {
                match &cluster.key.explanation {
                    Explanation::KnownDefects(defects) => {
                        for &defect in defects {
                            *known.entry(defect).or_default() += cluster.members.len() as u32;
                        }
                    }
                    _ => *others.entry(cluster.key.text()).or_default() += cluster.members.len(),
                }
            }
            let disagreement = results.disagreements.first().cloned();
            failed = failed.or(disagreement).or(match &results.ending {
                Finish::Finished => None,
                Finish::Refused => {
                    results.refused.as_ref().map(|refused| format!("lacks {}", refused.missing.join(", ")))
                }
                other => Some(format!("{other:?}")),
            });
        }
        Self {
            name,
            machine: generated.machine.clone().or_else(|| replayed.machine.clone()),
            counts: [Counts::of(&replayed), Counts::of(&generated)],
            known,
            others: others.into_iter().collect(),
            evidence,
            seconds: (replayed.wall + generated.wall).as_secs_f64(),
            failed,
        }
    }

    /// A row of a kernel that could not be started.
    #[must_use]
    pub fn not_run(name: String, reason: String) -> Self {
        Self {
            name,
            machine: None,
            counts: [Counts::default(); 2],
            known: BTreeMap::new(),
            others: Vec::new(),
            evidence: Evidence::default(),
            seconds: 0.0,
            failed: Some(reason),
        }
    }

    /// The standing of a change, where the kernel was run.
    fn standing(&self, change: Change) -> Option<Standing> {
        self.machine.as_ref().map(|machine| self.evidence.standing(change, machine))
    }

    /// Changes of which the kernel shows the contrary of the table.
    fn contradicted(&self) -> Vec<Change> {
        let contradicts = |change: &Change| self.standing(*change) == Some(Standing::Contradicted);
        changes().map(|info| info.change).filter(contradicts).collect()
    }

    /// Whether nothing is unexplained and nothing contradicts the table.
    fn is_clean(&self) -> bool {
        self.others.is_empty() && self.contradicted().is_empty()
    }

    /// Whether all of it could be told.
    fn is_whole(&self) -> bool {
        self.failed.is_none() && self.counts.iter().all(|counts| counts.inconclusive == 0)
    }

    /// The row in a line.
    #[must_use]
    pub fn line(&self) -> String {
        let [corpus, generated] = self.counts;
        let version = self.machine.as_ref().map_or_else(|| "-".to_owned(), |machine| machine.version.to_string());
        let failed = self.failed.as_ref().map_or_else(String::new, |reason| format!("; NOT WHOLE: {reason}"));
        let others: usize = self.others.iter().map(|(_, programs)| programs).sum();
        let lacking = if corpus.lacking > 0 { format!(" ({} not run)", corpus.lacking) } else { String::new() };
        let undecided = corpus.inconclusive + generated.inconclusive;
        format!(
            "{:30} {version:9} {:4} of {:4}{lacking}  {:6} of {:6}  known {:5}  else {others:4}  open {undecided}  {:.0} s{failed}",
            self.name,
            corpus.agree,
            corpus.programs,
            generated.agree,
            generated.programs,
            corpus.diverge + generated.diverge - others as u32,
            self.seconds,
        )
    }
}

/// The exit code of the whole.
#[must_use]
pub fn exit(rows: &[Row]) -> Exit {
    if rows.iter().any(|row| !row.is_clean()) {
        Exit::Diverge
    } else if rows.is_empty() || rows.iter().any(|row| !row.is_whole()) {
        Exit::CannotTell
    } else {
        Exit::Agree
    }
}

/// Prints the tables.
pub fn print(rows: &[Row], skipped: &[String]) {
    println!("kernel                         version   corpus agrees   generated agree   known defects, else, open");
    for row in rows {
        println!("{}", row.line());
        for (defect, programs) in &row.known {
            println!("    known    {programs:5} programs: {} ({defect})", defect.info().title());
        }
        for (cluster, programs) in &row.others {
            println!("    ELSE     {programs:5} programs: {cluster}");
        }
        for change in row.contradicted() {
            let seen = row.evidence.seen(change);
            println!("    TABLE    {change}: seen in program {:?}, not in {:?}", seen.present, seen.absent);
        }
    }
    skipped.iter().for_each(|suite| println!("not asked: {suite}"));
    println!(
        "\nchanges: + has it, - has it not, . no program tells, ! contradicts the table; kernels in the order above"
    );
    for info in changes() {
        let cells: Vec<&str> = rows.iter().map(|row| row.standing(info.change).map_or(" ", symbol)).collect();
        let kind = if info.is_defect() { "defect" } else { "" };
        println!("{:42} {:6} {}", info.identifier, kind, cells.join(" "));
    }
    let told = changes().filter(|info| rows.iter().any(|row| is_told(row.standing(info.change)))).count();
    println!("\n{told} of {} changes were told by a program on some kernel", changes().count());
    println!("exit         {} ({})", exit(rows) as u8, exit(rows).meaning());
}

fn is_told(standing: Option<Standing>) -> bool {
    matches!(standing, Some(Standing::Present | Standing::Absent))
}

fn symbol(standing: Standing) -> &'static str {
    match standing {
        Standing::Present => "+",
        Standing::Absent => "-",
        Standing::Untold => ".",
        Standing::Contradicted => "!",
    }
}

/// The same as JSON.
#[must_use]
pub fn json(rows: &[Row], skipped: &[String]) -> serde_json::Value {
    let counts = |counts: &Counts| {
        serde_json::json!({
            "programs": counts.programs, "agree": counts.agree, "diverge": counts.diverge,
            "not-run": counts.lacking, "inconclusive": counts.inconclusive,
        })
    };
    let kernels: Vec<_> = rows
        .iter()
        .map(|row| {
            let standing: BTreeMap<&str, Option<Standing>> =
                changes().map(|info| (info.identifier, row.standing(info.change))).collect();
            let known: BTreeMap<String, u32> =
                row.known.iter().map(|(defect, programs)| (defect.to_string(), *programs)).collect();
            serde_json::json!({
                "kernel": row.name,
                "machine": row.machine,
                "corpus": counts(&row.counts[0]),
                "generated": counts(&row.counts[1]),
                "known": known,
                "else": row.others,
                "changes": standing,
                "seconds": row.seconds,
                "failed": row.failed,
            })
        })
        .collect();
    serde_json::json!({ "kernels": kernels, "skipped": skipped, "exit": exit(rows) as u8 })
}
