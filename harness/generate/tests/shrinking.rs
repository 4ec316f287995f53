//! Shrinking ends, keeps its promises to proptest, and finds what is small.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use ptediff_generate::{Options, ProgramValueTree, Shrunk, program, program_of_seed, shrink};
use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::program::{FrameCount, Operation, Placement, Program, Protection, Step};
use ptediff_reference_model::protection_key::{KeyRights, ProtectionKey};
use ptediff_reference_model::rule::Rule;
use ptediff_reference_model::validity::check_program;

fn machine() -> Machine {
    Machine::imagined(KernelVersion::new(6, 12, 107), true, true)
}

/// A program of an ample number of steps that fails the test.
fn failing(test: impl Fn(&Program) -> bool) -> Program {
    let options = Options { steps: 40..=60, profile: None };
    let mut programs = (0..10_000).map(|index| program(11, index, &machine(), &options));
    programs.find(test).expect("one of ten thousand fails")
}

fn shrunk(test: impl Fn(&Program) -> bool, budget: u32) -> Shrunk {
    let start = failing(&test);
    let mut asked = HashSet::new();
    let mut logged = 0;
    let shrunk = shrink(
        &start,
        budget,
        &mut |candidate| {
            assert_eq!(check_program(candidate), Ok(()));
            assert!(asked.insert(candidate.clone()), "asked twice about {candidate:?}");
            test(candidate)
        },
        &mut |step| {
            logged += 1;
            assert_eq!(step.execution, logged);
        },
    );
    assert_eq!((shrunk.executions, shrunk.from_steps), (logged, start.steps.len()));
    assert_eq!(asked.len(), logged as usize);
    assert!(logged <= budget && test(&shrunk.program));
    shrunk
}

fn step(actor: usize, operation: Operation) -> Step {
    Step { actor: ActorId::new(actor).expect("an actor"), operation }
}

fn page(index: usize) -> PageIndex {
    PageIndex::new(index).expect("a slot")
}

fn check(test: impl Fn(&Program) -> bool, expected: &[Step]) {
    check_one_of(test, &[expected]);
}

/// The failing program that is shrunk decides which of several least programs is found.
fn check_one_of(test: impl Fn(&Program) -> bool, expected: &[&[Step]]) {
    let shrunk = shrunk(test, 5000);
    println!("{} steps to {} in {} executions", shrunk.from_steps, shrunk.program.steps.len(), shrunk.executions);
    assert!(expected.contains(&shrunk.program.steps.as_slice()), "{:?}", shrunk.program.steps);
    assert!(!shrunk.exhausted);
}

/// The program writes a page, forks, and the child writes the page too.
fn forks_and_writes_again(program: &Program) -> bool {
    let steps = &program.steps;
    steps.iter().enumerate().any(|(fork, parent)| {
        let Operation::Fork { child } = parent.operation else {
            return false;
        };
        steps[..fork].iter().any(|before| {
            matches!(before.operation, Operation::Write { .. })
                && before.actor == parent.actor
                && steps[fork..].iter().any(|after| after.actor == child && after.operation == before.operation)
        })
    })
}

fn fires(rule: Rule) -> impl Fn(&Program) -> bool {
    move |program| {
        let mut model = Model::new(&machine());
        // A candidate that cannot be run shows nothing.
        let possible =
            program.steps.iter().enumerate().map_while(|(index, step)| {
                model.is_possible(step).then(|| model.step(index, step).fired.contains(&rule))
            });
        possible.collect::<Vec<_>>().contains(&true)
    }
}

#[test]
fn a_planted_fault_shrinks_to_its_least_program() {
    let write = Operation::Write { page: page(0) };
    let fork = Operation::Fork { child: ActorId::new(1).expect("an actor") };
    check(forks_and_writes_again, &[step(0, write), step(0, fork), step(1, write)]);
}

