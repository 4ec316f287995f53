//! An observer that lies about one field, to test that lies are found out.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use ptediff_reference_model::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex};
use ptediff_reference_model::entry::{BIT_NAMES, Entry, NX};
use ptediff_reference_model::observation::{Cause, RawState, RawTransition};
use thiserror::Error;

use crate::error::ObserveError;
use crate::observer::{Compared, Description, Observer, Registered};

/// The parts of an entry that have no name of their own in [`BIT_NAMES`].
const OTHER_BITS: [(u64, &str); 6] =
    [(1 << 59, "pkey0"), (1 << 60, "pkey1"), (1 << 61, "pkey2"), (1 << 62, "pkey3"), (NX, "NX"), (1 << 12, "frame")];

/// Where an entry is falsified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Snapshot,
    Before,
    After,
}

const PLACES: [(Place, &str); 3] = [(Place::Snapshot, "entry"), (Place::Before, "before"), (Place::After, "after")];

/// What is falsified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Falsehood {
    /// These bits of an entry are flipped.
    Entry(Place, u64),
    Cause,
    Actor,
    Page,
    VmFlags,
    Write,
    Mapcount,
    AnonExclusive,
    /// An event is left out.
    Drop,
    /// An event changes places with the one after it.
    Reorder,
}

/// The fields of an event other than its entries, and what can happen to an event as a whole.
const EVENT_FALSEHOODS: [(Falsehood, &str); 9] = [
    (Falsehood::Cause, "cause"),
    (Falsehood::Actor, "actor"),
    (Falsehood::Page, "page"),
    (Falsehood::VmFlags, "vm_flags"),
    (Falsehood::Write, "write"),
    (Falsehood::Mapcount, "mapcount"),
    (Falsehood::AnonExclusive, "anon_exclusive"),
    (Falsehood::Drop, "drop"),
    (Falsehood::Reorder, "reorder"),
];

/// Every lie and its name, made from the tables above: `entry.RW`, `before.frame`, `event.mapcount` ...
static TABLE: LazyLock<Vec<(Falsehood, String)>> = LazyLock::new(|| {
    let bits = || BIT_NAMES.into_iter().chain(OTHER_BITS);
    let entries = PLACES.into_iter().flat_map(|(place, place_name)| {
        bits().map(move |(mask, name)| (Falsehood::Entry(place, mask), format!("{place_name}.{name}")))
    });
    let events = EVENT_FALSEHOODS.into_iter().map(|(falsehood, name)| (falsehood, format!("event.{name}")));
    entries.chain(events).collect()
});

/// One way to lie. Its name (`Display`, `FromStr`) is `entry.BIT` for a snapshot, `before.BIT` and `after.BIT`
/// for an event's entries, `event.FIELD` for the rest of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lie(Falsehood);

impl Lie {
    /// Every lie: each bit of an entry and its frame, in snapshots and on both sides of an event, each other
    /// field of an event, an event dropped, two exchanged.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|(falsehood, _)| Self(*falsehood))
    }

    /// Whether the lie is about snapshots; else it is about events.
    #[must_use]
    pub fn is_about_snapshots(self) -> bool {
        matches!(self.0, Falsehood::Entry(Place::Snapshot, _))
    }

    /// Lies about one event.
    fn falsify(self, transition: &mut RawTransition) {
        match self.0 {
            Falsehood::Entry(Place::Before, mask) => transition.before ^= mask,
            Falsehood::Entry(_, mask) => transition.after ^= mask,
            Falsehood::Cause => {
                transition.cause = if transition.cause == Cause::Fault { Cause::Protect } else { Cause::Fault };
            }
            Falsehood::Actor => {
                let other = (transition.actor.index() + 1) % ACTORS;
                transition.actor = ActorId::new(other).expect("an actor");
            }
            Falsehood::Page => {
                let other = (transition.page.index() + 1) % ARENA_PAGES;
                transition.page = PageIndex::new(other).expect("a slot of the arena");
            }
            Falsehood::VmFlags => transition.vm_flags ^= 2,
            Falsehood::Write => transition.write ^= true,
            Falsehood::Mapcount => transition.mapcount ^= 1,
            Falsehood::AnonExclusive => transition.anon_exclusive ^= true,
            Falsehood::Drop | Falsehood::Reorder => {}
        }
    }
}

