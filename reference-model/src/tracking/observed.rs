//! What was seen of entries: why a page could not be written to.

use std::fmt;

use crate::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex};
use crate::entry::{EntryKind, RW};
use crate::observation::{FrameName, ObservedEntry, StepRecord};
use crate::program::{Operation, Step};

/// What a store met, as far as anything but userfaultfd is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circumstance {
    /// Nothing: an empty entry or a marker.
    Empty,
    /// A writable entry.
    Writable,
    /// The zero page.
    ZeroPage,
    /// A page that another entry maps too.
    SharedByFork,
    /// A KSM page.
    Merged,
    /// A swap entry.
    SwappedOut,
    /// A page of its own that is read-only all the same.
    ReadOnly,
}

impl Circumstance {
    /// Every circumstance, in the order of the enumeration.
    pub const ALL: [Self; 7] = [
        Self::Empty,
        Self::Writable,
        Self::ZeroPage,
        Self::SharedByFork,
        Self::Merged,
        Self::SwappedOut,
        Self::ReadOnly,
    ];

    /// In words, for reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Writable => "writable",
            Self::ZeroPage => "zero page",
            Self::SharedByFork => "COW",
            Self::Merged => "KSM",
            Self::SwappedOut => "swap",
            Self::ReadOnly => "read-only",
        }
    }
}

impl fmt::Display for Circumstance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The entries of all actors as they were seen last.
#[derive(Debug, Clone)]
pub struct Observed {
    entries: [[ObservedEntry; ARENA_PAGES]; ACTORS],
    /// Frames that ksmd made KSM pages.
    merged: Vec<FrameName>,
}

impl Default for Observed {
    fn default() -> Self {
        Self { entries: [[ObservedEntry::NONE; ARENA_PAGES]; ACTORS], merged: Vec::new() }
    }
}

impl Observed {
    /// Takes in what was seen of a step. Gives the pages whose frame ksmd replaced.
    pub fn step(&mut self, step: &Step, record: &StepRecord) -> Vec<(ActorId, PageIndex)> {
        let merges = step.operation == Operation::MergePages;
        let mut replaced = Vec::new();
        for change in &record.changes {
            let entry = &mut self.entries[change.actor.index()][change.page.index()];
            if merges && entry.frame != change.entry.frame {
                replaced.push((change.actor, change.page));
                self.merged.push(change.entry.frame);
            }
            *entry = change.entry;
        }
        for actor in ActorId::all() {
            if record.alive & (1 << actor.index()) == 0 {
                self.entries[actor.index()] = [ObservedEntry::NONE; ARENA_PAGES];
            }
        }
        replaced
    }

    /// The entry as it was seen last.
    #[must_use]
    pub fn entry(&self, actor: ActorId, page: PageIndex) -> ObservedEntry {
        self.entries[actor.index()][page.index()]
    }

    /// Entries that hold the frame. A KSM page's are those of all that it stands for.
    #[must_use]
    pub fn mapcount(&self, frame: FrameName) -> usize {
        self.entries.iter().flatten().filter(|entry| entry.frame == frame).count()
    }

    /// Whether ksmd made the frame a KSM page.
    #[must_use]
    pub fn is_merged(&self, frame: FrameName) -> bool {
        self.merged.contains(&frame)
    }

    /// What a store to the page meets.
    #[must_use]
    pub fn circumstance(&self, actor: ActorId, page: PageIndex) -> Circumstance {
        let ObservedEntry { bits, frame } = self.entry(actor, page);
        match bits.kind() {
            EntryKind::None => Circumstance::Empty,
            EntryKind::NonPresent if bits.is_swapped() => Circumstance::SwappedOut,
            EntryKind::NonPresent => Circumstance::Empty,
            EntryKind::Present if bits.has(RW) => Circumstance::Writable,
            _ if frame == FrameName::ZERO => Circumstance::ZeroPage,
            _ if self.is_merged(frame) => Circumstance::Merged,
            _ if self.mapcount(frame) > 1 => Circumstance::SharedByFork,
            _ => Circumstance::ReadOnly,
        }
    }
}
