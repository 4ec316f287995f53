//! A program: a list of steps, each one operation of one actor on the arena.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::arena::{ActorId, PageIndex, PageRange};
use crate::outcome::Outcome;
use crate::protection_key::{KeyArgument, KeyRights, ProtectionKey};
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

impl fmt::Display for Placement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Fixed => "MAP_FIXED",
            Self::FixedNoReplace => "MAP_FIXED_NOREPLACE",
        })
    }
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
    /// `MADV_PAGEOUT`: pages that nobody else maps are swapped out.
    PageOut,
    /// `MADV_MERGEABLE`: KSM may merge pages with equal ones.
    Mergeable,
    /// `MADV_UNMERGEABLE`: the reverse; merged pages get frames of their own.
    Unmergeable,
}

impl Advice {
    /// Every advice, in the order of the enumeration.
    pub const ALL: [Self; 11] = [
        Self::Cold,
        Self::PopulateRead,
        Self::PopulateWrite,
        Self::WipeOnFork,
        Self::KeepOnFork,
        Self::DontFork,
        Self::DoFork,
        Self::Free,
        Self::PageOut,
        Self::Mergeable,
        Self::Unmergeable,
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
            Self::PageOut => 21,
            Self::Mergeable => 12,
            Self::Unmergeable => 13,
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
            Self::PageOut => "PAGEOUT",
            Self::Mergeable => "MERGEABLE",
            Self::Unmergeable => "UNMERGEABLE",
        }
    }
}

/// Most frames that one `Call`, `Return` or `DiscardFrames` is for: two pages of a shadow stack.
pub const MAX_FRAMES: u16 = 1024;

/// A number of frames on a shadow stack that is 0 or above [`MAX_FRAMES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} frames: at least 1 and at most {MAX_FRAMES} are allowed")]
pub struct FramesOutOfRange(u16);

/// Frames on a shadow stack, 8 bytes each: `1..=MAX_FRAMES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct FrameCount(u16);

impl FrameCount {
    /// One frame.
    pub const ONE: Self = Self(1);

    /// How many, at least 1.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for FrameCount {
    type Error = FramesOutOfRange;
    fn try_from(count: u16) -> Result<Self, FramesOutOfRange> {
        if (1..=MAX_FRAMES).contains(&count) { Ok(Self(count)) } else { Err(FramesOutOfRange(count)) }
    }
}

impl From<FrameCount> for u16 {
    fn from(count: FrameCount) -> Self {
        count.0
    }
}

/// What `arch_prctl` is asked to do with the features of shadow stacks (uapi/asm/prctl.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShadowStackControl {
    /// `ARCH_SHSTK_ENABLE`.
    Enable,
    /// `ARCH_SHSTK_DISABLE`.
    Disable,
    /// `ARCH_SHSTK_LOCK`: no change of the features any more.
    Lock,
    /// `ARCH_SHSTK_UNLOCK`, which only a tracer may.
    Unlock,
}

impl ShadowStackControl {
    /// Every control, in the order of the enumeration.
    pub const ALL: [Self; 4] = [Self::Enable, Self::Disable, Self::Lock, Self::Unlock];

    /// The number that `arch_prctl` takes.
    #[must_use]
    pub fn number(self) -> u64 {
        0x5001 + self as u64
    }

    /// The constant's name behind `ARCH_SHSTK_`.
    #[must_use]
    pub fn constant(self) -> &'static str {
        match self {
            Self::Enable => "ENABLE",
            Self::Disable => "DISABLE",
            Self::Lock => "LOCK",
            Self::Unlock => "UNLOCK",
        }
    }
}

/// A set of features of shadow stacks, as `arch_prctl` takes it: `ARCH_SHSTK_SHSTK`, `ARCH_SHSTK_WRSS`, and
/// one bit that no kernel knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct ShadowStackFeatures(u8);

/// A feature bit above those that programs may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("shadow-stack features {0}: at most 7 (1 shadow stack, 2 WRSS, 4 unknown to the kernel)")]
pub struct UnknownFeatures(u8);

impl ShadowStackFeatures {
    /// `ARCH_SHSTK_SHSTK`.
    pub const SHADOW_STACK: Self = Self(1);
    /// `ARCH_SHSTK_WRSS`.
    pub const WRSS: Self = Self(2);

    /// The bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for ShadowStackFeatures {
    type Error = UnknownFeatures;
    fn try_from(bits: u8) -> Result<Self, UnknownFeatures> {
        if bits < 8 { Ok(Self(bits)) } else { Err(UnknownFeatures(bits)) }
    }
}

