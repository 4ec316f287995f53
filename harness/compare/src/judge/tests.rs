//! The judge against the ideal kernel, and against one that does each thing wrong in turn.

use ptediff_reference_model::arena::{ARENA_PAGES, ActorId, PageIndex, PageRange};
use ptediff_reference_model::entry::{Entry, NX, RW, SOFT_DIRTY};
use ptediff_reference_model::kernel::{Change, Kernel, KernelVersion};
use ptediff_reference_model::observation::{
    FrameName, ObservedEntry, PagemapView, Transition, WitnessField, WitnessMismatch, WitnessReport,
};
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::{Operation, Placement, Protection};
use ptediff_reference_model::uffd::{UffdFeatures, UffdId, UffdMode};

use super::*;
use crate::comparison::{PAGEMAP_EXCLUSIVE, PAGEMAP_PRESENT, PAGEMAP_SOFT_DIRTY};
use crate::{ideal_records, records_of};

fn machine(patch: u16) -> Machine {
    Machine::imagined(KernelVersion::new(6, 12, patch), true, true)
}

fn program() -> Program {
    let actor = ActorId::FIRST;
    let child = ActorId::new(1).unwrap();
    let page = PageIndex::new(3).unwrap();
    let range = PageRange::new(2, 4).unwrap();
    let step = |actor, operation| Step { actor, operation };
    let protection = Protection::READ_WRITE;
    Program {
        steps: vec![
            step(actor, Operation::Mmap { range, protection, placement: Placement::Fixed }),
            step(actor, Operation::Write { page }),
            step(actor, Operation::Fork { child }),
            step(child, Operation::Read { page }),
            step(child, Operation::Write { page }),
            step(actor, Operation::Mprotect { range, protection: Protection::READ }),
            step(actor, Operation::Write { page }),
            step(child, Operation::Exit),
        ],
    }
}

/// Tampers with the records of an ideal kernel and says whether the verdict is of the kind that `expect`
/// accepts.
fn check(name: &str, tamper: impl Fn(&mut Vec<StepRecord>), expect: impl Fn(&Verdict) -> bool) {
    let machine = machine(95);
    let program = program();
    let mut records = ideal_records(&machine, &program);
    tamper(&mut records);
    let (verdict, _) = judge(&machine, &program, &records);
    assert!(expect(&verdict), "{name}: {verdict:?}");
}

fn diverges_at(step: usize) -> impl Fn(&Verdict) -> bool {
    move |verdict| matches!(verdict, Verdict::Diverge(divergence) if divergence.step == step)
}

fn contradicted_at(at: usize) -> impl Fn(&Verdict) -> bool {
    move |verdict| matches!(verdict, Verdict::Inconclusive(Inconclusive::ProbeContradicted { step, .. }) if *step == at)
}

#[test]
fn an_ideal_kernel_agrees_and_is_counted() {
    let (verdict, tally) = judge(&machine(95), &program(), &ideal_records(&machine(95), &program()));
    assert_eq!(verdict, Verdict::Agree);
    assert_eq!(tally.steps, 8);
    assert!(tally.bits_compared > 500 && tally.transitions >= 4, "{tally:?}");
    assert_eq!(tally.suppressed_share(), 0.0);
}

#[test]
fn each_kind_of_difference_is_found_at_its_step() {
    check("outcome", |records| records[6].outcome = Outcome::Stored, diverges_at(6));
    // One snapshot, no event: whether the page walk saw the same decides whose it is.
    let entry_bit = |walked: Option<WitnessField>| {
        move |records: &mut Vec<StepRecord>| {
            let change = &mut records[4].changes[0];
            change.entry.bits.0 ^= NX;
            let (probe, witness) = (change.entry.bits.0, change.entry.bits.0 ^ NX);
            let mismatch = |field| WitnessMismatch { actor: change.actor, page: change.page, field, probe, witness };
            let mismatches = walked.map(mismatch).into_iter().collect();
            records[4].witness = Some(WitnessReport { walked: 64, mismatches, pagemap: Vec::new() });
        }
    };
    check("an entry that the page walk read otherwise", entry_bit(Some(WitnessField::Entry)), contradicted_at(4));
    check("an entry that the page walk read too", entry_bit(None), diverges_at(4));
    check("one that no event led to", entry_bit(Some(WitnessField::TransitionAfter)), diverges_at(4));
    let both = |records: &mut Vec<StepRecord>| {
        records[4].changes[0].entry.bits.0 ^= NX;
        records[4].transitions[0].after.bits.0 ^= NX;
    };
    check("entry bit, everywhere", both, diverges_at(4));
    let reuse = |records: &mut Vec<StepRecord>| {
        records[4].changes[0].entry.frame = FrameName(2);
        records[4].transitions[0].after.frame = FrameName(2);
    };
    check("copy that reuses the shared frame", reuse, diverges_at(4));
    check("exit that leaves the child", |records| records[7].alive = 3, diverges_at(7));
    check("mapcount", |records| records[1].transitions[0].mapcount = 2, diverges_at(1));
}

