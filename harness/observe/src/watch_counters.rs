//! What the two watches count: plain data, whoever loads their probes.

use ptediff_bpf::{INVARIANTS, Tally, Violation, WATCH_CAUSES};

/// Entries that were judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JudgedEntries {
    /// By cause.
    pub entries: [u64; WATCH_CAUSES],
    /// By invariant: those about which it says something.
    pub premises: [u64; INVARIANTS],
}

/// `VM_SHADOW_STACK` where a kernel has it (`include/linux/mm.h`, 6.12; 7.2 keeps the number).
pub const VM_SHADOW_STACK: u64 = 1 << 37;

/// What the watch has seen since it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchCounters {
    /// `handle_mm_fault`.
    pub fault: Tally,
    /// `copy_page_range`, the parent's entries.
    pub fork_parent: Tally,
    /// `copy_page_range`, the child's entries against the parent's before.
    pub fork_child: Tally,
    /// `change_protection`: mprotect and userfaultfd.
    pub protect: Tally,
    /// `clear_refs_pte_range`.
    pub clear_refs: Tally,
    /// Exits without an entry: something was not seen.
    pub unpaired: u64,
    /// Page tables that could not be read: something was not seen.
    pub read_errors: u64,
    /// All violations.
    pub violations: u64,
    /// The first of them.
    pub kept: Vec<Violation>,
}

impl WatchCounters {
    /// Entries that were write-protected in place: the child's are not among them, nobody could write to those.
    #[must_use]
    pub fn protected_in_place(&self) -> u64 {
        self.fork_parent.protected + self.protect.protected + self.clear_refs.protected
    }

    /// Entries in which Dirty arrived between the entry and the exit of a function that write-protects.
    #[must_use]
    pub fn arrived_meanwhile(&self) -> u64 {
        self.fork_parent.dirty_arrived + self.protect.dirty_arrived + self.clear_refs.dirty_arrived
    }
}
