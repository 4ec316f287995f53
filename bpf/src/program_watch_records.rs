//! The mirror of `program_watch.h`. Field meanings are documented there.

use crate::{Hook, HookKind, hook};

/// Invariants that the probes judge by, bits from 0 up (`PTEDIFF_INVARIANTS`).
pub const INVARIANTS: usize = 16;
/// Causes that are told apart (`PTEDIFF_WATCH_CAUSES`).
pub const WATCH_CAUSES: usize = 5;
/// Size of the array [`JUDGED_MAP`] (`PTEDIFF_JUDGED`).
pub const JUDGED: usize = WATCH_CAUSES << INVARIANTS;
/// Kernel addresses of a stack (`PTEDIFF_STACK_DEPTH`).
pub const STACK_DEPTH: usize = 16;
/// Transitions of its page that a report tells (`PTEDIFF_TOLD`).
pub const TOLD: usize = 8;
/// Reports until one is refused (`PTEDIFF_MOST_REPORTS`).
pub const MOST_REPORTS: u64 = 256;

/// `struct ptediff_watch_settings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct WatchSettings {
    /// Invariants that hold on this machine, by bit.
    pub invariants: u64,
    /// VM_SHADOW_STACK of this kernel, or 0.
    pub shadow_stack_flag: u64,
    /// PTE_MARKER_* bits that this kernel has.
    pub marker_bits: u64,
    /// Swap type of markers.
    pub marker_type: u64,
    /// Bits that are flipped in what was read, in tests of the watch.
    pub plant_flip: u64,
    /// Causes under which they are, by bit.
    pub plant_causes: u64,
}

/// `struct ptediff_watch_counters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct ProgramWatchCounters {
    /// Function calls that were judged, by cause.
    pub events: [u64; WATCH_CAUSES],
    /// Entries that break it.
    pub violations: [u64; INVARIANTS],
    /// Processes that were watched.
    pub processes: u64,
    /// Faults that gave up the mmap lock.
    pub retries: u64,
    /// VMAs of which a fork copies nothing.
    pub not_copied: u64,
    /// Function calls that returned an error.
    pub failed: u64,
    /// Not seen: function calls without room to be remembered.
    pub no_room: u64,
    /// Not seen: function calls known from their end alone.
    pub unpaired: u64,
    /// Not seen: page tables that could not be read.
    pub read_errors: u64,
    /// Not seen: the ends of ranges that are too long.
    pub cut_short: u64,
    /// Not seen: children that could not be watched.
    pub unfollowed: u64,
    /// Violations that were counted and not told.
    pub unreported: u64,
}

/// `struct ptediff_watch_transition`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct WatchTransition {
    /// From 1; 0 is an empty place.
    pub number: u64,
    /// Address of the `mm_struct`.
    pub mm: u64,
    /// Address of the first page.
    pub start: u64,
    /// Behind the last page.
    pub end: u64,
    /// Entry after a fault; 0 at other causes.
    pub after: u64,
    /// Cause.
    pub cause: u32,
    /// Thread.
    pub thread: u32,
}

/// `struct ptediff_program_watch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ProgramWatchState {
    /// What user space decides.
    pub settings: WatchSettings,
    /// What happened.
    pub counters: ProgramWatchCounters,
    /// Transitions numbered.
    pub transitions: u64,
    /// Reports numbered.
    pub reports: u64,
}

/// `struct ptediff_watch_report`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct WatchReport {
    /// From 0.
    pub number: u64,
    /// Invariants, by bit.
    pub broken: u64,
    /// Address of the `mm_struct`.
    pub mm: u64,
    /// Address of the page.
    pub address: u64,
    /// Entry that breaks the invariants.
    pub after: u64,
    /// `vm_flags` of the VMA.
    pub vm_flags: u64,
    /// Its first address.
    pub vm_start: u64,
    /// Behind its last address.
    pub vm_end: u64,
    /// Transitions numbered until then.
    pub event: u64,
    /// Cause.
    pub cause: u32,
    /// Level of the table that holds the entry (`PTEDIFF_LEVEL_*`).
    pub level: u32,
    /// Process.
    pub process: u32,
    /// Thread.
    pub thread: u32,
    /// PageAnonExclusive; 2 where it was not asked.
    pub exclusive: u32,
    /// Bytes of `stack`.
    pub stack_bytes: u32,
    /// Name of the task, closed by a zero.
    pub task: [u8; 16],
    /// Return addresses, the innermost first.
    pub stack: [u64; STACK_DEPTH],
    /// Transitions of this page, the newest first.
    pub told: [WatchTransition; TOLD],
}

