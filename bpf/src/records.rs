//! The mirror of `pte_snapshot.h`. Field meanings are documented there.

use std::mem::{offset_of, size_of};

/// Actors that may be registered at a time (`PTEDIFF_ACTORS`).
pub const ACTORS: usize = 4;
/// Address of the arena (`PTEDIFF_ARENA_BASE`).
pub const ARENA_BASE: u64 = 0x1000_0000_0000;
/// Pages of the arena (`PTEDIFF_ARENA_PAGES`).
pub const ARENA_PAGES: usize = 32;
/// [`Control::expected_child`] when no fork is expected (`PTEDIFF_NO_SLOT`).
pub const NO_SLOT: u32 = 0xffff_ffff;

/// No actor is registered in the slot (`PTEDIFF_STATUS_EMPTY`).
pub const STATUS_EMPTY: u32 = 0;
/// The entries were read (`PTEDIFF_STATUS_OK`).
pub const STATUS_OK: u32 = 1;
/// There is no page table, so every entry is none (`PTEDIFF_STATUS_NO_TABLE`).
pub const STATUS_NO_TABLE: u32 = 2;
/// A huge page maps the arena (`PTEDIFF_STATUS_HUGE`).
pub const STATUS_HUGE: u32 = 3;
/// The kernel refused a read (`PTEDIFF_STATUS_READ_ERROR`).
pub const STATUS_READ_ERROR: u32 = 4;

/// `handle_mm_fault` (`PTEDIFF_CAUSE_FAULT`).
pub const CAUSE_FAULT: u8 = 0;
/// `copy_page_range`, the parent's entry (`PTEDIFF_CAUSE_FORK_PARENT`).
pub const CAUSE_FORK_PARENT: u8 = 1;
/// `copy_page_range`, the child's entry (`PTEDIFF_CAUSE_FORK_CHILD`).
pub const CAUSE_FORK_CHILD: u8 = 2;
/// `change_protection` (`PTEDIFF_CAUSE_PROTECT`).
pub const CAUSE_PROTECT: u8 = 3;
/// `clear_refs_pte_range` (`PTEDIFF_CAUSE_CLEAR_REFS`).
pub const CAUSE_CLEAR_REFS: u8 = 4;

/// Multiplier of the event digest (`PTEDIFF_DIGEST_PRIME`).
pub const DIGEST_PRIME: u64 = 0x100_0000_01b3;

/// One step of the event digest: a bijection of `digest` for each `word`, so that a single changed word
/// always changes the result.
#[must_use]
pub fn fold(digest: u64, word: u64) -> u64 {
    (digest ^ word).wrapping_mul(DIGEST_PRIME)
}

/// What user space says about the kernel (`struct ptediff_geometry`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Geometry {
    /// Virtual address of physical address 0.
    pub page_offset_base: u64,
    /// Virtual address of the `struct page` of frame 0.
    pub vmemmap_base: u64,
    /// Not zero: five-level page tables.
    pub five_level: u32,
    /// Zero.
    pub reserved: u32,
}

impl Geometry {
    /// The record's bytes, as they stand in `.rodata`.
    #[must_use]
    pub fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[0..8].copy_from_slice(&self.page_offset_base.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.vmemmap_base.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.five_level.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.reserved.to_le_bytes());
        bytes
    }
}

/// A registered process (`struct ptediff_slot`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Slot {
    /// Address of its `mm_struct`, 0 in an empty slot.
    pub mm: u64,
    /// Its thread group.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
}

/// The control block (`struct ptediff_control`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// One slot an actor.
    pub slots: [Slot; ACTORS],
    /// Slot for the next child, or [`NO_SLOT`].
    pub expected_child: u32,
    /// Process whose forks also make actors.
    pub nursery_pid: u32,
    /// Events numbered so far, lost ones included.
    pub sequence: u64,
    /// Events for which the ring buffer had no room.
    pub lost: u64,
    /// Digest of the events in the ring buffer, see [`fold`].
    pub digest: u64,
    /// `handle_mm_fault` calls that asked for a retry.
    pub retries: u64,
    /// Function exits without their entry, and failed reads.
    pub unpaired: u64,
    /// Forks of an actor while no child was expected.
    pub unexpected: u64,
    /// Runs of the snapshot program.
    pub snapshots: u64,
    /// Offset of `pgd` in `struct mm_struct`.
    pub pgd_offset: u32,
    /// Number of `PG_anon_exclusive`.
    pub anon_exclusive: u32,
    /// Size of `struct page` in bytes.
    pub page_size_of: u32,
    /// Zero.
    pub reserved: u32,
}

/// The entries of one actor's arena (`struct ptediff_actor_snapshot`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ActorSnapshot {
    /// The `mm_struct` that was walked.
    pub mm: u64,
    /// One of the `STATUS_` constants.
    pub status: u32,
    /// Table whose entry ended the walk: 1 page table, 2 PMD, 3 PUD, 4 P4D, 5 PGD; 0 for `mm->pgd` itself.
    pub level: u32,
    /// Raw entries, valid when the status is [`STATUS_OK`].
    pub entries: [u64; ARENA_PAGES],
}

/// All actors' arenas (`struct ptediff_snapshot`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Snapshot {
    /// One arena an actor.
    pub actors: [ActorSnapshot; ACTORS],
}

