//! The comparison: one kernel's model against a record, step by step.

use ptediff_reference_model::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex};
use ptediff_reference_model::entry::{EntryKind, SOFT_DIRTY, SWP_SOFT_DIRTY};
use ptediff_reference_model::expectation::{EntryExpectation, ExpectedFrame, StepExpectation, TransitionExpectation};
use ptediff_reference_model::model::{Model, VM_FLAGS_COMPARED};
use ptediff_reference_model::observation::{ObservedEntry, StepRecord, Transition};
use ptediff_reference_model::program::Step;
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
    pub(crate) model: Model,
    /// Whether readings that do not follow from each other may be held against the probe. Not where the model has a
    /// defect on: entries move otherwise there.
    pub(crate) trusts_chain: bool,
    binding: Binding,
    /// As it was before the step: what the step's events name may be the probe's invention.
    pub(crate) binding_before: Binding,
    pub(crate) entries: [[ObservedEntry; ARENA_PAGES]; ACTORS],
    pub(crate) last: Expected,
    tally: Tally,
}

/// What the model expected of the last step, as far as the question needs it whose fault a broken chain of readings
/// is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected {
    /// Whether the step gave the expected result and left the expected actors alive.
    pub(crate) result: bool,
    /// Actors that were alive before the step, bit `n` for actor `n`.
    pub(crate) alive_before: u8,
    /// Pages for which the model expected an event, a bit each, by actor.
    pub(crate) events: [u32; ACTORS],
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
    /// With the model before its first step. `trusts_chain` where the kernel is the intended one.
    pub(crate) fn new(model: Model, trusts_chain: bool) -> Self {
        Self {
            model,
            trusts_chain,
            binding: Binding::default(),
            binding_before: Binding::default(),
            last: Expected::default(),
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
        let alive_before = self.model.alive();
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
        self.binding_before.clone_from(&self.binding);
        self.last = Expected {
            result: expectation.outcome.is_none_or(|expected| expected == record.outcome)
                && self.model.alive() == record.alive,
            alive_before,
            events: [0; ACTORS],
        };
        for transition in &expectation.transitions {
            self.last.events[transition.actor.index()] |= 1 << transition.page.index();
        }
        let found = self.compare(&expectation, record);
        if let Some(contradiction) = self.witness_contradiction(index, record) {
            return Compared::CannotTell(contradiction);
        }
        if let Some((difference, rule)) = found {
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
                // Where nothing should happen, the entry should stay: as which rule left it.
                let stays = || seen.and_then(|seen| self.model.entry_rule(seen.actor, seen.page));
                let rule = expected.map(|transition| transition.rule).or_else(stays);
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
