//! The live checks of the Dirty/RW race: two CPUs, one writes, the other takes the right to write away.

use ptediff_claims::{Effort, Evidence};
use ptediff_observe::Loader;
use ptediff_reference_model::kernel::Change;
use ptediff_vm::store::Store;
use serde_json::json;

use crate::error::Failure;
use crate::guest::claims::dirty_race::{FINDING, MODULE_PATH, PlantRequest, Request, Summary};
use crate::host::launch::Platform;

use super::{Answers, ClaimFailure, LiveCheck, Machines, Wanted};

pub(super) const LIVE: &[LiveCheck] = &[
    LiveCheck { claim: "race.two-processors", run: two_processors },
    LiveCheck { claim: "race.planted-module", run: planted_module },
];

/// The planted module's name in the cache (`vm-images/modules`).
const MODULE: &str = "nonatomic-wrprotect";

/// Write-protected entries that the whole check wants of Bochs.
const ENTRIES_IN_BOCHS: u64 = 100_000;

/// Rounds of a representative part: 8 of each way to protect.
const FEW_ROUNDS: u64 = 32;
/// Rounds of the whole check: 512 entries each.
const MANY_ROUNDS: u64 = 240;
/// Rounds in which the planted module must be caught.
const PLANTED_ROUNDS: u64 = 600;

fn wanted(platform: Platform, kernel: &'static str) -> Wanted {
    Wanted { cpus: 2, ..Wanted::new(platform, kernel) }
}

fn two_processors(machines: &Machines, effort: Effort) -> Result<Vec<Evidence>, ClaimFailure> {
    let all = [
        (Platform::Bochs, "6.12"),
        (Platform::Bochs, "7.2"),
        (Platform::Qemu, "6.1"),
        (Platform::Qemu, "6.12"),
        (Platform::Qemu, "7.2"),
    ];
    let all = match std::env::var("DBG_PLACE").ok().as_deref() {
        Some("q612") => [all[3]; 5],
        Some("q61") => [all[2]; 5],
        Some("q72") => [all[4]; 5],
        Some("b72") => [all[1]; 5],
        _ => all,
    };
    let (places, rounds, least) = match effort {
        Effort::Representative => (&all[..1], FEW_ROUNDS, 4_000),
        Effort::Full => (&all[..], MANY_ROUNDS, ENTRIES_IN_BOCHS),
    };
    places.iter().map(|&(platform, kernel)| storm(machines, platform, kernel, rounds, least)).collect()
}

fn storm(
    machines: &Machines,
    platform: Platform,
    kernel: &'static str,
    rounds: u64,
    least: u64,
) -> Result<Evidence, ClaimFailure> {
    let wanted = wanted(platform, kernel);
    let permits = kernel == "6.1";
    let request = Request { rounds, seed: 1, reclaim_every: 16, permits_write_0_dirty_1: permits, plant: None };
    require_watch()?;
    let answers = machines.ask(&wanted, "race.two-processors", json!(request))?;
    let summary: Summary = answers.one(FINDING)?;
    let place = format!("{kernel} on {}", platform.name());
    if summary.violations() > 0 {
        return Err(ClaimFailure::Refuted(format!("{place}: {}", summary.told.join("\n"))));
    }
    all_was_seen(&summary, &place)?;
    if summary.protected < least {
        let what = format!("{place}: {} write-protected entries of {least}", summary.protected);
        return Err(ClaimFailure::Inconclusive(what));
    }
    if summary.arrived_meanwhile == 0 {
        let what = format!("{place}: no store came between: nothing was raced; {summary:?}");
        return Err(ClaimFailure::Inconclusive(what));
    }
    let created = summary.fork_parent.created + summary.fork_child.created;
    let made = summary.protect.created + summary.clear_refs.created + created;
    if answers.machine.kernel().has(Change::SavedDirty) == (made > 0) {
        return Err(ClaimFailure::Refuted(format!("{place}: {made} entries with Write=0, Dirty=1 were made")));
    }
    Ok(evidence(&answers, &summary, made))
}

fn all_was_seen(summary: &Summary, place: &str) -> Result<(), ClaimFailure> {
    if summary.unpaired + summary.read_errors + summary.missed_calls == 0 {
        return Ok(());
    }
    let Summary { unpaired, read_errors, missed_calls, .. } = summary;
    Err(ClaimFailure::Inconclusive(format!(
        "{place}: not all was seen: {unpaired} exits without entry, {read_errors} reads refused, {missed_calls} calls \
         missed"
    )))
}

