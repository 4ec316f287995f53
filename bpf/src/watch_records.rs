//! The mirror of `write_protect_watch.h`. Field meanings are documented there.

/// Pages of the watched region (`PTEDIFF_REGION_PAGES`).
pub const REGION_PAGES: usize = 512;
/// Violations that are kept (`PTEDIFF_KEPT_VIOLATIONS`).
pub const KEPT_VIOLATIONS: usize = 16;
/// Causes that are told apart (`PTEDIFF_CAUSES`); their numbers are those of [`crate::CAUSE_FAULT`] and the others.
pub const CAUSES: usize = 5;

/// A present entry with Write=0, Dirty=1 (`PTEDIFF_VIOLATION_WRITE_0_DIRTY_1`).
pub const VIOLATION_WRITE_0_DIRTY_1: u32 = 1;
/// A dirty entry is not dirty any more (`PTEDIFF_VIOLATION_DIRTY_LOST`).
pub const VIOLATION_DIRTY_LOST: u32 = 2;

/// What happened under one cause (`struct ptediff_tally`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Tally {
    /// Calls of the function that touched the region.
    pub calls: u64,
    /// Entries that were writable before and are present and not writable after.
    pub protected: u64,
    /// Present entries with Write=0, Dirty=1 after, outside a shadow stack.
    pub created: u64,
    /// Entries of one frame that were dirty before and are not after.
    pub dirty_lost: u64,
    /// Entries that were writable and clean before and are dirty after.
    pub dirty_arrived: u64,
}

/// A violation that was kept (`struct ptediff_violation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Violation {
    /// [`VIOLATION_WRITE_0_DIRTY_1`] or [`VIOLATION_DIRTY_LOST`].
    pub kind: u32,
    /// One of the causes.
    pub cause: u32,
    /// Page of the region.
    pub page: u64,
    /// Entry before.
    pub before: u64,
    /// Entry after.
    pub after: u64,
    /// `vm_flags` of the VMA.
    pub vm_flags: u64,
    /// Entries protected in place until then.
    pub protected_until: u64,
}

/// The state of the watch (`struct ptediff_watch`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Watch {
    /// The watched process.
    pub mm: u64,
    /// The child that it forked last.
    pub child_mm: u64,
    /// VM_SHADOW_STACK of this kernel, or 0.
    pub shadow_stack_flag: u64,
    /// Exits without an entry.
    pub unpaired: u64,
    /// Page tables that could not be read.
    pub read_errors: u64,
    /// Violations, kept or not.
    pub violations: u64,
    /// Functions that write-protect and have begun.
    pub begun: u64,
    /// By cause.
    pub tallies: [Tally; CAUSES],
    /// The first violations.
    pub kept: [Violation; KEPT_VIOLATIONS],
}

/// The region's page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct RegionTable {
    /// By page.
    pub entries: [u64; REGION_PAGES],
}

// The sizes that write_protect_watch.h asserts.
const _: () = {
    assert!(size_of::<Tally>() == 40);
    assert!(size_of::<Violation>() == 48);
    assert!(size_of::<Watch>() == 56 + CAUSES * 40 + KEPT_VIOLATIONS * 48);
    assert!(size_of::<RegionTable>() == 8 * REGION_PAGES);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_header() {
        let header = include_str!("write_protect_watch.h");
        for (name, value) in [
            ("PTEDIFF_REGION_PAGES", REGION_PAGES),
            ("PTEDIFF_KEPT_VIOLATIONS", KEPT_VIOLATIONS),
            ("PTEDIFF_CAUSES", CAUSES),
            ("PTEDIFF_VIOLATION_WRITE_0_DIRTY_1", VIOLATION_WRITE_0_DIRTY_1 as usize),
            ("PTEDIFF_VIOLATION_DIRTY_LOST", VIOLATION_DIRTY_LOST as usize),
        ] {
            let line = header.lines().find(|line| line.split_whitespace().nth(1) == Some(name)).expect("in the header");
            assert_eq!(line.split_whitespace().nth(2), Some(value.to_string().as_str()), "{name}");
        }
    }
}
