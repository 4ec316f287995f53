//! An observer for unit tests.

use ptediff_reference_model::arena::{ARENA_PAGES, ActorId, PageIndex};
use ptediff_reference_model::observation::{Cause, RawState, RawTransition};

use crate::error::ObserveError;
use crate::events::EventLedger;
use crate::geometry::{Geometry, StructPage};
use crate::observer::{Description, Observer, Registered};

/// Shows the same state, and the same two events at every drain.
pub(crate) struct Steady {
    events: Vec<RawTransition>,
    pub(crate) description: Description,
    digest: u64,
    ledger: Vec<RawTransition>,
}

pub(crate) fn steady() -> Steady {
    let event = RawTransition {
        cause: Cause::Fault,
        actor: ActorId::FIRST,
        page: PageIndex::new(3).expect("a slot"),
        before: 0,
        after: 0x8000_0000_0123_4867,
        vm_flags: 0x73,
        write: true,
        mapcount: 1,
        anon_exclusive: true,
    };
    let other = RawTransition { page: PageIndex::new(4).expect("a slot"), ..event };
    let struct_page = StructPage { size: 64, flags: 0, mapping: 24, mapcount: 48 };
    let geometry = Geometry { page_offset_base: 0, vmemmap_base: 0, five_level: false, zero_frame: 1, struct_page };
    let description = Description {
        loader: "none".to_owned(),
        hooks: Vec::new(),
        geometry,
        pgd_offset: 0,
        anon_exclusive: 0,
        ring_bytes: 0,
    };
    Steady { events: vec![event, other], description, digest: 0, ledger: Vec::new() }
}

impl Observer for Steady {
    fn set_nursery(&mut self, _: u32) {}
    fn expect_child(&mut self, _: ActorId) {}
    fn forget(&mut self, _: ActorId) {}
    fn registered(&self, _: ActorId) -> Option<Registered> {
        None
    }
    fn snapshot(&mut self, state: &mut RawState) -> Result<(), ObserveError> {
        let mut arena = [0; ARENA_PAGES];
        arena[3] = self.events[0].after;
        state.actors[0] = Some(arena);
        Ok(())
    }
    fn drain(&mut self, transitions: &mut Vec<RawTransition>) -> Result<u32, ObserveError> {
        transitions.extend(&self.events);
        self.ledger.extend(&self.events);
        self.digest = digest_of(&self.ledger);
        Ok(0)
    }
    fn event_digest(&self) -> u64 {
        self.digest
    }
    fn description(&self) -> &Description {
        &self.description
    }
}

fn digest_of(transitions: &[RawTransition]) -> u64 {
    EventLedger::new().enter(transitions, u64::MAX).expect_err("no digest is all ones").reader
}