#[test]
fn faults_of_the_models_rules_shrink_to_what_makes_them_fire() {
    let one = PageRange::single(page(0));
    let map = Operation::Mmap { range: one, protection: Protection::READ_WRITE, placement: Placement::Fixed };
    let map_stack = Operation::MapShadowStack { range: one, token: true };
    let write = Operation::Write { page: page(0) };
    let fork = Operation::Fork { child: ActorId::new(1).expect("an actor") };
    let store = Operation::WriteShadowStack { page: page(0) };
    check(fires(Rule::WpCopy), &[step(0, map), step(0, write), step(0, fork), step(0, write)]);
    let alone_by = |last: [Step; 2]| [step(0, map), step(0, write), step(0, fork), last[0], last[1]];
    check_one_of(
        fires(Rule::WpReuseLast),
        &[
            &alone_by([step(0, write), step(1, write)]),
            &alone_by([step(1, write), step(0, write)]),
            &alone_by([step(1, Operation::Exit), step(0, write)]),
            &alone_by([step(0, Operation::Exit), step(1, write)]),
            &alone_by([step(1, Operation::MadviseDontneed { range: one }), step(0, write)]),
            &alone_by([step(0, Operation::MadviseDontneed { range: one }), step(1, write)]),
            &alone_by([step(1, Operation::Munmap { range: one }), step(0, write)]),
            &alone_by([step(0, Operation::Munmap { range: one }), step(1, write)]),
        ],
    );
    let enter = Operation::EnterShadowStack { page: page(0) };
    let (call, back) = (Operation::Call { frames: FrameCount::ONE }, Operation::Return { frames: FrameCount::ONE });
    let map_without_token = Operation::MapShadowStack { range: one, token: false };
    check_one_of(
        fires(Rule::WpCopyShadowStack),
        &[
            &[step(0, map_stack), step(0, fork), step(0, store)],
            &[step(0, map_without_token), step(0, store), step(0, fork), step(0, store)],
            // The store is the kernel's, for the frame of a signal.
            &[step(0, map_stack), step(0, enter), step(0, fork), step(0, write)],
            &[step(0, map_stack), step(0, enter), step(0, fork), step(0, back)],
            &[step(0, map_stack), step(0, enter), step(0, fork), step(0, call)],
        ],
    );
    let map_shared =
        Operation::MmapShared { range: one, protection: Protection::READ_WRITE, placement: Placement::Fixed };
    check(fires(Rule::SharedNewWritten), &[step(0, map_shared), step(0, write)]);
    let read = Operation::Read { page: page(0) };
    check(fires(Rule::ForkParentShared), &[step(0, map_shared), step(0, read), step(0, fork)]);
    let clear = Operation::ClearSoftDirty;
    check_one_of(
        fires(Rule::ClearRefsProtected),
        &[
            &[step(0, map), step(0, read), step(0, clear)],
            &[step(0, map), step(0, fork), step(1, read), step(1, clear)],
            &[step(0, map_without_token), step(0, read), step(0, clear)],
        ],
    );
    let alloc = Operation::PkeyAlloc { rights: KeyRights::Allow };
    let free = Operation::PkeyFree { key: ProtectionKey::FIRST };
    let execute_only = Operation::Mprotect { range: one, protection: Protection::EXECUTE };
    let free_second = Operation::PkeyFree { key: ProtectionKey::new(2).expect("a key") };
    check_one_of(
        fires(Rule::PkeyFree),
        &[
            &[step(0, alloc), step(0, free)],
            // The execute-only key takes the first number: without it another key would have to be freed.
            &[step(0, map), step(0, execute_only), step(0, alloc), step(0, free_second)],
        ],
    );
}

#[test]
fn the_budget_bounds_the_search() {
    let small = shrunk(forks_and_writes_again, 3);
    assert!(small.exhausted && small.executions == 3);
    let none = shrunk(forks_and_writes_again, 0);
    assert!(none.exhausted && none.program.steps.len() == none.from_steps);
}

#[test]
fn a_program_that_is_least_already_stays() {
    let exit = Program { steps: vec![step(0, Operation::Exit)] };
    let shrunk = shrink(&exit, 100, &mut |_| true, &mut |_| {});
    assert_eq!(shrunk, Shrunk { program: exit, from_steps: 1, executions: 0, exhausted: false });
    let empty = Program::default();
    assert_eq!(shrink(&empty, 100, &mut |_| true, &mut |_| {}).program, empty);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the test answers: shrinking ends, each candidate is possible, each accepted one is no
    /// longer than the last, and in the end `current` is the last program that failed.
    #[test]
    fn the_tree_keeps_its_contract(seed in any::<u64>(), answers in any::<u64>(), length in 1usize..40) {
        let start = program_of_seed(seed, &machine(), &Options { steps: length..=length, profile: None });
        let mut tree = ProgramValueTree::of(start.clone());
        prop_assert_eq!(tree.current(), start.clone());
        prop_assert!(!tree.complicate(), "nothing was simplified yet");
        let mut failed = start;
        let mut answers = answers;
        let mut trials = 0;
        let mut more = tree.simplify();
        while more {
            trials += 1;
            prop_assert!(trials < 100_000, "no end in sight");
            let candidate = tree.current();
            prop_assert_ne!(&candidate, &failed);
            prop_assert_eq!(check_program(&candidate), Ok(()));
            prop_assert!(candidate.steps.len() <= failed.steps.len() && !candidate.steps.is_empty());
            // One in four fails again, in an order that the answers decide.
            answers = answers.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            more = if answers >> 62 == 0 {
                failed = candidate;
                tree.simplify()
            } else {
                tree.complicate()
            };
        }
        prop_assert_eq!(tree.current(), failed.clone());
        prop_assert_eq!(tree.best(), &failed);
    }

    /// Always accepting leads to the least program of all: one step that costs nothing more.
    #[test]
    fn without_a_condition_one_step_is_left(seed in any::<u64>()) {
        let start = program_of_seed(seed, &machine(), &Options::default());
        let shrunk = shrink(&start, 10_000, &mut |_| true, &mut |_| {});
        prop_assert_eq!(shrunk.program.steps.len(), 1);
        prop_assert!(!shrunk.exhausted);
    }
}
