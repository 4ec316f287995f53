//! The states (a) to (e) of the `_PAGE_COW` patch, each made by system calls and seen in the page table.

use ptediff_claims::{Effort, Evidence};
use ptediff_compare::judge;
use ptediff_corpus::Needs;
use ptediff_reference_model::algebra::{Page, Place};
use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
use ptediff_reference_model::kernel::Change;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::{Operation, Placement, Program, Protection, Step};
use ptediff_reference_model::verdict::Verdict;

use crate::guest::request::Task;
use crate::host::launch::Platform;

use super::programs::{Boot, Ran, boot};
use super::{ClaimFailure, LiveCheck, Machines};

/// The live check.
pub(super) const LIVE: &[LiveCheck] = &[LiveCheck { claim: "algebra.states-live", run: states_live }];

/// Where: with shadow stacks, and for all of the check without too.
const PLACES: [(Platform, &str); 4] =
    [(Platform::Bochs, "6.12"), (Platform::Bochs, "7.2"), (Platform::Qemu, "6.12"), (Platform::Qemu, "7.2")];
/// How many of them the representative part takes.
const REPRESENTATIVE_PLACES: usize = 2;

/// Programs of the campaign that looks for states where they do not belong.
const CAMPAIGN: (u32, u32) = (200, 3000);
const SEED: u64 = 2022;

/// The steps that make a page of this kind, as the text tells them; none for (e), which takes a CPU of another time.
fn made_by(page: Page) -> Option<Program> {
    let first = ActorId::FIRST;
    let (range, at) = (PageRange::FIRST_PAGE, PageIndex::FIRST);
    let map = |protection| Operation::Mmap { range, protection, placement: Placement::Fixed };
    let fork = Operation::Fork { child: ActorId::new(1).ok()? };
    let read_write = Protection::READ_WRITE;
    let stack = [Operation::MapShadowStack { range, token: false }, Operation::WriteShadowStack { page: at }];
    let operations = match page {
        Page::ModifiedThenShared => vec![map(read_write), Operation::Write { page: at }, fork],
        Page::ReadOnlyCopiedForGup => {
            vec![map(Protection::READ), Operation::Read { page: at }, Operation::WriteProcMem { page: at }]
        }
        Page::ShadowStack => stack.to_vec(),
        Page::SharedShadowStack => [&stack[..], &[fork]].concat(),
        Page::DirtySetLate => return None,
    };
    Some(Program { steps: operations.into_iter().map(|operation| Step { actor: first, operation }).collect() })
}

/// Whether this machine makes such pages at all.
fn is_made(machine: &Machine, page: Page) -> bool {
    match page {
        Page::ModifiedThenShared => true,
        Page::ReadOnlyCopiedForGup => machine.kernel().has(Change::ForcedStores),
        Page::ShadowStack | Page::SharedShadowStack => machine.shadow_stack,
        Page::DirtySetLate => false,
    }
}

/// How often the last step left an entry that may be such a page.
fn times_made(ran: &Ran, page: Page) -> u64 {
    let last = ran.records.last().map(|record| record.transitions.as_slice()).unwrap_or_default();
    let is_it = |transition: &&_| pages(transition).contains(&page);
    last.iter().filter(is_it).count() as u64
}

fn pages(transition: &ptediff_reference_model::observation::Transition) -> &'static [Page] {
    Place::of_vma(transition.vm_flags).pages(transition.after.bits)
}

fn states_live(machines: &Machines, effort: Effort) -> Result<Vec<Evidence>, ClaimFailure> {
    let mut evidence = Vec::new();
    let places = if effort == Effort::Full { &PLACES[..] } else { &PLACES[..REPRESENTATIVE_PLACES] };
    for &(platform, kernel) in places {
        let programs: Vec<(Page, Program)> =
            Page::ALL.into_iter().filter_map(|page| Some((page, made_by(page)?))).collect();
        let given: Vec<Program> = programs.iter().map(|(_, program)| program.clone()).collect();
        let needs = given.iter().map(Needs::to_behave_alike).collect();
        let replayed = boot(machines, platform, kernel, Task::Replay { programs: given, needs, repeat: 1 })?;
        let mut told = Vec::new();
        let mut count = 0;
        for ((page, program), ran) in programs.iter().zip(&replayed.programs) {
            let letter = page.letter();
            if !is_made(&replayed.machine, *page) {
                told.push(format!("({letter}) not made here"));
                continue;
            }
            let times = times_made(ran, *page);
            let (verdict, _) = judge(&replayed.machine, program, &ran.records);
            if times == 0 || verdict != Verdict::Agree {
                let what = format!("{kernel} on {}: no page in state ({letter}): {verdict:?}", platform.name());
                return Err(ClaimFailure::Refuted(what));
            }
            told.push(format!("({letter}) {times}"));
            count += times;
        }
        let programs = if effort == Effort::Full { CAMPAIGN.1 } else { CAMPAIGN.0 };
        let campaign = Task::Campaign { seed: SEED, first: 0, programs, min_steps: 8, max_steps: 50, profile: None };
        let campaign = boot(machines, platform, kernel, campaign)?;
        let met = met(&campaign)?;
        count += met.iter().sum::<u64>();
        let met: Vec<String> =
            Page::ALL.iter().zip(met).map(|(page, times)| format!("({}) {times}", page.letter())).collect();
        let note = format!("alone: {}; in {programs} generated programs: {}", told.join(", "), met.join(", "));
        evidence.push(replayed.evidence(count, "entries left in one of the states", note));
    }
    Ok(evidence)
}

/// How often entries were left in each state by the events of generated programs, in the order of [`Page::ALL`].
/// None may be left in (e).
fn met(boot: &Boot) -> Result<[u64; Page::ALL.len()], ClaimFailure> {
    let mut met = [0; Page::ALL.len()];
    for ran in &boot.programs {
        for transition in ran.records.iter().flat_map(|record| &record.transitions) {
            for (times, page) in met.iter_mut().zip(Page::ALL) {
                *times += u64::from(pages(transition).contains(&page));
            }
            if pages(transition).contains(&Page::DirtySetLate) {
                let what = format!("Write=0, Dirty=1 outside a shadow stack: {transition:?} in {:?}", ran.program);
                return Err(ClaimFailure::Refuted(what));
            }
        }
    }
    Ok(met)
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::model::Model;

    use super::*;

    /// The model's own events stand for a kernel's: each program leaves its state, and no other program of the four
    /// would pass for it but for (a) and (b), which nothing tells apart in a read-only VMA.
    #[test]
    fn each_program_leaves_its_state() {
        let machine = Machine::imagined(ptediff_reference_model::kernel::KernelVersion::LINUX_6_12, true, true);
        for page in Page::ALL {
            let Some(program) = made_by(page) else { continue };
            let mut model = Model::new(&machine);
            let last = program.steps.iter().enumerate().map(|(index, step)| model.step(index, step)).last().unwrap();
            let left: Vec<&[Page]> = last
                .transitions
                .iter()
                .map(|transition| Place::of_vma(transition.vm_flags).pages(transition.after.bits))
                .collect();
            assert!(!left.is_empty() && left.iter().all(|pages| pages.contains(&page)), "{page:?}: {left:?}");
        }
    }
}