fn evidence(answers: &Answers, summary: &Summary, made: u64) -> Evidence {
    let note = format!(
        "2 CPUs, {} rounds: fork {}, mprotect and userfaultfd {}, clear_refs {}; {} stores, {} faults; Dirty arrived \
         inside a protecting function {} times; {} pages reclaimed{}; Write=0,Dirty=1 {made}",
        summary.rounds,
        summary.fork_parent.protected,
        summary.protect.protected,
        summary.clear_refs.protected,
        summary.stores,
        summary.fault.calls,
        summary.arrived_meanwhile,
        summary.reclaimed,
        if summary.has_swap { " (zram)" } else { " (no swap)" },
    );
    answers.evidence(summary.protected, "write-protected entries", note)
}

/// What is planted, and what must notice it.
struct Plant {
    request: PlantRequest,
    name: &'static str,
    is_caught: fn(&Summary) -> bool,
}

const PLANTS: [Plant; 3] = [
    Plant {
        request: PlantRequest { moves_dirty: false, delay: 0 },
        name: "Dirty left",
        is_caught: |summary| summary.write_0_dirty_1 > 0,
    },
    Plant {
        request: PlantRequest { moves_dirty: true, delay: 100 },
        name: "Dirty moved, a pause between read and store",
        is_caught: |summary| summary.dirty_lost > 0,
    },
    Plant {
        request: PlantRequest { moves_dirty: true, delay: 0 },
        name: "Dirty moved, read and store at once",
        is_caught: |summary| summary.dirty_lost > 0,
    },
];

fn planted_module(machines: &Machines, effort: Effort) -> Result<Vec<Evidence>, ClaimFailure> {
    let places = [(Platform::Bochs, "6.12"), (Platform::Qemu, "6.12"), (Platform::Bochs, "7.2")];
    let (places, plants) = match effort {
        Effort::Representative => (&places[..1], &PLANTS[1..2]),
        Effort::Full => (&places[..], &PLANTS[..]),
    };
    let mut evidence = Vec::new();
    for &(platform, kernel) in places {
        for plant in plants {
            evidence.push(planted(machines, platform, kernel, plant)?);
        }
    }
    Ok(evidence)
}

fn planted(
    machines: &Machines,
    platform: Platform,
    kernel: &'static str,
    plant: &Plant,
) -> Result<Evidence, ClaimFailure> {
    let mut wanted = wanted(platform, kernel);
    wanted.files.push((MODULE_PATH.to_owned(), module(kernel)?));
    let request = Request {
        rounds: PLANTED_ROUNDS,
        seed: 1,
        // Every round: a Dirty that is lost is a page that may be dropped.
        reclaim_every: 1,
        permits_write_0_dirty_1: false,
        plant: Some(plant.request),
    };
    require_watch()?;
    let answers = machines.ask(&wanted, "race.planted-module", json!(request))?;
    let summary: Summary = answers.one(FINDING)?;
    let place = format!("{kernel} on {}, {}", platform.name(), plant.name);
    if !(plant.is_caught)(&summary) {
        let what = format!("{place}: not caught in {} entries; {:?}", summary.protected, summary.told);
        return Err(ClaimFailure::Refuted(what));
    }
    let note = format!(
        "{}: caught in round {}: {} with Write=0,Dirty=1, {} dirty lost, {} writes lost; {}",
        plant.name,
        summary.rounds,
        summary.write_0_dirty_1,
        summary.dirty_lost,
        summary.writes_lost,
        summary.told.first().map_or("", String::as_str),
    );
    Ok(answers.evidence(summary.protected, "entries until it was caught", note))
}

/// The planted module for a kernel.
fn module(kernel: &str) -> Result<Vec<u8>, ClaimFailure> {
    let path = Store::open().and_then(|store| store.module(kernel, MODULE)).map_err(Failure::from)?;
    std::fs::read(&path).map_err(|source| Failure::File { path, source }.into())
}

/// The watch over write-protections is libbpf's.
fn require_watch() -> Result<(), ClaimFailure> {
    if Loader::Libbpf.is_built_in() {
        return Ok(());
    }
    Err(ClaimFailure::Inconclusive("this ptediff was built without libbpf, whose probes watch".to_owned()))
}