#[test]
fn what_cannot_be_told_is_inconclusive() {
    check(
        "lost",
        |records| records[2].lost = 1,
        |verdict| matches!(verdict, Verdict::Inconclusive(Inconclusive::EventsLost { step: 2, lost: 1 })),
    );
    check(
        "cut",
        |records| records.truncate(5),
        |verdict| matches!(verdict, Verdict::Inconclusive(Inconclusive::Truncated { steps: 8, recorded: 5 })),
    );
    let dropped = |records: &mut Vec<StepRecord>| {
        records[4].transitions.clear();
    };
    check("a transition dropped without a count is at least no agreement", dropped, |verdict| {
        *verdict != Verdict::Agree
    });
    let walked = |records: &mut Vec<StepRecord>| {
        let mismatch = WitnessMismatch {
            actor: ActorId::FIRST,
            page: PageIndex::new(3).unwrap(),
            field: WitnessField::Entry,
            probe: 1,
            witness: 2,
        };
        records[1].witness = Some(WitnessReport { walked: 32, mismatches: vec![mismatch], pagemap: Vec::new() });
    };
    check("walk", walked, |verdict| {
        matches!(verdict, Verdict::Inconclusive(Inconclusive::ProbeContradicted { step: 1, .. }))
    });
}

#[test]
fn pagemap_says_soft_dirty_for_the_vma_too() {
    let words = |slot: usize| match slot {
        3 => PAGEMAP_PRESENT | PAGEMAP_EXCLUSIVE | PAGEMAP_SOFT_DIRTY,
        2..6 => PAGEMAP_SOFT_DIRTY,
        _ => 0,
    };
    let view = |words: Vec<u64>| PagemapView { actor: ActorId::FIRST, words, frame_mismatches: Vec::new() };
    let right: Vec<u64> = (0..ARENA_PAGES).map(words).collect();
    let with = |words: Vec<u64>| {
        move |records: &mut Vec<StepRecord>| {
            let pagemap = vec![view(words.clone())];
            records[1].witness = Some(WitnessReport { walked: 0, mismatches: Vec::new(), pagemap });
        }
    };
    check("right", with(right.clone()), |verdict| *verdict == Verdict::Agree);
    let mut wrong = right;
    wrong[4] = 0;
    check("wrong", with(wrong), diverges_at(1));
}

#[test]
fn a_locked_mapping_may_grow_over_what_was_there() {
    let actor = ActorId::FIRST;
    let range = |first, pages| PageRange::new(first, pages).unwrap();
    let step = |operation| Step { actor, operation };
    let (protection, placement) = (Protection::READ_WRITE, Placement::Fixed);
    let mut program = Program {
        steps: vec![
            step(Operation::Mmap { range: range(0, 8), protection, placement }),
            step(Operation::Mlock { range: range(0, 8) }),
            step(Operation::Mremap { range: range(0, 2), to: range(4, 3), keep: false }),
        ],
    };
    let agrees = |program: &Program| {
        let records = ideal_records(&machine(95), program);
        judge(&machine(95), program, &records).0 == Verdict::Agree
    };
    assert!(agrees(&program));
    // Nothing that mlock does empties an entry before it fills it: there such an event is the probe's.
    program.steps[1].operation = Operation::Write { page: PageIndex::new(5).unwrap() };
    program.steps[2].operation = Operation::Mlock { range: range(4, 2) };
    let mut records = ideal_records(&machine(95), &program);
    let mut odd = records[2].transitions[0];
    let held = records[1].changes[0].entry;
    (odd.page, odd.before, odd.after) = (PageIndex::new(5).unwrap(), ObservedEntry::NONE, held);
    records[2].transitions.push(odd);
    let (verdict, _) = judge(&machine(95), &program, &records);
    assert!(contradicted_at(2)(&verdict), "{verdict:?}");
}

#[test]
fn a_writable_entry_after_write_protection_is_found() {
    let stale = |records: &mut Vec<StepRecord>| {
        for change in &mut records[2].changes {
            change.entry.bits = Entry(change.entry.bits.0 | RW);
        }
        for transition in &mut records[2].transitions {
            transition.after.bits = Entry(transition.after.bits.0 | RW);
        }
    };
    check("a fork that leaves Write", stale, diverges_at(2));
}

