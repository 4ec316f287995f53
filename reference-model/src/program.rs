//! A program: a list of steps, each one operation of one actor on the arena.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::arena::{ActorId, PageIndex, PageRange};
use crate::uffd::{UffdFeatures, UffdId, UffdMode};

/// Steps that a program may have at most. It bounds what a stored entry can make the harness do.
pub const MAX_STEPS: usize = 256;

/// Protection of a mapping, as `mmap` and `mprotect` take it: any set of read, write, execute.
///
/// The text form is `rwx` with `-` for what is absent, as in `/proc/pid/maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protection(u8);

impl Protection {
    /// No access.
    pub const NONE: Self = Self(0);
    /// Read.
    pub const READ: Self = Self(1);
    /// Write.
    pub const WRITE: Self = Self(2);
    /// Execute.
    pub const EXECUTE: Self = Self(4);
    /// Read and write.
    pub const READ_WRITE: Self = Self(3);

    /// The protection with these `PROT_*` bits (1 read, 2 write, 4 execute), or `None` for others.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits < 8).then_some(Self(bits))
    }

    /// The `PROT_*` bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether every access of `other` is allowed by `self`.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(1, 'r'), (2, 'w'), (4, 'x')] {
            write!(formatter, "{}", if self.0 & bit != 0 { letter } else { '-' })?;
        }
        Ok(())
    }
}

impl Serialize for Protection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u8(self.0) }
    }
}

impl<'de> Deserialize<'de> for Protection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            let bits = u8::deserialize(deserializer)?;
            return Self::from_bits(bits)
                .ok_or_else(|| de::Error::custom(format!("protection bits {bits} out of range")));
        }
        let text = String::deserialize(deserializer)?;
        (0..8)
            .map(Self)
            .find(|protection| protection.to_string() == text)
            .ok_or_else(|| de::Error::custom(format!("protection `{text}` is not of the form `rwx`, `r--`, `---`")))
    }
}

/// Where `mmap` puts the mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// `MAP_FIXED`: replaces what is there.
    Fixed,
    /// `MAP_FIXED_NOREPLACE`: fails with EEXIST when anything is there.
    FixedNoReplace,
}

/// What `madvise` is told, apart from `MADV_DONTNEED`, which has an operation of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// `MADV_COLD`: pages that nobody else maps become old.
    Cold,
    /// `MADV_POPULATE_READ`: fault in as loads would.
    PopulateRead,
    /// `MADV_POPULATE_WRITE`: fault in as stores would.
    PopulateWrite,
    /// `MADV_WIPEONFORK`: a forked child finds the range empty.
    WipeOnFork,
    /// `MADV_KEEPONFORK`: the reverse.
    KeepOnFork,
    /// `MADV_DONTFORK`: a forked child does not have the range at all.
    DontFork,
    /// `MADV_DOFORK`: the reverse.
    DoFork,
    /// `MADV_FREE`: pages become clean; the kernel may take them instead of swapping them out.
    Free,
}

impl Advice {
    /// Every advice, in the order of the enumeration.
    pub const ALL: [Self; 8] = [
        Self::Cold,
        Self::PopulateRead,
        Self::PopulateWrite,
        Self::WipeOnFork,
        Self::KeepOnFork,
        Self::DontFork,
        Self::DoFork,
        Self::Free,
    ];

    /// The number that `madvise` takes (uapi/asm-generic/mman-common.h).
    #[must_use]
    pub fn number(self) -> i32 {
        match self {
            Self::Cold => 20,
            Self::PopulateRead => 22,
            Self::PopulateWrite => 23,
            Self::WipeOnFork => 18,
            Self::KeepOnFork => 19,
            Self::DontFork => 10,
            Self::DoFork => 11,
            Self::Free => 8,
        }
    }

    /// The constant's name behind `MADV_`.
    #[must_use]
    pub fn constant(self) -> &'static str {
        match self {
            Self::Cold => "COLD",
            Self::PopulateRead => "POPULATE_READ",
            Self::PopulateWrite => "POPULATE_WRITE",
            Self::WipeOnFork => "WIPEONFORK",
            Self::KeepOnFork => "KEEPONFORK",
            Self::DontFork => "DONTFORK",
            Self::DoFork => "DOFORK",
            Self::Free => "FREE",
        }
    }
}

