//! What a program reaches by the model alone: which operations meet on a page, and which rules follow which there.
//!
//! Two operations meet where they touch the same slot of the arena and nothing between them does, whichever
//! actors perform them: what the second finds there is what the first left. An operation without a range or a page
//! (fork, exit, clearing soft-dirty ...) touches whatever its actor has mapped.

use std::collections::BTreeSet;

use ptediff_reference_model::arena::{ARENA_PAGES, PageIndex};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::{Program, Step};
use ptediff_reference_model::rule::Rule;

/// What programs reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reached {
    /// Operations that met on a page, the earlier first, by [`Operation::kind`]. The earlier one succeeded; the later
    /// one may have been refused.
    ///
    /// [`Operation::kind`]: ptediff_reference_model::program::Operation::kind
    pub pairs: BTreeSet<(usize, usize)>,
    /// Rules that fired, each with one that fired when its page was touched last; `None` for an untouched page.
    pub contexts: BTreeSet<(Option<Rule>, Rule)>,
}

impl Reached {
    /// Adds what others reach.
    pub fn add(&mut self, other: &Self) {
        self.pairs.extend(&other.pairs);
        self.contexts.extend(&other.contexts);
    }
}

/// What the program reaches on the machine; `None` where the machine lacks what it needs.
#[must_use]
pub fn reached(machine: &Machine, program: &Program) -> Option<Reached> {
    let mut model = Model::new(machine);
    let mut reached = Reached::default();
    let mut last: [Option<usize>; ARENA_PAGES] = [None; ARENA_PAGES];
    let mut rules: [Vec<Rule>; ARENA_PAGES] = Default::default();
    let mut elsewhere = Vec::new();
    for (index, step) in program.steps.iter().enumerate() {
        if !model.is_possible(step) {
            return None;
        }
        let touched = touched(&model, step);
        let expectation = model.step(index, step);
        let kind = step.operation.kind();
        let refused =
            matches!(expectation.outcome, Some(Outcome::Failed(_) | Outcome::Faulted(_) | Outcome::Elsewhere(_)));
        if touched.is_empty() {
            // Of no page at all: what was done so before it is what it meets.
            follow(&mut reached.contexts, &mut elsewhere, &expectation.fired);
        }
        for slot in touched {
            if let Some(earlier) = last[slot] {
                reached.pairs.insert((earlier, kind));
            }
            follow(&mut reached.contexts, &mut rules[slot], &expectation.fired);
            last[slot] = if refused { None } else { Some(kind) };
        }
    }
    Some(reached)
}

/// Notes the rules that fired with those that fired before them, and takes their place.
fn follow(contexts: &mut BTreeSet<(Option<Rule>, Rule)>, before: &mut Vec<Rule>, fired: &[Rule]) {
    for rule in fired {
        match before.as_slice() {
            [] => _ = contexts.insert((None, *rule)),
            before => contexts.extend(before.iter().map(|before| (Some(*before), *rule))),
        }
    }
    fired.clone_into(before);
}

/// Slots that the step touches.
fn touched(model: &Model, step: &Step) -> Vec<usize> {
    if let Some(range) = step.operation.range() {
        let both = range.slots().chain(step.operation.destination().into_iter().flat_map(|range| range.slots()));
        return both.map(PageIndex::index).collect::<BTreeSet<_>>().into_iter().collect();
    }
    if let Some(page) = step.operation.page() {
        return vec![page.index()];
    }
    let mapped = |slot: &usize| PageIndex::new(*slot).is_ok_and(|page| model.mapping(step.actor, page).is_some());
    (0..ARENA_PAGES).filter(mapped).collect()
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageRange};
    use ptediff_reference_model::kernel::KernelVersion;
    use ptediff_reference_model::program::{OPERATION_NAMES, Operation, Placement, Protection};

    use super::*;

    fn check(operations: &[(usize, Operation)], expected: &[(&str, &str)]) {
        let machine = Machine::imagined(KernelVersion::new(6, 12, 0), false, true);
        let steps = operations.iter().map(|(actor, operation)| {
            let actor = ActorId::new(*actor).unwrap();
            Step { actor, operation: *operation }
        });
        let seen = reached(&machine, &Program { steps: steps.collect() }).unwrap();
        let seen: Vec<_> =
            seen.pairs.iter().map(|&(first, second)| (OPERATION_NAMES[first], OPERATION_NAMES[second])).collect();
        assert_eq!(seen, expected, "{operations:?}");
    }

    #[test]
    fn operations_meet_where_nothing_is_between_them() {
        let page = |index| PageIndex::new(index).unwrap();
        let range = PageRange::new(0, 2).unwrap();
        let map = Operation::Mmap { range, protection: Protection::READ_WRITE, placement: Placement::Fixed };
        let fork = Operation::Fork { child: ActorId::new(1).unwrap() };
        let write = |index| Operation::Write { page: page(index) };
        check(&[(0, map), (0, write(5))], &[]);
        check(&[(0, map), (0, write(0))], &[("mmap", "write")]);
        // The other page is forked as it was mapped.
        check(&[(0, map), (0, write(0)), (0, fork)], &[("mmap", "write"), ("mmap", "fork"), ("write", "fork")]);
        check(&[(0, map), (0, fork), (1, write(0))], &[("mmap", "fork"), ("fork", "write")]);
        // A refused operation leaves nothing to be met.
        check(&[(0, write(0)), (0, map)], &[]);
    }
}
