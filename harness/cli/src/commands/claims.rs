//! `ptediff claims`: what the seed documents ask, the answers, and the evidence.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use ptediff_claims::{Check, Claim, Effort, Evidence, Record, claims};

use crate::arguments::{Claims, Format};
use crate::claims::{ClaimFailure, Machines, check_of};
use crate::error::{Failure, complain};
use crate::exit_code::Exit;
use crate::report::wrap::wrap;

/// The evidence that was recorded last, of which docs/claims.md is made.
const RECORDED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/claims.json"));

/// Columns of text on a terminal.
const WIDTH: usize = 110;

/// What became of one claim's check.
enum Fate {
    Holds(Vec<Evidence>),
    Refuted(String),
    Inconclusive(String),
    RigFailed,
}

impl Fate {
    fn exit(&self) -> Exit {
        match self {
            Self::Holds(_) => Exit::Agree,
            Self::Refuted(_) => Exit::Diverge,
            Self::Inconclusive(_) => Exit::CannotTell,
            Self::RigFailed => Exit::Rig,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Holds(_) => "holds",
            Self::Refuted(_) => "REFUTED",
            Self::Inconclusive(_) => "inconclusive",
            Self::RigFailed => "RIG FAILED",
        }
    }
}

pub(super) fn run(arguments: &Claims, format: Format) -> Result<Exit, Failure> {
    let chosen = chosen(&arguments.names)?;
    let recorded = recorded(RECORDED.as_bytes())?;
    if !arguments.run {
        match format {
            Format::Human => list(&chosen, &recorded),
            Format::Json => println!("{}", list_json(&chosen, &recorded)),
        }
        return Ok(Exit::Agree);
    }
    let effort = if arguments.full { Effort::Full } else { Effort::Representative };
    let machines = Machines { silence: Duration::from_secs(arguments.silence) };
    let mut fates = Vec::new();
    for claim in &chosen {
        if format == Format::Human {
            println!("{}", claim.name);
        }
        let fate = examine(claim, &machines, effort);
        if format == Format::Human {
            tell(&fate);
        }
        if let (Some(path), Fate::Holds(evidence)) = (&arguments.record, &fate) {
            record(path, claim, effort, evidence)?;
        }
        fates.push((*claim, fate));
    }
    let exit = worst(&fates);
    match format {
        Format::Human => {
            let held = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Holds(_))).count();
            println!("claims       {} checked: {held} hold", fates.len());
            for (claim, fate) in fates.iter().filter(|(_, fate)| !matches!(fate, Fate::Holds(_))) {
                println!("             {}: {}", claim.name, fate.word());
            }
            println!("exit         {} ({})", exit as u8, exit.meaning());
        }
        Format::Json => println!("{}", fates_json(&fates, exit)),
    }
    Ok(exit)
}

/// The claims of these names or beginnings of names; all where there is none.
fn chosen(names: &[String]) -> Result<Vec<&'static Claim>, Failure> {
    let is_meant = |claim: &Claim, name: &String| claim.name == name || claim.name.starts_with(&format!("{name}."));
    for name in names {
        if !claims().any(|claim| is_meant(claim, name)) {
            return Err(Failure::usage(format!("there is no claim `{name}`"), "`ptediff claims` lists them"));
        }
    }
    Ok(claims().filter(|claim| names.is_empty() || names.iter().any(|name| is_meant(claim, name))).collect())
}

fn recorded(bytes: &[u8]) -> Result<Vec<Record>, Failure> {
    serde_json::from_slice(bytes).map_err(|error| Failure::rig(&error))
}

fn examine(claim: &Claim, machines: &Machines, effort: Effort) -> Fate {
    let start = Instant::now();
    let result = match claim.check {
        Check::Model(check) => match check(effort) {
            Ok(cases) => Ok(vec![Evidence {
                kernel: "model".to_owned(),
                cpu: "-".to_owned(),
                cases: cases.count,
                unit: cases.unit.to_owned(),
                seconds: start.elapsed().as_secs_f64(),
                note: String::new(),
            }]),
            Err(refuted) => Err(ClaimFailure::Refuted(refuted.what)),
        },
        Check::Live => match check_of(claim) {
            Some(check) => (check.run)(machines, effort),
            None => Err(ClaimFailure::Inconclusive("this build has no check for it".to_owned())),
        },
    };
    match result {
        // A check that looked at nothing shows nothing.
        Ok(evidence) if evidence.iter().all(|row| row.cases == 0) => {
            Fate::Inconclusive("the check looked at no case".to_owned())
        }
        Ok(evidence) => Fate::Holds(evidence),
        Err(ClaimFailure::Refuted(what)) => Fate::Refuted(what),
        Err(ClaimFailure::Inconclusive(what)) => Fate::Inconclusive(what),
        Err(ClaimFailure::Rig(failure)) => {
            complain(failure);
            Fate::RigFailed
        }
    }
}

