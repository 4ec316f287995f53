//! Compares the pagemaps of watched processes with their entries, while they run.
//!
//! Entries are read, then pagemap, then the entries again; where these are the same, pagemap must agree. An entry that
//! changed and changed back between, as when a range is protected back and forth, would look like a contradiction: it
//! counts as one only if it is there every time, over and over, and the process is there still.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use ptediff_observe::{ObserveError, PageTables, PagemapWords, ProgramWatch, Smaps, WatchedProcess};
use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::invariant::vm_flag;
use ptediff_reference_model::pagemap;

use super::program::RigError;
use crate::watch::{PagemapCounters, Violation};

/// Tables, and huge pages, of one process that are read in one look.
const MOST_LEAVES: usize = 8192;
/// Pages of one process that are looked at again in one look; more are left for the next.
const MOST_DOUBTS: usize = 32;
/// Times that a contradiction must be seen, and the time between two.
const TIMES: usize = 24;
const PAUSE: Duration = Duration::from_millis(1);
/// Contradictions that are told; all are counted.
const MOST_TOLD: u64 = 16;
/// After this the first look: the command has done something by then.
const FIRST: Duration = Duration::from_millis(100);

/// Looks now and then.
#[derive(Debug)]
pub(super) struct PagemapAudit {
    tables: PageTables,
    every: Duration,
    due: Instant,
    plant: u64,
    pub(super) counters: PagemapCounters,
}

impl PagemapAudit {
    /// Looks every so many seconds; flips the bits of `plant` in what pagemap says.
    ///
    /// # Errors
    /// Why there can be no look here.
    pub(super) fn new(watch: &ProgramWatch, seconds: f64, plant: u64) -> Result<Self, String> {
        Ok(Self {
            tables: PageTables::open(watch.geometry()).map_err(|error| error.to_string())?,
            every: Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
            due: Instant::now() + FIRST,
            plant,
            counters: PagemapCounters::default(),
        })
    }

    /// Another command begins.
    pub(super) fn begin(&mut self) {
        self.due = Instant::now() + FIRST;
    }

    /// Looks, if it is time; returns the contradictions.
    ///
    /// # Errors
    /// The rig failed.
    pub(super) fn look_if_due(&mut self, watch: &ProgramWatch) -> Result<Vec<Violation>, RigError> {
        let mut found = Vec::new();
        if Instant::now() < self.due {
            return Ok(found);
        }
        let processes = watch.processes().map_err(|error| RigError::of("the watched processes", &error))?;
        for process in &processes {
            // A process may end at any time: what cannot be read then is no failure.
            if let Err(error) = self.compare(watch, process, &mut found)
                && is_there(watch, process)
            {
                return Err(RigError::of("the look at pagemaps", &error));
            }
            self.counters.processes += 1;
        }
        self.counters.looks += 1;
        self.due = Instant::now() + self.every;
        Ok(found)
    }

    fn compare(
        &mut self,
        watch: &ProgramWatch,
        process: &WatchedProcess,
        found: &mut Vec<Violation>,
    ) -> Result<(), ObserveError> {
        let words_of = PagemapWords::open(process.process)?;
        let (leaves, cut_short) = self.tables.leaves(process.table, MOST_LEAVES)?;
        self.counters.cut_short += u64::from(cut_short);
        let mut doubts = Vec::new();
        for leaf in &leaves {
            let pages_of_entry = 1usize << (leaf.shift - 12);
            let before = self.tables.entries(leaf)?;
            let words = words_of.read(leaf.address, leaf.length * pages_of_entry)?;
            let after = self.tables.entries(leaf)?;
            for (number, &word) in words.iter().enumerate() {
                let (place, page) = (number / pages_of_entry, number % pages_of_entry);
                let raw = before[place];
                if raw != after[place] {
                    self.counters.moved += 1;
                    continue;
                }
                self.counters.compared += u64::from(raw != 0);
                let word = if raw == 0 { word } else { word ^ self.plant };
                if pagemap::contradiction(Entry(raw), leaf.shift, page as u64, word).is_some() {
                    doubts.push(leaf.address + ((number as u64) << 12));
                }
            }
        }
        let areas = if doubts.is_empty() { Smaps::default() } else { Smaps::read(process.process).unwrap_or_default() };
        for (number, &address) in doubts.iter().enumerate() {
            let area = areas.area(address);
            if area.is_some_and(|(_, flags)| flags & vm_flag::PFNMAP != 0) {
                self.counters.holes += 1;
            } else if number >= MOST_DOUBTS {
                self.counters.moved += 1;
            } else if let Some((raw, shift, word, what)) = self.every_time(&words_of, process.table, address)?
                && is_there(watch, process)
            {
                self.counters.violations += 1;
                if self.counters.violations <= MOST_TOLD {
                    let vma = area.map_or((0, 0), |(range, _)| (range.start, range.end));
                    found.push(violation(process.process, shift, address, raw, vma, word, what));
                }
            } else {
                self.counters.moved += 1;
            }
        }
        Ok(())
    }

    /// The contradiction at a page that is there at every look: entry, shift, word, and what is wrong.
    fn every_time(
        &self,
        words: &PagemapWords,
        table: u64,
        address: u64,
    ) -> Result<Option<(u64, u32, u64, String)>, ObserveError> {
        let mut last = None;
        for _ in 0..TIMES {
            thread::sleep(PAUSE);
            let (raw, shift) = self.tables.entry(table, address)?;
            let word = words.read(address, 1)?[0];
            let word = if raw == 0 { word } else { word ^ self.plant };
            let page = (address & ((1 << shift) - 1)) >> 12;
            let what = pagemap::contradiction(Entry(raw), shift, page, word);
            if self.tables.entry(table, address)? != (raw, shift) {
                return Ok(None);
            }
            let Some(what) = what else { return Ok(None) };
            last = Some((raw, shift, word, what));
        }
        Ok(last)
    }
}

/// Whether a process has the same memory still.
fn is_there(watch: &ProgramWatch, process: &WatchedProcess) -> bool {
    watch.processes().is_ok_and(|all| all.contains(process))
}

fn violation(process: u32, shift: u32, address: u64, raw: u64, vma: (u64, u64), word: u64, what: String) -> Violation {
    let task = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    Violation {
        number: 0,
        broken: vec![pagemap::IDENTIFIER.to_owned()],
        cause: u32::MAX,
        address,
        after: raw,
        level: (shift - 12) / 9 + 1,
        vm_flags: 0,
        vma,
        exclusive: None,
        task: task.trim_end().to_owned(),
        process: (process, process),
        stack: Vec::new(),
        history: Vec::new(),
        pagemap: Some((word, what)),
        contradiction: None,
    }
}
