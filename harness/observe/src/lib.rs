//! Reads page-table entries and their transitions from the live kernel.
//!
//! - [`Observer`]: registration of actors, snapshots of all arenas, events inside a step.
//!   [`LibbpfObserver`] is the one that campaigns use; [`LyingObserver`] wraps another and lies about one
//!   field, to test that lies are found out.
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
//! (The smoke test of aya forks a child of its own, as it needs some process with an arena.)
#![expect(unsafe_code, reason = "system calls, and memory shared with the kernel")]

#[cfg(feature = "aya")]
mod aya_smoke;
mod error;
mod events;
mod geometry;
mod kcore;
mod liar;
mod libbpf;
mod mapped;
mod observer;
mod pagemap;
mod program_watch;
mod smaps;
mod test_run;
mod witness;
mod write_protect_watch;

#[cfg(feature = "aya")]
pub use aya_smoke::{AyaReport, aya_smoke};
pub use error::ObserveError;
pub use events::{EventLedger, LedgerMismatch};
pub use geometry::{Geometry, StructPage};
pub use kcore::{Kcore, KcoreWitness, compare};
pub use liar::{Lie, LyingObserver, UnknownLie};
pub use libbpf::{LibbpfObserver, ObserverOptions};
pub use observer::{Counters, Description, Observer, Registered};
pub use pagemap::PagemapReader;
pub use program_watch::{Attachment, JudgedEntries, ProgramWatch};
pub use ptediff_bpf::{
    MOST_REPORTS, ProgramWatchCounters, REGION_PAGES, Tally, Violation, WatchReport, WatchSettings, WatchTransition,
};
pub use witness::{
    ProbedStep, UnseenMove, Witnesses, changes_flags_last, cleared_unseen, fills_unseen, moved_unseen, swaps_unseen,
};
pub use write_protect_watch::{VM_SHADOW_STACK, WatchCounters, WriteProtectWatch};

// The probes' constants are the model's.
const _: () = {
    assert!(ptediff_bpf::ARENA_BASE == ptediff_reference_model::arena::ARENA_BASE);
    assert!(ptediff_bpf::ARENA_PAGES == ptediff_reference_model::arena::ARENA_PAGES);
    assert!(ptediff_bpf::ACTORS == ptediff_reference_model::arena::ACTORS);
};