/// A registered page that is written and protected, the descriptor closed; then a read.
fn closed_userfaultfd() -> Program {
    let (uffd, range) = (UffdId::FIRST, PageRange::FIRST_PAGE);
    let operations = [
        Operation::Mmap { range, protection: Protection::READ_WRITE, placement: Placement::Fixed },
        Operation::Write { page: PageIndex::FIRST },
        Operation::UffdOpen { uffd, features: UffdFeatures::SIGBUS },
        Operation::UffdRegister { uffd, range, mode: UffdMode::WriteProtect },
        Operation::UffdWriteProtect { uffd, range, protect: true },
        Operation::UffdClose { uffd },
        Operation::Read { page: PageIndex::FIRST },
    ];
    Program { steps: operations.map(|operation| Step { actor: ActorId::FIRST, operation }).to_vec() }
}

/// Runs a program on a kernel and judges it as another version.
#[track_caller]
fn explains(kernel: Kernel, version: KernelVersion, program: &Program, expected: &Explanation) {
    let machine = Machine::imagined(version, true, true);
    let records = records_of(&machine, kernel, program);
    match judge(&machine, program, &records).0 {
        Verdict::Diverge(divergence) => assert_eq!(divergence.explanation, *expected, "{version}: {divergence:?}"),
        other => panic!("{version}: {other:?}"),
    }
}

#[test]
fn a_difference_is_explained_by_the_table_in_its_order() {
    let (vulnerable, fixed) = (KernelVersion::new(6, 1, 190), KernelVersion::new(6, 1, 192));
    let defect = Change::CloseKeepsUffdWp;
    let kernel = Machine::imagined(vulnerable, true, true).kernel();
    let program = closed_userfaultfd();
    explains(kernel.with(defect), vulnerable, &program, &Explanation::KnownDefects(vec![defect]));
    explains(kernel.with(defect), fixed, &program, &Explanation::FixMissing(vec![defect]));
    // Protection by the VMA's flags, as before 6.2, leaves another entry.
    let later = KernelVersion::LINUX_7_2;
    let older = Machine::imagined(later, true, true).kernel().without(Change::UffdWpByPageProtection);
    explains(older, later, &program, &Explanation::ChangeMoved(vec![Change::UffdWpByPageProtection]));
    let agrees = Machine::imagined(fixed, true, true);
    assert_eq!(judge(&agrees, &program, &records_of(&agrees, kernel, &program)).0, Verdict::Agree);
}

#[test]
fn behind_a_known_defect_the_program_is_judged_on() {
    let version = KernelVersion::new(6, 1, 190);
    let machine = Machine::imagined(version, true, true);
    let program = closed_userfaultfd();
    let mut records = records_of(&machine, machine.kernel_as_released(), &program);
    let (verdict, _) = judge(&machine, &program, &records);
    let Verdict::Diverge(divergence) = verdict else { panic!("{verdict:?}") };
    assert_eq!((divergence.step, divergence.explanation.is_known()), (5, true));
    records[6].outcome = Outcome::Stored;
    let (verdict, _) = judge(&machine, &program, &records);
    let Verdict::Diverge(divergence) = verdict else { panic!("{verdict:?}") };
    let met = vec![Change::CloseKeepsUffdWp];
    assert_eq!((divergence.step, divergence.explanation, divergence.met), (6, Explanation::Unexplained, met));
    records.truncate(6);
    assert!(matches!(judge(&machine, &program, &records).0, Verdict::Inconclusive(Inconclusive::Truncated { .. })));
}