impl fmt::Display for Lie {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = TABLE.iter().find(|(falsehood, _)| *falsehood == self.0).expect("every lie is in the table");
        formatter.write_str(name)
    }
}

/// A name that is no lie's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a lie: entry.BIT, before.BIT, after.BIT or event.FIELD, such as entry.RW, event.mapcount")]
pub struct UnknownLie(String);

impl FromStr for Lie {
    type Err = UnknownLie;
    fn from_str(name: &str) -> Result<Self, UnknownLie> {
        let found = TABLE.iter().find(|(_, known)| known == name);
        found.map(|(falsehood, _)| Self(*falsehood)).ok_or_else(|| UnknownLie(name.to_owned()))
    }
}

/// Passes on what another observer sees, but for every `period`-th snapshot or event, about which it tells
/// one lie. A lying snapshot is wrong about one entry of the first actor: the first that is not none, else
/// that of slot 0.
#[derive(Debug)]
pub struct LyingObserver<Inner> {
    inner: Inner,
    lie: Lie,
    period: u64,
    /// Snapshots or events seen.
    seen: u64,
    /// Lies that are due: an event cannot change places while it is alone.
    due: u64,
    told: u64,
}

impl<Inner: Observer> LyingObserver<Inner> {
    /// Lies every `period`-th time; a period of 0 is taken for 1, always.
    #[must_use]
    pub fn new(inner: Inner, lie: Lie, period: u64) -> Self {
        Self { inner, lie, period: period.max(1), seen: 0, due: 0, told: 0 }
    }

    /// Lies told so far.
    #[must_use]
    pub fn lies_told(&self) -> u64 {
        self.told
    }

    /// The honest observer.
    #[must_use]
    pub fn into_inner(self) -> Inner {
        self.inner
    }

    fn is_turn(&mut self) -> bool {
        self.seen += 1;
        self.seen.is_multiple_of(self.period)
    }

    fn lie_about_state(&mut self, state: &mut RawState, mask: u64) {
        let Some(arena) = state.actors.iter_mut().flatten().next() else {
            return;
        };
        let held = arena.iter().position(|&raw| Entry(raw) != Entry::NONE).unwrap_or(0);
        arena[held] ^= mask;
        self.told += 1;
    }

    fn lie_about_events(&mut self, honest: Vec<RawTransition>, transitions: &mut Vec<RawTransition>) {
        let start = transitions.len();
        for mut transition in honest {
            if !self.is_turn() {
                transitions.push(transition);
                continue;
            }
            match self.lie.0 {
                Falsehood::Drop => self.told += 1,
                Falsehood::Reorder => {
                    self.due += 1;
                    transitions.push(transition);
                }
                _ => {
                    self.lie.falsify(&mut transition);
                    self.told += 1;
                    transitions.push(transition);
                }
            }
        }
        let new = &mut transitions[start..];
        if self.due > 0
            && let Some(at) = (1..new.len()).find(|&at| new[at - 1] != new[at])
        {
            new.swap(at - 1, at);
            self.told += 1;
            self.due = 0;
        }
    }
}

impl<Inner: Observer> Observer for LyingObserver<Inner> {
    fn set_nursery(&mut self, pid: u32) {
        self.inner.set_nursery(pid);
    }

    fn expect_child(&mut self, actor: ActorId) {
        self.inner.expect_child(actor);
    }

    fn forget(&mut self, actor: ActorId) {
        self.inner.forget(actor);
    }

