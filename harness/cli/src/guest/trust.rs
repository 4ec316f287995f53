//! The test of trust: the observer tells every lie in turn, and programs run until somebody objects.
//!
//! The host tells the lies apart by the programs' indices, which [`Schedule`] lays out for both sides.

use std::io::Write;

use ptediff_generate::{Options, program};
use ptediff_observe::{Lie, LyingObserver, Observer};
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::Verdict;
use ptediff_trace::{Attempt, End, Figure, Frame};

use super::program::{RigError, Runner};
use super::session::count;

/// The mark that follows the programs of each telling; its value is the number of lies that were told.
pub const LIES_TOLD: &str = "lies told";

/// The mark after it; its value is the number of programs of the telling.
pub const PROGRAMS_RUN: &str = "programs run";

/// An observer lies about every this-many-th snapshot or event: seldom, as a defect would.
const PERIOD: u64 = 5;

/// Programs that run under each lie even if it is unmasked at once: it must be unmasked as what it is every
/// time, never taken for a divergence.
const HANDFUL: u32 = 6;

/// Programs that run while the observer is honest; all must agree, else the lies prove nothing.
const HONEST_PROGRAMS: u32 = 20;

/// One lie (or none: honesty, as the control), told while the event digest is believed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Telling {
    /// The lie; `None` for the control.
    pub lie: Option<Lie>,
    /// Whether the probes' digest of the events is believed. Without it the other witnesses are on their own.
    pub trusts_ledger: bool,
    /// Index of its first program.
    pub first: u32,
    /// Programs that it may last at most.
    pub programs: u32,
}

/// Every telling, in order. The same number of programs gives the same schedule on both sides.
pub fn schedule(programs: u32) -> impl Iterator<Item = Telling> {
    let lies = || std::iter::once(None).chain(Lie::all().map(Some));
    let tellings = [true, false].into_iter().flat_map(move |ledger| lies().map(move |lie| (lie, ledger)));
    tellings.scan(0, move |next, (lie, trusts_ledger)| {
        let first = *next;
        let programs = if lie.is_some() { programs } else { HONEST_PROGRAMS };
        *next += programs;
        Some(Telling { lie, trusts_ledger, first, programs })
    })
}

/// Goes through the schedule. The runner comes back whatever happens, for its trace must be ended.
pub(super) fn run<O: Observer, W: Write>(
    mut runner: Runner<O, W>,
    seed: u64,
    programs: u32,
    options: &Options,
) -> (Runner<O, W>, Result<End, RigError>) {
    let made: Vec<Program> =
        (0..programs.max(HONEST_PROGRAMS)).map(|index| program(seed, index, &runner.machine, options)).collect();
    let mut end = End::default();
    for telling in schedule(programs) {
        runner.trusts_ledger = telling.trusts_ledger;
        let told;
        (runner, told) = match telling.lie {
            None => {
                let held = hold(&mut runner, telling, &made, &mut end);
                (runner, held.map(|run| (run, 0)))
            }
            Some(lie) => {
                let mut lying = runner.observed_by(|honest| LyingObserver::new(honest, lie, PERIOD));
                let held = hold(&mut lying, telling, &made, &mut end);
                let told = lying.observer.lies_told();
                (lying.observed_by(LyingObserver::into_inner), held.map(|run| (run, told)))
            }
        };
        let marked = told.and_then(|(run, told)| {
            let figure = |name: &str, value| Figure { name: name.to_owned(), value };
            let figures = vec![figure(LIES_TOLD, told as f64), figure(PROGRAMS_RUN, f64::from(run))];
            runner.send(&Frame::Figures(figures))
        });
        if let Err(error) = marked {
            return (runner, Err(error));
        }
    }
    (runner, Ok(end))
}

/// Runs a handful of programs, and more until one does not agree. Returns how many.
fn hold<O: Observer, W: Write>(
    runner: &mut Runner<O, W>,
    telling: Telling,
    made: &[Program],
    end: &mut End,
) -> Result<u32, RigError> {
    let mut is_unmasked = false;
    for (number, program) in (0..telling.programs).zip(made) {
        if is_unmasked && number >= HANDFUL {
            return Ok(number);
        }
        let verdict = runner.run(telling.first + number, Attempt::First, program)?;
        end.programs += 1;
        count(&mut end.verdicts, &verdict);
        is_unmasked |= verdict != Verdict::Agree;
    }
    Ok(telling.programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tellings_follow_each_other_without_a_gap() {
        let tellings: Vec<Telling> = schedule(7).collect();
        assert_eq!(tellings.len(), 2 * (1 + Lie::all().count()));
        for pair in tellings.windows(2) {
            assert_eq!(pair[0].first + pair[0].programs, pair[1].first);
        }
        assert!(tellings[0].lie.is_none() && tellings[0].trusts_ledger);
        assert!(tellings.iter().filter(|telling| telling.lie.is_none()).count() == 2);
    }
}
