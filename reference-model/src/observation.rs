//! What was seen: entries after a step, transitions inside it, and the witnesses' words.
//!
//! Raw forms carry frame numbers and come from the probes. Normalised forms carry frame *names*, small
//! numbers in order of first appearance, so that the same behaviour gives the same bytes whatever frames
//! the kernel happened to hand out. [`Normaliser`] leads from one to the other.

use serde::{Deserialize, Serialize};

use crate::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex};
use crate::entry::Entry;
use crate::outcome::Outcome;
use crate::program::Operation;

/// The entries of one actor's arena.
pub type RawArena = [u64; ARENA_PAGES];

/// Raw entries of all actors' arenas after a step; `None` for an actor that is not alive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawState {
    /// One arena an actor.
    pub actors: [Option<RawArena>; ACTORS],
}

/// Why an entry changed, seen at the kernel's own functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// `handle_mm_fault`, one call that did not ask for a retry.
    Fault,
    /// `copy_page_range`: the parent's entry.
    ForkParent,
    /// `copy_page_range`: the child's entry.
    ForkChild,
    /// `change_protection` (mprotect).
    Protect,
    /// `clear_refs_pte_range` (soft-dirty clearing).
    ClearRefs,
}

/// One entry before and after a fault, fork copy or write-protection; raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawTransition {
    /// Kernel function at which it was seen.
    pub cause: Cause,
    /// Actor whose page table holds the entry.
    pub actor: ActorId,
    /// Page that the entry maps.
    pub page: PageIndex,
    /// Raw entry before.
    pub before: u64,
    /// Raw entry after.
    pub after: u64,
    /// `vm_flags` of the VMA at the end of the function.
    pub vm_flags: u64,
    /// For a fault: `FAULT_FLAG_WRITE` was set. False for the other causes.
    pub write: bool,
    /// Mappings of the frame in `after` (page `_mapcount` + 1); 0 without a frame or for the zero page.
    pub mapcount: u16,
    /// `PageAnonExclusive` of the frame in `after`; false without a frame or for the zero page.
    pub anon_exclusive: bool,
}

/// Name of a frame, or of a slot of the swap file, within one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameName(pub u16);

impl FrameName {
    /// The entry holds no frame.
    pub const NONE: Self = Self(0);
    /// The kernel's zero page.
    pub const ZERO: Self = Self(1);
}

/// An entry with its frame named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedEntry {
    /// The entry with the frame field cleared (see [`Entry::without_frame`]).
    pub bits: Entry,
    /// The frame it holds.
    pub frame: FrameName,
}

impl ObservedEntry {
    /// The all-zero entry.
    pub const NONE: Self = Self { bits: Entry::NONE, frame: FrameName::NONE };
}

/// A change of one entry between two snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryChange {
    /// Actor whose page table holds the entry.
    pub actor: ActorId,
    /// Page that the entry maps.
    pub page: PageIndex,
    /// The entry now.
    pub entry: ObservedEntry,
}

/// [`RawTransition`] with frames named. See there for the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Kernel function at which it was seen.
    pub cause: Cause,
    /// Actor whose page table holds the entry.
    pub actor: ActorId,
    /// Page that the entry maps.
    pub page: PageIndex,
    /// Entry before.
    pub before: ObservedEntry,
    /// Entry after.
    pub after: ObservedEntry,
    /// `vm_flags` of the VMA.
    pub vm_flags: u64,
    /// The fault was for a write.
    pub write: bool,
    /// Mappings of the frame in `after`.
    pub mapcount: u16,
    /// `PageAnonExclusive` of the frame in `after`.
    pub anon_exclusive: bool,
}

/// One actor's `/proc/pid/pagemap` words for the arena, frame numbers cleared (bits 0..=54).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagemapView {
    /// Whose pagemap.
    pub actor: ActorId,
    /// One word a page.
    pub words: Vec<u64>,
    /// Pages whose frame number in pagemap is not the probe's.
    pub frame_mismatches: Vec<PageIndex>,
}

