//! `ptediff trust`: the observer lies about every field in turn; somebody must object, and not against the
//! kernel.

use std::collections::BTreeMap;

use ptediff_reference_model::observation::WitnessField;
use ptediff_reference_model::verdict::{Inconclusive, Verdict};

use crate::arguments::{Format, Trust};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::guest::trust::{LIES_TOLD, PROGRAMS_RUN, Telling, schedule};
use crate::host::launch::launch;
use crate::host::results::{Finish, Results, reason};
use crate::host::session::{Keep, describe, follow};
use crate::report;
use crate::report::progress::Progress;

use super::request::request;

/// What became of one lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Fate {
    /// Lies told.
    told: u64,
    /// Programs run under it.
    programs: u32,
    /// The first program that did not agree, from 1.
    first: Option<u32>,
    /// Who objected, and in how many programs.
    unmasked: BTreeMap<&'static str, u32>,
    /// Programs in which the kernel was blamed, and how in the first of them.
    blamed: Option<(u32, String)>,
    /// Verdicts that say nothing about the lie.
    other: Vec<String>,
}

impl Fate {
    /// Somebody objected, and nobody ever blamed the kernel.
    fn is_good(&self) -> bool {
        self.told > 0 && !self.unmasked.is_empty() && self.blamed.is_none() && self.other.is_empty()
    }

    /// Whether nothing at all was noticed.
    fn is_silent(&self) -> bool {
        self.unmasked.is_empty() && self.blamed.is_none() && self.other.is_empty()
    }

    fn text(&self) -> String {
        if self.told == 0 {
            return "NEVER TOLD".to_owned();
        }
        let Some(first) = self.first else { return format!("BELIEVED {} times", self.told) };
        let mut parts: Vec<String> = self.unmasked.iter().map(|(by, programs)| format!("{by} {programs}")).collect();
        if let Some((programs, headline)) = &self.blamed {
            parts.push(format!("KERNEL BLAMED {programs} ({headline})"));
        }
        parts.extend(self.other.iter().cloned());
        format!("{} of {}; first {first}", parts.join(", "), self.programs)
    }
}

/// One lie with its fate under the event digest and without.
struct Row {
    lie: String,
    with_digest: Fate,
    without: Fate,
}

pub(super) fn run(arguments: &Trust, format: Format) -> Result<Exit, Failure> {
    let task = Task::Trust { seed: arguments.seed, programs: arguments.cases, max_steps: arguments.steps };
    let request = request(&arguments.machine, task)?;
    let mut channel = launch(&request, &arguments.machine.launch_options(None))?;
    let mut progress = Progress::new("programs at most");
    let results = follow(&mut channel, &mut Keep::default(), &mut progress)?;
    progress.finish();
    if results.ending != Finish::Finished {
        report::campaign(&results, &[], format);
        return Ok(results.exit());
    }
    let (honest, rows) = sort(&results, arguments.cases);
    let bad = rows.iter().filter(|row| !row.with_digest.is_good()).count();
    let exit = if bad == 0 && honest.is_empty() && results.disagreements.is_empty() { Exit::Agree } else { Exit::Rig };
    match format {
        Format::Human => human(&results, &honest, &rows, exit),
        Format::Json => {
            let rows: Vec<_> = rows.iter().map(row_json).collect();
            println!(
                "{}",
                serde_json::json!({
                    "machine": results.machine, "lies": rows, "not_unmasked": bad, "honest": honest,
                    "programs": results.programs, "disagreements": results.disagreements,
                    "seconds": results.wall.as_secs_f64(), "exit": exit as u8,
                })
            );
        }
    }
    Ok(exit)
}

