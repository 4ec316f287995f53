//! The witnesses together: what they say about a step's snapshot and about its events.

use ptediff_reference_model::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex, PageRange};
use ptediff_reference_model::entry::{
    A, D, Entry, EntryKind, P, RW, SAVED_DIRTY, SOFT_DIRTY, SWP_SOFT_DIRTY, SWP_UFFD_WP, UFFD_WP,
};
use ptediff_reference_model::observation::{RawState, RawTransition, WitnessField, WitnessMismatch, WitnessReport};
use ptediff_reference_model::program::{Advice, Operation, Step};

use crate::error::ObserveError;
use crate::kcore::{KcoreWitness, compare};
use crate::observer::{Description, Observer, Registered};
use crate::pagemap::PagemapReader;
use crate::smaps::{Smaps, shown_flags};

/// `VM_SOFTDIRTY` in `vm_flags` (`include/linux/mm.h`).
const VM_SOFTDIRTY: u64 = 1 << 27;

/// What the probes said about one step.
#[derive(Debug, Clone, Copy)]
pub struct ProbedStep<'a> {
    /// The snapshot before the step.
    pub before: &'a RawState,
    /// The events of the step, in order.
    pub transitions: &'a [RawTransition],
    /// The snapshot after the step.
    pub after: &'a RawState,
    /// Bits that the step's operation may clear where no hook sees it: see [`cleared_unseen`].
    pub cleared_unseen: u64,
    /// Entries that the step may move where no hook sees it: see [`moved_unseen`].
    pub moved_unseen: Option<UnseenMove>,
    /// Whether the operation fills empty entries where no hook sees it: see [`fills_unseen`].
    pub fills_unseen: bool,
    /// Whether pages may be swapped out or in where no hook sees it: see [`swaps_unseen`].
    pub swaps_unseen: bool,
    /// Whether ksmd merged pages, which no hook sees.
    pub merges_unseen: bool,
    /// VMA flags that may change after the events about their entries: see [`flags_changed_later`].
    pub flags_changed_later: u64,
}

/// Entries of one actor that may have moved without an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnseenMove {
    /// Whose entries.
    pub actor: ActorId,
    /// Where they were.
    pub from: PageRange,
    /// Where they are then, as far as this range reaches.
    pub to: PageRange,
}

/// What a step moves at a place without a hook.
///
/// `mm/mremap.c: move_ptes` is static and works on many entries at once: each goes on with all its bits, and
/// SoftDirty.
#[must_use]
pub fn moved_unseen(step: &Step) -> Option<UnseenMove> {
    match step.operation {
        Operation::Mremap { range, to, .. } => Some(UnseenMove { actor: step.actor, from: range, to }),
        _ => None,
    }
}

/// Whether an operation fills empty entries at a place without a hook. `mfill_atomic_install_pte` is static or inlined
/// in some versions, and the zero page has a function of its own (`mm/userfaultfd.c`).
#[must_use]
pub fn fills_unseen(operation: &Operation) -> bool {
    matches!(operation, Operation::UffdCopy { .. } | Operation::UffdZeropage { .. })
}

/// Whether an operation swaps pages out or in at a place without a hook: MADV_PAGEOUT has none, and a fault that swaps
/// a page in and then waits for a userfaultfd is told of only when it is through (`VM_FAULT_RETRY`).
#[must_use]
pub fn swaps_unseen(operation: &Operation) -> bool {
    operation.swaps() || operation.page().is_some() || operation.is_on_uffd()
}

/// The flags of VMAs that an operation may change after it changed their entries. Unregistering from a userfaultfd
/// lifts the write-protection first (`mm/userfaultfd.c: userfaultfd_clear_vma`), MADV_UNMERGEABLE parts pages first. What
/// goes on from VMA to VMA may merge the next one into the last, which has VM_SOFTDIRTY of both then.
#[must_use]
pub fn flags_changed_later(operation: &Operation) -> u64 {
    match operation {
        Operation::UffdOpen { .. }
        | Operation::UffdClose { .. }
        | Operation::UffdUnregister { .. }
        | Operation::Madvise { advice: Advice::Unmergeable, .. } => !0,
        Operation::Mprotect { .. } | Operation::PkeyMprotect { .. } => VM_SOFTDIRTY,
        _ => 0,
    }
}

