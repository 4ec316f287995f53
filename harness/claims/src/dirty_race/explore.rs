//! All interleavings of one fork with one access, by shuttle's depth-first scheduler.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ptediff_reference_model::entry::{A, D, Entry, P, RW};

use super::Mutation;
use super::entry::{Cached, Event, Shared, initial, is_write_0_dirty_1};
use super::kernel::{self, Technique};
use super::processor::{Access, LateStore, Processor, Rules, run};

/// Whose entry a row of the table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ForkSide {
    /// The parent's, which the processor walks meanwhile.
    Source,
    /// The child's, which nobody walks yet.
    Destination,
}

/// Something that a schedule can come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The page was written, or its entry was dirty, and the entry does not say so any more.
    DirtyLost,
    /// The kernel stored an entry with Write=0, Dirty=1.
    CreatedByKernel,
    /// The processor's update of Dirty left an entry with Write=0, Dirty=1.
    CreatedByProcessor,
    /// Such an entry is there when all is done.
    LeftBehind,
    /// A fault that finds the access permitted: it came of the kernel's doing alone.
    ExtraFault,
    /// A store reached the page after it was copied, without a fault.
    LostWrite,
    /// The entry is writable when all is done.
    ProtectionLost,
    /// The destination was made without a Dirty that the source got meanwhile.
    DirtyInSourceAlone,
    /// A store reached the page although Dirty was set nowhere when it did.
    StoreBeforeDirty,
    /// The processor set Dirty in an entry with Write=0 and faulted.
    DirtyWithFault,
    /// The kernel's loop went round more often than there are bits to change.
    Endless,
}

/// What was found over all schedules of one technique on one processor.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Number of schedules, over all starts.
    pub schedules: u64,
    /// Effects that some schedule has, with the shortest such schedule.
    pub effects: BTreeMap<(ForkSide, Effect), Vec<Event>>,
    /// Fewest and most locked operations of the kernel on the source.
    pub locked_operations: (u8, u8),
    /// Most exchanges that failed in one schedule.
    pub retries: u8,
}

/// What one run begins with.
#[derive(Clone, Copy, Debug)]
struct Start {
    entry: u64,
    cached: Option<Cached>,
    access: Access,
    late: LateStore,
}

/// Every start: Accessed and Dirty, what the processor has cached, what it does, and what becomes of a late store.
/// A translation with Dirty is cached only from a dirty entry. (One may be cached from an entry that is old by now:
/// `ptep_clear_flush_young` flushes nothing.)
fn starts(processor: Processor) -> Vec<Start> {
    let mut starts = Vec::new();
    for (accessed, dirty) in [(false, false), (true, false), (false, true), (true, true)] {
        for cached in [None, Some(Cached::Clean), Some(Cached::Dirty)] {
            if cached == Some(Cached::Dirty) && !dirty {
                continue;
            }
            for access in [Access::Load, Access::Store] {
                for late in [LateStore::Completes, LateStore::Faults] {
                    let is_one = access == Access::Load || processor == Processor::WithShadowStacks;
                    if !(is_one && late == LateStore::Faults) {
                        starts.push(Start { entry: initial(accessed, dirty), cached, access, late });
                    }
                }
            }
        }
    }
    starts
}

/// Runs all schedules of all starts, with one processor or two beside the kernel. The second one stores, and has
/// cached nothing.
#[must_use]
pub fn explore(technique: Technique, processor: Processor, processors: u8, mutation: Option<Mutation>) -> Found {
    let found = Arc::new(Mutex::new(Found { locked_operations: (u8::MAX, 0), ..Found::default() }));
    for start in starts(processor) {
        let gathered = Arc::clone(&found);
        let rules = Rules { index: 0, processor, late: start.late, mutation };
        shuttle::check_dfs(move || one_run(technique, rules, start, processors, &gathered), None);
    }
    let found = found.lock().expect("no run panicked");
    found.clone()
}

fn one_run(technique: Technique, rules: Rules, start: Start, processors: u8, gathered: &Mutex<Found>) {
    let accesses = [(start.cached, start.access), (None, Access::Store)];
    let accesses = &accesses[..usize::from(processors)];
    let shared = Arc::new(Shared::new(start.entry, accesses.iter().map(|(cached, _)| *cached)));
    let threads: Vec<_> = (0..)
        .zip(accesses)
        .map(|(index, &(_, access))| {
            let shared = Arc::clone(&shared);
            shuttle::thread::spawn(move || run(&shared, Rules { index, ..rules }, access))
        })
        .collect();
    let protected = kernel::fork(&shared, technique, rules.processor, rules.mutation);
    for thread in threads {
        thread.join().expect("a processor does not panic");
    }

    let source = shared.final_entry();
    let notes = std::mem::take(&mut *shared.notes.lock().expect("nobody panics with the notes in hand"));
    let was_dirty = start.entry & D != 0;
    let is_dirty = |entry: u64| Entry(entry).is_dirty();
    let has_extra_fault = (0..)
        .zip(accesses)
        .any(|(index, (_, access))| notes.faulted >> index & 1 != 0 && access.is_permitted_by(source));
    let mut effects = Vec::new();
    let mut note = |side, effect, is_so: bool| {
        if is_so {
            effects.push((side, effect));
        }
    };
    use ForkSide::{Destination, Source};
    note(Source, Effect::DirtyLost, (was_dirty || notes.stored != 0) && !is_dirty(source));
    note(Source, Effect::CreatedByKernel, notes.kernel_created);
    note(Source, Effect::CreatedByProcessor, notes.processor_created);
    note(Source, Effect::LeftBehind, is_write_0_dirty_1(source));
    note(Source, Effect::ExtraFault, has_extra_fault);
    note(Source, Effect::LostWrite, notes.stored & !protected.copied_stores != 0);
    note(Source, Effect::ProtectionLost, source & (P | RW) != P);
    note(Source, Effect::StoreBeforeDirty, notes.stored_before_dirty);
    note(Source, Effect::DirtyWithFault, notes.processor_created && notes.faulted != 0);
    note(Source, Effect::Endless, notes.gave_up);
    note(Destination, Effect::DirtyLost, is_dirty(protected.copied_from) && !is_dirty(protected.destination));
    note(Destination, Effect::CreatedByKernel, kernel::destination_is_created(&protected));
    note(Destination, Effect::LeftBehind, kernel::destination_is_created(&protected));
    note(Destination, Effect::ProtectionLost, protected.destination & (P | RW | A) != P);
    note(Destination, Effect::DirtyInSourceAlone, is_dirty(source) && !is_dirty(protected.destination));

    let mut found = gathered.lock().expect("no run panicked");
    found.schedules += 1;
    found.retries = found.retries.max(notes.retries);
    let (fewest, most) = found.locked_operations;
    found.locked_operations = (fewest.min(notes.locked_operations), most.max(notes.locked_operations));
    for effect in effects {
        let shortest = found.effects.entry(effect).or_insert_with(|| notes.events.clone());
        if (notes.events.len(), &notes.events) < (shortest.len(), &*shortest) {
            shortest.clone_from(&notes.events);
        }
    }
}
