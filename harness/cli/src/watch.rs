//! What host and guest say to each other about a watched program, as JSON in `Frame::Finding`s.

use serde::{Deserialize, Serialize};

use crate::arguments::Probes;
use ptediff_observe::{JudgedEntries, ProgramWatchCounters};
use ptediff_reference_model::invariant::{Invariant, Moment};

/// Names of the findings.
pub(crate) mod finding {
    /// A [`super::Output`].
    pub(crate) const OUTPUT: &str = "watch.output";
    /// A [`super::Counters`], every now and then.
    pub(crate) const COUNTERS: &str = "watch.counters";
    /// A [`super::Violation`].
    pub(crate) const VIOLATION: &str = "watch.violation";
    /// A [`super::Ran`].
    pub(crate) const RAN: &str = "watch.ran";
    /// The last [`super::Counters`].
    pub(crate) const SUMMARY: &str = "watch.summary";
}

/// What is to be watched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WatchTask {
    /// What.
    pub whom: Whom,
    /// Times that the command is run unwatched and watched, by turns; 0 for once, watched.
    pub pairs: u32,
    /// Seconds of the guest's clock after which a process is left alone.
    pub seconds: Option<u64>,
    /// How the probes are attached, where somebody asks for it.
    pub probes: Option<Probes>,
    /// Seconds between two looks at the pagemaps of all watched processes; `None` for no look.
    pub pagemap_every: Option<f64>,
    /// Bits to be flipped in what pagemap says: a test of the watch.
    pub plant_pagemap: u64,
    /// Bits to be flipped in what the probes read, and the causes under which: a test of the watch.
    pub plant: Option<(u64, u64)>,
}

/// Who is watched.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whom {
    /// A command that is started.
    Command(Vec<String>),
    /// A process that runs, and the children that it will have.
    Process(u32),
}

/// Something that the command printed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Output {
    /// To standard error, not to standard output.
    pub is_error: bool,
    /// What.
    pub text: String,
}

/// How one run of the command ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ran {
    /// Whether the probes were attached.
    pub watched: bool,
    /// Seconds of the guest's clock.
    pub seconds: f64,
    /// How it ended, in words; nothing where it ended well.
    pub failure: Option<String>,
    /// It could not be started.
    pub not_started: bool,
}

/// What the probes counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Function calls that were judged, by [`Moment`].
    pub events: Vec<u64>,
    /// Entries that were, by [`Moment`].
    pub entries: Vec<u64>,
    /// Entries about which each invariant says something, by [`Invariant`].
    pub premises: Vec<u64>,
    /// Entries that break it.
    pub violations: Vec<u64>,
    /// Processes.
    pub processes: u64,
    /// Faults that gave up their lock and were tried again.
    pub retries: u64,
    /// VMAs of which a fork copies nothing.
    pub not_copied: u64,
    /// Function calls that failed: the copy for a child was not finished.
    pub failed: u64,
    /// What was not seen, by reason.
    pub lost: Vec<(String, u64)>,
    /// Violations that were counted and not told.
    pub unreported: u64,
    /// The invariants that hold on this machine, by bit.
    pub invariants: u64,
    /// The looks at the pagemaps.
    pub pagemap: PagemapCounters,
}

impl Counters {
    /// From the probes' records; `missed` is what the kernel left out.
    #[must_use]
    pub fn new(counted: &ProgramWatchCounters, judged: &JudgedEntries, missed: u64, invariants: u64) -> Self {
        let lost = [
            ("function calls without room to be remembered", counted.no_room),
            ("function calls seen at their end alone", counted.unpaired),
            ("page tables that could not be read", counted.read_errors),
            ("ranges too long to be judged to their end", counted.cut_short),
            ("children that could not be watched", counted.unfollowed),
            ("runs of probes that the kernel left out", missed),
        ];
        Self {
            events: counted.events.to_vec(),
            entries: judged.entries.to_vec(),
            premises: judged.premises.to_vec(),
            violations: counted.violations.to_vec(),
            processes: counted.processes,
            retries: counted.retries,
            not_copied: counted.not_copied,
            failed: counted.failed,
            lost: lost.into_iter().map(|(why, count)| (why.to_owned(), count)).collect(),
            unreported: counted.unreported,
            invariants,
            pagemap: PagemapCounters::default(),
        }
    }

    /// All events.
    #[must_use]
    pub fn all_events(&self) -> u64 {
        self.events.iter().sum()
    }

    /// All violations.
    #[must_use]
    pub fn all_violations(&self) -> u64 {
        self.violations.iter().sum::<u64>() + self.pagemap.violations
    }

    /// All that was not seen.
    #[must_use]
    pub fn all_lost(&self) -> u64 {
        self.lost.iter().map(|(_, count)| count).sum()
    }

    /// Of an invariant: entries about which it says something, and those that break it.
    #[must_use]
    pub fn of(&self, invariant: Invariant) -> (u64, u64) {
        let at = |counts: &[u64]| counts.get(invariant as usize).copied().unwrap_or(0);
        (at(&self.premises), at(&self.violations))
    }
}

/// What the looks at the pagemaps gave.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PagemapCounters {
    /// Looks at all watched processes.
    pub looks: u64,
    /// Processes that were looked at, each time anew.
    pub processes: u64,
    /// Pages that were compared: entries, and each 4 KiB of a huge page.
    pub compared: u64,
    /// Pages that changed between the reads: not compared.
    pub moved: u64,
    /// Pages that pagemap shows as holes, whatever is mapped: VM_PFNMAP.
    pub holes: u64,
    /// Processes with more page tables than are read at once: the rest was not compared.
    pub cut_short: u64,
    /// Pages on which pagemap contradicts the entry.
    pub violations: u64,
    /// Why there was no look, where there can be none.
    pub unavailable: Option<String>,
}

/// An entry that breaks invariants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Violation {
    /// From 0.
    pub number: u64,
    /// Identifiers of the invariants.
    pub broken: Vec<String>,
    /// When, by the number of [`Moment::ALL`].
    pub cause: u32,
    /// Address of the page.
    pub address: u64,
    /// Raw entry.
    pub after: u64,
    /// Level of the table that holds it: 1 pte, 2 pmd, 3 pud.
    pub level: u32,
    /// `vm_flags` of the VMA.
    pub vm_flags: u64,
    /// The VMA's range.
    pub vma: (u64, u64),
    /// PageAnonExclusive of the frame, where it was asked.
    pub exclusive: Option<bool>,
    /// Name of the task.
    pub task: String,
    /// Its process and thread.
    pub process: (u32, u32),
    /// Functions on the kernel's stack, the innermost first.
    pub stack: Vec<String>,
    /// The last transitions of this page, the newest first.
    pub history: Vec<Transition>,
    /// What pagemap says of the page, and what is wrong with it; there is no cause then.
    pub pagemap: Option<(u64, String)>,
    /// What the model says of the report, where it does not agree with the probes.
    pub contradiction: Option<String>,
}

/// A transition of a page.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Transition {
    /// Its number among all.
    pub number: u64,
    /// When, by the number of [`Moment::ALL`].
    pub cause: u32,
    /// The raw entry that a fault left; `None` where a whole range was changed.
    pub entry: Option<u64>,
    /// The thread.
    pub thread: u32,
}

/// The name of a cause by its number.
#[must_use]
pub fn moment_name(cause: u32) -> &'static str {
    Moment::ALL.get(cause as usize).map_or("?", |moment| moment.name())
}