/// Bits of entries that an operation clears at a place without a hook.
///
/// `madvise_cold_or_pageout_pte_range` is static and inlined into nothing that has a hook: MADV_COLD clears
/// Accessed (`mm/madvise.c`). `madvise_free_pte_range` has a symbol but works on many entries at once: MADV_FREE
/// clears Accessed, Dirty and SavedDirty.
#[must_use]
pub fn cleared_unseen(operation: &Operation) -> u64 {
    match operation {
        Operation::Madvise { advice: Advice::Cold | Advice::PageOut, .. } => A,
        Operation::Madvise { advice: Advice::Free, .. } => A | D | SAVED_DIRTY,
        _ => 0,
    }
}

/// The page walk through `/proc/kcore`, the kernel's pagemap and smaps, and the frames' `struct page`s.
#[derive(Debug)]
pub struct Witnesses {
    kcore: KcoreWitness,
    pagemap: PagemapReader,
    zero_frame: u64,
    anon_exclusive: u32,
}

impl Witnesses {
    /// Witnesses for an observer. From it they take only the kernel's layout and the processes to look at.
    ///
    /// # Errors
    /// `/proc/kcore` cannot be read.
    pub fn open(description: &Description) -> Result<Self, ObserveError> {
        Ok(Self {
            kcore: KcoreWitness::open(&description.geometry, description.pgd_offset)?,
            pagemap: PagemapReader::new(),
            zero_frame: description.geometry.zero_frame,
            anon_exclusive: description.anon_exclusive,
        })
    }

    /// Everything that the witnesses have to say about a step. To be asked right after its snapshot, before
    /// any actor runs again.
    ///
    /// The fields of an event can be checked afterwards where nothing later overwrote them: `vm_flags` at the
    /// last event of a page that still has its entry, mapcount and `PageAnonExclusive` at the last event about
    /// a frame that is still there. Entries are expected to change by events only, by the CPU's setting of
    /// Accessed and Dirty, by being cleared whole, and by what [`cleared_unseen`] and
    /// [`moved_unseen`] name. The check of mapcounts presumes that no mapping of a surviving frame goes
    /// away in a step that also has events about the frame; no single operation does both.
    ///
    /// # Errors
    /// A witness cannot read. That is a failure of the rig, not a mismatch.
    pub fn report(&mut self, observer: &impl Observer, step: ProbedStep<'_>) -> Result<WitnessReport, ObserveError> {
        let mut report = WitnessReport::default();
        let mut smaps: [Option<Smaps>; ACTORS] = [const { None }; ACTORS];
        for actor in ActorId::all() {
            let (Some(Registered { pid, mm }), Some(probe)) =
                (observer.registered(actor), &step.after.actors[actor.index()])
            else {
                self.pagemap.forget(actor);
                continue;
            };
            let walked = self.kcore.walk(actor, mm)?;
            report.walked += walked.len() as u32;
            report.mismatches.extend(compare(actor, probe, &walked));
            report.pagemap.push(self.pagemap.read(actor, pid, probe)?);
            if step.transitions.iter().any(|transition| transition.actor == actor) {
                smaps[actor.index()] = Some(Smaps::read(pid)?);
            }
        }
        report.mismatches.extend(check_chains(step));
        report.mismatches.extend(check_vm_flags(step, &smaps));
        self.check_frames(step, &mut report.mismatches)?;
        Ok(report)
    }

    /// Mapcount and `PageAnonExclusive`, against the frame's `struct page`.
    fn check_frames(&self, step: ProbedStep<'_>, found: &mut Vec<WitnessMismatch>) -> Result<(), ObserveError> {
        for (index, transition) in step.transitions.iter().enumerate() {
            let Some(frame) = Entry(transition.after).frame_number() else {
                continue;
            };
            let speaks_of_it = |later: &RawTransition| {
                [later.before, later.after].iter().any(|&raw| Entry(raw).frame_number() == Some(frame))
            };
            let is_last = !step.transitions[index + 1..].iter().any(speaks_of_it);
            if !is_last || frame == self.zero_frame || held(step, transition).frame_number() != Some(frame) {
                continue;
            }
            let (mapcount, anon_exclusive) = self.kcore.frame(frame, self.anon_exclusive)?;
            for (field, probe, witness) in [
                (WitnessField::Mapcount, u64::from(transition.mapcount), u64::from(mapcount)),
                (WitnessField::AnonExclusive, u64::from(transition.anon_exclusive), u64::from(anon_exclusive)),
            ] {
                if probe != witness {
                    found.push(mismatch(transition, field, probe, witness));
                }
            }
        }
        Ok(())
    }
}

