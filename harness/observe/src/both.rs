//! Two observers of the same machine, each the other's witness.

use std::fmt;

use ptediff_reference_model::arena::ActorId;
use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::observation::{RawState, RawTransition};

use crate::error::ObserveError;
use crate::observer::{Compared, Description, Observer, Registered};

/// Times that a snapshot is taken anew where memory changed meanwhile: the kernel's own threads (kswapd, ksmd) run
/// when they like.
const SNAPSHOTS: usize = 8;

/// Asks two observers, and passes on what the first says where the second says the same.
///
/// Each has probes of its own, attached beside the other's, a ring buffer of its own and a library of its own that
/// reads it. So it compares all of an event but its number, all entries, who is registered, what was lost and the
/// probes' digests.
pub struct BothObserver {
    first: Box<dyn Observer>,
    second: Box<dyn Observer>,
    description: Description,
    compared: Compared,
}

impl fmt::Debug for BothObserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BothObserver").field("description", &self.description).finish_non_exhaustive()
    }
}

impl BothObserver {
    /// Two observers that have seen nothing yet.
    ///
    /// # Errors
    /// [`ObserveError::LoadersDisagree`]: they are not attached alike, or learned different values of the kernel.
    pub fn new(first: Box<dyn Observer>, second: Box<dyn Observer>) -> Result<Self, ObserveError> {
        let (one, other) = (first.description(), second.description());
        let loader = format!("{} and {}", one.loader, other.loader);
        let alike = |description: &Description| Description { loader: loader.clone(), ..description.clone() };
        if alike(one) != alike(other) {
            return Err(ObserveError::LoadersDisagree(format!("one learned:\n{one}\nthe other:\n{other}")));
        }
        let description = alike(one);
        Ok(Self { first, second, description, compared: Compared::default() })
    }

    fn disagree<T>(&self, what: impl fmt::Display) -> Result<T, ObserveError> {
        let (one, other) = (&self.first.description().loader, &self.second.description().loader);
        Err(ObserveError::LoadersDisagree(format!("{one} and {other}: {what}")))
    }

    fn compare_registrations(&self) -> Result<(), ObserveError> {
        for actor in ActorId::all() {
            let [one, other] = [&self.first, &self.second].map(|observer| observer.registered(actor));
            if one != other {
                return self.disagree(format_args!("actor {} is {one:x?} and {other:x?}", actor.index()));
            }
        }
        Ok(())
    }
}

/// The first entry in which two states differ, in words.
fn difference(one: &RawState, other: &RawState) -> Option<String> {
    for (actor, (one, other)) in one.actors.iter().zip(&other.actors).enumerate() {
        match (one, other) {
            (Some(one), Some(other)) => {
                let differs = one.iter().zip(other).position(|(one, other)| one != other);
                if let Some(page) = differs {
                    let [one, other] = [one[page], other[page]].map(|raw| format!("{:#018x} [{}]", raw, Entry(raw)));
                    return Some(format!("the entry of actor {actor}, page {page}, is {one} and {other}"));
                }
            }
            (None, None) => {}
            (one, _) => {
                let has = if one.is_some() { "is seen and is not" } else { "is not seen and is" };
                return Some(format!("actor {actor} {has}"));
            }
        }
    }
    None
}

impl Observer for BothObserver {
    fn set_nursery(&mut self, pid: u32) {
        self.first.set_nursery(pid);
        self.second.set_nursery(pid);
    }

    fn expect_child(&mut self, actor: ActorId) {
        self.first.expect_child(actor);
        self.second.expect_child(actor);
    }

    fn forget(&mut self, actor: ActorId) {
        self.first.forget(actor);
        self.second.forget(actor);
    }

    fn registered(&self, actor: ActorId) -> Option<Registered> {
        self.first.registered(actor)
    }

    /// The second's snapshot lies between two of the first's. If these are equal and it is not, one of the two is
    /// wrong; if they differ, memory changed meanwhile: they look again, and that is counted.
    fn snapshot(&mut self, state: &mut RawState) -> Result<(), ObserveError> {
        self.compare_registrations()?;
        let (mut earlier, mut other) = (RawState::default(), RawState::default());
        self.first.snapshot(&mut earlier)?;
        for _ in 0..SNAPSHOTS {
            self.second.snapshot(&mut other)?;
            if difference(&earlier, &other).is_none() {
                *state = earlier;
                self.compared.snapshots += 1;
                self.compared.entries += other.actors.iter().flatten().map(|arena| arena.len() as u64).sum::<u64>();
                return Ok(());
            }
            let mut later = RawState::default();
            self.first.snapshot(&mut later)?;
            if let (None, Some(what)) = (difference(&earlier, &later), difference(&earlier, &other)) {
                return self.disagree(what);
            }
            self.compared.moved += 1;
            earlier = later;
        }
        self.disagree(format_args!("memory changed during each of {SNAPSHOTS} snapshots"))
    }