/// A refuted claim outweighs a failed rig, and that one an inconclusive check.
fn worst(fates: &[(&Claim, Fate)]) -> Exit {
    let exits = || fates.iter().map(|(_, fate)| fate.exit());
    [Exit::Diverge, Exit::Rig, Exit::CannotTell]
        .into_iter()
        .find(|exit| exits().any(|other| other == *exit))
        .unwrap_or(Exit::Agree)
}

fn record(path: &Path, claim: &Claim, effort: Effort, evidence: &[Evidence]) -> Result<(), Failure> {
    let mut records = match fs::read(path) {
        Ok(bytes) => recorded(&bytes)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(Failure::File { path: path.to_owned(), source }),
    };
    records.retain(|record| record.claim != claim.name && ptediff_claims::claim(&record.claim).is_some());
    records.push(Record { claim: claim.name.to_owned(), is_full: effort == Effort::Full, evidence: evidence.to_vec() });
    records.sort_by_key(|record| claims().position(|claim| claim.name == record.claim));
    let mut text = serde_json::to_string_pretty(&records).map_err(|error| Failure::rig(&error))?;
    text.push('\n');
    fs::write(path, text).map_err(|error| Failure::unwritable(path, error))
}

fn list(chosen: &[&Claim], recorded: &[Record]) {
    let mut system = None;
    for claim in chosen {
        if system != Some(claim.system) {
            println!("{}", claim.system.title());
            system = Some(claim.system);
        }
        println!("\n  {}", claim.name);
        println!("      seed      {}", claim.seed.title());
        for (label, text) in [("question", claim.question), ("answer", claim.answer)] {
            let first = format!("      {label:9} ");
            wrap(text, &first, &" ".repeat(first.len()), WIDTH).iter().for_each(|line| println!("{line}"));
        }
        match recorded.iter().find(|record| record.claim == claim.name) {
            None => println!("      evidence  none recorded: `ptediff claims --run {}`", claim.name),
            Some(record) => record.evidence.iter().for_each(|row| println!("      evidence  {}", row_text(row))),
        }
    }
    println!();
}

fn row_text(row: &Evidence) -> String {
    let place = if row.cpu == "-" { row.kernel.clone() } else { format!("{}, {}", row.kernel, row.cpu) };
    let note = if row.note.is_empty() { String::new() } else { format!("; {}", row.note) };
    format!("{place}: {} {} in {:.1} s{note}", row.cases, row.unit, row.seconds)
}

fn tell(fate: &Fate) {
    match fate {
        Fate::Holds(evidence) => evidence.iter().for_each(|row| println!("    holds    {}", row_text(row))),
        Fate::Refuted(what) | Fate::Inconclusive(what) => println!("    {} {what}", fate.word()),
        Fate::RigFailed => println!("    {}", fate.word()),
    }
}

fn list_json(chosen: &[&Claim], recorded: &[Record]) -> serde_json::Value {
    let claim = |claim: &&Claim| {
        serde_json::json!({
            "name": claim.name, "system": claim.system, "seed": claim.seed, "question": claim.question,
            "answer": claim.answer, "live": matches!(claim.check, Check::Live),
            "recorded": recorded.iter().find(|record| record.claim == claim.name),
        })
    };
    chosen.iter().map(claim).collect()
}

fn fates_json(fates: &[(&Claim, Fate)], exit: Exit) -> serde_json::Value {
    let fate = |(claim, fate): &(&Claim, Fate)| {
        let (evidence, why) = match fate {
            Fate::Holds(evidence) => (evidence.as_slice(), None),
            Fate::Refuted(what) | Fate::Inconclusive(what) => (&[][..], Some(what)),
            Fate::RigFailed => (&[][..], None),
        };
        serde_json::json!({ "name": claim.name, "fate": fate.word(), "evidence": evidence, "why": why })
    };
    serde_json::json!({ "claims": fates.iter().map(fate).collect::<Vec<_>>(), "exit": exit as u8 })
}