fn mismatch(transition: &RawTransition, field: WitnessField, probe: u64, witness: u64) -> WitnessMismatch {
    WitnessMismatch { actor: transition.actor, page: transition.page, field, probe, witness }
}

/// The entry of the transition's page in the snapshot after the step; none for an actor that died.
fn held(step: ProbedStep<'_>, transition: &RawTransition) -> Entry {
    let arena = step.after.actors[transition.actor.index()];
    Entry(arena.map_or(0, |arena| arena[transition.page.index()]))
}

/// Whether an entry may have become another one without an event: the CPU sets Accessed in a present entry
/// and Dirty in a writable one (SDM 3A 4.8), an unmapping, which has no event, clears it whole, and the
/// operation may clear the bits `cleared_unseen` of an entry that is present to the kernel.
fn may_follow(earlier: u64, later: u64, cleared_unseen: u64) -> bool {
    let cleared = if Entry(earlier).is_present() { earlier & !later & cleared_unseen } else { 0 };
    let earlier = earlier & !cleared;
    let changed = earlier ^ later;
    let set_by_cpu = earlier & P != 0 && changed & !(A | D) == 0 && changed & earlier == 0;
    changed == 0 || later == 0 || (set_by_cpu && (changed & D == 0 || earlier & RW != 0))
}

/// Whether one entry is the other swapped out or in: SoftDirty and the userfaultfd's mark are kept.
fn is_swapped(earlier: u64, later: u64) -> bool {
    let (earlier, later) = (Entry(earlier), Entry(later));
    let soft_dirty = |entry: Entry| entry.has(if entry.is_swapped() { SWP_SOFT_DIRTY } else { SOFT_DIRTY });
    (earlier.is_swapped() && later.is_present() || earlier.is_present() && later.is_swapped())
        && earlier.is_uffd_wp() == later.is_uffd_wp()
        && (soft_dirty(earlier) == soft_dirty(later) || later.is_present() && soft_dirty(later))
}

/// Follows each page through the step: the snapshot before, each event's `before` and `after`, the snapshot
/// after are expected to be one chain. A change without an event is a break too: the last known entry counts as
/// `after` of an event that is missing.
///
/// A break is no proof against the probe: a kernel that moves entries in another way than this expects breaks the chain
/// with every reading true. The judge decides, who knows where entries should be
/// ([`WitnessField::is_of_the_chain`]).
fn check_chains(step: ProbedStep<'_>) -> Vec<WitnessMismatch> {
    let mut known: Vec<_> = step.before.actors.iter().map(|arena| arena.unwrap_or_default()).collect();
    let mut found = Vec::new();
    follow_move(step, &mut known);
    for transition in step.transitions {
        let entry = &mut known[transition.actor.index()][transition.page.index()];
        let may_fill = step.fills_unseen && !Entry(*entry).is_present() && Entry(transition.before).is_present();
        let may_swap = step.swaps_unseen && is_swapped(*entry, transition.before);
        if !may_fill && !may_swap && !may_follow(*entry, transition.before, step.cleared_unseen) {
            found.push(mismatch(transition, WitnessField::TransitionBefore, transition.before, *entry));
        }
        *entry = transition.after;
    }
    for actor in ActorId::all() {
        let Some(arena) = &step.after.actors[actor.index()] else {
            continue;
        };
        for (slot, (&known, &held)) in known[actor.index()].iter().zip(arena).enumerate() {
            let may_fill = step.fills_unseen && !Entry(known).is_present() && Entry(held).is_present();
            let may_swap = step.swaps_unseen && is_swapped(known, held)
                || step.merges_unseen && Entry(known).is_present() && Entry(held).is_present() && held & RW == 0;
            if !may_fill && !may_swap && !may_follow(known, held, step.cleared_unseen) {
                let page = PageIndex::new(slot).expect("a slot of the arena");
                let field = WitnessField::TransitionAfter;
                found.push(WitnessMismatch { actor, page, field, probe: known, witness: held });
            }
        }
    }
    found
}