    fn drain(&mut self, transitions: &mut Vec<RawTransition>) -> Result<u32, ObserveError> {
        let start = transitions.len();
        let mut others = Vec::new();
        let lost = self.first.drain(transitions)?;
        let other_lost = self.second.drain(&mut others)?;
        let events = &transitions[start..];
        if let Some(at) = (0..events.len().max(others.len())).find(|&at| events.get(at) != others.get(at)) {
            let [one, other] = [events.get(at), others.get(at)].map(|event| match event {
                Some(event) => format!("{event:x?}"),
                None => "missing".to_owned(),
            });
            return self.disagree(format_args!("event {} of {} is {one} and {other}", at + 1, events.len()));
        }
        if lost != other_lost {
            return self.disagree(format_args!("{lost} and {other_lost} events were lost"));
        }
        let digests = [&self.first, &self.second].map(|observer| observer.event_digest());
        if digests[0] != digests[1] {
            return self.disagree(format_args!("the probes' digests are {:#x} and {:#x}", digests[0], digests[1]));
        }
        self.compared.events += events.len() as u64;
        Ok(lost)
    }

    fn event_digest(&self) -> u64 {
        self.first.event_digest()
    }

    fn description(&self) -> &Description {
        &self.description
    }

    fn compared(&self) -> Option<Compared> {
        Some(self.compared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::liar::{Lie, LyingObserver};
    use crate::steady::{Steady, steady};

    fn drained_and_seen(both: &mut BothObserver) -> Result<(), ObserveError> {
        for _ in 0..3 {
            both.drain(&mut Vec::new())?;
            both.snapshot(&mut RawState::default())?;
        }
        Ok(())
    }

    fn both_with(second: impl Observer + 'static) -> BothObserver {
        BothObserver::new(Box::new(steady()), Box::new(second)).expect("they are alike")
    }

    #[test]
    fn two_honest_observers_agree_and_count() {
        let mut both = both_with(steady());
        drained_and_seen(&mut both).expect("nothing differs");
        let compared = both.compared().expect("it compares");
        assert_eq!(compared, Compared { events: 6, snapshots: 3, entries: 3 * 32, moved: 0 });
    }

    #[test]
    fn every_lie_of_either_is_found() {
        for lie in Lie::all() {
            let liar = || LyingObserver::new(steady(), lie, 2);
            let mut by_second = both_with(liar());
            assert!(drained_and_seen(&mut by_second).is_err(), "{lie} of the second");
            let mut by_first = BothObserver::new(Box::new(liar()), Box::new(steady())).expect("they are alike");
            let ended = drained_and_seen(&mut by_first);
            // Memory that changes and changes back would look the same as one wrong look of the first.
            let moved = by_first.compared().is_some_and(|compared| compared.moved > 0);
            assert!(ended.is_err() || (lie.is_about_snapshots() && moved), "{lie} of the first");
        }
    }

    #[test]
    fn what_they_learned_must_be_the_same() {
        let mut other = steady();
        other.description.anon_exclusive = 99;
        assert!(BothObserver::new(Box::new(steady()), Box::new(other)).is_err());
    }

    /// Memory that changes once between two snapshots, as when kswapd takes a page, is no disagreement.
    #[test]
    fn memory_that_moves_is_looked_at_again() {
        struct Moving(Steady, u32);
        impl Observer for Moving {
            fn set_nursery(&mut self, _: u32) {}
            fn expect_child(&mut self, _: ActorId) {}
            fn forget(&mut self, _: ActorId) {}
            fn registered(&self, _: ActorId) -> Option<Registered> {
                None
            }
            fn snapshot(&mut self, state: &mut RawState) -> Result<(), ObserveError> {
                self.1 += 1;
                self.0.snapshot(state)?;
                // Seen alone, this first one: the later ones are as the other's are.
                if self.1 == 1 {
                    state.actors[0].as_mut().expect("an arena")[3] = 0;
                }
                Ok(())
            }
            fn drain(&mut self, transitions: &mut Vec<RawTransition>) -> Result<u32, ObserveError> {
                self.0.drain(transitions)
            }
            fn event_digest(&self) -> u64 {
                self.0.event_digest()
            }
            fn description(&self) -> &Description {
                self.0.description()
            }
        }
        let first = Box::new(Moving(steady(), 0));
        let mut both = BothObserver::new(first, Box::new(steady())).expect("they are alike");
        both.snapshot(&mut RawState::default()).expect("the second look agrees");
        assert_eq!(both.compared().map(|compared| compared.moved), Some(1));
    }
}
