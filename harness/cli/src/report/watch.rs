//! What `ptediff watch` says.

use std::fmt::Write;

use serde_json::{Value, json};

use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::invariant::{Invariant, Moment};
use ptediff_reference_model::pagemap;

use crate::exit_code::Exit;
use crate::host::results::{Finish, Results};
use crate::host::session::describe;
use crate::watch::{Counters, PagemapCounters, Ran, Violation, moment_name};

/// Everything that a watched run gave.
#[derive(Debug, Default)]
pub struct Watched {
    /// The last counters.
    pub counters: Option<Counters>,
    /// Whether they are those of the end.
    pub is_whole: bool,
    /// The violations that were told.
    pub violations: Vec<Violation>,
    /// The runs of the command.
    pub runs: Vec<Ran>,
    /// What of the guest's words could not be read.
    pub damage: Option<String>,
}

/// One line for a terminal.
#[must_use]
pub fn status(counters: &Counters) -> String {
    format!(
        "{} events, {} entries, {} processes, {} violations, {} lost",
        counters.all_events(),
        counters.entries.iter().sum::<u64>(),
        counters.processes,
        counters.all_violations(),
        counters.all_lost()
    )
}

/// A violation as text.
#[must_use]
pub fn violation_text(violation: &Violation) -> String {
    let mut text = format!("VIOLATION    {}\n", violation.broken.join(", "));
    let mut line = |label: &str, says: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {label:10} {says}");
    };
    for invariant in
        Invariant::ALL.iter().filter(|known| violation.broken.iter().any(|name| name == known.identifier()))
    {
        line("invariant", invariant.statement().to_owned());
        line("source", invariant.source().to_owned());
    }
    if violation.pagemap.is_some() {
        line("invariant", pagemap::STATEMENT.to_owned());
        line("source", pagemap::SOURCE.to_owned());
    }
    let level = match violation.level {
        1 => "pte",
        2 => "pmd",
        3 => "pud",
        _ => "entry",
    };
    line(level, format!("{:#018x} [{}]", violation.after, Entry(violation.after)));
    let (start, end) = violation.vma;
    match &violation.pagemap {
        Some((word, what)) => {
            line("pagemap", format!("{word:#018x}: {what}"));
            line("address", format!("{:#x} in VMA {start:#x}-{end:#x}", violation.address));
        }
        None => line(
            "address",
            format!("{:#x} in VMA {start:#x}-{end:#x}, vm_flags {:#x}", violation.address, violation.vm_flags),
        ),
    }
    if let Some(exclusive) = violation.exclusive {
        line("page", format!("PageAnonExclusive {}", u8::from(exclusive)));
    }
    let (process, thread) = violation.process;
    line("task", format!("{} (process {process}, thread {thread})", violation.task));
    match violation.pagemap {
        Some(_) => line("at", "a look at its pagemap".to_owned()),
        None => line("at", format!("the end of: {}", moment_name(violation.cause))),
    }
    for (number, function) in violation.stack.iter().enumerate() {
        line(if number == 0 { "stack" } else { "" }, function.clone());
    }
    for (number, transition) in violation.history.iter().enumerate() {
        let what = match transition.entry {
            Some(entry) => format!("left {entry:#018x} [{}]", Entry(entry)),
            None => "a range with this page".to_owned(),
        };
        let says = format!(
            "event {}, {}, thread {}: {what}",
            transition.number,
            moment_name(transition.cause),
            transition.thread
        );
        line(if number == 0 { "history" } else { "" }, says);
    }
    if let Some(contradiction) = &violation.contradiction {
        line("but", format!("the model does not agree, so our rig is wrong: {contradiction}"));
    }
    text
}

/// Watched time over unwatched time: the median of the pairs, the smallest and the largest.
fn slowdown(runs: &[Ran]) -> Option<(f64, f64, f64)> {
    let mut ratios: Vec<f64> = runs
        .chunks_exact(2)
        .filter(|pair| !pair[0].watched && pair[1].watched && pair[0].seconds > 0.0)
        .map(|pair| pair[1].seconds / pair[0].seconds)
        .collect();
    ratios.sort_by(f64::total_cmp);
    Some((*ratios.get(ratios.len() / 2)?, *ratios.first()?, *ratios.last()?))
}

fn print_pagemap(seen: &PagemapCounters) {
    if let Some(why) = &seen.unavailable {
        println!("             {:<30} not checked: {why}", pagemap::IDENTIFIER);
        return;
    }
    println!("             {:<30} {:>12} {:>10}", pagemap::IDENTIFIER, seen.compared, seen.violations);
    println!("             in {} looks at {} processes", seen.looks, seen.processes);
    for (count, what) in [
        (seen.moved, "pages changed meanwhile, not compared"),
        (seen.holes, "pages of VM_PFNMAP, which pagemap shows as holes"),
        (seen.cut_short, "processes with too many page tables, not compared to the end"),
    ] {
        if count > 0 {
            println!("             {count} {what}");
        }
    }
}

impl Watched {
    /// Violations that are printed whole.
    pub const SHOWN: usize = 10;