impl From<ShadowStackFeatures> for u8 {
    fn from(features: ShadowStackFeatures) -> Self {
        features.0
    }
}

impl fmt::Display for ShadowStackFeatures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = [(1, "SHSTK"), (2, "WRSS"), (4, "0x4")]
            .into_iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| name)
            .collect();
        formatter.write_str(&if names.is_empty() { "0".to_owned() } else { names.join("|") })
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
    /// `mremap` to a place of its own: `MREMAP_MAYMOVE | MREMAP_FIXED`.
    Mremap {
        /// Slots to move.
        range: PageRange,
        /// Where they come to lie, and how many they are then.
        to: PageRange,
        /// `MREMAP_DONTUNMAP`: the VMA stays where it was, its entries go.
        keep: bool,
    },
    /// `mremap` in place, without flags: the mapping becomes shorter or longer.
    MremapResize {
        /// Slots of the old length.
        range: PageRange,
        /// Pages of the new length, which end in the arena; `mremap` refuses 0.
        pages: u8,
    },
    /// `pkey_alloc`: gives the lowest free protection key.
    PkeyAlloc {
        /// The actor's rights to pages of the new key.
        rights: KeyRights,
    },
    /// `pkey_free`.
    PkeyFree {
        /// Key to free; pages may still have it.
        key: ProtectionKey,
    },
    /// `pkey_mprotect`.
    PkeyMprotect {
        /// Slots to protect.
        range: PageRange,
        /// New protection.
        protection: Protection,
        /// New key.
        key: KeyArgument,
    },
    /// RDPKRU, then WRPKRU with other rights for one key; gives what RDPKRU read.
    WritePkru {
        /// Key whose rights change, allocated or not.
        key: ProtectionKey,
        /// The new rights.
        rights: KeyRights,
    },
    /// A system call that reads 8 bytes from the first byte of the page: `write` to an eventfd, from which the
    /// actor then takes the value.
    ReadBySystemCall {
        /// Page that the kernel reads from.
        page: PageIndex,
    },
    /// A system call that writes the 8 bytes of [`store_value`] to the first byte of the page: `read` of an
    /// eventfd to which the actor gave the value.
    WriteBySystemCall {
        /// Page that the kernel writes to.
        page: PageIndex,
    },
    /// The actor moves onto a shadow stack of the arena, and stays there: RSTORSSP on a restore token, then
    /// SAVEPREVSSP, which leaves a token on the stack it came from.
    EnterShadowStack {
        /// Page whose last 8 bytes hold the token.
        page: PageIndex,
    },
    /// The actor moves back to its own shadow stack, outside the arena, by the token that it left there.
    LeaveShadowStack,
    /// Nested CALLs on the arena's shadow stack: each pushes [`RETURN_SITE`](crate::arena::RETURN_SITE).
    Call {
        /// How many.
        frames: FrameCount,
    },
    /// RETs to [`RETURN_SITE`](crate::arena::RETURN_SITE): each pops the arena's shadow stack.
    Return {
        /// How many.
        frames: FrameCount,
    },
    /// INCSSPQ on the arena's shadow stack, by at most 255 frames at a time.
    DiscardFrames {
        /// How many.
        frames: FrameCount,
    },
    /// WRSSQ of [`store_value`] over the frame on top of the arena's shadow stack.
    OverwriteReturn,
    /// `arch_prctl` with a control of shadow-stack features.
    ControlShadowStack {
        /// What to do.
        control: ShadowStackControl,
        /// With which features.
        features: ShadowStackFeatures,
    },
    /// `arch_prctl(ARCH_SHSTK_STATUS)`: which features are on.
    ShadowStackStatus,
    /// `mmap` of shared anonymous memory: a shmem object of its own, which forked children share.
    MmapShared {
        /// Slots to map.
        range: PageRange,
        /// Protection of the new mapping.
        protection: Protection,
        /// Whether what is there is replaced.
        placement: Placement,
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
    /// `pwrite` of the 8 bytes of [`store_value`] to the first byte of the page, through `/proc/self/mem`: the
    /// kernel writes, by get_user_pages with FOLL_FORCE where it forces such writes, whatever the VMA's rights.
    WriteProcMem {
        /// Page that the kernel writes to.
        page: PageIndex,
    },
    /// ksmd scans all mergeable pages three times, after which it has merged what it can. Not the actor's own doing.
    MergePages,
}

