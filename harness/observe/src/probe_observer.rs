//! The observer that campaigns use: the probes, loaded by either library.

use std::fmt;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};

use ptediff_bpf::{
    ActorSnapshot, CONTROL_MAP, Control, Event, NO_SLOT, SNAPSHOT_MAP, STATUS_EMPTY, STATUS_HUGE, STATUS_NO_TABLE,
    STATUS_OK, Slot, Snapshot,
};
use ptediff_reference_model::arena::{ARENA_PAGES, ActorId};
use ptediff_reference_model::observation::{RawState, RawTransition};

use crate::error::ObserveError;
use crate::events::transition_of;
use crate::geometry::Geometry;
use crate::hooks::Hooking;
use crate::loader::{LoadedProbes, Loader, ObserverOptions, load};
use crate::mapped::MappedValue;
use crate::observer::{Counters, Description, Observer, Registered};
use crate::test_run;

/// The probes, loaded; attached after [`Self::attach`].
pub struct ProbeObserver {
    control: MappedValue<Control>,
    snapshot: MappedValue<Snapshot>,
    /// What the ring buffer gave and nobody has decoded yet.
    records: Vec<Result<Event, usize>>,
    next_sequence: u64,
    received: u64,
    reported: u64,
    options: ObserverOptions,
    description: Description,
    snapshot_program: OwnedFd,
    /// Owns what is attached and the ring buffer.
    probes: Box<dyn LoadedProbes>,
}

impl fmt::Debug for ProbeObserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ProbeObserver").field("description", &self.description).finish_non_exhaustive()
    }
}

impl ProbeObserver {
    /// Loads the probes and attaches them all, in the first way that the kernel offers for every hook.
    ///
    /// # Errors
    /// As [`Self::load`] and [`Self::attach`]; with [`ObserveError::MissingHook`] of every way that was tried.
    pub fn open(loader: Loader, options: &ObserverOptions) -> Result<Self, ObserveError> {
        let open = |hooking| {
            let mut observer = Self::load(loader, &ObserverOptions { hooking: Some(hooking), ..options.clone() })?;
            observer.attach()?;
            Ok(observer)
        };
        if let Some(hooking) = options.hooking {
            return open(hooking);
        }
        first_way(open)
    }

    /// Loads the probes. They see nothing yet, but snapshots can be taken.
    ///
    /// # Errors
    /// [`ObserveError::NotBuiltIn`], [`ObserveError::NoBtf`], [`ObserveError::MissingHook`] where the library asks
    /// for the hooks already, or whatever else keeps the kernel from taking the probes.
    pub fn load(loader: Loader, options: &ObserverOptions) -> Result<Self, ObserveError> {
        let geometry = Geometry::measure()?;
        let probes = load(loader, options, &geometry)?;
        let mut control = MappedValue::<Control>::open(probes.map(CONTROL_MAP)?.as_fd(), CONTROL_MAP)?;
        control.write_field(offset_of!(Control, expected_child), NO_SLOT);
        let snapshot = MappedValue::open(probes.map(SNAPSHOT_MAP)?.as_fd(), SNAPSHOT_MAP)?;
        let snapshot_program = probes.snapshot_program()?;
        let description = Description {
            loader: probes.library(),
            hooks: Vec::new(),
            geometry,
            pgd_offset: 0,
            anon_exclusive: 0,
            ring_bytes: options.ring_bytes,
        };
        let mut observer = Self {
            control,
            snapshot,
            records: Vec::with_capacity(256),
            next_sequence: 0,
            received: 0,
            reported: 0,
            options: options.clone(),
            description,
            snapshot_program,
            probes,
        };
        observer.learn_relocated_values()?;
        Ok(observer)
    }

    /// Attaches every probe.
    ///
    /// # Errors
    /// [`ObserveError::MissingHook`]
    pub fn attach(&mut self) -> Result<(), ObserveError> {
        for hook in self.options.way().hooks() {
            let target = self.options.target(hook);
            self.probes.attach(hook, target)?;
            self.description.hooks.push(format!("{} {target}", hook.kind.section()));
        }
        Ok(())
    }

    /// Reads what the loader relocated: the snapshot program writes it into the control block.
    fn learn_relocated_values(&mut self) -> Result<(), ObserveError> {
        self.run_snapshot()?;
        let control = self.control.read();
        if u64::from(control.page_size_of) != self.description.geometry.struct_page.size {
            return Err(ObserveError::Geometry(format!(
                "struct page has {} bytes by BTF and {} by vmcoreinfo",
                control.page_size_of, self.description.geometry.struct_page.size
            )));
        }
        self.description.pgd_offset = control.pgd_offset;
        self.description.anon_exclusive = control.anon_exclusive;
        Ok(())
    }

    /// The probes' counters since they were loaded.
    #[must_use]
    pub fn counters(&self) -> Counters {
        counters_of(&self.control.read())
    }

    /// Runs the snapshot program and leaves the result in the shared array.
    fn run_snapshot(&self) -> Result<(), ObserveError> {
        test_run::run_once(self.snapshot_program.as_fd())
    }
}