/// What a witness and the probe disagree about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WitnessField {
    /// The entry: a page walk through /proc/kcore reads another value.
    Entry,
    /// `before` of a transition: the snapshot of the step before has another value.
    TransitionBefore,
    /// `after` of a transition: the snapshot of the step has another value (Accessed and Dirty apart).
    TransitionAfter,
    /// The write flag of a fault: the operation that faulted is of the other kind.
    TransitionWrite,
    /// `vm_flags`: /proc/pid/smaps has other flags.
    VmFlags,
    /// The mapcount: `struct page` read through /proc/kcore has another one.
    Mapcount,
    /// `PageAnonExclusive`: `struct page` read through /proc/kcore has the other value.
    AnonExclusive,
}

impl WitnessField {
    /// Whether a mismatch is a break in the chain of readings, snapshot, events, snapshot: an expectation of how
    /// entries move, and not two readers' words about one thing.
    #[must_use]
    pub fn is_of_the_chain(self) -> bool {
        matches!(self, Self::TransitionBefore | Self::TransitionAfter | Self::TransitionWrite)
    }
}

/// Something about which a witness and the probe disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessMismatch {
    /// Actor whose page table holds the entry.
    pub actor: ActorId,
    /// Page that the entry maps.
    pub page: PageIndex,
    /// What they disagree about.
    pub field: WitnessField,
    /// What the probe gave; raw.
    pub probe: u64,
    /// What the witness gave; raw.
    pub witness: u64,
}

/// What the witnesses said after a step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WitnessReport {
    /// Entries that the page walk compared.
    pub walked: u32,
    /// Entries on which walk and probe disagree.
    pub mismatches: Vec<WitnessMismatch>,
    /// The kernel's own view.
    pub pagemap: Vec<PagemapView>,
}

/// Everything that was seen of one step. This is what the judge reads and what a trace keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// What the actor got back.
    pub outcome: Outcome,
    /// Which actors are alive after the step, bit `n` for actor `n`.
    pub alive: u8,
    /// Entries that changed since the step before (a new actor's entries count from all-zero).
    pub changes: Vec<EntryChange>,
    /// Transitions inside the step, in order.
    pub transitions: Vec<Transition>,
    /// Events that the probes counted and the reader did not get.
    pub lost: u32,
    /// The witnesses' report, where they were asked.
    pub witness: Option<WitnessReport>,
}

/// Gives frames their names and entries their deltas, program by program. A slot of the swap file is named as a
/// frame is.
///
/// A name lives as long as some entry of some arena holds the frame: a frame that was freed and comes
/// back is a new frame, whichever number it has. A frame that was seen in a VM_SHARED mapping keeps its name
/// besides until an operation [unmaps](Operation::unmaps): so long its object cannot have given it back.
#[derive(Debug, Clone)]
pub struct Normaliser {
    zero_frame: u64,
    names: Vec<Named>,
    next: u16,
    previous: RawState,
}

/// What an entry refers to: a frame of memory, or a slot of the swap file. Both get names from one list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Referent {
    Frame(u64),
    SwapSlot(u64),
}

impl Referent {
    fn of(entry: Entry) -> Option<Self> {
        entry.frame_number().map(Self::Frame).or_else(|| entry.swap_slot().map(Self::SwapSlot))
    }
}

/// A frame or a swap slot that has a name.
#[derive(Debug, Clone, Copy)]
struct Named {
    referent: Referent,
    name: FrameName,
    of_object: bool,
}

/// `VM_SHARED` in `vm_flags`.
const VM_SHARED: u64 = 1 << 3;

impl Normaliser {
    /// A normaliser for one program. `zero_frame` is the frame number of the kernel's zero page.
    #[must_use]
    pub fn new(zero_frame: u64) -> Self {
        Self { zero_frame, names: Vec::with_capacity(32), next: 2, previous: RawState::default() }
    }

    /// Names the frame in a raw entry.
    pub fn name(&mut self, raw: u64) -> ObservedEntry {
        let entry = Entry(raw);
        let frame = match Referent::of(entry) {
            None => FrameName::NONE,
            Some(Referent::Frame(frame)) if frame == self.zero_frame => FrameName::ZERO,
            Some(referent) => match self.names.iter().find(|named| named.referent == referent) {
                Some(named) => named.name,
                None => {
                    let name = FrameName(self.next);
                    self.next = self.next.wrapping_add(1).max(2);
                    self.names.push(Named { referent, name, of_object: false });
                    name
                }
            },
        };
        ObservedEntry { bits: entry.without_frame(), frame }
    }