impl WatchReport {
    /// Decodes a record of the ring buffer; `None` if it has another size.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        let mut words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
        let mut word = || words.next().unwrap_or_default();
        let halves = |word: u64| ((word & 0xffff_ffff) as u32, (word >> 32) as u32);
        let [number, broken, mm, address, after, vm_flags, vm_start, vm_end, event] = std::array::from_fn(|_| word());
        let ((cause, level), (process, thread), (exclusive, stack_bytes)) =
            (halves(word()), halves(word()), halves(word()));
        let mut task = [0; 16];
        task[..8].copy_from_slice(&word().to_le_bytes());
        task[8..].copy_from_slice(&word().to_le_bytes());
        let stack = std::array::from_fn(|_| word());
        let told = std::array::from_fn(|_| {
            let [number, mm, start, end, after] = std::array::from_fn(|_| word());
            let (cause, thread) = halves(word());
            WatchTransition { number, mm, start, end, after, cause, thread }
        });
        Some(Self {
            number,
            broken,
            mm,
            address,
            after,
            vm_flags,
            vm_start,
            vm_end,
            event,
            cause,
            level,
            process,
            thread,
            exclusive,
            stack_bytes,
            task,
            stack,
            told,
        })
    }
}

/// Programs of [`crate::PROGRAM_WATCH_OBJECT`] that follow processes, on every kernel.
pub const FOLLOW_HOOKS: [Hook; 2] = [
    hook("follow_fork", HookKind::Tracepoint, "sched_process_fork"),
    hook("forget_process", HookKind::Tracepoint, "sched_process_free"),
];

/// Those that judge, by trampolines.
pub const TRAMPOLINE_HOOKS: [Hook; 4] = [
    hook("program_fault_exit", HookKind::FunctionExit, "handle_mm_fault"),
    hook("program_fork_exit", HookKind::FunctionExit, "copy_page_range"),
    hook("program_protect_exit", HookKind::FunctionExit, "change_protection"),
    hook("program_clear_exit", HookKind::FunctionExit, "clear_refs_pte_range"),
];

/// Those that judge, by the function graph tracer: names of programs and the function that they hook.
pub const GRAPH_HOOKS: [(&str, &str); 4] = [
    ("session_fault", "handle_mm_fault"),
    ("session_fork", "copy_page_range"),
    ("session_protect", "change_protection"),
    ("session_clear", "clear_refs_pte_range"),
];

/// The program of an iterator over tasks: one [`WatchedProcess`] for each that is watched.
pub const LIST_PROGRAM: &str = "list_processes";

/// `struct ptediff_watched_process`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct WatchedProcess {
    /// Its process identifier.
    pub process: u32,
    /// 0.
    pub reserved: u32,
    /// Address of its `mm_struct`.
    pub mm: u64,
    /// Address of its uppermost page table.
    pub table: u64,
}

impl WatchedProcess {
    /// The processes that an iterator gave; `None` if these bytes are none.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Vec<Self>> {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let records = bytes.chunks_exact(size_of::<Self>());
        records.remainder().is_empty().then(|| {
            records
                .map(|record| Self {
                    process: word(&record[0..8]) as u32,
                    reserved: 0,
                    mm: word(&record[8..16]),
                    table: word(&record[16..24]),
                })
                .collect()
        })
    }
}

/// Name of the mmapable array of one [`ProgramWatchState`].
pub const PROGRAM_WATCH_MAP: &str = "program_watch";
/// Name of the ring buffer of [`WatchReport`] records.
pub const REPORTS_MAP: &str = "reports";
/// Name of the mmapable array of [`JUDGED`] counters of entries: by cause, and by the invariants that say something.
pub const JUDGED_MAP: &str = "judged";
/// Name of the hash of watched thread groups.
pub const WATCHED_MAP: &str = "watched";

// The sizes that program_watch.h asserts.
const _: () = {
    assert!(size_of::<WatchSettings>() == 48);
    assert!(size_of::<ProgramWatchCounters>() == 8 * (WATCH_CAUSES + INVARIANTS + 10));
    assert!(size_of::<WatchTransition>() == 48);
    assert!(size_of::<ProgramWatchState>() == 48 + 248 + 16);
    assert!(size_of::<WatchReport>() == 112 + 8 * STACK_DEPTH + TOLD * 48);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_header() {
        let header = include_str!("program_watch.h");
        for (name, value) in [
            ("PTEDIFF_INVARIANTS", INVARIANTS),
            ("PTEDIFF_WATCH_CAUSES", WATCH_CAUSES),
            ("PTEDIFF_STACK_DEPTH", STACK_DEPTH),
            ("PTEDIFF_TOLD", TOLD),
            ("PTEDIFF_MOST_REPORTS", MOST_REPORTS as usize),
        ] {
            let line = header.lines().find(|line| line.split_whitespace().nth(1) == Some(name)).expect("in the header");
            assert_eq!(line.split_whitespace().nth(2), Some(value.to_string().as_str()), "{name}");
        }
    }

    #[test]
    fn a_record_is_decoded_field_by_field() {
        let words = size_of::<WatchReport>() / 8;
        let bytes: Vec<u8> = (0..words as u64).flat_map(u64::to_le_bytes).collect();
        let report = WatchReport::of_bytes(&bytes).expect("the size is right");
        assert_eq!((report.number, report.event, report.cause, report.level), (0, 8, 9, 0));
        assert_eq!((report.stack[0], report.told[0].number, report.told[7].cause), (14, 30, words as u32 - 1));
        assert_eq!(WatchReport::of_bytes(&bytes[1..]), None);
    }
}