impl Observer for ProbeObserver {
    fn set_nursery(&mut self, pid: u32) {
        self.control.write_field(offset_of!(Control, nursery_pid), pid);
    }

    fn expect_child(&mut self, actor: ActorId) {
        self.control.write_field(offset_of!(Control, expected_child), actor.index() as u32);
    }

    fn forget(&mut self, actor: ActorId) {
        self.control.write_field(slot_offset(actor), Slot::default());
    }

    fn registered(&self, actor: ActorId) -> Option<Registered> {
        let slot = self.control.read_field::<Slot>(slot_offset(actor));
        (slot.mm != 0).then_some(Registered { pid: slot.pid, mm: slot.mm })
    }

    fn snapshot(&mut self, state: &mut RawState) -> Result<(), ObserveError> {
        self.run_snapshot()?;
        decode_snapshot(&self.snapshot, state)
    }

    fn drain(&mut self, transitions: &mut Vec<RawTransition>) -> Result<u32, ObserveError> {
        self.probes.consume(&mut self.records)?;
        for record in self.records.drain(..) {
            let record =
                record.map_err(|bytes| ObserveError::BadEvent(format!("a record of {bytes} bytes is no event")))?;
            if record.sequence < self.next_sequence {
                return Err(ObserveError::BadEvent(format!(
                    "event {} came after event {}",
                    record.sequence,
                    self.next_sequence - 1
                )));
            }
            self.next_sequence = record.sequence + 1;
            self.received += 1;
            transitions.push(transition_of(&record)?);
        }
        let counters = counters_of(&self.control.read());
        // What was numbered and did not arrive is lost, whatever the reason.
        let missing = counters.events.saturating_sub(self.received).max(counters.lost);
        let total = missing + counters.unpaired + counters.unexpected;
        let new = total.saturating_sub(self.reported);
        self.reported = total;
        Ok(u32::try_from(new).unwrap_or(u32::MAX))
    }

    fn event_digest(&self) -> u64 {
        self.control.read_field(offset_of!(Control, digest))
    }

    fn description(&self) -> &Description {
        &self.description
    }
}

/// Opens by trampolines, or by kprobes where these lack a hook.
fn first_way<T>(open: impl Fn(Hooking) -> Result<T, ObserveError>) -> Result<T, ObserveError> {
    match open(Hooking::Trampolines) {
        Err(ObserveError::MissingHook { function, hint }) => open(Hooking::Kprobes).map_err(|error| match error {
            ObserveError::MissingHook { hint: other, .. } => {
                ObserveError::MissingHook { function, hint: format!("{hint}; {other}") }
            }
            error => error,
        }),
        opened => opened,
    }
}

fn counters_of(control: &Control) -> Counters {
    Counters {
        events: control.sequence,
        lost: control.lost,
        retries: control.retries,
        unpaired: control.unpaired,
        unexpected: control.unexpected,
        snapshots: control.snapshots,
    }
}

/// Offset of an actor's slot in the control block.
fn slot_offset(actor: ActorId) -> usize {
    offset_of!(Control, slots) + actor.index() * size_of::<Slot>()
}

/// Reads what the snapshot program left.
fn decode_snapshot(snapshot: &MappedValue<Snapshot>, state: &mut RawState) -> Result<(), ObserveError> {
    for actor in ActorId::all() {
        let offset = offset_of!(Snapshot, actors) + actor.index() * size_of::<ActorSnapshot>();
        let status = snapshot.read_field::<u32>(offset + offset_of!(ActorSnapshot, status));
        let arena = match status {
            STATUS_EMPTY => None,
            STATUS_NO_TABLE => Some([0; ARENA_PAGES]),
            STATUS_OK => Some(snapshot.read_field::<ActorSnapshot>(offset).entries),
            _ => {
                let level = snapshot.read_field::<u32>(offset + offset_of!(ActorSnapshot, level));
                let what = if status == STATUS_HUGE { "a huge page maps it" } else { "the kernel refused a read" };
                let reason = format!("{what} (level {level}, status {status})");
                return Err(ObserveError::Arena { actor, reason });
            }
        };
        state.actors[actor.index()] = arena;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(hint: &str) -> ObserveError {
        ObserveError::MissingHook { function: "handle_mm_fault".to_owned(), hint: hint.to_owned() }
    }

    #[test]
    fn kprobes_are_the_way_where_trampolines_lack_a_hook() {
        assert_eq!(first_way(Ok).ok(), Some(Hooking::Trampolines));
        let without_trampolines =
            |way| if way == Hooking::Trampolines { Err(missing("no BTF of it")) } else { Ok(way) };
        assert_eq!(first_way(without_trampolines).ok(), Some(Hooking::Kprobes));
    }

    #[test]
    fn what_neither_offers_is_told_of_both() {
        let error = first_way(|way| Err::<(), _>(missing(way.name()))).expect_err("no way");
        assert!(error.to_string().contains("trampolines; kprobes"), "{error}");
        // Any other failure is told at once: kprobes would hide it.
        let error = first_way(|_| Err::<(), _>(ObserveError::Geometry("odd".to_owned()))).expect_err("no way");
        assert!(matches!(error, ObserveError::Geometry(_)));
    }
}
