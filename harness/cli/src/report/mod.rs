//! Reports, for people and as JSON.

pub mod audit;
pub mod explanation;
pub mod mail;
pub mod matrix;
pub mod pair;
pub mod pair_table;
pub mod progress;
pub mod reproducer;
pub mod snapshots;
pub mod timeline;
pub mod watch;
pub mod wrap;

use std::collections::BTreeMap;

use ptediff_corpus::StoredEntry;
use ptediff_generate::NARROWINGS;
use ptediff_reference_model::kernel::Change;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::OPERATION_NAMES;
use ptediff_reference_model::rule::{RULES, RuleInfo};
use ptediff_reference_model::verdict::{Explanation, Verdict};

use crate::arguments::Format;
use crate::host::opinion::{Blame, blame};
use crate::host::results::{Alone, Finish, Found, FoundCluster, Results, Running, reason};
use crate::host::session::describe;

use explanation::{defect_text, explanation_text};
use timeline::{difference_lines, timeline, verdict_line};

/// Times that a rule must fire to count as reached.
pub const RULE_GOAL: u64 = 20;

/// A divergence in one line: what the corpus entry is called by.
#[must_use]
pub fn divergence_headline(found: &Found) -> String {
    let verdict = found.minimal.as_ref().map_or(&found.verdict, |minimal| &minimal.verdict);
    match verdict {
        Verdict::Diverge(divergence) => {
            let rule = divergence.rule.map_or("no rule", |rule| rule.info().identifier);
            format!("diverges at step {} from rule {rule}", divergence.step)
        }
        other => verdict_line(other),
    }
}

/// Why a rule was not reached in this campaign, as far as it can be said.
fn unreached_reason(info: &RuleInfo, results: &Results) -> &'static str {
    let Some(machine) = &results.machine else { return "no machine" };
    if !info.holds_on(machine.kernel()) {
        return "the rule is not one of this kernel's";
    }
    let needs_shadow_stack = info.identifier.contains("shadow-stack") || info.identifier.contains("shadow_stack");
    if matches!(info.identifier, "shadow-stack.map.unsupported" | "shadow-stack.feature.unsupported") {
        return if machine.shadow_stack { "the machine has user shadow stacks" } else { "too few programs" };
    }
    if info.identifier == "pkey-alloc.unsupported" {
        return if machine.protection_keys { "the machine has protection keys" } else { "too few programs" };
    }
    if needs_shadow_stack && !machine.shadow_stack {
        return "the machine has no user shadow stacks";
    }
    "too few programs"
}

/// Rules below the goal with the reason.
fn unreached(results: &Results) -> Vec<(&'static RuleInfo, u64, &'static str)> {
    RULES
        .iter()
        .zip(&results.tally.confirmed)
        .filter(|(_, fired)| **fired < RULE_GOAL)
        .map(|(info, fired)| (info, *fired, unreached_reason(info, results)))
        .collect()
}

/// Prints a campaign, or a judged trace.
pub fn campaign(results: &Results, saved: &[String], format: Format) {
    match format {
        Format::Human => human(results, saved),
        Format::Json => println!("{}", json(results, saved)),
    }
}

/// Prints replayed entries, one line each.
pub fn replay(results: &Results, entries: &[StoredEntry], names: &[&str], timelines: bool, format: Format) {
    if format == Format::Json {
        let mut document = json(results, &[]);
        document["entries"] = (0..entries.len())
            .map(|index| serde_json::json!({ "name": names[index], "verdict": replayed_verdict(results, index) }))
            .collect();
        println!("{document}");
        return;
    }
    for (index, stored) in entries.iter().enumerate() {
        let verdict = replayed_verdict(results, index);
        println!("{}: {}", names[index], verdict);
        if timelines && let Some(records) = results.records.get(index) {
            let found = results.divergences.iter().find(|found| found.index as usize == index);
            let verdict = found.map_or(&Verdict::Agree, |found| &found.verdict);
            print!("{}", timeline(&stored.entry.program, records, verdict, results.machine.as_ref()));
        }
    }
    human(results, &[]);
}