/// Lets the entries that the step moved, whole and unseen, count as known where they are now. An entry that
/// is there otherwise than it was, or that is still where it was too, did not move.
fn follow_move(step: ProbedStep<'_>, known: &mut [[u64; ARENA_PAGES]]) {
    let Some(UnseenMove { actor, from, to }) = step.moved_unseen else { return };
    let Some(after) = &step.after.actors[actor.index()] else { return };
    let known = &mut known[actor.index()];
    for (from, to) in from.slots().zip(to.slots()) {
        let (from, to) = (from.index(), to.index());
        let moved = match Entry(known[from]) {
            Entry(raw) if Entry(raw).is_present() => raw | SOFT_DIRTY,
            // A marker is a swap entry to move_soft_dirty_pte.
            Entry(raw) if Entry(raw).kind() == EntryKind::NonPresent => raw | SWP_SOFT_DIRTY,
            Entry(raw) => raw,
        };
        // mremap takes userfaultfd's mark away.
        let unmarked = moved & !if Entry(moved).is_swapped() { SWP_UFFD_WP } else { UFFD_WP };
        if moved != 0 && (after[to] == moved || after[to] == unmarked) && after[from] == 0 {
            known[to] = after[to];
            known[from] = 0;
        }
    }
}

/// Compares the flags that smaps shows.
fn check_vm_flags(step: ProbedStep<'_>, smaps: &[Option<Smaps>; ACTORS]) -> Vec<WitnessMismatch> {
    let mut found = Vec::new();
    for (index, transition) in step.transitions.iter().enumerate() {
        let same_page = |later: &RawTransition| later.actor == transition.actor && later.page == transition.page;
        let is_last = !step.transitions[index + 1..].iter().any(same_page);
        if !is_last || held(step, transition) == Entry::NONE {
            continue;
        }
        let Some(smaps) = &smaps[transition.actor.index()] else {
            continue;
        };
        let probe = transition.vm_flags & shown_flags();
        // An entry without a VMA would be a grave thing: it counts as a VMA without flags.
        let witness = smaps.flags(transition.page).unwrap_or(0);
        if (probe ^ witness) & !step.flags_changed_later != 0 {
            found.push(mismatch(transition, WitnessField::VmFlags, probe, witness));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::observation::Cause;

    use super::*;

    const WRITTEN: u64 = 0x8000_0000_0123_4867;
    const READ_ONLY: u64 = 0x8400_0000_0123_4825;

    fn state(entry: u64) -> RawState {
        let mut arena = [0; ARENA_PAGES];
        arena[3] = entry;
        let mut state = RawState::default();
        state.actors[0] = Some(arena);
        state
    }

    fn event(before: u64, after: u64) -> RawTransition {
        RawTransition {
            cause: Cause::Protect,
            actor: ActorId::FIRST,
            page: PageIndex::new(3).expect("a slot"),
            before,
            after,
            vm_flags: 0,
            write: false,
            mapcount: 1,
            anon_exclusive: true,
        }
    }

    fn check(before: u64, events: &[(u64, u64)], after: u64, expected: &[WitnessField]) {
        check_with(0, before, events, after, expected);
    }

    fn check_with(cleared_unseen: u64, before: u64, events: &[(u64, u64)], after: u64, expected: &[WitnessField]) {
        let transitions: Vec<_> = events.iter().map(|&(before, after)| event(before, after)).collect();
        let (before, after) = (state(before), state(after));
        let step = ProbedStep {
            before: &before,
            transitions: &transitions,
            after: &after,
            cleared_unseen,
            moved_unseen: None,
            fills_unseen: false,
            swaps_unseen: false,
            merges_unseen: false,
            flags_changed_later: 0,
        };
        let fields: Vec<_> = check_chains(step).iter().map(|mismatch| mismatch.field).collect();
        assert_eq!(fields, expected, "{events:x?}");
    }

    #[test]
    fn entries_of_a_step_form_a_chain() {
        use WitnessField::{TransitionAfter, TransitionBefore};
        check(WRITTEN, &[(WRITTEN, READ_ONLY)], READ_ONLY, &[]);
        check(0, &[(0, WRITTEN), (WRITTEN, READ_ONLY)], READ_ONLY, &[]);
        // The CPU may set Accessed and Dirty, an unmapping clears.
        check(WRITTEN & !(A | D), &[(WRITTEN, READ_ONLY)], 0, &[]);
        // It never clears them, nor sets Dirty in a read-only entry.
        check(WRITTEN, &[(WRITTEN & !A, READ_ONLY)], READ_ONLY, &[TransitionBefore]);
        check(READ_ONLY, &[(READ_ONLY | D, WRITTEN)], WRITTEN, &[TransitionBefore]);
        check(WRITTEN, &[(WRITTEN ^ RW, READ_ONLY)], READ_ONLY, &[TransitionBefore]);
        check(WRITTEN, &[(WRITTEN, READ_ONLY ^ 1 << 58)], READ_ONLY, &[TransitionAfter]);
        check(0, &[(A, WRITTEN)], WRITTEN, &[TransitionBefore]);
        // An event is missing.
        check(WRITTEN, &[], READ_ONLY, &[TransitionAfter]);
        check(0, &[], WRITTEN, &[TransitionAfter]);
        check(WRITTEN & !D, &[], WRITTEN, &[]);
    }

    #[test]
    fn swapping_keeps_marks() {
        let swapped = 0x07ff_ffff_fffb_fe00;
        let check = |swaps_unseen, before: u64, after: u64, breaks: usize| {
            let (before, after) = (state(before), state(after));
            let step = ProbedStep {
                before: &before,
                transitions: &[],
                after: &after,
                cleared_unseen: 0,
                moved_unseen: None,
                fills_unseen: false,
                swaps_unseen,
                merges_unseen: false,
                flags_changed_later: 0,
            };
            assert_eq!(check_chains(step).len(), breaks, "{before:x?} to {after:x?}");
        };
        check(true, WRITTEN, swapped | 8 | SWP_SOFT_DIRTY, 0);
        check(false, WRITTEN, swapped | 8 | SWP_SOFT_DIRTY, 1);
        check(true, WRITTEN, swapped | 8, 1);
        check(true, READ_ONLY | 1 << 10, swapped | SWP_SOFT_DIRTY, 1);
        check(true, swapped | 4, READ_ONLY | 1 << 10, 0);
        check(true, swapped | 4, READ_ONLY, 1);
    }

    #[test]
    fn only_the_operations_own_bits_may_go_unseen() {
        use WitnessField::TransitionAfter;
        check_with(A, WRITTEN, &[], WRITTEN & !A, &[]);
        check_with(A, WRITTEN, &[], WRITTEN & !(A | D), &[TransitionAfter]);
        check_with(A, WRITTEN, &[], READ_ONLY & !A, &[TransitionAfter]);
        check_with(0, WRITTEN, &[], WRITTEN & !A, &[TransitionAfter]);
        check_with(A, A, &[], WRITTEN, &[TransitionAfter]);
        let page = PageRange::FIRST_PAGE;
        assert_eq!(cleared_unseen(&Operation::Madvise { range: page, advice: Advice::Cold }), A);
        assert_eq!(cleared_unseen(&Operation::MadviseDontneed { range: page }), 0);
    }

    #[test]
    fn entries_move_whole_and_become_soft_dirty() {
        let range = |first| PageRange::new(first, 2).expect("in the arena");
        let moved = moved_unseen(&Step {
            actor: ActorId::FIRST,
            operation: Operation::Mremap { range: range(2), to: range(10), keep: false },
        });
        let check = |moved_unseen, before: u64, left: u64, arrived: u64, expected: &[usize]| {
            let (before, mut after) = (state(before), state(left));
            after.actors[0].as_mut().expect("alive")[11] = arrived;
            let step = ProbedStep {
                before: &before,
                transitions: &[],
                after: &after,
                cleared_unseen: 0,
                moved_unseen,
                fills_unseen: false,
                swaps_unseen: false,
                merges_unseen: false,
                flags_changed_later: 0,
            };
            let pages: Vec<_> = check_chains(step).iter().map(|mismatch| mismatch.page.index()).collect();
            assert_eq!(pages, expected, "{before:x?} to {left:x} and {arrived:x}");
        };
        let clean = WRITTEN & !SOFT_DIRTY;
        check(moved, clean, 0, WRITTEN, &[]);
        check(moved, clean, 0, clean, &[11]);
        check(moved, WRITTEN, 0, READ_ONLY, &[11]);
        check(moved, WRITTEN, WRITTEN, WRITTEN, &[11]);
        check(moved, WRITTEN, WRITTEN, 0, &[]);
        check(None, WRITTEN, 0, WRITTEN, &[11]);
        let marker = 0xffff_ffff_ffff_fc00;
        check(moved, marker, 0, marker | SWP_SOFT_DIRTY, &[]);
        check(moved, marker, 0, marker, &[11]);
        assert_eq!(moved_unseen(&Step { actor: ActorId::FIRST, operation: Operation::Exit }), None);
    }
}
