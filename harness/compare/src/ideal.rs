//! What a kernel that follows the model to the bit would record. For tests of the judge, of traces and of
//! mutants, and for measuring: no kernel is involved, so nothing here says anything about one.

use ptediff_reference_model::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex};
use ptediff_reference_model::expectation::{EntryExpectation, ExpectedFrame};
use ptediff_reference_model::kernel::Kernel;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::observation::{EntryChange, FrameName, ObservedEntry, StepRecord, Transition};
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::Program;

/// The records of the program on an ideal kernel of this machine. Steps that are not possible end it.
#[must_use]
pub fn ideal_records(machine: &Machine, program: &Program) -> Vec<StepRecord> {
    records_of(machine, machine.kernel(), program)
}

/// The records of the program on another kernel: one that has a defect, say, and else follows the model to the bit.
#[must_use]
pub fn records_of(machine: &Machine, kernel: Kernel, program: &Program) -> Vec<StepRecord> {
    let mut model = Model::with_kernel(machine, kernel);
    let mut entries = [[ObservedEntry::NONE; ARENA_PAGES]; ACTORS];
    let mut records = Vec::with_capacity(program.steps.len());
    for (index, step) in program.steps.iter().enumerate() {
        if !model.is_possible(step) {
            break;
        }
        let expectation = model.step(index, step);
        let transitions = expectation
            .transitions
            .iter()
            .map(|transition| Transition {
                cause: transition.cause,
                actor: transition.actor,
                page: transition.page,
                before: observed(&transition.before),
                after: observed(&transition.after),
                vm_flags: transition.vm_flags,
                write: transition.write,
                mapcount: transition.mapcount,
                anon_exclusive: transition.anon_exclusive,
            })
            .collect();
        let mut changes = Vec::new();
        for actor in ActorId::all() {
            for (slot, known) in entries[actor.index()].iter_mut().enumerate() {
                let page = PageIndex::new(slot).expect("a slot of the arena");
                let entry = observed(&model.entry(actor, page));
                if *known != entry {
                    *known = entry;
                    if model.is_alive(actor) {
                        changes.push(EntryChange { actor, page, entry });
                    }
                }
            }
        }
        records.push(StepRecord {
            outcome: expectation.outcome.unwrap_or(Outcome::Succeeded),
            alive: model.alive(),
            changes,
            transitions,
            lost: 0,
            witness: None,
        });
    }
    records
}

fn observed(entry: &EntryExpectation) -> ObservedEntry {
    let frame = match entry.frame {
        ExpectedFrame::None => FrameName::NONE,
        ExpectedFrame::Zero => FrameName::ZERO,
        ExpectedFrame::Frame(number) => FrameName(number as u16 + 2),
    };
    ObservedEntry { bits: entry.bits, frame }
}
