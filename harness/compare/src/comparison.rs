//! The comparison: one kernel's model against a record, step by step.

use ptediff_reference_model::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex};
use ptediff_reference_model::entry::{A, D, Entry, EntryKind, SOFT_DIRTY, SWP_SOFT_DIRTY};
use ptediff_reference_model::expectation::{EntryExpectation, ExpectedFrame, StepExpectation, TransitionExpectation};
use ptediff_reference_model::model::{Model, VM_FLAGS_COMPARED};
use ptediff_reference_model::observation::{
    Cause, ObservedEntry, StepRecord, Transition, WitnessField, WitnessMismatch,
};
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::{Advice, Operation, Step};
use ptediff_reference_model::rule::Rule;
use ptediff_reference_model::verdict::{Difference, Inconclusive};

use crate::binding::Binding;
use crate::tally::Tally;

/// pagemap bit 55: the entry or its VMA is soft-dirty.
pub(crate) const PAGEMAP_SOFT_DIRTY: u64 = 1 << 55;
/// pagemap bit 56: the page has one mapping.
pub(crate) const PAGEMAP_EXCLUSIVE: u64 = 1 << 56;
/// pagemap bit 61: the page belongs to a file or to a shmem object.
const PAGEMAP_FILE: u64 = 1 << 61;
/// pagemap bit 57: the entry is write-protected by userfaultfd, or a marker of that.
const PAGEMAP_UFFD_WP: u64 = 1 << 57;
/// pagemap bit 62: the entry is not empty and not present, so a marker too.
const PAGEMAP_SWAP: u64 = 1 << 62;
/// pagemap bit 63: the entry is present.
pub(crate) const PAGEMAP_PRESENT: u64 = 1 << 63;
/// Everything above the frame number: what is compared.
const PAGEMAP_COMPARED: u64 = !0 << 55;

/// Compares one program's records with the model of one kernel.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    model: Model,
    binding: Binding,
    entries: [[ObservedEntry; ARENA_PAGES]; ACTORS],
    tally: Tally,
}

/// What the comparison of one step gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Compared {
    /// Everything is as the model says.
    Agrees,
    /// The first thing that is not, and the rule that expected otherwise.
    Differs(Difference, Option<Rule>),
    /// It cannot be told.
    CannotTell(Inconclusive),
}

impl Comparison {
    /// With the model before its first step.
    pub(crate) fn new(model: Model) -> Self {
        Self {
            model,
            binding: Binding::default(),
            entries: [[ObservedEntry::NONE; ARENA_PAGES]; ACTORS],
            tally: Tally::default(),
        }
    }

    /// The model as it stands.
    pub(crate) fn model(&self) -> &Model {
        &self.model
    }

    /// What was compared so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The same comparison, with what others have compared before it.
    pub(crate) fn with_tally(self, tally: Tally) -> Self {
        Self { tally, ..self }
    }

    /// Compares one step. After anything but agreement the comparison is of no further use.
    pub(crate) fn step(&mut self, index: usize, step: &Step, record: &StepRecord) -> Compared {
        if !self.model.is_possible(step) {
            let feature = format!("what step {index} needs ({step})");
            return Compared::CannotTell(Inconclusive::MissingFeature { feature });
        }
        let before = self.entries;
        let expectation = self.model.step(index, step);
        for change in &record.changes {
            self.entries[change.actor.index()][change.page.index()] = change.entry;
        }
        for actor in ActorId::all() {
            if record.alive & (1 << actor.index()) == 0 {
                self.entries[actor.index()] = [ObservedEntry::NONE; ARENA_PAGES];
            }
        }
        if record.lost > 0 {
            return Compared::CannotTell(Inconclusive::EventsLost { step: index, lost: record.lost });
        }
        if let Some(contradiction) = witness_contradiction(index, record) {
            return Compared::CannotTell(contradiction);
        }
        if let Some((difference, rule)) = self.compare(&expectation, record) {
            if let Some(mismatch) = self.inner_contradiction(&before, step, record) {
                return Compared::CannotTell(Inconclusive::ProbeContradicted { step: index, mismatch });
            }
            return Compared::Differs(difference, rule);
        }
        let model = &self.model;
        // As the frames' names are forgotten.
        let unmaps = step.operation.unmaps();
        self.binding.retain(|frame| model.mapcount(frame) > 0 || (model.is_of_object(frame) && !unmaps));
        self.tally.steps += 1;
        self.tally.rules(&expectation.fired);
        self.tally.operation(&step.operation, &record.outcome);
        Compared::Agrees
    }