/// A record of the ring buffer (`struct ptediff_event`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Number of the event, from 0.
    pub sequence: u64,
    /// One of the `CAUSE_` constants.
    pub cause: u8,
    /// Slot whose page table holds the entry.
    pub actor: u8,
    /// Page in the arena.
    pub page: u8,
    /// 1 for a fault with `FAULT_FLAG_WRITE`.
    pub write: u8,
    /// 1 for `PageAnonExclusive` of the frame in `after`.
    pub anon_exclusive: u8,
    /// Zero.
    pub reserved: u8,
    /// `_mapcount` + 1 of the frame in `after`.
    pub mapcount: u16,
    /// Raw entry before.
    pub before: u64,
    /// Raw entry after.
    pub after: u64,
    /// `vm_flags` of the VMA.
    pub vm_flags: u64,
}

impl Event {
    /// The event in these bytes of the ring buffer, or `None` when the length is wrong.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Some(Self {
            sequence: word(0),
            cause: bytes[8],
            actor: bytes[9],
            page: bytes[10],
            write: bytes[11],
            anon_exclusive: bytes[12],
            reserved: bytes[13],
            mapcount: u16::from_le_bytes([bytes[14], bytes[15]]),
            before: word(16),
            after: word(24),
            vm_flags: word(32),
        })
    }

    /// The digest after this event: [`fold`] over bytes 8 to 15 as one word, `before`, `after`, `vm_flags`.
    #[must_use]
    pub fn fold_into(&self, digest: u64) -> u64 {
        let what = u64::from_le_bytes([
            self.cause,
            self.actor,
            self.page,
            self.write,
            self.anon_exclusive,
            0,
            self.mapcount.to_le_bytes()[0],
            self.mapcount.to_le_bytes()[1],
        ]);
        [what, self.before, self.after, self.vm_flags].into_iter().fold(digest, fold)
    }
}

// The same numbers as the C header's _Static_asserts.
const _: () = {
    assert!(size_of::<Geometry>() == 24);
    assert!(size_of::<Slot>() == 16);
    assert!(size_of::<Control>() == 144);
    assert!(offset_of!(Control, expected_child) == 64);
    assert!(offset_of!(Control, sequence) == 72);
    assert!(offset_of!(Control, pgd_offset) == 128);
    assert!(size_of::<ActorSnapshot>() == 272);
    assert!(offset_of!(ActorSnapshot, entries) == 16);
    assert!(size_of::<Snapshot>() == 1088);
    assert!(size_of::<Event>() == 40);
    assert!(offset_of!(Event, cause) == 8);
    assert!(offset_of!(Event, mapcount) == 14);
    assert!(offset_of!(Event, before) == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a `#define` of the header.
    fn defined(name: &str) -> u64 {
        let header = include_str!("pte_snapshot.h");
        let value = header
            .lines()
            .filter_map(|line| line.strip_prefix("#define ")?.trim().split_once(char::is_whitespace))
            .find(|(defined, _)| *defined == name)
            .unwrap_or_else(|| panic!("{name} is not in the header"))
            .1;
        let digits = value.split_whitespace().next().expect("a value").trim_end_matches("ULL");
        match digits.strip_prefix("0x") {
            Some(hexadecimal) => u64::from_str_radix(hexadecimal, 16),
            None => digits.parse(),
        }
        .unwrap_or_else(|error| panic!("{name} is `{value}`: {error}"))
    }

    #[test]
    fn constants_are_those_of_the_header() {
        for (name, mirrored) in [
            ("PTEDIFF_ACTORS", ACTORS as u64),
            ("PTEDIFF_ARENA_BASE", ARENA_BASE),
            ("PTEDIFF_ARENA_PAGES", ARENA_PAGES as u64),
            ("PTEDIFF_NO_SLOT", u64::from(NO_SLOT)),
            ("PTEDIFF_STATUS_EMPTY", u64::from(STATUS_EMPTY)),
            ("PTEDIFF_STATUS_OK", u64::from(STATUS_OK)),
            ("PTEDIFF_STATUS_NO_TABLE", u64::from(STATUS_NO_TABLE)),
            ("PTEDIFF_STATUS_HUGE", u64::from(STATUS_HUGE)),
            ("PTEDIFF_STATUS_READ_ERROR", u64::from(STATUS_READ_ERROR)),
            ("PTEDIFF_CAUSE_FAULT", u64::from(CAUSE_FAULT)),
            ("PTEDIFF_CAUSE_FORK_PARENT", u64::from(CAUSE_FORK_PARENT)),
            ("PTEDIFF_CAUSE_FORK_CHILD", u64::from(CAUSE_FORK_CHILD)),
            ("PTEDIFF_CAUSE_PROTECT", u64::from(CAUSE_PROTECT)),
            ("PTEDIFF_CAUSE_CLEAR_REFS", u64::from(CAUSE_CLEAR_REFS)),
            ("PTEDIFF_DIGEST_PRIME", DIGEST_PRIME),
        ] {
            assert_eq!(defined(name), mirrored, "{name}");
        }
    }

    #[test]
    fn an_event_is_read_from_the_bytes_of_the_c_structure() {
        let mut bytes = Vec::new();
        bytes.extend(7u64.to_le_bytes());
        bytes.extend([CAUSE_PROTECT, 2, 31, 1, 1, 0]);
        bytes.extend(3u16.to_le_bytes());
        for word in [0x10u64, 0x20, 0x30] {
            bytes.extend(word.to_le_bytes());
        }
        let event = Event::of_bytes(&bytes).expect("40 bytes");
        assert_eq!((event.sequence, event.cause, event.actor, event.page), (7, CAUSE_PROTECT, 2, 31));
        assert_eq!((event.write, event.anon_exclusive, event.mapcount), (1, 1, 3));
        assert_eq!((event.before, event.after, event.vm_flags), (0x10, 0x20, 0x30));
        assert_eq!(Event::of_bytes(&bytes[1..]), None);
    }
}
