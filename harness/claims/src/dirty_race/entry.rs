//! The one entry that both sides work on, and the record of what each of them did.

use std::fmt;
use std::sync::Mutex as StdMutex;

use ptediff_reference_model::entry::{A, D, Entry, NX, P, RW, US};
use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};

/// An anonymous page's entry, present and writable; Accessed and Dirty are the start's.
pub(super) const WRITABLE: u64 = NX | US | RW | P;

/// A translation that a processor has cached. It is writable in every start: the entry was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cached {
    /// The entry had Dirty clear when it was cached: a store has to go to the entry once more.
    Clean,
    /// The entry had Dirty set: a store goes to the page without a look at the entry.
    Dirty,
}

/// Who took a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// A processor that loads or stores.
    Processor(u8),
    /// The kernel, on another processor.
    Kernel,
}

/// One step of a schedule, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// Who.
    pub side: Side,
    /// What was done.
    pub what: &'static str,
    /// The entry that was read or left.
    pub entry: Option<u64>,
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.side {
            Side::Processor(0) => formatter.write_str("processor")?,
            Side::Processor(_) => formatter.write_str("second processor")?,
            Side::Kernel => formatter.write_str("kernel")?,
        }
        write!(formatter, " {}", self.what)?;
        match self.entry {
            Some(value) => write!(formatter, " [{}]", bits(value)),
            None => Ok(()),
        }
    }
}

/// The three bits that matter here, and `not present`.
pub(super) fn bits(value: u64) -> String {
    if value & P == 0 {
        return "not present".to_owned();
    }
    let saved = ptediff_reference_model::entry::SAVED_DIRTY;
    let digit = |mask: u64| u8::from(value & mask != 0);
    format!("Write={} Dirty={} Saved={}", digit(RW), digit(D), digit(saved))
}

/// Whether this is the form that a processor with shadow stacks takes for one.
pub(super) fn is_write_0_dirty_1(value: u64) -> bool {
    value & P != 0 && Entry(value).is_shadow_stack()
}

/// What was noted while a schedule ran.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) events: Vec<Event>,
    pub(super) kernel_created: bool,
    pub(super) processor_created: bool,
    pub(super) locked_operations: u8,
    pub(super) retries: u8,
    pub(super) gave_up: bool,
    /// The processors that faulted, as bits.
    pub(super) faulted: u64,
    /// The processors whose store has reached the page, as bits.
    pub(super) stored: u64,
    /// Dirty stood in the entry at the start, or the processor has set it.
    pub(super) dirty_was_set: bool,
    /// The store reached the page before that.
    pub(super) stored_before_dirty: bool,
}

/// What processor and kernel share.
pub(super) struct Shared {
    /// The entry: each access to it is one step, and other steps may come between any two.
    entry: AtomicU64,
    /// The page behind it: a bit for each processor whose store has reached it.
    page: AtomicU64,
    /// Each processor's cached translation. It is held while an instruction runs, for a shootdown's interrupt is
    /// taken between instructions, and the kernel waits for the answer.
    pub(super) cached: Vec<Mutex<Option<Cached>>>,
    /// Not shuttle's: a note is no step.
    pub(super) notes: StdMutex<Notes>,
}