    /// Turns what the probes gave for a step of this operation into the normalised transitions and entry
    /// changes, and forgets the frames that may have been freed.
    pub fn step(
        &mut self,
        operation: &Operation,
        state: &RawState,
        transitions: &[RawTransition],
    ) -> (Vec<Transition>, Vec<EntryChange>) {
        let raw_transitions = transitions;
        let transitions = transitions
            .iter()
            .map(|raw| Transition {
                cause: raw.cause,
                actor: raw.actor,
                page: raw.page,
                before: self.name(raw.before),
                after: self.name(raw.after),
                vm_flags: raw.vm_flags,
                write: raw.write,
                mapcount: raw.mapcount,
                anon_exclusive: raw.anon_exclusive,
            })
            .collect();
        for raw in raw_transitions.iter().filter(|raw| raw.vm_flags & VM_SHARED != 0) {
            let number = Entry(raw.after).frame_number().map(Referent::Frame);
            if let Some(named) = self.names.iter_mut().find(|named| Some(named.referent) == number) {
                named.of_object = true;
            }
        }
        let unmaps = operation.unmaps();
        let mut changes = Vec::new();
        for actor in ActorId::all() {
            let Some(arena) = &state.actors[actor.index()] else {
                continue;
            };
            let before = self.previous.actors[actor.index()].unwrap_or([0; ARENA_PAGES]);
            for (slot, (&now, &then)) in arena.iter().zip(before.iter()).enumerate() {
                if now != then {
                    let page = PageIndex::new(slot).expect("a slot of the arena");
                    changes.push(EntryChange { actor, page, entry: self.name(now) });
                }
            }
        }
        if unmaps
            || !changes.is_empty()
            || self.previous.actors.iter().zip(&state.actors).any(|(then, now)| then.is_some() != now.is_some())
        {
            let mapped = state.actors.iter().flatten().flatten().filter(|&&raw| raw != 0);
            let mapped: Vec<Referent> = mapped.filter_map(|&raw| Referent::of(Entry(raw))).collect();
            self.names.retain(|named| (named.of_object && !unmaps) || mapped.contains(&named.referent));
        }
        self.previous.clone_from(state);
        (transitions, changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::PageRange;

    const FAULTED: u64 = 0x8000_0000_0123_4027;
    const DONTNEED: Operation = Operation::MadviseDontneed { range: PageRange::FIRST_PAGE };
    const READ: Operation = Operation::Read { page: PageIndex::FIRST };

    /// Feeds operations, each with the entry that page 0 has after it, a fault where there was none before;
    /// gives the names that the entries got.
    fn names(vm_flags: u64, steps: &[(Operation, u64)]) -> Vec<u16> {
        let mut normaliser = Normaliser::new(0);
        let mut before = 0;
        let mut step = |&(operation, entry): &(Operation, u64)| {
            let mut arena = [0; ARENA_PAGES];
            arena[0] = entry;
            let mut state = RawState::default();
            state.actors[0] = Some(arena);
            let fault = RawTransition {
                cause: Cause::Fault,
                actor: ActorId::FIRST,
                page: PageIndex::FIRST,
                before,
                after: entry,
                vm_flags,
                write: false,
                mapcount: 1,
                anon_exclusive: false,
            };
            let faults = usize::from(before == 0 && entry != 0);
            before = entry;
            let (_, changes) = normaliser.step(&operation, &state, &[fault][..faults]);
            changes.iter().map(|change| change.entry.frame.0).collect::<Vec<_>>()
        };
        steps.iter().flat_map(&mut step).collect()
    }

    #[test]
    fn a_shared_frame_keeps_its_name_until_something_is_unmapped() {
        let dropped = [(READ, FAULTED), (DONTNEED, 0), (READ, FAULTED)];
        assert_eq!(names(0x3, &dropped), [2, 0, 3]);
        assert_eq!(names(0xb, &dropped), [2, 0, 2]);
        let unmapped = [(READ, FAULTED), (DONTNEED, 0), (Operation::Exit, 0), (READ, FAULTED)];
        assert_eq!(names(0xb, &unmapped), [2, 0, 3]);
    }
}
