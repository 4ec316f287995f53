//! The guest's part of the live checks of the Dirty/RW race: the storm, under the watch.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use ptediff_execute::{Manner, Planted, Protector, Round, Storm};
use ptediff_observe::{Tally, WatchCounters, WriteProtectWatch};
use ptediff_reference_model::entry::{D, Entry, P, RW};
use ptediff_reference_model::machine::Machine;
use ptediff_vm::load_kernel_module;

use super::{GuestCheck, Report};
use crate::guest::program::RigError;
use crate::guest::quiet::quieten;
use crate::guest::swap::SwapFile;

pub(super) const CHECKS: &[GuestCheck] =
    &[GuestCheck { claim: "race.two-processors", run }, GuestCheck { claim: "race.planted-module", run }];

/// Where the planted module lies in the initramfs.
pub(crate) const MODULE_PATH: &str = "nonatomic-wrprotect.ko";

/// Name of the one finding.
pub(crate) const FINDING: &str = "storm";

/// Every this-many-th round the writer does not stop after one pass.
const CONTINUOUS_EVERY: u64 = 4;

/// Violations that are told in words; more are only counted.
const TOLD: usize = 12;

/// What the host asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Rounds, over all ways to protect in turn.
    pub(crate) rounds: u64,
    /// Begins the sequence that moves the writer against the kernel.
    pub(crate) seed: u64,
    /// The region is reclaimed after every this-many-th round.
    pub(crate) reclaim_every: u64,
    /// Write=0, Dirty=1 is what this kernel makes by design (up to 6.5): counted, not held against it.
    pub(crate) permits_write_0_dirty_1: bool,
    /// The planted module does the protecting: until it is caught.
    pub(crate) plant: Option<PlantRequest>,
}

/// What the planted module is to do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct PlantRequest {
    pub(crate) moves_dirty: bool,
    pub(crate) delay: u32,
}

/// What was seen under one cause.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Counted {
    pub(crate) calls: u64,
    pub(crate) protected: u64,
    pub(crate) created: u64,
    pub(crate) dirty_lost: u64,
    pub(crate) dirty_arrived: u64,
}

impl From<Tally> for Counted {
    fn from(tally: Tally) -> Self {
        let Tally { calls, protected, created, dirty_lost, dirty_arrived } = tally;
        Self { calls, protected, created, dirty_lost, dirty_arrived }
    }
}

/// What a storm came to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) rounds: u64,
    pub(crate) stores: u64,
    /// Entries that were write-protected in place, by the kernel's functions or the planted module.
    pub(crate) protected: u64,
    pub(crate) fault: Counted,
    pub(crate) fork_parent: Counted,
    pub(crate) fork_child: Counted,
    pub(crate) protect: Counted,
    pub(crate) clear_refs: Counted,
    /// Entries that were writable and clean before a protecting function and dirty behind it.
    pub(crate) arrived_meanwhile: u64,
    /// Calls that the rounds must have made and the probes did not see.
    pub(crate) missed_calls: u64,
    pub(crate) unpaired: u64,
    pub(crate) read_errors: u64,
    /// Messages of userfaultfd, stores that mprotect refused, pages that reclaim took.
    pub(crate) messages: u64,
    pub(crate) refused: u64,
    pub(crate) reclaimed: u64,
    /// There is a swap file (zram): what is dirty goes there. Without one it stays.
    pub(crate) has_swap: bool,
    /// Violations, by what was found wrong.
    pub(crate) write_0_dirty_1: u64,
    pub(crate) dirty_lost: u64,
    pub(crate) writes_lost: u64,
    pub(crate) soft_dirty_lost: u64,
    pub(crate) stale_stores: u64,
    /// The first violations in words, each with the number of entries protected until then.
    pub(crate) told: Vec<String>,
}

impl Summary {
    /// All violations.
    pub(crate) fn violations(&self) -> u64 {
        self.write_0_dirty_1 + self.dirty_lost + self.writes_lost + self.soft_dirty_lost + self.stale_stores
    }

    fn tell(&mut self, what: String) {
        if self.told.len() < TOLD {
            self.told.push(format!("after {} entries: {what}", self.protected));
        }
    }
}

fn run(parameters: &Value, machine: &Machine, report: &mut dyn Report) -> Result<(), RigError> {
    let request: Request =
        serde_json::from_value(parameters.clone()).map_err(|error| RigError::of("the request", &error))?;
    for note in quieten() {
        report.log(note)?;
    }
    if request.plant.is_some() {
        load_kernel_module(&Path::new("/").join(MODULE_PATH), c"")
            .map_err(|error| RigError::of("the planted module cannot be loaded", &error))?;
    }
    if machine.swap {
        SwapFile::default().turn_on().map_err(|error| RigError::of("swap cannot be turned on", &error))?;
    }
    let watch = WriteProtectWatch::open().map_err(|error| RigError::of("the watch cannot be opened", &error))?;
    let storm = Storm::start(watch.begun()).map_err(|error| RigError::of("the storm cannot be started", &error))?;
    let mut weather =
        Weather { watch, storm, summary: Summary { has_swap: machine.swap, ..Summary::default() }, request };
    weather.blow(report)?;
    report.find(FINDING, &weather.summary)
}

/// A storm under watch.
struct Weather {
    watch: WriteProtectWatch,
    storm: Storm,
    summary: Summary,
    request: Request,
}