impl Shared {
    pub(super) fn new(entry: u64, cached: impl IntoIterator<Item = Option<Cached>>) -> Self {
        Self {
            entry: AtomicU64::new(entry),
            page: AtomicU64::new(0),
            cached: cached.into_iter().map(Mutex::new).collect(),
            notes: StdMutex::new(Notes { dirty_was_set: entry & D != 0, ..Notes::default() }),
        }
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes.lock().expect("nobody panics with the notes in hand"));
    }

    fn event(&self, side: Side, what: &'static str, entry: Option<u64>) {
        self.note(|notes| notes.events.push(Event { side, what, entry }));
    }

    /// Reads the entry.
    pub(super) fn read(&self, side: Side, what: &'static str) -> u64 {
        let value = self.entry.load(Ordering::SeqCst);
        self.event(side, what, Some(value));
        value
    }

    /// The kernel's plain store.
    pub(super) fn store(&self, what: &'static str, value: u64) {
        self.entry.store(value, Ordering::SeqCst);
        self.event(Side::Kernel, what, Some(value));
        self.note(|notes| notes.kernel_created |= is_write_0_dirty_1(value));
    }

    /// The kernel's `lock and`; returns what was there.
    pub(super) fn locked_and(&self, what: &'static str, mask: u64) -> u64 {
        let before = self.entry.fetch_and(mask, Ordering::SeqCst);
        self.locked(what, before & mask);
        before
    }

    /// The kernel's `xchg`; returns what was there.
    pub(super) fn exchange(&self, what: &'static str, value: u64) -> u64 {
        let before = self.entry.swap(value, Ordering::SeqCst);
        self.locked(what, value);
        before
    }

    /// The kernel's `lock cmpxchg`; in the error what was there instead.
    pub(super) fn compare_exchange(&self, what: &'static str, expected: u64, value: u64) -> Result<(), u64> {
        match self.entry.compare_exchange(expected, value, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => {
                self.locked(what, value);
                Ok(())
            }
            Err(seen) => {
                self.event(Side::Kernel, "finds the entry changed", Some(seen));
                self.note(|notes| {
                    notes.locked_operations += 1;
                    notes.retries += 1;
                });
                Err(seen)
            }
        }
    }

    fn locked(&self, what: &'static str, value: u64) {
        self.event(Side::Kernel, what, Some(value));
        self.note(|notes| {
            notes.locked_operations += 1;
            notes.kernel_created |= is_write_0_dirty_1(value);
        });
    }

    /// The processor's locked update of the entry that it just read: refused if the entry is another by now.
    pub(super) fn processor_update(&self, index: u8, what: &'static str, seen: u64, value: u64) -> bool {
        let done = self.entry.compare_exchange(seen, value, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if done {
            self.processor_left(index, what, seen, value);
        } else {
            self.event(Side::Processor(index), "finds the entry changed and walks again", None);
        }
        done
    }

    /// The processor's locked update that looks at Present alone; returns what was there, or nothing if the
    /// entry was not present.
    pub(super) fn processor_update_if_present(&self, index: u8, what: &'static str, set: u64) -> Option<u64> {
        // Two steps to shuttle, and one to everybody else: it takes effect only if nothing came between.
        let before = self
            .entry
            .try_update(Ordering::SeqCst, Ordering::SeqCst, |value| (value & P != 0).then_some(value | set))
            .ok()?;
        self.processor_left(index, what, before, before | set);
        Some(before)
    }

    /// The store of a (broken) processor without a bus lock.
    pub(super) fn processor_store(&self, index: u8, what: &'static str, seen: u64, value: u64) {
        self.entry.store(value, Ordering::SeqCst);
        self.processor_left(index, what, seen, value);
    }

    fn processor_left(&self, index: u8, what: &'static str, before: u64, after: u64) {
        self.event(Side::Processor(index), what, Some(after));
        self.note(|notes| {
            notes.processor_created |= is_write_0_dirty_1(after) && before & D == 0;
            notes.dirty_was_set |= after & D != 0;
        });
    }

    /// The store reaches the page.
    pub(super) fn write_page(&self, index: u8) {
        // Each processor has a word of its own in the page; a bit of one number stands for it.
        self.page.fetch_or(1 << index, Ordering::SeqCst);
        self.event(Side::Processor(index), "stores to the page", None);
        self.note(|notes| {
            notes.stored |= 1 << index;
            notes.stored_before_dirty |= !notes.dirty_was_set;
        });
    }

    /// The entry when all threads are done.
    pub(super) fn final_entry(&self) -> u64 {
        self.entry.load(Ordering::SeqCst)
    }

    /// The kernel reads the page, as whoever relies on the write-protection does.
    pub(super) fn copy_page(&self) -> u64 {
        let copied = self.page.load(Ordering::SeqCst);
        let what = if copied != 0 { "copies the page: a store is in it" } else { "copies the page: no store in it" };
        self.event(Side::Kernel, what, None);
        copied
    }

    /// The shootdown: each processor drops its translation between two instructions.
    pub(super) fn flush(&self) {
        for cached in &self.cached {
            *cached.lock().expect("nobody panics with a translation in hand") = None;
        }
        self.event(Side::Kernel, "has flushed the TLB", None);
    }

    /// The access faults.
    pub(super) fn fault(&self, index: u8) {
        self.event(Side::Processor(index), "faults", None);
        self.note(|notes| notes.faulted |= 1 << index);
    }
}

/// The entry a run starts with.
pub(super) fn initial(accessed: bool, dirty: bool) -> u64 {
    WRITABLE | if accessed { A } else { 0 } | if dirty { D } else { 0 }
}