fn replayed_verdict(results: &Results, index: usize) -> String {
    if let Some(found) = results.divergences.iter().find(|found| found.index as usize == index) {
        return verdict_line(&found.verdict);
    }
    if index >= results.programs as usize {
        return "not run".to_owned();
    }
    match results.undecided.iter().find(|(undecided, _)| *undecided as usize == index) {
        Some((_, why)) => format!("inconclusive: {}", reason(why)),
        None => "agree".to_owned(),
    }
}

fn human(results: &Results, saved: &[String]) {
    if let Some(machine) = &results.machine {
        println!("machine      {}", describe(machine));
    }
    if let Some(why) = results.no_swap() {
        println!("swap         none: {why}");
    }
    ending(results);
    let tally = &results.tally;
    let inconclusive: u32 = results.inconclusive.values().map(|(count, _)| count).sum();
    let clusters = results.clusters();
    let in_clusters = match clusters.len() {
        0 => String::new(),
        1 => " (1 cluster)".to_owned(),
        number => format!(" ({number} clusters)"),
    };
    println!(
        "programs     {} judged by guest and host: {} agree, {} diverge{in_clusters}, {inconclusive} inconclusive",
        results.programs,
        results.agreed,
        results.divergences.len()
    );
    if let Some(first) = results.first_comparison {
        let seconds = results.wall.as_secs_f64();
        println!("time         {seconds:.1} s in all, first comparison after {:.1} s", first.as_secs_f64());
    }
    println!(
        "compared     {} steps, {} transitions, {} entries, {} pagemap words, {} entries by the page walk",
        tally.steps, tally.transitions, tally.entries, tally.pagemap_words, tally.walked
    );
    if let Some(loaders) = results.loaders() {
        println!(
            "loaders      libbpf and aya: {} events, {} snapshots of {} entries, all alike; {} looked at again",
            loaders.events, loaders.snapshots, loaders.entries, loaders.moved
        );
    }
    if results.tracking.cases > 0 {
        println!("tracking     {}", results.tracking);
    }
    for violation in &results.untracked {
        println!("             untracked: {violation}");
    }
    let suppressed: u64 = tally.bits_suppressed.values().sum();
    println!(
        "bits         {} compared, {suppressed} suppressed ({:.3} %)",
        tally.bits_compared,
        tally.suppressed_share() * 100.0
    );
    for (reason, bits) in &tally.bits_suppressed {
        println!("             {bits}: {}", reason.reason());
    }
    println!("observed     sha256 {}", results.observation_digest);
    println!("trace        {} bytes, sha256 {}", results.trace_bytes, results.trace_digest);
    if results.programs > 0 {
        operations(results);
        rules(results);
    }
    for (reason, (count, first)) in &results.inconclusive {
        println!("inconclusive {count} programs, first {first}: {reason}");
    }
    for disagreement in &results.disagreements {
        println!("RIG FAILURE  guest and host disagree: {disagreement}");
    }
    for cluster in &clusters {
        divergence(cluster, results.machine.as_ref());
    }
    known(results);
    for file in saved {
        println!("stored       {file}");
    }
    println!("exit         {} ({})", results.exit() as u8, results.exit().meaning());
}

fn ending(results: &Results) {
    match &results.ending {
        Finish::Finished => {}
        Finish::TimeLimit => println!("ended        by the time limit; what was judged before stays"),
        Finish::Refused => {
            if let Some(refused) = &results.refused {
                println!("REFUSED      the machine lacks: {}", refused.missing.join(", "));
                for line in &refused.seen {
                    println!("             {line}");
                }
            }
        }
        Finish::NeverBegan(what) => println!("NEVER BEGAN  the machine ended before the session in it began: {what}"),
        Finish::KernelDied(what) => println!("KERNEL DIED  {what}"),
        Finish::RigFailed(what) => println!("RIG FAILED   {what}"),
        Finish::BadTrace(what) => println!("BAD TRACE    {what}"),
    }
    if !matches!(results.ending, Finish::Finished | Finish::TimeLimit | Finish::Refused) {
        if let Some(running) = &results.running {
            println!(
                "running      program {}, {} of {} steps done:",
                running.index,
                running.steps_done,
                running.program.steps.len()
            );
            for (index, step) in running.program.steps.iter().enumerate() {
                println!("             {}{index:3}  {step}", if index == running.steps_done { ">" } else { " " });
            }
            alone(running);
        }
        for line in results.console.lines() {
            println!("console      {line}");
        }
    }
}