/// One operation. The arena gives every address; see [`crate::arena`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// `mmap` of private anonymous memory.
    Mmap {
        /// Slots to map.
        range: PageRange,
        /// Protection of the new mapping.
        protection: Protection,
        /// Whether what is there is replaced.
        placement: Placement,
    },
    /// `munmap`.
    Munmap {
        /// Slots to unmap; holes are allowed.
        range: PageRange,
    },
    /// One 8-byte load from the first byte of the page.
    Read {
        /// Page to load from.
        page: PageIndex,
    },
    /// One 8-byte store of [`store_value`] to the first byte of the page.
    Write {
        /// Page to store to.
        page: PageIndex,
    },
    /// One instruction fetch from the first byte of the page.
    Execute {
        /// Page to fetch from.
        page: PageIndex,
    },
    /// `mprotect`.
    Mprotect {
        /// Slots to protect.
        range: PageRange,
        /// New protection.
        protection: Protection,
    },
    /// `fork`: the child is a new actor.
    Fork {
        /// Actor number that the child takes; it must be free.
        child: ActorId,
    },
    /// The actor exits.
    Exit,
    /// `madvise(MADV_DONTNEED)`.
    MadviseDontneed {
        /// Slots to discard.
        range: PageRange,
    },
    /// Write `4` to the actor's `/proc/pid/clear_refs`: soft-dirty is cleared everywhere.
    ClearSoftDirty,
    /// `map_shadow_stack` at a fixed address that must be free.
    MapShadowStack {
        /// Slots to map.
        range: PageRange,
        /// `SHADOW_STACK_SET_TOKEN`: the kernel writes a restore token in the last 8 bytes.
        token: bool,
    },
    /// WRSSQ: one 8-byte shadow-stack store of [`store_value`] to the first byte of the page.
    WriteShadowStack {
        /// Page to store to.
        page: PageIndex,
    },
    /// `madvise` with another advice.
    Madvise {
        /// Slots to advise on.
        range: PageRange,
        /// What the kernel is told.
        advice: Advice,
    },
    /// `mlock`.
    Mlock {
        /// Slots to lock and fault in.
        range: PageRange,
    },
    /// `munlock`.
    Munlock {
        /// Slots to unlock.
        range: PageRange,
    },
    /// `userfaultfd` and `UFFDIO_API`. A descriptor of that name is closed first.
    UffdOpen {
        /// Name that the descriptor gets.
        uffd: UffdId,
        /// Features asked for.
        features: UffdFeatures,
    },
    /// `close` of a userfaultfd.
    UffdClose {
        /// The descriptor.
        uffd: UffdId,
    },
    /// `UFFDIO_REGISTER`.
    UffdRegister {
        /// The descriptor.
        uffd: UffdId,
        /// Slots to register, of the memory of the descriptor's opener, as in all that follow.
        range: PageRange,
        /// What for.
        mode: UffdMode,
    },
    /// `UFFDIO_UNREGISTER`.
    UffdUnregister {
        /// The descriptor.
        uffd: UffdId,
        /// Slots to unregister.
        range: PageRange,
    },
    /// `UFFDIO_WRITEPROTECT`.
    UffdWriteProtect {
        /// The descriptor.
        uffd: UffdId,
        /// Slots to protect, or to free of protection.
        range: PageRange,
        /// `UFFDIO_WRITEPROTECT_MODE_WP`: protect.
        protect: bool,
    },
    /// `UFFDIO_COPY` of pages that begin with [`copy_value`].
    UffdCopy {
        /// The descriptor.
        uffd: UffdId,
        /// Slots to fill.
        range: PageRange,
        /// `UFFDIO_COPY_MODE_WP`: write-protected.
        protect: bool,
    },
    /// `UFFDIO_ZEROPAGE`.
    UffdZeropage {
        /// The descriptor.
        uffd: UffdId,
        /// Slots to fill.
        range: PageRange,
    },
    /// `UFFDIO_WAKE`: who waits in the range tries again.
    UffdWake {
        /// The descriptor.
        uffd: UffdId,
        /// Slots whose waiters are woken.
        range: PageRange,
    },
    /// The actor, whose access waits for a userfaultfd or did so, says what has become of it. Until then it does
    /// nothing else.
    UffdFinish,
}