    fn compare(&mut self, expectation: &StepExpectation, record: &StepRecord) -> Option<(Difference, Option<Rule>)> {
        if let Some(expected) = expectation.outcome
            && expected != record.outcome
        {
            return Some((Difference::Outcome { expected, seen: record.outcome }, expectation.outcome_rule));
        }
        if let Some(found) = self.compare_transitions(&expectation.transitions, &record.transitions) {
            return Some(found);
        }
        if self.model.alive() != record.alive {
            let difference = Difference::Alive { expected: self.model.alive(), seen: record.alive };
            return Some((difference, expectation.outcome_rule));
        }
        for actor in ActorId::all() {
            if !self.model.is_alive(actor) {
                continue;
            }
            for slot in 0..ARENA_PAGES {
                let page = PageIndex::new(slot).expect("a slot of the arena");
                let seen = self.entries[actor.index()][slot];
                let expected = self.model.entry(actor, page);
                if seen == ObservedEntry::NONE && expected == EntryExpectation::NONE {
                    continue;
                }
                self.tally.entry(&expected);
                if !self.agrees(&expected, &seen) {
                    let rule = self.model.entry_rule(actor, page);
                    return Some((Difference::Entry { actor, page, expected, seen }, rule));
                }
            }
        }
        self.compare_pagemap(record)
    }

    fn compare_transitions(
        &mut self,
        expected: &[TransitionExpectation],
        seen: &[Transition],
    ) -> Option<(Difference, Option<Rule>)> {
        for index in 0..expected.len().max(seen.len()) {
            let (expected, seen) = (expected.get(index), seen.get(index));
            let agree = match (expected, seen) {
                (Some(expected), Some(seen)) => self.transition_agrees(expected, seen),
                _ => false,
            };
            if !agree {
                let rule = expected.map(|transition| transition.rule);
                let difference = Difference::Transition { index, expected: expected.copied(), seen: seen.copied() };
                return Some((difference, rule));
            }
        }
        None
    }

    fn transition_agrees(&mut self, expected: &TransitionExpectation, seen: &Transition) -> bool {
        self.tally.transitions += 1;
        self.tally.entry(&expected.before);
        self.tally.entry(&expected.after);
        expected.cause == seen.cause
            && expected.actor == seen.actor
            && expected.page == seen.page
            && self.agrees(&expected.before, &seen.before)
            && self.agrees(&expected.after, &seen.after)
            && expected.vm_flags == seen.vm_flags & VM_FLAGS_COMPARED
            && expected.write == seen.write
            && expected.mapcount == seen.mapcount
            && expected.anon_exclusive == seen.anon_exclusive
    }

    fn agrees(&mut self, expected: &EntryExpectation, seen: &ObservedEntry) -> bool {
        let is_mapped = |frame| self.model.mapcount(frame) > 0;
        (expected.bits.0 ^ seen.bits.0) & !expected.unspecified == 0
            && self.binding.admits(expected.frame, seen.frame, is_mapped)
    }

    fn compare_pagemap(&mut self, record: &StepRecord) -> Option<(Difference, Option<Rule>)> {
        for view in record.witness.iter().flat_map(|witness| &witness.pagemap) {
            for (slot, &word) in view.words.iter().enumerate().take(ARENA_PAGES) {
                let page = PageIndex::new(slot).expect("a slot of the arena");
                let expected = pagemap_word(&self.model, view.actor, page);
                self.tally.pagemap_words += 1;
                let seen = word & PAGEMAP_COMPARED;
                if expected != seen {
                    let rule = self.model.entry_rule(view.actor, page);
                    return Some((Difference::Pagemap { actor: view.actor, page, expected, seen }, rule));
                }
            }
        }
        if let Some(witness) = &record.witness {
            self.tally.walked += u64::from(witness.walked);
        }
        None
    }