/// What the program does alone that was running when the kernel died.
fn alone(running: &Running) {
    match &running.alone {
        None => {}
        Some(Alone::Survives) => {
            println!("alone        the kernel survives the program: what ran before it has its part");
        }
        Some(Alone::Dies { program, boots, exhausted }) => {
            let ended = if *exhausted { ", a smaller one may exist" } else { "" };
            let steps = program.steps.len();
            println!("alone        the kernel dies again; {steps} steps are enough ({boots} boots{ended}):");
            for (index, step) in program.steps.iter().enumerate() {
                println!("             {index:3}  {step}");
            }
        }
    }
}

fn operations(results: &Results) {
    println!("operations   succeeded / performed");
    for ((name, succeeded), performed) in
        OPERATION_NAMES.iter().zip(&results.tally.succeeded).zip(&results.tally.performed)
    {
        println!("             {name:20} {succeeded:8} / {performed}");
    }
    for narrowing in NARROWINGS {
        println!("not made     {}: {}", narrowing.left_out, narrowing.reason);
    }
}

fn rules(results: &Results) {
    let unreached = unreached(results);
    println!("rules        {} of {} fired at least {RULE_GOAL} times", RULES.len() - unreached.len(), RULES.len());
    for (info, fired, reason) in unreached {
        println!("             unreached: {} ({fired} times): {reason}", info.identifier);
    }
}

/// Defects that this version is known to have, each with the number of programs that met it.
fn known(results: &Results) {
    let mut counts: BTreeMap<Change, u32> = BTreeMap::new();
    let known = results.divergences.iter().map(Found::explanation).filter(|explanation| explanation.is_known());
    for &defect in known.flat_map(Explanation::changes) {
        *counts.entry(defect).or_default() += 1;
    }
    for (defect, programs) in counts {
        println!("known        {programs} programs: {}", defect_text(defect));
    }
}

/// Indices of programs that a cluster's line names.
const NAMED_MEMBERS: usize = 10;

/// How many programs are in a cluster, and which.
fn members(cluster: &FoundCluster<'_>) -> String {
    let indices: Vec<String> =
        cluster.members.iter().take(NAMED_MEMBERS).map(|found| found.index.to_string()).collect();
    let more = cluster.members.len().saturating_sub(NAMED_MEMBERS);
    let more = if more > 0 { format!(", {more} more") } else { String::new() };
    match cluster.members.len() {
        1 => "1 program".to_owned(),
        number => format!("{number} programs: {}{more}", indices.join(", ")),
    }
}

fn divergence(cluster: &FoundCluster<'_>, machine: Option<&Machine>) {
    let found = cluster.representative;
    let stability = match found.stability {
        Some((same, reruns)) if same == reruns => format!("stable ({same} of {reruns} re-runs the same)"),
        Some((same, reruns)) => format!("UNSTABLE ({same} of {reruns} re-runs the same)"),
        None => "not run again".to_owned(),
    };
    println!("\nDIVERGENCE   program {}, {stability}", found.index);
    println!("explained    {}", explanation_text(&cluster.key.explanation));
    println!("cluster      {}", cluster.key.text());
    println!("shown by     {}", members(cluster));
    if let Some(minimal) = &found.minimal {
        println!(
            "minimal      {} steps of {}, {} executions{}",
            minimal.program.steps.len(),
            found.program.steps.len(),
            minimal.executions,
            if minimal.exhausted { " (the budget ended the search)" } else { "" }
        );
    }
    let (program, verdict, records) = found.smallest();
    print!("{}", timeline(program, records, verdict, machine));
    if let Verdict::Diverge(divergence) = verdict {
        for line in difference_lines(divergence) {
            println!("  {line}");
        }
        if let Some(machine) = machine {
            for (name, value) in mail::rule_fields(machine, program, divergence) {
                if matches!(name, "applies" | "step calls") {
                    println!("  {name}: {value}");
                }
            }
        }
        let blamed = machine.map_or(Blame::Open, |machine| blame(machine, &found.opinions));
        println!("  blame: {}", blamed.text());
        let asked = records.get(divergence.step).is_some_and(|record| record.witness.is_some());
        println!(
            "         {}",
            match asked {
                true => "not the probe: the page walk through /proc/kcore and pagemap agree with it",
                false => "the probe is not excluded: the witnesses were not asked at this step",
            }
        );
        for opinion in &found.opinions {
            println!("         {} on {} {}", opinion.release, opinion.platform, opinion.text());
        }
    }
}