/// The operations' names in the order of [`Operation::kind`]: those of stored programs, where each advice
/// of `madvise` and each use of `mremap` counts as an operation of its own.
pub const OPERATION_NAMES: [&str; 58] = [
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
    "mremap-move",
    "mremap-move-resize",
    "mremap-dont-unmap",
    "mremap-resize",
    "pkey-alloc",
    "pkey-free",
    "pkey-mprotect",
    "write-pkru",
    "read-by-system-call",
    "write-by-system-call",
    "enter-shadow-stack",
    "leave-shadow-stack",
    "call",
    "return",
    "discard-frames",
    "overwrite-return",
    "shadow-stack-enable",
    "shadow-stack-disable",
    "shadow-stack-lock",
    "shadow-stack-unlock",
    "shadow-stack-status",
    "mmap-shared",
    "uffd-open",
    "uffd-close",
    "uffd-register",
    "uffd-unregister",
    "uffd-write-protect",
    "uffd-copy",
    "uffd-zeropage",
    "uffd-wake",
    "uffd-finish",
    "write-proc-mem",
    "madvise-page-out",
    "madvise-mergeable",
    "madvise-unmergeable",
    "merge-pages",
];

/// Where the kernel works on page tables for an operation, in the order of [`OPERATION_NAMES`]: files with functions of
/// 6.12, the system call's own first. It is for people who look into a difference that no rule explains.
const OPERATION_FUNCTIONS: [&str; OPERATION_NAMES.len()] = [
    "mm/mmap.c: do_mmap",
    "mm/memory.c: unmap_vmas",
    "mm/memory.c: handle_mm_fault",
    "mm/memory.c: handle_mm_fault",
    "mm/memory.c: handle_mm_fault",
    "mm/mprotect.c: do_mprotect_pkey, change_protection",
    "mm/memory.c: copy_page_range",
    "mm/mmap.c: exit_mmap",
    "mm/madvise.c: madvise_dontneed_single_vma",
    "fs/proc/task_mmu.c: clear_refs_write, clear_refs_pte_range",
    "arch/x86/kernel/shstk.c: alloc_shstk",
    "mm/memory.c: handle_mm_fault",
    "mm/madvise.c: madvise_cold_or_pageout_pte_range",
    "mm/madvise.c: madvise_populate",
    "mm/madvise.c: madvise_populate",
    "mm/madvise.c: madvise_vma_behavior",
    "mm/madvise.c: madvise_vma_behavior",
    "mm/madvise.c: madvise_vma_behavior",
    "mm/madvise.c: madvise_vma_behavior",
    "mm/madvise.c: madvise_free_pte_range",
    "mm/mlock.c: do_mlock, mlock_pte_range",
    "mm/mlock.c: apply_vma_lock_flags, mlock_pte_range",
    "mm/mremap.c: move_page_tables",
    "mm/mremap.c: move_page_tables",
    "mm/mremap.c: move_page_tables",
    "mm/mremap.c: mremap",
    "arch/x86/include/asm/pkeys.h: mm_pkey_alloc",
    "arch/x86/include/asm/pkeys.h: mm_pkey_free",
    "mm/mprotect.c: do_mprotect_pkey, change_protection",
    "none: WRPKRU is an instruction",
    "mm/memory.c: handle_mm_fault",
    "mm/memory.c: handle_mm_fault",
    "none: RSTORSSP and SAVEPREVSSP are instructions; mm/memory.c: handle_mm_fault",
    "none: RSTORSSP and SAVEPREVSSP are instructions; mm/memory.c: handle_mm_fault",
    "mm/memory.c: handle_mm_fault",
    "mm/memory.c: handle_mm_fault",
    "mm/memory.c: handle_mm_fault",
    "mm/memory.c: handle_mm_fault",
    "arch/x86/kernel/shstk.c: shstk_prctl",
    "arch/x86/kernel/shstk.c: shstk_prctl",
    "arch/x86/kernel/shstk.c: shstk_prctl",
    "arch/x86/kernel/shstk.c: shstk_prctl",
    "arch/x86/kernel/shstk.c: shstk_prctl",
    "mm/mmap.c: do_mmap",
    "fs/userfaultfd.c: new_userfaultfd",
    "fs/userfaultfd.c: userfaultfd_release",
    "fs/userfaultfd.c: userfaultfd_register",
    "fs/userfaultfd.c: userfaultfd_unregister",
    "mm/userfaultfd.c: mwriteprotect_range",
    "mm/userfaultfd.c: mfill_atomic_copy",
    "mm/userfaultfd.c: mfill_atomic_zeropage",
    "fs/userfaultfd.c: userfaultfd_wake",
    "mm/memory.c: handle_mm_fault",
    "fs/proc/base.c: mem_rw; mm/memory.c: access_remote_vm",
    "mm/madvise.c: madvise_cold_or_pageout_pte_range; mm/vmscan.c: reclaim_pages; mm/rmap.c: try_to_unmap_one",
    "mm/ksm.c: ksm_madvise",
    "mm/ksm.c: ksm_madvise",
    "mm/ksm.c: ksm_do_scan",
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
            Self::Madvise { advice: advice @ (Advice::PageOut | Advice::Mergeable | Advice::Unmergeable), .. } => {
                54 + *advice as usize - Advice::PageOut as usize
            }
            Self::Madvise { advice, .. } => 12 + *advice as usize,
            Self::Mlock { .. } => 20,
            Self::Munlock { .. } => 21,
            Self::Mremap { keep: true, .. } => 24,
            Self::Mremap { range, to, .. } if range.pages() == to.pages() => 22,
            Self::Mremap { .. } => 23,
            Self::MremapResize { .. } => 25,
            Self::PkeyAlloc { .. } => 26,
            Self::PkeyFree { .. } => 27,
            Self::PkeyMprotect { .. } => 28,
            Self::WritePkru { .. } => 29,
            Self::ReadBySystemCall { .. } => 30,
            Self::WriteBySystemCall { .. } => 31,
            Self::EnterShadowStack { .. } => 32,
            Self::LeaveShadowStack => 33,
            Self::Call { .. } => 34,
            Self::Return { .. } => 35,
            Self::DiscardFrames { .. } => 36,
            Self::OverwriteReturn => 37,
            Self::ControlShadowStack { control, .. } => 38 + *control as usize,
            Self::ShadowStackStatus => 38 + ShadowStackControl::ALL.len(),
            Self::MmapShared { .. } => 43,
            Self::UffdOpen { .. } => 44,
            Self::UffdClose { .. } => 45,
            Self::UffdRegister { .. } => 46,
            Self::UffdUnregister { .. } => 47,
            Self::UffdWriteProtect { .. } => 48,
            Self::UffdCopy { .. } => 49,
            Self::UffdZeropage { .. } => 50,
            Self::UffdWake { .. } => 51,
            Self::UffdFinish => 52,
            Self::WriteProcMem { .. } => 53,
            Self::MergePages => 57,
        }
    }

    /// The kernel's functions that work on page tables for this operation: `file: function`, several by semicolon.
    #[must_use]
    pub fn kernel_functions(&self) -> &'static str {
        OPERATION_FUNCTIONS[self.kind()]
    }

    /// The slots that the operation names as a range, if it takes one.
    #[must_use]
    pub fn range(&self) -> Option<PageRange> {
        match *self {
            Self::Mmap { range, .. }
            | Self::MmapShared { range, .. }
            | Self::Munmap { range }
            | Self::Mprotect { range, .. }
            | Self::MadviseDontneed { range }
            | Self::Madvise { range, .. }
            | Self::Mlock { range }
            | Self::Munlock { range }
            | Self::Mremap { range, .. }
            | Self::MremapResize { range, .. }
            | Self::PkeyMprotect { range, .. }
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

    /// The slots where the operation leaves the memory of [`Self::range`], if that is another range.
    #[must_use]
    pub fn destination(&self) -> Option<PageRange> {
        match *self {
            Self::Mremap { to, .. } => Some(to),
            Self::MremapResize { range, pages } => PageRange::new(range.first(), usize::from(pages)).ok(),
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
            Self::Read { page }
            | Self::Write { page }
            | Self::Execute { page }
            | Self::WriteShadowStack { page }
            | Self::ReadBySystemCall { page }
            | Self::WriteBySystemCall { page }
            | Self::WriteProcMem { page }
            | Self::EnterShadowStack { page } => Some(page),
            _ => None,
        }
    }

    /// The operation's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        OPERATION_NAMES[self.kind()]
    }

    /// Whether the operation may take mappings away, and with the last one of a shmem object the object. Until
    /// one does, the object's frames are its own, mapped or not.
    #[must_use]
    pub fn unmaps(&self) -> bool {
        matches!(
            self,
            Self::Mmap { .. }
                | Self::MmapShared { .. }
                | Self::Munmap { .. }
                | Self::Mremap { .. }
                | Self::MremapResize { .. }
                | Self::Exit
        )
    }

    /// Whether the operation puts pages out to swap.
    #[must_use]
    pub fn swaps(&self) -> bool {
        matches!(self, Self::Madvise { advice: Advice::PageOut, .. })
    }

    /// Whether the operation has ksmd merge pages.
    #[must_use]
    pub fn merges(&self) -> bool {
        matches!(self, Self::MergePages | Self::Madvise { advice: Advice::Mergeable, .. })
    }

    /// Whether the operation can only be carried out on a CPU with user shadow stacks.
    /// (`map_shadow_stack` can be *called* anywhere; WRSS is an undefined instruction without them.)
    #[must_use]
    pub fn needs_shadow_stack(&self) -> bool {
        matches!(self, Self::WriteShadowStack { .. }) || self.is_on_live_shadow_stack()
    }

    /// Whether the operation is a call on a userfaultfd, opening and closing included.
    #[must_use]
    pub fn is_on_uffd(&self) -> bool {
        matches!(
            self,
            Self::UffdOpen { .. }
                | Self::UffdClose { .. }
                | Self::UffdRegister { .. }
                | Self::UffdUnregister { .. }
                | Self::UffdWriteProtect { .. }
                | Self::UffdCopy { .. }
                | Self::UffdZeropage { .. }
                | Self::UffdWake { .. }
        )
    }

    /// Whether an operation with this outcome did what it is for. On a live shadow stack SSP is loaded in the
    /// end, which is 0 where there was none to work on.
    #[must_use]
    pub fn succeeds_with(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Failed(_) | Outcome::Faulted(_) | Outcome::Elsewhere(_) | Outcome::Killed(_) | Outcome::Dead => {
                false
            }
            Outcome::Loaded(0) if self.is_on_live_shadow_stack() => *self == Self::LeaveShadowStack,
            _ => true,
        }
    }

    /// Whether the operation is an instruction that works on the shadow stack on which the actor runs.
    #[must_use]
    pub fn is_on_live_shadow_stack(&self) -> bool {
        matches!(
            self,
            Self::EnterShadowStack { .. }
                | Self::LeaveShadowStack
                | Self::Call { .. }
                | Self::Return { .. }
                | Self::DiscardFrames { .. }
                | Self::OverwriteReturn
        )
    }

    /// Whether the operation can only be carried out on a CPU with protection keys. (The system calls can be
    /// *called* anywhere; WRPKRU is an undefined instruction without them.)
    #[must_use]
    pub fn needs_protection_keys(&self) -> bool {
        matches!(self, Self::WritePkru { .. })
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
                write!(formatter, "mmap {} {protection} {placement}", slots(range))
            }
            Self::MmapShared { range, protection, placement } => {
                write!(formatter, "mmap {} {protection} MAP_SHARED {placement}", slots(range))
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
            Self::Mremap { range, to, keep } => {
                let flag = if *keep { " MREMAP_DONTUNMAP" } else { "" };
                write!(formatter, "mremap {} to {}{flag}", slots(range), slots(to))
            }
            Self::MremapResize { range, pages } => write!(formatter, "mremap {} in place, {pages} pages", slots(range)),
            Self::PkeyAlloc { rights } => write!(formatter, "pkey_alloc {rights}"),
            Self::PkeyFree { key } => write!(formatter, "pkey_free {}", key.number()),
            Self::PkeyMprotect { range, protection, key } => {
                write!(formatter, "pkey_mprotect {} {protection} key {}", slots(range), key.number())
            }
            Self::WritePkru { key, rights } => write!(formatter, "wrpkru key {} {rights}", key.number()),
            Self::ReadBySystemCall { page } => write!(formatter, "system call reads page {}", page.index()),
            Self::WriteBySystemCall { page } => write!(formatter, "system call writes page {}", page.index()),
            Self::EnterShadowStack { page } => write!(formatter, "enter shadow stack page {}", page.index()),
            Self::LeaveShadowStack => write!(formatter, "leave shadow stack"),
            Self::Call { frames } => write!(formatter, "call, {} deep", frames.get()),
            Self::Return { frames } => write!(formatter, "return from {}", frames.get()),
            Self::DiscardFrames { frames } => write!(formatter, "discard {} frames", frames.get()),
            Self::OverwriteReturn => write!(formatter, "overwrite the return address"),
            Self::ControlShadowStack { control, features } => {
                write!(formatter, "arch_prctl(SHSTK_{}, {features})", control.constant())
            }
            Self::ShadowStackStatus => write!(formatter, "arch_prctl(SHSTK_STATUS)"),
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
            Self::WriteProcMem { page } => write!(formatter, "write page {} through /proc/self/mem", page.index()),
            Self::MergePages => write!(formatter, "ksmd merges pages"),
        }
    }
}
