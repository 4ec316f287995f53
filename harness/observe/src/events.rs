//! From the ring buffer's records to transitions, and the ledger that notices what was lost on the way.

use ptediff_bpf::{
    CAUSE_CLEAR_REFS, CAUSE_FAULT, CAUSE_FORK_CHILD, CAUSE_FORK_PARENT, CAUSE_PROTECT, Event as EventRecord,
};
use ptediff_reference_model::arena::{ActorId, PageIndex};
use ptediff_reference_model::observation::{Cause, RawTransition};
use thiserror::Error;

use crate::error::ObserveError;

/// The causes and their numbers in the records.
const CAUSES: [(u8, Cause); 5] = [
    (CAUSE_FAULT, Cause::Fault),
    (CAUSE_FORK_PARENT, Cause::ForkParent),
    (CAUSE_FORK_CHILD, Cause::ForkChild),
    (CAUSE_PROTECT, Cause::Protect),
    (CAUSE_CLEAR_REFS, Cause::ClearRefs),
];

/// Decodes a record.
pub(crate) fn transition_of(record: &EventRecord) -> Result<RawTransition, ObserveError> {
    let refuse = || ObserveError::BadEvent(format!("{record:?}"));
    let flag = |byte: u8| match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(refuse()),
    };
    let (_, cause) = CAUSES.iter().find(|(number, _)| *number == record.cause).ok_or_else(refuse)?;
    Ok(RawTransition {
        cause: *cause,
        actor: ActorId::new(usize::from(record.actor)).map_err(|_| refuse())?,
        page: PageIndex::new(usize::from(record.page)).map_err(|_| refuse())?,
        before: record.before,
        after: record.after,
        vm_flags: record.vm_flags,
        write: flag(record.write)?,
        mapcount: record.mapcount,
        anon_exclusive: flag(record.anon_exclusive)?,
    })
}

/// The record that a transition was decoded from; its number does not count in the digest.
fn record_of(transition: &RawTransition) -> EventRecord {
    let (number, _) = CAUSES.iter().find(|(_, cause)| *cause == transition.cause).expect("CAUSES names every cause");
    EventRecord {
        sequence: 0,
        cause: *number,
        actor: u8::from(transition.actor),
        page: u8::from(transition.page),
        write: u8::from(transition.write),
        anon_exclusive: u8::from(transition.anon_exclusive),
        reserved: 0,
        mapcount: transition.mapcount,
        before: transition.before,
        after: transition.after,
        vm_flags: transition.vm_flags,
    }
}

/// The transitions that arrived are not those that the probes handed over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "after {events} events the reader's digest is {reader:#018x} and the probes' is {probes:#018x}: \
     an event was changed, dropped, added or moved on the way"
)]
pub struct LedgerMismatch {
    /// Transitions that the ledger has seen.
    pub events: u64,
    /// Digest over them.
    pub reader: u64,
    /// The probes' digest.
    pub probes: u64,
}

/// The reader's side of the event digest. One for each observer, from its beginning.
#[derive(Debug, Clone, Default)]
pub struct EventLedger {
    digest: u64,
    events: u64,
}

impl EventLedger {
    /// An empty ledger, for an observer that has not been drained yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Enters the transitions of one drain and compares with [`crate::Observer::event_digest`] read after it.
    /// After a mismatch the ledger takes over the probes' digest, so that one lie is reported once.
    ///
    /// # Errors
    /// [`LedgerMismatch`] when the digests differ. Events that the probes lost are in neither.
    pub fn enter(&mut self, transitions: &[RawTransition], probes: u64) -> Result<(), LedgerMismatch> {
        self.digest =
            transitions.iter().fold(self.digest, |digest, transition| record_of(transition).fold_into(digest));
        self.events += transitions.len() as u64;
        if self.digest == probes {
            return Ok(());
        }
        let mismatch = LedgerMismatch { events: self.events, reader: self.digest, probes };
        self.digest = probes;
        Err(mismatch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EventRecord {
        EventRecord {
            sequence: 9,
            cause: CAUSE_FAULT,
            actor: 1,
            page: 31,
            write: 1,
            anon_exclusive: 1,
            reserved: 0,
            mapcount: 2,
            before: 0x10,
            after: 0x20,
            vm_flags: 0x30,
        }
    }

    #[test]
    fn a_record_and_its_transition_are_the_same() {
        for (number, _) in CAUSES {
            let record = EventRecord { cause: number, ..record() };
            let transition = transition_of(&record).expect("a record of a probe");
            assert_eq!(record_of(&transition), EventRecord { sequence: 0, ..record });
        }
    }

    #[test]
    fn records_that_no_probe_writes_are_refused() {
        for wrong in [
            EventRecord { cause: 5, ..record() },
            EventRecord { actor: 4, ..record() },
            EventRecord { page: 32, ..record() },
            EventRecord { write: 2, ..record() },
            EventRecord { anon_exclusive: 9, ..record() },
        ] {
            assert!(transition_of(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_ledger_reports_a_mismatch_once() {
        let transition = transition_of(&record()).expect("a record of a probe");
        let probes = record().fold_into(0);
        let mut ledger = EventLedger::new();
        assert_eq!(ledger.enter(&[transition], probes), Ok(()));
        let twice = record().fold_into(probes);
        assert!(ledger.enter(&[], twice).is_err(), "a dropped event");
        assert_eq!(ledger.enter(&[], twice), Ok(()));
        let changed = RawTransition { mapcount: 3, ..transition };
        assert!(ledger.enter(&[changed], record().fold_into(twice)).is_err(), "a changed field");
    }
}
