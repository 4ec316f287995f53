//! Every trace of events up to a length, shortest first.

use std::collections::{HashMap, VecDeque};

use super::threads::EVENTS;
use super::{Event, Preservation, Threads, Violation, Writes};

/// A violation with the shortest trace that leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What goes wrong after the last event.
    pub violation: Violation,
    /// The events.
    pub trace: Vec<Event>,
}

/// What an exploration saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exploration {
    /// Distinct states that were reached.
    pub states: u64,
    /// Events that were tried on them.
    pub steps: u64,
    /// The violations that there are, each once, the shortest trace first.
    pub found: Vec<Found>,
}

impl Exploration {
    /// The shortest trace to a violation of this kind.
    #[must_use]
    pub fn shortest(&self, violation: Violation) -> Option<&[Event]> {
        self.found.iter().find(|found| found.violation == violation).map(|found| found.trace.as_slice())
    }
}

/// Goes through all traces of up to `length` events, breadth first.
///
/// Traces go on behind a violation, for what follows from it may be of another kind. Of traces that lead to the same
/// state the first is followed.
#[must_use]
pub fn explore(preservation: Preservation, length: usize) -> Exploration {
    let start = Threads::new();
    let mut traces = HashMap::from([(start.clone(), Vec::new())]);
    let mut waiting = VecDeque::from([start]);
    let mut exploration = Exploration { states: 1, steps: 0, found: Vec::new() };
    while let Some(threads) = waiting.pop_front() {
        let trace: Vec<Event> = traces[&threads].clone();
        if trace.len() == length {
            continue;
        }
        for event in EVENTS.into_iter().filter(|event| threads.permits(*event)) {
            let mut next = threads.clone();
            let (_, warned) = next.apply(event, preservation, Writes::IfChanged);
            exploration.steps += 1;
            let mut longer = trace.clone();
            longer.push(event);
            let violations = next.violations().into_iter().chain(warned.then_some(Violation::Warning));
            for violation in violations {
                if exploration.shortest(violation).is_none() {
                    exploration.found.push(Found { violation, trace: longer.clone() });
                }
            }
            if !traces.contains_key(&next) {
                exploration.states += 1;
                traces.insert(next.clone(), longer);
                waiting.push_back(next);
            }
        }
    }
    exploration
}