/// The operations' names in the order of [`Operation::kind`]: those of stored programs, where each advice
/// of `madvise` counts as an operation of its own.
pub const OPERATION_NAMES: [&str; 31] = [
    "mmap",
    "munmap",
    "read",
    "write",
    "execute",
    "mprotect",
    "fork",
    "exit",
    "madvise-dontneed",
    "clear-soft-dirty",
    "map-shadow-stack",
    "write-shadow-stack",
    "madvise-cold",
    "madvise-populate-read",
    "madvise-populate-write",
    "madvise-wipe-on-fork",
    "madvise-keep-on-fork",
    "madvise-dont-fork",
    "madvise-do-fork",
    "madvise-free",
    "mlock",
    "munlock",
    "uffd-open",
    "uffd-close",
    "uffd-register",
    "uffd-unregister",
    "uffd-write-protect",
    "uffd-copy",
    "uffd-zeropage",
    "uffd-wake",
    "uffd-finish",
];

impl Operation {
    /// Index of the operation's name in [`OPERATION_NAMES`].
    #[must_use]
    pub fn kind(&self) -> usize {
        match self {
            Self::Mmap { .. } => 0,
            Self::Munmap { .. } => 1,
            Self::Read { .. } => 2,
            Self::Write { .. } => 3,
            Self::Execute { .. } => 4,
            Self::Mprotect { .. } => 5,
            Self::Fork { .. } => 6,
            Self::Exit => 7,
            Self::MadviseDontneed { .. } => 8,
            Self::ClearSoftDirty => 9,
            Self::MapShadowStack { .. } => 10,
            Self::WriteShadowStack { .. } => 11,
            Self::Madvise { advice, .. } => 12 + *advice as usize,
            Self::Mlock { .. } => 12 + Advice::ALL.len(),
            Self::Munlock { .. } => 13 + Advice::ALL.len(),
            Self::UffdOpen { .. } => 22,
            Self::UffdClose { .. } => 23,
            Self::UffdRegister { .. } => 24,
            Self::UffdUnregister { .. } => 25,
            Self::UffdWriteProtect { .. } => 26,
            Self::UffdCopy { .. } => 27,
            Self::UffdZeropage { .. } => 28,
            Self::UffdWake { .. } => 29,
            Self::UffdFinish => 30,
        }
    }

    /// The slots that the operation names as a range, if it takes one.
    #[must_use]
    pub fn range(&self) -> Option<PageRange> {
        match *self {
            Self::Mmap { range, .. }
            | Self::Munmap { range }
            | Self::Mprotect { range, .. }
            | Self::MadviseDontneed { range }
            | Self::Madvise { range, .. }
            | Self::Mlock { range }
            | Self::Munlock { range }
            | Self::MapShadowStack { range, .. }
            | Self::UffdRegister { range, .. }
            | Self::UffdUnregister { range, .. }
            | Self::UffdWriteProtect { range, .. }
            | Self::UffdCopy { range, .. }
            | Self::UffdZeropage { range, .. }
            | Self::UffdWake { range, .. } => Some(range),
            _ => None,
        }
    }

    /// The same operation on another range; one that takes none is left as it is.
    #[must_use]
    pub fn with_uffd_range(self, new: PageRange) -> Self {
        match self {
            Self::UffdRegister { uffd, mode, .. } => Self::UffdRegister { uffd, range: new, mode },
            Self::UffdUnregister { uffd, .. } => Self::UffdUnregister { uffd, range: new },
            Self::UffdWriteProtect { uffd, protect, .. } => Self::UffdWriteProtect { uffd, range: new, protect },
            Self::UffdCopy { uffd, protect, .. } => Self::UffdCopy { uffd, range: new, protect },
            Self::UffdZeropage { uffd, .. } => Self::UffdZeropage { uffd, range: new },
            Self::UffdWake { uffd, .. } => Self::UffdWake { uffd, range: new },
            other => other,
        }
    }

    /// The page that the operation accesses, if it is an access.
    #[must_use]
    pub fn page(&self) -> Option<PageIndex> {
        match *self {
            Self::Read { page } | Self::Write { page } | Self::Execute { page } | Self::WriteShadowStack { page } => {
                Some(page)
            }
            _ => None,
        }
    }

    /// The operation's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        OPERATION_NAMES[self.kind()]
    }

    /// Whether the operation can only be carried out on a CPU with user shadow stacks.
    /// (`map_shadow_stack` can be *called* anywhere; WRSS is an undefined instruction without them.)
    #[must_use]
    pub fn needs_shadow_stack(&self) -> bool {
        matches!(self, Self::WriteShadowStack { .. })
    }
}