    /// Where the record contradicts itself, whatever the model says: transitions against the snapshots on
    /// both sides of the step, and against the operation that caused them.
    fn inner_contradiction(
        &self,
        before: &[[ObservedEntry; ARENA_PAGES]; ACTORS],
        step: &Step,
        record: &StepRecord,
    ) -> Option<WitnessMismatch> {
        let mismatch = |transition: &Transition, field, probe, witness| WitnessMismatch {
            actor: transition.actor,
            page: transition.page,
            field,
            probe,
            witness,
        };
        for (index, transition) in record.transitions.iter().enumerate() {
            let same = |other: &&Transition| (other.actor, other.page) == (transition.actor, transition.page);
            let earlier = record.transitions[..index].iter().rev().find(same);
            let known = earlier.map_or(before[transition.actor.index()][transition.page.index()], |one| one.after);
            // Between two events of one step only the CPU writes, and it only sets Accessed and Dirty.
            let free = if earlier.is_some() { A | D } else { 0 };
            let births = transition.cause == Cause::ForkChild || was_unmapped_first(step, transition);
            // Filling has no event; an access that waited for it has one.
            let fills = matches!(step.operation, Operation::UffdCopy { .. } | Operation::UffdZeropage { .. })
                && !known.bits.is_present()
                && transition.before.bits.is_present();
            if !births && !fills && differs(&known, &transition.before, free) {
                let (probe, witness) = (transition.before.bits.0, known.bits.0);
                return Some(mismatch(transition, WitnessField::TransitionBefore, probe, witness));
            }
            let is_last = !record.transitions[index + 1..].iter().any(|other| same(&other));
            let after = self.entries[transition.actor.index()][transition.page.index()];
            if is_last && differs(&transition.after, &after, A | D) {
                let (probe, witness) = (transition.after.bits.0, after.bits.0);
                return Some(mismatch(transition, WitnessField::TransitionAfter, probe, witness));
            }
            let stores = matches!(
                step.operation,
                Operation::Write { .. }
                    | Operation::WriteBySystemCall { .. }
                    | Operation::WriteProcMem { .. }
                    | Operation::WriteShadowStack { .. }
                    | Operation::MapShadowStack { .. }
                    | Operation::Madvise { advice: Advice::PopulateWrite, .. }
            ) || step.operation.is_on_live_shadow_stack();
            // mlock faults in by loads or stores, as the VMA has it; so do mprotect and mremap of a locked VMA.
            // The signal of a refused access may push its frame on a shadow stack of the arena, by stores.
            // An operation on a userfaultfd lets accesses go on that waited for it.
            let either = matches!(
                step.operation,
                Operation::Mlock { .. }
                    | Operation::Mprotect { .. }
                    | Operation::PkeyMprotect { .. }
                    | Operation::Mremap { .. }
                    | Operation::MremapResize { .. }
                    | Operation::Madvise { advice: Advice::Unmergeable, .. }
                    | Operation::UffdOpen { .. }
                    | Operation::UffdClose { .. }
                    | Operation::UffdUnregister { .. }
                    | Operation::UffdWriteProtect { .. }
                    | Operation::UffdCopy { .. }
                    | Operation::UffdZeropage { .. }
                    | Operation::UffdWake { .. }
            ) || matches!(record.outcome, Outcome::Faulted(_) | Outcome::Killed(_));
            if !either && transition.write != (transition.cause == Cause::Fault && stores) {
                let (probe, witness) = (u64::from(transition.write), u64::from(stores));
                return Some(mismatch(transition, WitnessField::TransitionWrite, probe, witness));
            }
        }
        None
    }
}

/// Whether the step itself may have unmapped the page before the transition, which no event tells: mremap
/// empties its target, and faults it in where it is locked and longer than what moves.
fn was_unmapped_first(step: &Step, transition: &Transition) -> bool {
    match step.operation {
        Operation::Mremap { to, .. } => {
            transition.actor == step.actor
                && transition.before.bits == Entry::NONE
                && to.slots().any(|page| page == transition.page)
        }
        _ => false,
    }
}

/// What the actor's `/proc/pid/pagemap` must say of the page, frame number left out
/// (`fs/proc/task_mmu.c: pte_to_pagemap_entry, pagemap_pte_hole`): bit 55 is the entry's soft-dirty bit *or*
/// VM_SOFTDIRTY; bit 56 comes from the mapcount, and the zero page has none; bit 61 is a page that is not anonymous.
#[must_use]
pub fn pagemap_word(model: &Model, actor: ActorId, page: PageIndex) -> u64 {
    let entry = model.entry(actor, page);
    let tracked_dirty = model.mapping(actor, page).is_some_and(|mapping| mapping.soft_dirty);
    let present = matches!(entry.bits.kind(), EntryKind::Present | EntryKind::ProtNone);
    let (exclusive, of_object) = match entry.frame {
        ExpectedFrame::Frame(frame) => (model.mapcount(frame) == 1, model.is_of_object(frame)),
        ExpectedFrame::None | ExpectedFrame::Zero => (false, false),
    };
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    let is_swap = entry.bits.kind() == EntryKind::NonPresent;
    let soft_dirty = match entry.bits.is_swapped() {
        true => entry.bits.has(SWP_SOFT_DIRTY),
        false => present && entry.bits.has(SOFT_DIRTY),
    };
    flag(present, PAGEMAP_PRESENT)
        | flag(present && of_object, PAGEMAP_FILE)
        | flag(is_swap, PAGEMAP_SWAP)
        | flag(entry.bits.is_uffd_wp(), PAGEMAP_UFFD_WP)
        | flag(present && exclusive, PAGEMAP_EXCLUSIVE)
        | flag(tracked_dirty || soft_dirty, PAGEMAP_SOFT_DIRTY)
}

fn differs(left: &ObservedEntry, right: &ObservedEntry, free: u64) -> bool {
    (left.bits.0 ^ right.bits.0) & !free != 0 || left.frame != right.frame
}

/// What the witnesses hold against the probe in this record, if anything.
#[must_use]
pub fn witness_contradiction(step: usize, record: &StepRecord) -> Option<Inconclusive> {
    let witness = record.witness.as_ref()?;
    if let Some(&mismatch) = witness.mismatches.first() {
        return Some(Inconclusive::ProbeContradicted { step, mismatch });
    }
    witness.pagemap.iter().find_map(|view| {
        let page = *view.frame_mismatches.first()?;
        Some(Inconclusive::FrameContradicted { step, actor: view.actor, page })
    })
}