/// A kernel that does a thing that no hook sees (moves entries, clears bits), and a probe that only says so.
#[test]
fn a_broken_chain_is_held_against_the_kernel_where_the_entry_is_wrong_and_against_the_probe_where_it_is_right() {
    let actor = ActorId::FIRST;
    let page = |slot| PageIndex::new(slot).unwrap();
    let range = |first| PageRange::new(first, 1).unwrap();
    let step = |operation| Step { actor, operation };
    let program = Program {
        steps: vec![
            step(Operation::Mmap { range: range(3), protection: Protection::READ_WRITE, placement: Placement::Fixed }),
            step(Operation::Write { page: page(3) }),
            step(Operation::ClearSoftDirty),
            step(Operation::Mremap { range: range(3), to: range(9), keep: false }),
        ],
    };
    let broken = |page, field| {
        let mismatch = WitnessMismatch { actor, page, field, probe: 0, witness: 1 };
        Some(WitnessReport { walked: 32, mismatches: vec![mismatch], pagemap: Vec::new() })
    };
    let check = |name: &str, tamper: &dyn Fn(&mut Vec<StepRecord>), expect: &dyn Fn(&Verdict) -> bool| {
        let mut records = ideal_records(&machine(95), &program);
        tamper(&mut records);
        let (verdict, _) = judge(&machine(95), &program, &records);
        assert!(expect(&verdict), "{name}: {verdict:?}");
    };
    let loses_soft_dirty = |records: &mut Vec<StepRecord>| {
        let arrived = records[3].changes.iter_mut().find(|change| change.page == page(9)).expect("it moves");
        arrived.entry.bits.0 ^= SOFT_DIRTY;
        records[3].witness = broken(page(9), WitnessField::TransitionAfter);
    };
    check("mremap that loses soft-dirty", &loses_soft_dirty, &|verdict| {
        let Verdict::Diverge(divergence) = verdict else { return false };
        divergence.rule.is_some_and(|rule| rule.info().source.contains("mremap"))
    });
    // Everything is as the model says; only the chain does not know how it came about.
    let moves = |records: &mut Vec<StepRecord>| records[3].witness = broken(page(9), WitnessField::TransitionAfter);
    check("a move that the chain does not follow", &moves, &|verdict| *verdict == Verdict::Agree);
    let odd_event = |field, tamper: fn(&mut Transition)| {
        move |records: &mut Vec<StepRecord>| {
            tamper(&mut records[1].transitions[0]);
            records[1].witness = broken(page(3), field);
        }
    };
    let before = odd_event(WitnessField::TransitionBefore, |seen| seen.before.bits.0 ^= NX);
    check("an event that read another entry before", &before, &contradicted_at(1));
    let after = odd_event(WitnessField::TransitionAfter, |seen| seen.after.bits.0 ^= NX);
    check("an event that read another entry after", &after, &contradicted_at(1));
    let frame = odd_event(WitnessField::TransitionAfter, |seen| seen.after.frame = FrameName(77));
    check("an event with a frame that is nowhere", &frame, &contradicted_at(1));
    let dropped = |records: &mut Vec<StepRecord>| {
        records[1].transitions.clear();
        records[1].witness = broken(page(3), WitnessField::TransitionAfter);
    };
    check("an event that is missing", &dropped, &contradicted_at(1));
    let of_the_dead = odd_event(WitnessField::TransitionBefore, |seen| seen.actor = ActorId::new(2).unwrap());
    let dead = |records: &mut Vec<StepRecord>| {
        of_the_dead(records);
        records[1].witness = None;
    };
    check("an event of an actor that there is not", &dead, &contradicted_at(1));
    // After another result than the expected one there is no knowing where entries should stand.
    let refused = |records: &mut Vec<StepRecord>| {
        records[1].outcome = Outcome::Failed(14);
        records[1].witness = broken(page(3), WitnessField::TransitionAfter);
    };
    check("another result", &refused, &diverges_at(1));
}

#[test]
fn an_entry_that_should_have_stayed_is_named_by_the_rule_that_left_it() {
    let program = program();
    let divergence_of = |tamper: &dyn Fn(&mut Vec<StepRecord>)| {
        let mut records = ideal_records(&machine(95), &program);
        tamper(&mut records);
        match judge(&machine(95), &program, &records).0 {
            Verdict::Diverge(divergence) => *divergence,
            other => panic!("{other:?}"),
        }
    };
    // The exit of the child changes an entry of its parent.
    let strays = divergence_of(&|records| {
        let mut change = records[2].changes.iter().copied().find(|one| one.actor == ActorId::FIRST).expect("fork");
        change.entry.bits.0 ^= SOFT_DIRTY;
        records[7].changes.push(change);
    });
    let left_by = ideal_rule(&program, 7);
    assert_eq!((strays.step, strays.rule), (7, left_by));
    assert!(left_by.is_some() && !is_rule_of_the_step(&machine(95), &program, &strays));
    // So does an event that nobody expects.
    let event = divergence_of(&|records| {
        let event = records[2].transitions.iter().copied().find(|one| one.actor == ActorId::FIRST).expect("fork");
        records[7].transitions.push(Transition { before: event.after, ..event });
    });
    assert!(matches!(event.difference, Difference::Transition { expected: None, .. }));
    assert_eq!((event.step, event.rule), (7, left_by));
    assert!(!is_rule_of_the_step(&machine(95), &program, &event));
    // What a step itself does wrong is that step's.
    let own = divergence_of(&|records| {
        records[4].changes[0].entry.bits.0 ^= NX;
        records[4].transitions[0].after.bits.0 ^= NX;
    });
    assert!(is_rule_of_the_step(&machine(95), &program, &own));
}

/// The rule that wrote the first actor's entry last, before this step.
fn ideal_rule(program: &Program, step: usize) -> Option<Rule> {
    let mut model = Model::new(&machine(95));
    for (index, step) in program.steps.iter().enumerate().take(step) {
        model.step(index, step);
    }
    model.entry_rule(ActorId::FIRST, PageIndex::new(3).unwrap())
}