/// One operation of one actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Who acts.
    pub actor: ActorId,
    /// What it does.
    pub operation: Operation,
}

/// A list of steps. It starts with actor 0 alive and the arena unmapped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Program {
    /// The steps, at most [`MAX_STEPS`].
    pub steps: Vec<Step>,
}

/// The value that a store of the step with this index writes.
///
/// No two steps store the same value, so a load tells which store it sees. The low 16 bits are the
/// instruction `jmp *%rcx`, so that a page that was written can be executed (see `harness/execute`).
#[must_use]
pub fn store_value(step_index: usize) -> u64 {
    ((step_index as u64 + 1) << 16) | 0xe1ff
}

/// The first eight bytes of the page that the step of this index copies to the `place`-th slot of its range:
/// a value that can be executed, as [`store_value`]'s.
#[must_use]
pub fn copy_value(step_index: usize, place: usize) -> u64 {
    store_value(step_index) | (place as u64 + 1) << 48
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "actor {}: {}", self.actor.index(), self.operation)
    }
}

fn slots(range: &PageRange) -> String {
    match range.pages() {
        1 => format!("page {}", range.first()),
        _ => format!("pages {}..={}", range.first(), range.end() - 1),
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmap { range, protection, placement } => {
                let flag = match placement {
                    Placement::Fixed => "MAP_FIXED",
                    Placement::FixedNoReplace => "MAP_FIXED_NOREPLACE",
                };
                write!(formatter, "mmap {} {protection} {flag}", slots(range))
            }
            Self::Munmap { range } => write!(formatter, "munmap {}", slots(range)),
            Self::Read { page } => write!(formatter, "read page {}", page.index()),
            Self::Write { page } => write!(formatter, "write page {}", page.index()),
            Self::Execute { page } => write!(formatter, "execute page {}", page.index()),
            Self::Mprotect { range, protection } => {
                write!(formatter, "mprotect {} {protection}", slots(range))
            }
            Self::Fork { child } => write!(formatter, "fork actor {}", child.index()),
            Self::Exit => write!(formatter, "exit"),
            Self::MadviseDontneed { range } => {
                write!(formatter, "madvise(DONTNEED) {}", slots(range))
            }
            Self::ClearSoftDirty => write!(formatter, "clear_refs soft-dirty"),
            Self::MapShadowStack { range, token } => {
                write!(formatter, "map_shadow_stack {}{}", slots(range), if *token { " with token" } else { "" })
            }
            Self::WriteShadowStack { page } => write!(formatter, "wrss page {}", page.index()),
            Self::Madvise { range, advice } => write!(formatter, "madvise({}) {}", advice.constant(), slots(range)),
            Self::Mlock { range } => write!(formatter, "mlock {}", slots(range)),
            Self::Munlock { range } => write!(formatter, "munlock {}", slots(range)),
            Self::UffdOpen { uffd, features } => write!(formatter, "open uffd {} with {features}", uffd.index()),
            Self::UffdClose { uffd } => write!(formatter, "close uffd {}", uffd.index()),
            Self::UffdRegister { uffd, range, mode } => {
                write!(formatter, "uffd {}: register {} {mode}", uffd.index(), slots(range))
            }
            Self::UffdUnregister { uffd, range } => {
                write!(formatter, "uffd {}: unregister {}", uffd.index(), slots(range))
            }
            Self::UffdWriteProtect { uffd, range, protect } => {
                let what = if *protect { "write-protect" } else { "write-unprotect" };
                write!(formatter, "uffd {}: {what} {}", uffd.index(), slots(range))
            }
            Self::UffdCopy { uffd, range, protect } => {
                let how = if *protect { " write-protected" } else { "" };
                write!(formatter, "uffd {}: copy to {}{how}", uffd.index(), slots(range))
            }
            Self::UffdZeropage { uffd, range } => {
                write!(formatter, "uffd {}: zero page to {}", uffd.index(), slots(range))
            }
            Self::UffdWake { uffd, range } => write!(formatter, "uffd {}: wake {}", uffd.index(), slots(range)),
            Self::UffdFinish => write!(formatter, "finish the access that waited"),
        }
    }
}