/// The kernel's functions that work on page tables in the diverging step.
fn step_calls(found: &Found) -> Option<&'static str> {
    let (program, verdict, _) = found.smallest();
    let Verdict::Diverge(divergence) = verdict else { return None };
    program.steps.get(divergence.step).map(|step| step.operation.kernel_functions())
}

fn json(results: &Results, saved: &[String]) -> serde_json::Value {
    let counts = |values: &[u64]| {
        OPERATION_NAMES.iter().zip(values).map(|(name, count)| ((*name).to_owned(), (*count).into())).collect()
    };
    let performed: serde_json::Map<String, serde_json::Value> = counts(&results.tally.performed);
    let succeeded: serde_json::Map<String, serde_json::Value> = counts(&results.tally.succeeded);
    let rules: serde_json::Map<String, serde_json::Value> = RULES
        .iter()
        .zip(&results.tally.confirmed)
        .map(|(info, fired)| (info.identifier.to_owned(), (*fired).into()))
        .collect();
    let unreached: Vec<_> = unreached(results)
        .into_iter()
        .map(|(info, fired, reason)| serde_json::json!({ "rule": info.identifier, "fired": fired, "reason": reason }))
        .collect();
    let divergences: Vec<_> = results
        .clusters()
        .iter()
        .map(|cluster| {
            let found = cluster.representative;
            serde_json::json!({
                "index": found.index,
                "cluster": cluster.key,
                "name": cluster.key.file_name(),
                "step_calls": step_calls(found),
                "programs": cluster.members.iter().map(|found| found.index).collect::<Vec<_>>(),
                "stable": found.is_stable(),
                "explanation": found.explanation(),
                "opinions": found.opinions,
                "blame": results.machine.as_ref().map(|machine| blame(machine, &found.opinions)),
                "headline": divergence_headline(found),
                "program": found.minimal.as_ref().map_or(&found.program, |minimal| &minimal.program),
                "verdict": found.minimal.as_ref().map_or(&found.verdict, |minimal| &minimal.verdict),
            })
        })
        .collect();
    let inconclusive: Vec<_> = results
        .inconclusive
        .iter()
        .map(|(reason, (count, first))| serde_json::json!({ "reason": reason, "programs": count, "first": first }))
        .collect();
    serde_json::json!({
        "machine": results.machine,
        "ending": results.ending,
        "running": results.running,
        "console": results.console,
        "refused": results.refused,
        "no_swap": results.no_swap(),
        "programs": results.programs,
        "agree": results.agreed,
        "diverge": results.divergences.len(),
        "divergences": divergences,
        "inconclusive": inconclusive,
        "disagreements": results.disagreements,
        "loaders": results.loaders().map(|compared| serde_json::json!({
            "events": compared.events, "snapshots": compared.snapshots, "entries": compared.entries, "moved": compared.moved,
        })),
        "seconds": results.wall.as_secs_f64(),
        "seconds_to_first_comparison": results.first_comparison.map(|time| time.as_secs_f64()),
        "steps": results.tally.steps,
        "transitions": results.tally.transitions,
        "entries": results.tally.entries,
        "bits_compared": results.tally.bits_compared,
        "bits_suppressed": results.tally.bits_suppressed,
        "performed": performed,
        "succeeded": succeeded,
        "rules": rules,
        "unreached": unreached,
        "trace_bytes": results.trace_bytes,
        "trace_sha256": results.trace_digest,
        "observed_sha256": results.observation_digest,
        "stored": saved,
        "exit": results.exit() as u8,
    })
}
