//! The one trait of this crate, and what an observer says of itself.

use std::fmt;

use ptediff_reference_model::arena::ActorId;
use ptediff_reference_model::observation::{RawState, RawTransition};

use crate::error::ObserveError;
use crate::geometry::Geometry;

/// A process that the fork hook registered as an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Its process identifier, in the initial pid namespace.
    pub pid: u32,
    /// Address of its `mm_struct`.
    pub mm: u64,
}

/// Reads the entries of all actors' arenas and the transitions inside a step.
///
/// The caller sees to it that no actor runs during a call.
pub trait Observer {
    /// Names the process whose children may become actors besides the actors' own children.
    fn set_nursery(&mut self, pid: u32);

    /// The next fork of an actor or of the nursery makes this actor. Threads and children that share the
    /// parent's memory do not count. A fork that fails leaves the expectation standing.
    fn expect_child(&mut self, actor: ActorId);

    /// The actor exited: nothing is read of it any more. Must be called before another process may get the
    /// dead one's `mm_struct`.
    fn forget(&mut self, actor: ActorId);

    /// What the fork hook stored for this actor, if it is registered.
    fn registered(&self, actor: ActorId) -> Option<Registered>;

    /// The process identifier alone.
    fn registered_pid(&self, actor: ActorId) -> Option<u32> {
        self.registered(actor).map(|registered| registered.pid)
    }

    /// Reads all entries of all registered actors; `None` in `state` for the others.
    ///
    /// # Errors
    /// The snapshot program cannot be run, an arena is mapped by a huge page, or the kernel refused a read.
    fn snapshot(&mut self, state: &mut RawState) -> Result<(), ObserveError>;

    /// Appends the transitions since the last call, in the order in which they happened. Returns how many
    /// more there were that cannot be given: no room in the ring buffer, an entry that could not be read, a
    /// function seen only at its exit, a fork that nobody expected.
    ///
    /// # Errors
    /// The ring buffer gives something that no probe writes, or in a wrong order.
    fn drain(&mut self, transitions: &mut Vec<RawTransition>) -> Result<u32, ObserveError>;

    /// The probes' own digest over all events that they handed over since they were loaded. It does not go
    /// through the ring buffer; see [`crate::EventLedger`].
    fn event_digest(&self) -> u64;

    /// What a report prints about the observer.
    fn description(&self) -> &Description;

    /// What was compared between two loaders, where two observe.
    fn compared(&self) -> Option<Compared> {
        None
    }
}

/// An observer behind a pointer observes too: borrowed for a while, or chosen at run time.
macro_rules! observe_through {
    ($($pointer:ty),*) => {$(
        impl<Inner: Observer + ?Sized> Observer for $pointer {
            fn set_nursery(&mut self, pid: u32) {
                (**self).set_nursery(pid);
            }

            fn expect_child(&mut self, actor: ActorId) {
                (**self).expect_child(actor);
            }

            fn forget(&mut self, actor: ActorId) {
                (**self).forget(actor);
            }

            fn registered(&self, actor: ActorId) -> Option<Registered> {
                (**self).registered(actor)
            }

            fn snapshot(&mut self, state: &mut RawState) -> Result<(), ObserveError> {
                (**self).snapshot(state)
            }

            fn drain(&mut self, transitions: &mut Vec<RawTransition>) -> Result<u32, ObserveError> {
                (**self).drain(transitions)
            }

            fn event_digest(&self) -> u64 {
                (**self).event_digest()
            }

            fn description(&self) -> &Description {
                (**self).description()
            }

            fn compared(&self) -> Option<Compared> {
                (**self).compared()
            }
        }
    )*};
}

observe_through!(&mut Inner, Box<Inner>);

/// What two loaders gave alike. Where they differ, [`ObserveError::LoadersDisagree`] says so at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compared {
    /// Events, all their fields.
    pub events: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Entries in them.
    pub entries: u64,
    /// Snapshots that had to be taken anew: memory changed between the two loaders' looks, or one look was wrong.
    pub moved: u64,
}

/// The probes' counters since they were loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Events numbered, lost ones included.
    pub events: u64,
    /// Events for which the ring buffer had no room.
    pub lost: u64,
    /// `handle_mm_fault` calls that asked for a retry; they are no events.
    pub retries: u64,
    /// Function exits without their entry, and entries that could not be read.
    pub unpaired: u64,
    /// Forks of an actor while no child was expected.
    pub unexpected: u64,
    /// Runs of the snapshot program.
    pub snapshots: u64,
}

/// What an observer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Loader and its version.
    pub loader: String,
    /// Attached hooks, such as `fentry handle_mm_fault`.
    pub hooks: Vec<String>,
    /// Where the kernel keeps things.
    pub geometry: Geometry,
    /// Offset of `pgd` in `struct mm_struct`, as the loader relocated it.
    pub pgd_offset: u32,
    /// Number of `PG_anon_exclusive`, as the loader relocated it.
    pub anon_exclusive: u32,
    /// Size of the ring buffer in bytes.
    pub ring_bytes: u32,
}

impl fmt::Display for Description {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "loader: {}", self.loader)?;
        writeln!(formatter, "hooks: {}", self.hooks.join(", "))?;
        writeln!(formatter, "ring buffer: {} bytes", self.ring_bytes)?;
        writeln!(formatter, "mm_struct.pgd at {}, PG_anon_exclusive = {}", self.pgd_offset, self.anon_exclusive)?;
        write!(formatter, "{}", self.geometry)
    }
}