impl Weather {
    fn blow(&mut self, report: &mut dyn Report) -> Result<(), RigError> {
        // The first look also says whose address space is watched.
        self.inspect()?;
        let mut dice = self.request.seed;
        for number in 0..self.request.rounds {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let protector = self.protector(number);
            // A pass that is repeated hides what an earlier one left: with the module in place there is only one.
            let is_continuous = self.request.plant.is_none()
                && number / Protector::OF_THE_KERNEL.len() as u64 % CONTINUOUS_EVERY == CONTINUOUS_EVERY - 1;
            let manner = if is_continuous { Manner::Continuous } else { Manner::OnePass };
            let before = self.watch.counters();
            let round = self
                .storm
                .round(protector, manner, dice >> 24)
                .map_err(|error| RigError::of("a round of the storm", &error))?;
            self.count(protector, &before, &round);
            self.judge(number, protector, &round)?;
            if number % self.request.reclaim_every == self.request.reclaim_every - 1 {
                self.reclaim(number, protector)?;
            }
            if self.request.plant.is_some() && self.summary.violations() > 0 {
                break;
            }
            if number % 100 == 99 {
                report.log(format!("round {}: {} entries protected", number + 1, self.summary.protected))?;
            }
        }
        self.finish();
        Ok(())
    }

    fn protector(&self, number: u64) -> Protector {
        match self.request.plant {
            Some(PlantRequest { moves_dirty, delay }) => Protector::Planted(Planted { moves_dirty, delay }),
            None => Protector::OF_THE_KERNEL[number as usize % Protector::OF_THE_KERNEL.len()],
        }
    }

    fn inspect(&self) -> Result<Vec<Entry>, RigError> {
        let entries = self.watch.inspect().map_err(|error| RigError::of("the region cannot be read", &error))?;
        Ok(entries.into_iter().map(Entry).collect())
    }

    /// What the probes must have seen of a round, and what they did.
    fn count(&mut self, protector: Protector, before: &WatchCounters, round: &Round) {
        let after = self.watch.counters();
        let calls = |counters: &WatchCounters| match protector {
            Protector::Fork => counters.fork_parent.calls.min(counters.fork_child.calls),
            Protector::Protect | Protector::Userfault => counters.protect.calls,
            Protector::ClearSoftDirty => counters.clear_refs.calls,
            Protector::Planted(_) => 0,
        };
        let expected = match protector {
            Protector::Fork | Protector::ClearSoftDirty => 1,
            // There and back.
            Protector::Protect | Protector::Userfault => 2,
            Protector::Planted(_) => 0,
        };
        self.summary.missed_calls += (calls(before) + expected).abs_diff(calls(&after));
        self.summary.rounds += 1;
        self.summary.stores += round.stores;
        self.summary.messages += round.messages;
        self.summary.refused += round.refused;
        self.summary.protected += after.protected_in_place() - before.protected_in_place() + round.planted;
    }

    /// What the writer, the child and the entries say of a round.
    fn judge(&mut self, number: u64, protector: Protector, round: &Round) -> Result<(), RigError> {
        let place = format!("round {number}, {}", protector.name());
        let entries = self.inspect()?;
        for (page, (entry, was_written)) in entries.iter().zip(&round.written).enumerate() {
            if entry.0 & (P | RW | D) == P | D && !self.request.permits_write_0_dirty_1 {
                self.summary.write_0_dirty_1 += 1;
                self.summary.tell(format!("{place}: page {page} has Write=0, Dirty=1: {entry}"));
            }
            if *was_written && entry.has(P) && !entry.is_dirty() {
                self.summary.dirty_lost += 1;
                self.summary.tell(format!("{place}: page {page} was written and is not dirty: {entry}"));
            }
        }
        for wrong in &round.wrong_contents {
            self.summary.writes_lost += 1;
            self.summary.tell(format!("{place}: {wrong:?}"));
        }
        for page in &round.without_soft_dirty {
            self.summary.soft_dirty_lost += 1;
            self.summary.tell(format!("{place}: page {page} was written later and is not soft-dirty"));
        }
        if round.child_saw_a_store {
            self.summary.stale_stores += 1;
            self.summary.tell(format!("{place}: the child saw a page of its own change"));
        }
        Ok(())
    }

    fn reclaim(&mut self, number: u64, protector: Protector) -> Result<(), RigError> {
        let (gone, wrong) = self.storm.reclaim().map_err(|error| RigError::of("reclaim", &error))?;
        self.summary.reclaimed += gone as u64;
        for wrong in wrong {
            self.summary.writes_lost += 1;
            self.summary.tell(format!("round {number}, {}, after reclaim: {wrong:?}", protector.name()));
        }
        Ok(())
    }

    /// The probes' own counters and violations.
    fn finish(&mut self) {
        let counters = self.watch.counters();
        let summary = &mut self.summary;
        summary.fault = counters.fault.into();
        summary.fork_parent = counters.fork_parent.into();
        summary.fork_child = counters.fork_child.into();
        summary.protect = counters.protect.into();
        summary.clear_refs = counters.clear_refs.into();
        summary.arrived_meanwhile = counters.arrived_meanwhile();
        summary.unpaired = counters.unpaired;
        summary.read_errors = counters.read_errors;
        let all = [counters.fault, counters.fork_parent, counters.fork_child, counters.protect, counters.clear_refs];
        if !self.request.permits_write_0_dirty_1 {
            summary.write_0_dirty_1 += all.iter().map(|tally| tally.created).sum::<u64>();
        }
        summary.dirty_lost += all.iter().map(|tally| tally.dirty_lost).sum::<u64>();
        if summary.violations() > 0 {
            for kept in &counters.kept {
                summary.tell(format!(
                    "the probes, cause {}, kind {}: page {}, {} -> {}, after {} entries",
                    kept.cause,
                    kept.kind,
                    kept.page,
                    Entry(kept.before),
                    Entry(kept.after),
                    kept.protected_until
                ));
            }
        }
    }
}
