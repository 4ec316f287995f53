//! Whose fault it is when readings do not fit together: the probe's or the kernel's.
//!
//! Two kinds of contradiction. Readers may *disagree*: the page walk through `/proc/kcore`, pagemap, smaps or
//! `struct page` say something else than the probe about the same thing at the same time. Then the rig is wrong,
//! whatever the model says. Or the *chain* of readings is broken: snapshot, events, snapshot do not follow from each
//! other as entries are known to move. That is no more than an expectation, and a kernel that moves entries otherwise
//! breaks it too. It is held against the probe only where the entry after the step, which snapshot and page walk read
//! alike, is as the model says: then the event alone is odd. Where that entry is not as the model says, the kernel is.

use ptediff_reference_model::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex};
use ptediff_reference_model::entry::{A, D, Entry};
use ptediff_reference_model::observation::{
    Cause, ObservedEntry, StepRecord, Transition, WitnessField, WitnessMismatch,
};
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::{Advice, Operation, Step};
use ptediff_reference_model::verdict::Inconclusive;

use crate::comparison::Comparison;

impl Comparison {
    /// What the witnesses hold against the probe in the record of the step that was judged last, if anything.
    pub(crate) fn witness_contradiction(&self, step: usize, record: &StepRecord) -> Option<Inconclusive> {
        let witness = record.witness.as_ref()?;
        let disagreement = witness.mismatches.iter().find(|mismatch| !mismatch.field.is_of_the_chain());
        if let Some(&mismatch) = disagreement {
            return Some(Inconclusive::ProbeContradicted { step, mismatch });
        }
        let other_frame = witness.pagemap.iter().find_map(|view| Some((view.actor, *view.frame_mismatches.first()?)));
        if let Some((actor, page)) = other_frame {
            return Some(Inconclusive::FrameContradicted { step, actor, page });
        }
        let broken = witness.mismatches.iter().find(|mismatch| self.is_by_the_probe(record, mismatch));
        broken.map(|&mismatch| Inconclusive::ProbeContradicted { step, mismatch })
    }

    /// Whether a break in the chain of readings of an entry is the probe's and not the kernel's.
    fn is_by_the_probe(&self, record: &StepRecord, mismatch: &WitnessMismatch) -> bool {
        let WitnessMismatch { actor, page, .. } = *mismatch;
        // After another result than the expected one the model does not know where entries stand.
        if !self.trusts_chain || !self.last.result {
            return false;
        }
        // Of an actor that died nobody knows where its entries stood last; of one that was dead before there are none.
        if !self.model.is_alive(actor) {
            return self.last.alive_before & 1 << actor.index() == 0;
        }
        let has_event = self.last.events[actor.index()] & 1 << page.index() != 0
            || record.transitions.iter().any(|transition| (transition.actor, transition.page) == (actor, page));
        has_event && self.is_as_expected(actor, page)
    }

    /// Whether the entry after the step is as the model says.
    fn is_as_expected(&self, actor: ActorId, page: PageIndex) -> bool {
        let (expected, seen) = (self.model.entry(actor, page), self.entries[actor.index()][page.index()]);
        let is_mapped = |frame| self.model.mapcount(frame) > 0;
        (expected.bits.0 ^ seen.bits.0) & !expected.unspecified == 0
            && self.binding_before.clone().admits(expected.frame, seen.frame, is_mapped)
    }

    /// Where the record contradicts itself: transitions against the snapshots on both sides of the step, and
    /// against the operation that caused them.
    pub(crate) fn inner_contradiction(
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
        let by_the_probe = |found: WitnessMismatch| self.is_by_the_probe(record, &found).then_some(found);
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
                let found = mismatch(transition, WitnessField::TransitionBefore, probe, witness);
                if let Some(found) = by_the_probe(found) {
                    return Some(found);
                }
            }
            let is_last = !record.transitions[index + 1..].iter().any(|other| same(&other));
            let after = self.entries[transition.actor.index()][transition.page.index()];
            if is_last && differs(&transition.after, &after, A | D) {
                let (probe, witness) = (transition.after.bits.0, after.bits.0);
                let found = mismatch(transition, WitnessField::TransitionAfter, probe, witness);
                if let Some(found) = by_the_probe(found) {
                    return Some(found);
                }
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
                let found = mismatch(transition, WitnessField::TransitionWrite, probe, witness);
                if let Some(found) = by_the_probe(found) {
                    return Some(found);
                }
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

fn differs(left: &ObservedEntry, right: &ObservedEntry, free: u64) -> bool {
    (left.bits.0 ^ right.bits.0) & !free != 0 || left.frame != right.frame
}