/// What went wrong while the observer was honest, and a row for every lie.
fn sort(results: &Results, programs: u32) -> (Vec<String>, Vec<Row>) {
    let mut honest = Vec::new();
    let mut rows: Vec<Row> = Vec::new();
    let marks = |name: &'static str| {
        results.marks.iter().filter(move |(known, _, _)| known == name).map(|(_, value, _)| *value)
    };
    let marks = marks(LIES_TOLD).zip(marks(PROGRAMS_RUN));
    for (telling, (told, run)) in schedule(programs).zip(marks) {
        let fate = fate(results, telling, told as u64, run as u32);
        let Some(lie) = telling.lie else {
            if !fate.is_silent() {
                honest.push(Fate { told: 1, ..fate }.text());
            }
            continue;
        };
        let lie = lie.to_string();
        match rows.iter_mut().find(|row| row.lie == lie) {
            Some(row) => row.without = fate,
            None => rows.push(Row { lie, with_digest: fate, without: Fate::default() }),
        }
    }
    (honest, rows)
}

fn fate(results: &Results, telling: Telling, told: u64, programs: u32) -> Fate {
    let mut fate = Fate { told, programs, ..Fate::default() };
    let mine = telling.first..telling.first + telling.programs;
    let blame = |fate: &mut Fate, verdict: &Verdict| {
        let (programs, _) = fate.blamed.get_or_insert_with(|| (0, report::timeline::verdict_line(verdict)));
        *programs += 1;
    };
    for found in results.divergences.iter().filter(|found| mine.contains(&found.index)) {
        blame(&mut fate, &found.verdict);
    }
    for (_, why) in results.undecided.iter().filter(|(index, _)| mine.contains(index)) {
        match (witness(why), why) {
            (Some(by), _) => *fate.unmasked.entry(by).or_default() += 1,
            (None, _) => fate.other.push(reason(why)),
        }
    }
    let diverged = results.divergences.iter().map(|found| found.index);
    let all = diverged.chain(results.undecided.iter().map(|(index, _)| *index));
    fate.first = all.filter(|index| mine.contains(index)).min().map(|index| index - telling.first + 1);
    fate
}

/// Who objected.
fn witness(why: &Inconclusive) -> Option<&'static str> {
    Some(match why {
        Inconclusive::EventsLost { .. } => "event digest",
        Inconclusive::FrameContradicted { .. } => "pagemap (frame)",
        Inconclusive::ProbeContradicted { mismatch, .. } => match mismatch.field {
            WitnessField::Entry => "page walk",
            WitnessField::TransitionBefore => "snapshot before",
            WitnessField::TransitionAfter => "snapshot after",
            WitnessField::TransitionWrite => "the operation",
            WitnessField::VmFlags => "smaps",
            WitnessField::Mapcount => "struct page (mapcount)",
            WitnessField::AnonExclusive => "struct page (exclusive)",
        },
        _ => return None,
    })
}

fn human(results: &Results, honest: &[String], rows: &[Row], exit: Exit) {
    if let Some(machine) = &results.machine {
        println!("machine      {}", describe(machine));
    }
    println!("{:22} {:34} without the event digest", "lie", "unmasked by");
    for row in rows {
        println!("{:22} {:34} {}", row.lie, row.with_digest.text(), row.without.text());
    }
    let unmasked = |fate: fn(&Row) -> &Fate| rows.iter().filter(|row| fate(row).is_good()).count();
    println!(
        "lies         {}: {} unmasked; without the event digest {} unmasked",
        rows.len(),
        unmasked(|row| &row.with_digest),
        unmasked(|row| &row.without)
    );
    println!("programs     {} in {:.1} s, judged by guest and host", results.programs, results.wall.as_secs_f64());
    for what in honest {
        println!("HONEST       not every program agreed while nobody lied: {what}");
    }
    for disagreement in &results.disagreements {
        println!("RIG FAILURE  guest and host disagree: {disagreement}");
    }
    println!("exit         {} ({})", exit as u8, exit.meaning());
}

fn row_json(row: &Row) -> serde_json::Value {
    let fate = |fate: &Fate| serde_json::json!({ "unmasked": fate.is_good(), "text": fate.text() });
    serde_json::json!({ "lie": row.lie, "with_digest": fate(&row.with_digest), "without": fate(&row.without) })
}
