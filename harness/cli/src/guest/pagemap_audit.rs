//! Compares the pagemaps of processes that stand still with their entries.

use std::fs;
use std::time::{Duration, Instant};

use ptediff_observe::{ObserveError, PageTables, PagemapWords, ProgramWatch, WatchedProcess};
use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::pagemap;

use super::freezer::Freezer;
use super::program::RigError;
use crate::watch::{PagemapCounters, Violation};

/// Tables, and huge pages, of one process that are read at once.
const MOST_LEAVES: usize = 8192;
/// Contradictions that are told; all are counted.
const MOST_TOLD: u64 = 16;
/// After this the first look: the command has done something by then.
const FIRST: Duration = Duration::from_millis(100);

/// Looks now and then.
#[derive(Debug)]
pub(super) struct PagemapAudit {
    freezer: Freezer,
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
            freezer: Freezer::new().map_err(|error| error.to_string())?,
            tables: PageTables::open(watch.geometry()).map_err(|error| error.to_string())?,
            every: Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?,
            due: Instant::now() + FIRST,
            plant,
            counters: PagemapCounters::default(),
        })
    }

    /// Looks at this command, too.
    ///
    /// # Errors
    /// Why that cannot be.
    pub(super) fn take(&mut self, process: u32) -> Result<(), String> {
        self.due = Instant::now() + FIRST;
        self.freezer.take(process).map_err(|error| error.to_string())
    }

    /// Looks, if it is time; returns the contradictions.
    ///
    /// # Errors
    /// The rig failed.
    pub(super) fn look_if_due(&mut self, watch: &ProgramWatch) -> Result<Vec<Violation>, RigError> {
        if Instant::now() < self.due {
            return Ok(Vec::new());
        }
        let Self { freezer, tables, plant, counters, .. } = self;
        let looked = freezer
            .while_frozen(|| look(watch, tables, *plant, counters))
            .map_err(|error| RigError::of("the watched processes cannot be frozen", &error))?;
        self.due = Instant::now() + self.every;
        match looked {
            Some(violations) => {
                self.counters.looks += 1;
                violations.map_err(|error| RigError::of("the look at pagemaps", &error))
            }
            None => {
                self.counters.not_frozen += 1;
                Ok(Vec::new())
            }
        }
    }
}

fn look(
    watch: &ProgramWatch,
    tables: &PageTables,
    plant: u64,
    counters: &mut PagemapCounters,
) -> Result<Vec<Violation>, ObserveError> {
    let mut found = Vec::new();
    for process in watch.processes()? {
        // Not even a frozen process is safe from SIGKILL: what cannot be read then is no failure.
        match compare(&process, tables, plant, counters, &mut found) {
            Err(_) if !std::path::Path::new(&format!("/proc/{}/maps", process.process)).exists() => {}
            compared => compared?,
        }
        counters.processes += 1;
    }
    Ok(found)
}

/// Reads entries, pagemap, and entries again; what is the same at both ends is compared.
fn compare(
    process: &WatchedProcess,
    tables: &PageTables,
    plant: u64,
    counters: &mut PagemapCounters,
    found: &mut Vec<Violation>,
) -> Result<(), ObserveError> {
    let pagemap = PagemapWords::open(process.process)?;
    let (before, cut_short) = tables.leaves(process.table, MOST_LEAVES)?;
    let mut words = Vec::with_capacity(before.len());
    for leaf in &before {
        words.push(pagemap.read(leaf.address, leaf.entries.len() << (leaf.shift - 12))?);
    }
    let (after, _) = tables.leaves(process.table, MOST_LEAVES)?;
    counters.cut_short += u64::from(cut_short);
    let mut areas = None;
    let mut after = after.iter().peekable();
    for (leaf, words) in before.iter().zip(&words) {
        while after.next_if(|later| later.address < leaf.address).is_some() {}
        let later = after.peek().filter(|later| (later.address, later.shift) == (leaf.address, leaf.shift));
        let pages_of_entry = 1usize << (leaf.shift - 12);
        for (number, &word) in words.iter().enumerate() {
            let (place, page) = (number / pages_of_entry, number % pages_of_entry);
            let raw = leaf.entries[place];
            if later.is_none_or(|later| later.entries[place] != raw) {
                counters.moved += 1;
                continue;
            }
            counters.compared += u64::from(raw != 0);
            let word = if raw == 0 { word } else { word ^ plant };
            let Some(what) = pagemap::contradiction(Entry(raw), leaf.shift, page as u64, word) else { continue };
            let address = leaf.address + ((number as u64) << 12);
            let areas = areas.get_or_insert_with(|| Areas::read(process.process));
            let area = areas.of(address);
            if area.is_some_and(|area| area.is_hole) {
                counters.holes += 1;
                continue;
            }
            counters.violations += 1;
            if counters.violations <= MOST_TOLD {
                let vma = area.map_or((0, 0), |area| (area.start, area.end));
                found.push(violation(process.process, leaf.shift, address, raw, vma, word, what));
            }
        }
    }
    Ok(())
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

/// A VMA, by smaps.
#[derive(Debug, Clone, Copy)]
struct Area {
    start: u64,
    end: u64,
    /// VM_PFNMAP.
    is_hole: bool,
}

#[derive(Debug)]
struct Areas(Vec<Area>);

impl Areas {
    fn read(process: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap_or_default();
        Self::of_text(&text)
    }

    fn of_text(smaps: &str) -> Self {
        let mut areas: Vec<Area> = Vec::new();
        for line in smaps.lines() {
            let first = line.split_whitespace().next().unwrap_or_default();
            let range = first.split_once('-').and_then(|(start, end)| {
                Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
            });
            if let Some((start, end)) = range {
                areas.push(Area { start, end, is_hole: false });
            } else if let (Some(flags), Some(area)) = (line.strip_prefix("VmFlags:"), areas.last_mut()) {
                area.is_hole = flags.split_whitespace().any(|flag| flag == "pf");
            }
        }
        Self(areas)
    }

    fn of(&self, address: u64) -> Option<Area> {
        self.0.iter().copied().find(|area| (area.start..area.end).contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_those_of_smaps() {
        let areas = Areas::of_text(
            "7f00-8f00 r--p 00000000 00:00 0   [vvar]\nRss: 4 kB\nVmFlags: rd mr pf io de dd \n\
             9000-a000 rw-p 00000000 00:00 0\nVmFlags: rd wr mr\n",
        );
        assert!(areas.of(0x7f00).is_some_and(|area| area.is_hole));
        assert!(areas.of(0x9fff).is_some_and(|area| !area.is_hole && area.start == 0x9000));
        assert!(areas.of(0x8f00).is_none());
    }
}