    fn registered(&self, actor: ActorId) -> Option<Registered> {
        self.inner.registered(actor)
    }

    fn snapshot(&mut self, state: &mut RawState) -> Result<(), ObserveError> {
        self.inner.snapshot(state)?;
        if let Falsehood::Entry(Place::Snapshot, mask) = self.lie.0
            && self.is_turn()
        {
            self.lie_about_state(state, mask);
        }
        Ok(())
    }

    fn drain(&mut self, transitions: &mut Vec<RawTransition>) -> Result<u32, ObserveError> {
        if self.lie.is_about_snapshots() {
            return self.inner.drain(transitions);
        }
        let mut honest = Vec::new();
        let lost = self.inner.drain(&mut honest)?;
        self.lie_about_events(honest, transitions);
        Ok(lost)
    }

    fn event_digest(&self) -> u64 {
        self.inner.event_digest()
    }

    fn description(&self) -> &Description {
        self.inner.description()
    }

    fn compared(&self) -> Option<Compared> {
        self.inner.compared()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::events::EventLedger;
    use crate::steady::steady;

    /// Drains three times and says at which drains the ledger noticed something.
    fn unmasked(observer: &mut impl Observer) -> Vec<bool> {
        let mut ledger = EventLedger::new();
        (0..3)
            .map(|_| {
                let mut transitions = Vec::new();
                observer.drain(&mut transitions).expect("a drain");
                ledger.enter(&transitions, observer.event_digest()).is_err()
            })
            .collect()
    }

    #[test]
    fn every_lie_has_a_name_of_its_own_that_parses_back() {
        let names: BTreeSet<String> = Lie::all().map(|lie| lie.to_string()).collect();
        assert_eq!(names.len(), 3 * (BIT_NAMES.len() + OTHER_BITS.len()) + EVENT_FALSEHOODS.len());
        for name in &names {
            assert_eq!(&name.parse::<Lie>().expect("a lie").to_string(), name);
        }
        assert!("entry.TRUTH".parse::<Lie>().is_err());
    }

    #[test]
    fn entry_lies_cover_all_64_bits_but_the_upper_frame() {
        let covered = Lie::all().filter_map(|lie| match lie.0 {
            Falsehood::Entry(Place::Snapshot, mask) => Some(mask),
            _ => None,
        });
        let frame = ptediff_reference_model::entry::FRAME;
        assert_eq!(covered.fold(0, |all, mask| all | mask) | frame, u64::MAX);
    }

    #[test]
    fn an_honest_observer_passes_the_ledger() {
        assert_eq!(unmasked(&mut steady()), [false; 3]);
    }

    #[test]
    fn every_lie_about_events_is_seen_by_the_ledger() {
        for lie in Lie::all().filter(|lie| !lie.is_about_snapshots()) {
            // Period 3: events 3 and 6, in the second and third drain.
            let mut liar = LyingObserver::new(steady(), lie, 3);
            assert_eq!(unmasked(&mut liar), [false, true, true], "{lie}");
            assert_eq!(liar.lies_told(), 2, "{lie}");
        }
    }

    #[test]
    fn every_lie_about_snapshots_changes_one_entry() {
        let mut honest = RawState::default();
        steady().snapshot(&mut honest).expect("a snapshot");
        for lie in Lie::all().filter(|lie| lie.is_about_snapshots()) {
            let mut liar = LyingObserver::new(steady(), lie, 2);
            let differences: Vec<usize> = (0..4)
                .map(|_| {
                    let mut state = RawState::default();
                    liar.snapshot(&mut state).expect("a snapshot");
                    let (Some(told), Some(true_)) = (state.actors[0], honest.actors[0]) else { return 99 };
                    told.iter().zip(&true_).filter(|(told, true_)| told != true_).count()
                })
                .collect();
            assert_eq!(differences, [0, 1, 0, 1], "{lie}");
        }
    }
}
