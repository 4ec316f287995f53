//! Reads page-table entries and their transitions from the live kernel.
//!
//! - [`Observer`]: registration of actors, snapshots of all arenas, events inside a step.
//!   [`ProbeObserver`] is the one that campaigns use, over either [`Loader`]; [`BothObserver`] asks two and compares
//!   them; [`LyingObserver`] wraps another and lies about one field, to test that lies are found out.
//! - The witnesses, which do not go through eBPF: [`KcoreWitness`] walks the page tables through
//!   `/proc/kcore`, [`PagemapReader`] asks for the kernel's own view; [`Witnesses`] asks both.
//! - [`EventLedger`]: the probes fold every event that they hand over into a digest; the reader folds what
//!   arrived. One changed field, one event dropped or two swapped, and the digests part.
//! - [`Geometry`]: where the kernel keeps physical memory and its `struct page`s.
//!
//! The harness runs as root on one CPU, and no actor runs while a method of this crate does.
//!
//! # What this crate must not know
//!
//! Programs and operations, how they are made and carried out, and which system calls or accesses actors
//! make; what the model expects of an entry, and so whether what is seen is right. It reports what is there.
//!
//! # Features
//!
//! `libbpf` and `aya`, each with the library of its name; at least one is needed. The watches ([`ProgramWatch`],
//! [`WriteProtectWatch`]) are libbpf's alone. With `aya` alone there is no library in C.
#![expect(unsafe_code, reason = "system calls, and memory shared with the kernel")]

#[cfg(not(any(feature = "libbpf", feature = "aya")))]
compile_error!("ptediff-observe needs a loader: the cargo feature `libbpf` or `aya`");

mod attachment;
#[cfg(feature = "aya")]
mod aya;
mod both;
mod error;
mod events;
mod geometry;
mod hooks;
mod kcore;
mod liar;
#[cfg(feature = "libbpf")]
mod libbpf;
mod loader;
mod mapped;
mod observer;
mod page_tables;
mod pagemap;
mod probe_observer;
#[cfg(feature = "libbpf")]
mod program_watch;
mod smaps;
#[cfg(test)]
mod steady;
mod test_run;
#[cfg(not(feature = "libbpf"))]
mod unavailable;
mod watch_counters;
mod witness;
#[cfg(feature = "libbpf")]
mod write_protect_watch;

pub use attachment::Attachment;
pub use both::BothObserver;
pub use error::ObserveError;
pub use events::{EventLedger, LedgerMismatch};
pub use geometry::{Geometry, StructPage};
pub use hooks::{Hooking, Offer, UnknownHooking, survey};
pub use kcore::{Kcore, KcoreWitness, compare};
pub use liar::{Lie, LyingObserver, UnknownLie};
pub use loader::{Loader, ObserverOptions, UnknownLoader};
pub use observer::{Compared, Counters, Description, Observer, Registered};
pub use page_tables::{Leaf, PageTables};
pub use pagemap::{PagemapReader, PagemapWords};
pub use probe_observer::ProbeObserver;
#[cfg(feature = "libbpf")]
pub use program_watch::ProgramWatch;
pub use ptediff_bpf::{
    MOST_REPORTS, ProgramWatchCounters, REGION_PAGES, Tally, Violation, WatchReport, WatchSettings, WatchTransition,
    WatchedProcess,
};
pub use smaps::Smaps;
#[cfg(not(feature = "libbpf"))]
pub use unavailable::{ProgramWatch, WriteProtectWatch};
pub use watch_counters::{JudgedEntries, VM_SHADOW_STACK, WatchCounters};
pub use witness::{
    ProbedStep, UnseenMove, Witnesses, cleared_unseen, fills_unseen, flags_changed_later, moved_unseen, swaps_unseen,
};
#[cfg(feature = "libbpf")]
pub use write_protect_watch::WriteProtectWatch;

// The probes' constants are the model's.
const _: () = {
    assert!(ptediff_bpf::ARENA_BASE == ptediff_reference_model::arena::ARENA_BASE);
    assert!(ptediff_bpf::ARENA_PAGES == ptediff_reference_model::arena::ARENA_PAGES);
    assert!(ptediff_bpf::ACTORS == ptediff_reference_model::arena::ACTORS);
};