    /// Prints the summary.
    pub fn print(&self, results: &Results, exit: Exit) {
        if let Some(machine) = &results.machine {
            println!("machine      {}", describe(machine));
        }
        self.print_runs();
        if let Some(counters) = &self.counters {
            self.print_counters(counters);
        }
        match &results.ending {
            Finish::Finished => {}
            Finish::TimeLimit => println!("ended        by the time limit: what was counted until then"),
            Finish::Refused => {
                let missing = results.refused.as_ref().map(|refused| refused.missing.join(", ")).unwrap_or_default();
                println!("refused      missing: {missing}");
            }
            Finish::NeverBegan(what) | Finish::KernelDied(what) | Finish::RigFailed(what) | Finish::BadTrace(what) => {
                println!("ended        {what}");
                results.console.lines().for_each(|line| println!("             | {line}"));
            }
        }
        if let Some(damage) = &self.damage {
            println!("damaged      {damage}");
        }
        println!("exit         {} ({})", exit as u8, exit.meaning());
    }

    fn print_runs(&self) {
        for ran in &self.runs {
            let how = if ran.watched { "watched" } else { "unwatched" };
            let end = ran.failure.as_ref().map(|failure| format!(", {failure}")).unwrap_or_default();
            println!("command      {how}, {:.3} s of the machine's clock{end}", ran.seconds);
        }
        if let Some((median, least, most)) = slowdown(&self.runs) {
            println!("slowdown     {median:.2} (least {least:.2}, most {most:.2})");
        }
    }

    fn print_counters(&self, counters: &Counters) {
        println!("processes    {} watched", counters.processes);
        println!("events       {:<22} {:>12} {:>12}", "", "events", "entries");
        for (moment, (events, entries)) in Moment::ALL.iter().zip(counters.events.iter().zip(&counters.entries)) {
            println!("             {:<22} {events:>12} {entries:>12}", moment.name());
        }
        let entries: u64 = counters.entries.iter().sum();
        println!("             {:<22} {:>12} {entries:>12}", "all", counters.all_events());
        if counters.retries + counters.failed > 0 {
            println!("             {} faults tried again, {} copies failed", counters.retries, counters.failed);
        }
        println!("invariants   {:<30} {:>12} {:>10}", "", "checked", "violations");
        for invariant in Invariant::ALL {
            let (checked, violations) = counters.of(invariant);
            if counters.invariants & invariant.bit() == 0 {
                println!("             {:<30} not on this machine", invariant.identifier());
            } else {
                println!("             {:<30} {checked:>12} {violations:>10}", invariant.identifier());
            }
        }
        print_pagemap(&counters.pagemap);
        let told = self.violations.len();
        if told > Self::SHOWN || counters.unreported > 0 {
            println!(
                "violations   {} printed, {told} told, {} only counted",
                Self::SHOWN.min(told),
                counters.unreported
            );
        }
        println!("lost         {}", counters.all_lost());
        for (why, count) in counters.lost.iter().filter(|(_, count)| *count > 0) {
            println!("             {count} {why}");
        }
        if counters.all_lost() > 0 {
            println!("             what was lost may have been a violation: agreement cannot be told");
        }
    }

    /// The same as one JSON document.
    #[must_use]
    pub fn json(&self, results: &Results, exit: Exit) -> Value {
        let counters = self.counters.as_ref();
        let invariants: Vec<Value> = Invariant::ALL
            .iter()
            .map(|invariant| {
                let (checked, violations) = counters.map_or((0, 0), |all| all.of(*invariant));
                let holds = counters.is_some_and(|all| all.invariants & invariant.bit() != 0);
                json!({
                    "invariant": invariant.identifier(), "statement": invariant.statement(),
                    "source": invariant.source(), "holds_here": holds, "checked": checked, "violations": violations,
                })
            })
            .collect();
        let events: Vec<Value> = Moment::ALL
            .iter()
            .enumerate()
            .map(|(number, moment)| {
                let at = |counts: Option<&Vec<u64>>| counts.and_then(|counts| counts.get(number)).copied().unwrap_or(0);
                json!({
                    "at": moment.name(), "events": at(counters.map(|all| &all.events)),
                    "entries": at(counters.map(|all| &all.entries)),
                })
            })
            .collect();
        let slowdown =
            slowdown(&self.runs).map(|(median, least, most)| json!({ "median": median, "least": least, "most": most }));
        json!({
            "machine": results.machine, "runs": self.runs, "slowdown": slowdown, "events": events,
            "invariants": invariants, "violations": self.violations, "pagemap": counters.map(|all| &all.pagemap),
            "unreported": counters.map_or(0, |all| all.unreported),
            "processes": counters.map_or(0, |all| all.processes),
            "retries": counters.map_or(0, |all| all.retries), "failed": counters.map_or(0, |all| all.failed),
            "lost": counters.map(|all| &all.lost), "whole": self.is_whole, "ending": results.ending,
            "damage": self.damage, "exit": exit as u8,
        })
    }
}
