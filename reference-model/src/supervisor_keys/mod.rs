//! Protection keys of supervisor pages (PKS) as the series of 2020 to 2022 proposed them to Linux: the allocator, the
//! per-thread register across context switches, and what becomes of it in exceptions.
//!
//! No kernel has merged them, so there is no kernel to ask. The CPU's half is asked by the bare probe: IA32_PKRS is
//! not changed by an exception, takes effect without a flush, and leaves fetches alone. What is modelled here is the
//! software on top of it.
//!
//! Sources, all by Ira Weiny and Fenghua Yu: `[PATCH RFC V2 00..17/17] PKS: Add Protection Keys Supervisor (PKS)
//! support` (July 2020; the seed is an answer to its cover letter), its patch 17/17 `x86/entry: Preserve PKRS MSR
//! across exceptions` with Thomas Gleixner's review, `RFC V3` (October 2020), and V9 (March 2022), patch
//! `x86/pkeys: Preserve PKRS MSR across exceptions`.

mod allocator;
mod explore;
mod preservation;
#[cfg(test)]
mod tests;
mod threads;

pub use allocator::{AllocateError, Allocator, FreeError, SupervisorKey};
pub use explore::{Exploration, Found, explore};
pub use preservation::Preservation;
pub use threads::{Event, Exception, Threads, Violation, Writes};

/// IA32_PKRS of a new thread and of an exception: no access by any key but 0 (`INIT_PKRS_VALUE`).
pub const INITIAL_PKRS: u32 = 0x5555_5554;
