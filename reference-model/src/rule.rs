//! Rules: every statement of the model about the kernel or the CPU, with its name and its source.
//!
//! A rule fires when a step makes the model apply it. Campaigns count the rules that fired; mutation
//! testing flips each output of each rule (see [`crate::mutation`]) and demands that recorded traces notice.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::machine::Dialect;

/// What a rule puts out, and so what can be wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A system call's success.
    Success,
    /// A system call's errno.
    Errno,
    /// The value of a load.
    Loaded,
    /// A store that retires.
    Stored,
    /// A fetch that is executed.
    Executed,
    /// A signal with its details.
    Fault,
    /// An entry, changed by the CPU.
    EntryByCpu,
    /// An entry and a fault transition.
    EntryByFault,
    /// An entry and a fork transition.
    EntryByFork,
    /// An entry and a write-protection transition of mprotect.
    EntryByProtect,
    /// An entry and a write-protection transition of clear_refs.
    EntryByClearRefs,
    /// An entry, changed or kept by advice, without a transition.
    EntryByAdvice,
    /// An entry that is emptied or stays empty.
    EntryZap,
    /// Flags and anon_vma of a VMA.
    Vma,
    /// `vm_page_prot` of a shared VMA.
    PageProtection,
    /// Dirtiness of a shmem object's folio.
    Folio,
}

/// A rule's documentation.
#[derive(Debug, Clone, Copy)]
pub struct RuleInfo {
    /// The rule.
    pub rule: Rule,
    /// Stable name.
    pub identifier: &'static str,
    /// What it puts out.
    pub kind: Kind,
    /// Kernel function (file: function) or SDM section that it describes.
    pub source: &'static str,
    /// Dialects for which it was read and observed.
    pub dialects: &'static [Dialect],
    /// What it says.
    pub statement: &'static str,
}

/// Every dialect.
const ALL: &[Dialect] = &[Dialect::Linux6_1, Dialect::Linux6_12, Dialect::Linux7_2];
/// Those with user shadow stacks; 6.12 and later.
const SHADOW_STACK: &[Dialect] = &[Dialect::Linux6_12, Dialect::Linux7_2];
/// Those whose read faults look at the folio's dirtiness.
const FOLIO_DIRTY: &[Dialect] = &[Dialect::Linux7_2];

/// A rule of the model. The table [`RULES`] says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each variant is documented by its row of RULES, which reports print")]
pub enum Rule {
    MmapFixed,
    MmapFree,
    MmapOccupied,
    Munmap,
    MprotectAll,
    MprotectHoleFirst,
    MprotectHoleLater,
    Fork,
    Exit,
    DontneedAll,
    DontneedHole,
    ClearRefs,
    ShadowStackMapped,
    ShadowStackOccupied,
    ShadowStackUnsupported,
    Load,
    Store,
    Fetch,
    ShadowStackStore,
    FaultUnmapped,
    FaultReadDenied,
    FaultWriteDenied,
    FaultWriteToShadowStack,
    FaultFetchDenied,
    FaultShadowStackDenied,
    CpuAccessed,
    ZeroPage,
    NewPage,
    NewShadowStackPage,
    ZeroPageCopied,
    ZeroPageCopiedShadowStack,
    WpCopy,
    WpCopyShadowStack,
    WpReuseExclusive,
    WpReuseExclusiveShadowStack,
    WpReuseLast,
    WpReuseLastShadowStack,
    ForkParentProtected,
    ForkParentShadowStack,
    ForkParentKept,
    ForkParentSkipped,
    ForkChild,
    ForkChildZeroPage,
    ForkChildSkipped,
    ProtectNone,
    ProtectReadOnly,
    ProtectWritable,
    ProtectNotExclusive,
    ProtectSoftDirty,
    ProtectShadowStack,
    ClearRefsProtected,
    ClearRefsShadowStack,
    ZapMunmap,
    ZapReplaced,
    ZapDontneed,
    VmaNew,
    VmaMergeNew,
    VmaMergeProtect,
    VmaClearSoftDirty,
    VmaFork,
    VmaAnonPrepare,
    AdviceTaken,
    AdviceHole,
    ColdOld,
    ColdKept,
    Populated,
    PopulateHole,
    PopulateDenied,
    VmaMergeAdvice,
    ForkChildWiped,
    ForkChildAbsent,
    CpuDirty,
    FreeClean,
    FreeKept,
    AdviceLocked,
    Mlock,
    MlockHole,
    MlockNotPopulated,
    Munlock,
    VmaMergeLock,
    VmaShared,
    VmaWriteNotified,
    SharedNew,
    SharedNewWritten,
    SharedRead,
    SharedReadDirty,
    SharedWritten,
    SharedReuse,
    SharedFolioDirty,
    ForkParentShared,
    ForkChildShared,
    ProtectShared,
    ProtectSharedNotified,
    AdviceShared,
}

/// Every rule, in the order of the enumeration.
pub const RULES: [RuleInfo; 94] = [
    RuleInfo {
        rule: Rule::MmapFixed,
        identifier: "mmap.fixed",
        kind: Kind::Success,
        source: "mm/mmap.c: do_mmap",
        dialects: ALL,
        statement: "MAP_FIXED succeeds and gives the address asked for.",
    },
    RuleInfo {
        rule: Rule::MmapFree,
        identifier: "mmap.noreplace.free",
        kind: Kind::Success,
        source: "mm/mmap.c: do_mmap",
        dialects: ALL,
        statement: "MAP_FIXED_NOREPLACE over a free range succeeds.",
    },
    RuleInfo {
        rule: Rule::MmapOccupied,
        identifier: "mmap.noreplace.occupied",
        kind: Kind::Errno,
        source: "mm/mmap.c: do_mmap",
        dialects: ALL,
        statement: "MAP_FIXED_NOREPLACE over any mapping fails with EEXIST and changes nothing.",
    },
    RuleInfo {
        rule: Rule::Munmap,
        identifier: "munmap",
        kind: Kind::Success,
        source: "mm/vma.c: do_vmi_munmap",
        dialects: ALL,
        statement: "munmap succeeds, holes or not.",
    },
    RuleInfo {
        rule: Rule::MprotectAll,
        identifier: "mprotect.mapped",
        kind: Kind::Success,
        source: "mm/mprotect.c: do_mprotect_pkey",
        dialects: ALL,
        statement: "mprotect of a range without holes succeeds.",
    },
    RuleInfo {
        rule: Rule::MprotectHoleFirst,
        identifier: "mprotect.hole-first",
        kind: Kind::Errno,
        source: "mm/mprotect.c: do_mprotect_pkey",
        dialects: ALL,
        statement: "A hole at the start of the range: ENOMEM, nothing changed.",
    },
    RuleInfo {
        rule: Rule::MprotectHoleLater,
        identifier: "mprotect.hole-later",
        kind: Kind::Errno,
        source: "mm/mprotect.c: do_mprotect_pkey",
        dialects: ALL,
        statement: "A hole later in the range: ENOMEM, what stands before the hole is changed.",
    },
    RuleInfo {
        rule: Rule::Fork,
        identifier: "fork",
        kind: Kind::Success,
        source: "kernel/fork.c: kernel_clone",
        dialects: ALL,
        statement: "fork succeeds.",
    },
    RuleInfo {
        rule: Rule::Exit,
        identifier: "exit",
        kind: Kind::Success,
        source: "kernel/exit.c: do_exit",
        dialects: ALL,
        statement: "The actor is gone and its mappings with it.",
    },
    RuleInfo {
        rule: Rule::DontneedAll,
        identifier: "dontneed.mapped",
        kind: Kind::Success,
        source: "mm/madvise.c: madvise_walk_vmas",
        dialects: ALL,
        statement: "MADV_DONTNEED of a range without holes succeeds.",
    },
    RuleInfo {
        rule: Rule::DontneedHole,
        identifier: "dontneed.hole",
        kind: Kind::Errno,
        source: "mm/madvise.c: madvise_walk_vmas",
        dialects: ALL,
        statement: "A hole in the range: ENOMEM, but every mapped part is discarded.",
    },
    RuleInfo {
        rule: Rule::ClearRefs,
        identifier: "clear-refs",
        kind: Kind::Success,
        source: "fs/proc/task_mmu.c: clear_refs_write",
        dialects: ALL,
        statement: "Writing 4 to clear_refs succeeds.",
    },
    RuleInfo {
        rule: Rule::ShadowStackMapped,
        identifier: "shadow-stack.map",
        kind: Kind::Success,
        source: "arch/x86/kernel/shstk.c: map_shadow_stack",
        dialects: SHADOW_STACK,
        statement: "map_shadow_stack at a free address gives that address.",
    },
    RuleInfo {
        rule: Rule::ShadowStackOccupied,
        identifier: "shadow-stack.map.occupied",
        kind: Kind::Errno,
        source: "arch/x86/kernel/shstk.c: alloc_shstk",
        dialects: SHADOW_STACK,
        statement: "The address is MAP_FIXED_NOREPLACE: EEXIST over any mapping.",
    },
    RuleInfo {
        rule: Rule::ShadowStackUnsupported,
        identifier: "shadow-stack.map.unsupported",
        kind: Kind::Errno,
        source: "arch/x86/kernel/shstk.c: map_shadow_stack",
        dialects: ALL,
        statement: "Without X86_FEATURE_USER_SHSTK: EOPNOTSUPP; 6.1 has no such system call: ENOSYS.",
    },
    RuleInfo {
        rule: Rule::Load,
        identifier: "cpu.load",
        kind: Kind::Loaded,
        source: "SDM 3A 4.6 (access rights)",
        dialects: ALL,
        statement: "An allowed load gives the last value stored to the frame, or zero.",
    },
    RuleInfo {
        rule: Rule::Store,
        identifier: "cpu.store",
        kind: Kind::Stored,
        source: "SDM 3A 4.6 (access rights)",
        dialects: ALL,
        statement: "A store to a present writable entry retires.",
    },
    RuleInfo {
        rule: Rule::Fetch,
        identifier: "cpu.fetch",
        kind: Kind::Executed,
        source: "SDM 3A 4.6 (access rights)",
        dialects: ALL,
        statement: "A fetch through a present entry without NX is executed.",
    },
    RuleInfo {
        rule: Rule::ShadowStackStore,
        identifier: "cpu.shadow-stack-store",
        kind: Kind::Stored,
        source: "SDM 3A 4.6 (shadow-stack accesses)",
        dialects: SHADOW_STACK,
        statement: "WRSS to a present entry with Write=0, Dirty=1 retires.",
    },
    RuleInfo {
        rule: Rule::FaultUnmapped,
        identifier: "fault.unmapped",
        kind: Kind::Fault,
        source: "arch/x86/mm/fault.c: bad_area_nosemaphore",
        dialects: ALL,
        statement: "No VMA at the address: SIGSEGV, SEGV_MAPERR.",
    },
    RuleInfo {
        rule: Rule::FaultReadDenied,
        identifier: "fault.read-denied",
        kind: Kind::Fault,
        source: "arch/x86/mm/fault.c: access_error",
        dialects: ALL,
        statement: "A load in a VMA without any access right: SIGSEGV, SEGV_ACCERR.",
    },
    RuleInfo {
        rule: Rule::FaultWriteDenied,
        identifier: "fault.write-denied",
        kind: Kind::Fault,
        source: "arch/x86/mm/fault.c: access_error",
        dialects: ALL,
        statement: "A store in a VMA without VM_WRITE: SIGSEGV, SEGV_ACCERR.",
    },
    RuleInfo {
        rule: Rule::FaultWriteToShadowStack,
        identifier: "fault.write-to-shadow-stack",
        kind: Kind::Fault,
        source: "arch/x86/mm/fault.c: access_error",
        dialects: SHADOW_STACK,
        statement: "An ordinary store to a shadow-stack VMA: SIGSEGV, SEGV_ACCERR.",
    },
    RuleInfo {
        rule: Rule::FaultFetchDenied,
        identifier: "fault.fetch-denied",
        kind: Kind::Fault,
        source: "arch/x86/mm/fault.c: access_error",
        dialects: ALL,
        statement: "A fetch from a VMA without any access right, or through a present NX entry: SIGSEGV, SEGV_ACCERR.",
    },
    RuleInfo {
        rule: Rule::FaultShadowStackDenied,
        identifier: "fault.shadow-stack-denied",
        kind: Kind::Fault,
        source: "arch/x86/mm/fault.c: access_error",
        dialects: SHADOW_STACK,
        statement: "WRSS outside a shadow-stack VMA, or into one without VM_WRITE: SIGSEGV, SEGV_ACCERR.",
    },
    RuleInfo {
        rule: Rule::CpuAccessed,
        identifier: "cpu.accessed",
        kind: Kind::EntryByCpu,
        source: "SDM 3A 4.8 (accessed and dirty flags)",
        dialects: ALL,
        statement: "An access through an entry sets Accessed.",
    },
    RuleInfo {
        rule: Rule::ZeroPage,
        identifier: "anon.zero-page",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_anonymous_page",
        dialects: ALL,
        statement: "A load from an empty entry maps the zero page: SPECIAL, Accessed, never writable.",
    },
    RuleInfo {
        rule: Rule::NewPage,
        identifier: "anon.new-page",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_anonymous_page",
        dialects: ALL,
        statement: "A store to an empty entry maps a new exclusive page: dirty, soft-dirty, writable.",
    },
    RuleInfo {
        rule: Rule::NewShadowStackPage,
        identifier: "anon.new-shadow-stack-page",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_anonymous_page; arch/x86/mm/pgtable.c: pte_mkwrite",
        dialects: SHADOW_STACK,
        statement: "A shadow-stack store to an empty entry: mkdirty moves Dirty to SavedDirty while Write=0, mkwrite_shstk then sets Dirty and leaves SavedDirty.",
    },
    RuleInfo {
        rule: Rule::ZeroPageCopied,
        identifier: "wp.zero-page",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: wp_page_copy",
        dialects: ALL,
        statement: "A store to the zero page maps a new exclusive page.",
    },
    RuleInfo {
        rule: Rule::ZeroPageCopiedShadowStack,
        identifier: "wp.zero-page.shadow-stack",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: wp_page_copy",
        dialects: SHADOW_STACK,
        statement: "A shadow-stack store to the zero page maps a new exclusive shadow-stack page.",
    },
    RuleInfo {
        rule: Rule::WpCopy,
        identifier: "wp.copy",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_wp_page, wp_page_copy",
        dialects: ALL,
        statement: "A store to a page that other entries map too: a new exclusive page with its contents.",
    },
    RuleInfo {
        rule: Rule::WpCopyShadowStack,
        identifier: "wp.copy.shadow-stack",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_wp_page, wp_page_copy",
        dialects: SHADOW_STACK,
        statement: "A shadow-stack store to a page that other entries map too: a new exclusive shadow-stack page.",
    },
    RuleInfo {
        rule: Rule::WpReuseExclusive,
        identifier: "wp.reuse.exclusive",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_wp_page, wp_page_reuse",
        dialects: ALL,
        statement: "A store to an exclusive page makes its entry dirty and writable: same frame.",
    },
    RuleInfo {
        rule: Rule::WpReuseExclusiveShadowStack,
        identifier: "wp.reuse.exclusive.shadow-stack",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_wp_page, wp_page_reuse",
        dialects: SHADOW_STACK,
        statement: "A shadow-stack store to an exclusive page makes its entry a shadow-stack entry again: same frame.",
    },
    RuleInfo {
        rule: Rule::WpReuseLast,
        identifier: "wp.reuse.last",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: wp_can_reuse_anon_folio",
        dialects: ALL,
        statement: "A store to a page that no other entry maps any more: reused and exclusive again.",
    },
    RuleInfo {
        rule: Rule::WpReuseLastShadowStack,
        identifier: "wp.reuse.last.shadow-stack",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: wp_can_reuse_anon_folio",
        dialects: SHADOW_STACK,
        statement: "A shadow-stack store to a page that no other entry maps any more: reused and exclusive again.",
    },
    RuleInfo {
        rule: Rule::ForkParentProtected,
        identifier: "fork.parent.protected",
        kind: Kind::EntryByFork,
        source: "mm/memory.c: __copy_present_ptes",
        dialects: ALL,
        statement: "The parent's writable entry is write-protected, Dirty moves to SavedDirty (6.1: stays), the page is no longer exclusive.",
    },
    RuleInfo {
        rule: Rule::ForkParentShadowStack,
        identifier: "fork.parent.shadow-stack",
        kind: Kind::EntryByFork,
        source: "mm/memory.c: __copy_present_ptes; arch/x86/include/asm/pgtable.h: pte_write",
        dialects: SHADOW_STACK,
        statement: "The parent's shadow-stack entry counts as writable: Dirty moves to SavedDirty.",
    },
    RuleInfo {
        rule: Rule::ForkParentKept,
        identifier: "fork.parent.kept",
        kind: Kind::EntryByFork,
        source: "mm/memory.c: __copy_present_ptes",
        dialects: ALL,
        statement: "The parent's read-only entry stays as it is.",
    },
    RuleInfo {
        rule: Rule::ForkParentSkipped,
        identifier: "fork.parent.skipped",
        kind: Kind::EntryByFork,
        source: "mm/memory.c: vma_needs_copy",
        dialects: ALL,
        statement: "A VMA without anon_vma is not copied: the parent's zero-page entries stay.",
    },
    RuleInfo {
        rule: Rule::ForkChild,
        identifier: "fork.child",
        kind: Kind::EntryByFork,
        source: "mm/memory.c: __copy_present_ptes",
        dialects: ALL,
        statement: "The child's entry is the write-protected one of the parent, Accessed clear.",
    },
    RuleInfo {
        rule: Rule::ForkChildZeroPage,
        identifier: "fork.child.zero-page",
        kind: Kind::EntryByFork,
        source: "mm/memory.c: copy_present_ptes",
        dialects: ALL,
        statement: "The child shares the zero page, Accessed clear.",
    },
    RuleInfo {
        rule: Rule::ForkChildSkipped,
        identifier: "fork.child.skipped",
        kind: Kind::EntryZap,
        source: "mm/memory.c: vma_needs_copy",
        dialects: ALL,
        statement: "A VMA without anon_vma is not copied: the child's entries are empty.",
    },
    RuleInfo {
        rule: Rule::ProtectNone,
        identifier: "mprotect.none",
        kind: Kind::EntryByProtect,
        source: "mm/mprotect.c: change_pte_range; arch/x86/include/asm/pgtable.h: pte_modify",
        dialects: ALL,
        statement: "PROT_NONE: present only to the kernel, Dirty moves to SavedDirty in an entry that was writable (6.1: stays Dirty).",
    },
    RuleInfo {
        rule: Rule::ProtectReadOnly,
        identifier: "mprotect.read-only",
        kind: Kind::EntryByProtect,
        source: "mm/mprotect.c: change_pte_range",
        dialects: ALL,
        statement: "Without PROT_WRITE: Write clear, Dirty moves to SavedDirty in an entry that was writable (6.1: stays Dirty).",
    },
    RuleInfo {
        rule: Rule::ProtectWritable,
        identifier: "mprotect.writable",
        kind: Kind::EntryByProtect,
        source: "mm/mprotect.c: can_change_pte_writable",
        dialects: ALL,
        statement: "With PROT_WRITE an exclusive page is writable at once, SavedDirty becomes Dirty. 6.1 demands that the entry is dirty.",
    },
    RuleInfo {
        rule: Rule::ProtectNotExclusive,
        identifier: "mprotect.not-exclusive",
        kind: Kind::EntryByProtect,
        source: "mm/mprotect.c: can_change_pte_writable",
        dialects: ALL,
        statement: "With PROT_WRITE the zero page and pages that are not exclusive stay read-only.",
    },
    RuleInfo {
        rule: Rule::ProtectSoftDirty,
        identifier: "mprotect.soft-dirty-tracked",
        kind: Kind::EntryByProtect,
        source: "mm/internal.h: pte_needs_soft_dirty_wp",
        dialects: ALL,
        statement: "With PROT_WRITE an entry whose soft-dirty bit is clear in a tracked VMA stays read-only.",
    },
    RuleInfo {
        rule: Rule::ProtectShadowStack,
        identifier: "mprotect.shadow-stack",
        kind: Kind::EntryByProtect,
        source: "arch/x86/include/asm/pgtable.h: pte_modify; mm/mprotect.c: change_pte_range",
        dialects: SHADOW_STACK,
        statement: "An entry of a shadow-stack VMA keeps Write=0 and its Dirty; an exclusive one becomes a shadow-stack entry again.",
    },
    RuleInfo {
        rule: Rule::ClearRefsProtected,
        identifier: "clear-refs.protected",
        kind: Kind::EntryByClearRefs,
        source: "fs/proc/task_mmu.c: clear_soft_dirty",
        dialects: ALL,
        statement: "A present entry is write-protected and its soft-dirty bit cleared; PROT_NONE entries too.",
    },
    RuleInfo {
        rule: Rule::ClearRefsShadowStack,
        identifier: "clear-refs.shadow-stack",
        kind: Kind::EntryByClearRefs,
        source: "fs/proc/task_mmu.c: clear_soft_dirty",
        dialects: SHADOW_STACK,
        statement: "A shadow-stack entry is write-protected: Dirty moves to SavedDirty.",
    },
    RuleInfo {
        rule: Rule::ZapMunmap,
        identifier: "zap.munmap",
        kind: Kind::EntryZap,
        source: "mm/memory.c: zap_pte_range",
        dialects: ALL,
        statement: "munmap empties the entry.",
    },
    RuleInfo {
        rule: Rule::ZapReplaced,
        identifier: "zap.replaced",
        kind: Kind::EntryZap,
        source: "mm/memory.c: zap_pte_range",
        dialects: ALL,
        statement: "MAP_FIXED empties the entries of what it replaces.",
    },
    RuleInfo {
        rule: Rule::ZapDontneed,
        identifier: "zap.dontneed",
        kind: Kind::EntryZap,
        source: "mm/memory.c: zap_pte_range",
        dialects: ALL,
        statement: "MADV_DONTNEED empties the entry.",
    },
    RuleInfo {
        rule: Rule::VmaNew,
        identifier: "vma.new",
        kind: Kind::Vma,
        source: "mm/mmap.c (7.2: mm/vma.c): __mmap_region",
        dialects: ALL,
        statement: "A new VMA is soft-dirty and has no anon_vma.",
    },
    RuleInfo {
        rule: Rule::VmaMergeNew,
        identifier: "vma.merge-new",
        kind: Kind::Vma,
        source: "mm/vma.c: vma_merge_new_range",
        dialects: ALL,
        statement: "A new mapping merges with neighbours of the same flags; the whole result is soft-dirty and keeps their anon_vma. 6.1 asks the next neighbour first.",
    },
    RuleInfo {
        rule: Rule::VmaMergeProtect,
        identifier: "vma.merge-protect",
        kind: Kind::Vma,
        source: "mm/vma.c: vma_merge_existing_range",
        dialects: ALL,
        statement: "mprotect merges with neighbours of the new flags. 6.1 and 6.12: the result has the soft-dirty flag of the changed part, and a target without anon_vma does not merge with a source that has one; 7.2: the flag is sticky (union), and such a target takes the source's anon_vma.",
    },
    RuleInfo {
        rule: Rule::VmaClearSoftDirty,
        identifier: "vma.clear-soft-dirty",
        kind: Kind::Vma,
        source: "fs/proc/task_mmu.c: clear_refs_write",
        dialects: ALL,
        statement: "clear_refs clears VM_SOFTDIRTY of every VMA.",
    },
    RuleInfo {
        rule: Rule::VmaFork,
        identifier: "vma.fork",
        kind: Kind::Vma,
        source: "mm/rmap.c: anon_vma_fork",
        dialects: ALL,
        statement: "The child's VMA has the parent's flags; it has an anon_vma of its own, never merged with others, if the parent's has one.",
    },
    RuleInfo {
        rule: Rule::VmaAnonPrepare,
        identifier: "vma.anon-prepare",
        kind: Kind::Vma,
        source: "mm/rmap.c: __anon_vma_prepare; mm/vma.c: find_mergeable_anon_vma",
        dialects: ALL,
        statement: "The first own page gives the VMA an anon_vma, a compatible neighbour's if there is one.",
    },
    RuleInfo {
        rule: Rule::AdviceTaken,
        identifier: "madvise.mapped",
        kind: Kind::Success,
        source: "mm/madvise.c: madvise_walk_vmas",
        dialects: ALL,
        statement: "Advice on a range without holes is taken.",
    },
    RuleInfo {
        rule: Rule::AdviceHole,
        identifier: "madvise.hole",
        kind: Kind::Errno,
        source: "mm/madvise.c: madvise_walk_vmas",
        dialects: ALL,
        statement: "A hole in the range: ENOMEM, but the advice is taken on every mapped part.",
    },
    RuleInfo {
        rule: Rule::ColdOld,
        identifier: "cold.old",
        kind: Kind::EntryByAdvice,
        source: "mm/madvise.c: madvise_cold_or_pageout_pte_range",
        dialects: ALL,
        statement: "MADV_COLD clears Accessed of a page that no other entry maps; PROT_NONE entries too.",
    },
    RuleInfo {
        rule: Rule::ColdKept,
        identifier: "cold.kept",
        kind: Kind::EntryByAdvice,
        source: "mm/madvise.c: madvise_cold_or_pageout_pte_range",
        dialects: ALL,
        statement: "MADV_COLD leaves the zero page and pages that other entries map too.",
    },
    RuleInfo {
        rule: Rule::Populated,
        identifier: "populate.mapped",
        kind: Kind::Success,
        source: "mm/madvise.c: madvise_populate",
        dialects: ALL,
        statement: "MADV_POPULATE_* of a range that allows the access succeeds; each page that lacks it takes a fault.",
    },
    RuleInfo {
        rule: Rule::PopulateHole,
        identifier: "populate.hole",
        kind: Kind::Errno,
        source: "mm/gup.c: __get_user_pages (FOLL_MADV_POPULATE)",
        dialects: SHADOW_STACK,
        statement: "MADV_POPULATE_* stops at a hole with ENOMEM; what stands before it is populated. (6.1 passes over holes: madvise.hole.)",
    },
    RuleInfo {
        rule: Rule::PopulateDenied,
        identifier: "populate.denied",
        kind: Kind::Errno,
        source: "mm/gup.c: check_vma_flags",
        dialects: ALL,
        statement: "MADV_POPULATE_READ stops with EINVAL at a VMA without VM_READ, _WRITE at one without VM_WRITE and at a shadow stack.",
    },
    RuleInfo {
        rule: Rule::VmaMergeAdvice,
        identifier: "vma.merge-advice",
        kind: Kind::Vma,
        source: "mm/madvise.c: madvise_update_vma; mm/vma.c: vma_merge_existing_range",
        dialects: ALL,
        statement: "Advice that changes VM_DONTCOPY or VM_WIPEONFORK merges as mprotect does.",
    },
    RuleInfo {
        rule: Rule::ForkChildWiped,
        identifier: "fork.child.wiped",
        kind: Kind::EntryZap,
        source: "kernel/fork.c: dup_mmap (VM_WIPEONFORK); 7.2: mm/mmap.c: dup_mmap",
        dialects: ALL,
        statement: "The child has the VM_WIPEONFORK VMA, without anon_vma and without entries; the parent's entries are not touched.",
    },
    RuleInfo {
        rule: Rule::ForkChildAbsent,
        identifier: "fork.child.absent",
        kind: Kind::EntryZap,
        source: "kernel/fork.c: dup_mmap (VM_DONTCOPY); 7.2: mm/mmap.c: dup_mmap",
        dialects: ALL,
        statement: "The child does not have the VM_DONTCOPY VMA; the parent's entries are not touched.",
    },
    RuleInfo {
        rule: Rule::CpuDirty,
        identifier: "cpu.dirty",
        kind: Kind::EntryByCpu,
        source: "SDM 3A 4.8 (accessed and dirty flags)",
        dialects: ALL,
        statement: "A store through a writable entry that is clean sets Dirty and Accessed.",
    },
    RuleInfo {
        rule: Rule::FreeClean,
        identifier: "free.clean",
        kind: Kind::EntryByAdvice,
        source: "mm/madvise.c: madvise_free_pte_range",
        dialects: ALL,
        statement: "MADV_FREE clears Accessed, Dirty and SavedDirty, in shared and PROT_NONE entries too; Write and soft-dirty stay.",
    },
    RuleInfo {
        rule: Rule::FreeKept,
        identifier: "free.kept",
        kind: Kind::EntryByAdvice,
        source: "mm/madvise.c: madvise_free_pte_range",
        dialects: ALL,
        statement: "MADV_FREE leaves the zero page.",
    },
    RuleInfo {
        rule: Rule::AdviceLocked,
        identifier: "madvise.locked",
        kind: Kind::Errno,
        source: "mm/madvise.c: madvise_dontneed_free_valid_vma, can_madv_lru_vma",
        dialects: ALL,
        statement: "MADV_DONTNEED, FREE and COLD stop with EINVAL at a VM_LOCKED VMA; what stands before it is done.",
    },
    RuleInfo {
        rule: Rule::Mlock,
        identifier: "mlock.mapped",
        kind: Kind::Success,
        source: "mm/mlock.c: do_mlock; mm/gup.c: __mm_populate",
        dialects: ALL,
        statement: "mlock sets VM_LOCKED and faults in: for a store where VM_WRITE is set and the VMA is private, else for a load.",
    },
    RuleInfo {
        rule: Rule::MlockHole,
        identifier: "mlock.hole",
        kind: Kind::Errno,
        source: "mm/mlock.c: apply_vma_lock_flags",
        dialects: ALL,
        statement: "mlock and munlock stop at a hole with ENOMEM: what stands before it has its flag changed, and nothing is faulted in.",
    },
    RuleInfo {
        rule: Rule::MlockNotPopulated,
        identifier: "mlock.not-populated",
        kind: Kind::Errno,
        source: "mm/gup.c: populate_vma_page_range, check_vma_flags; mm/mlock.c: __mlock_posix_error_return",
        dialects: ALL,
        statement: "mlock locks everything, but stops faulting in with ENOMEM at a VMA without access rights and at a writable shadow stack.",
    },
    RuleInfo {
        rule: Rule::Munlock,
        identifier: "munlock.mapped",
        kind: Kind::Success,
        source: "mm/mlock.c: apply_vma_lock_flags",
        dialects: ALL,
        statement: "munlock clears VM_LOCKED and touches no entry.",
    },
    RuleInfo {
        rule: Rule::VmaMergeLock,
        identifier: "vma.merge-lock",
        kind: Kind::Vma,
        source: "mm/mlock.c: mlock_fixup; mm/vma.c: vma_merge_existing_range",
        dialects: ALL,
        statement: "mlock and munlock merge as mprotect does.",
    },
    RuleInfo {
        rule: Rule::VmaShared,
        identifier: "vma.shared",
        kind: Kind::Vma,
        source: "mm/mmap.c (6.12: __mmap_region; 7.2: mm/vma.c: __mmap_new_vma); mm/shmem.c: shmem_zero_setup",
        dialects: ALL,
        statement: "A new shared VMA has a shmem object of its own: it is soft-dirty, never VM_ACCOUNT, without anon_vma, and merges only with what was split from it.",
    },
    RuleInfo {
        rule: Rule::VmaWriteNotified,
        identifier: "vma.write-notified",
        kind: Kind::PageProtection,
        source: "mm/mmap.c (7.2: mm/vma.c): vma_wants_writenotify, vma_set_page_prot",
        dialects: ALL,
        statement: "vm_page_prot of a writable shared VMA lacks RW if VM_SOFTDIRTY was clear when it was computed: by mprotect or clear_refs.",
    },
    RuleInfo {
        rule: Rule::SharedNew,
        identifier: "shared.new",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_read_fault, set_pte_range (6.1: do_set_pte); mm/shmem.c: shmem_get_folio_gfp",
        dialects: ALL,
        statement: "A load where the object has no page: a zeroed page, no zero page; the entry is vm_page_prot, writable and clean where the VMA is writable.",
    },
    RuleInfo {
        rule: Rule::SharedNewWritten,
        identifier: "shared.new-written",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_shared_fault, set_pte_range (6.1: do_set_pte)",
        dialects: ALL,
        statement: "A store where the object has no page: a zeroed page, dirty, soft-dirty, writable; never exclusive.",
    },
    RuleInfo {
        rule: Rule::SharedRead,
        identifier: "shared.read",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_read_fault, set_pte_range (6.1: do_set_pte)",
        dialects: ALL,
        statement: "A load from an empty entry maps the object's page as vm_page_prot says, clean. 7.2: unless the folio is dirty and the entry writable.",
    },
    RuleInfo {
        rule: Rule::SharedReadDirty,
        identifier: "shared.read.dirty",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: set_pte_range",
        dialects: FOLIO_DIRTY,
        statement: "A load that maps a dirty folio writable makes the entry dirty and soft-dirty.",
    },
    RuleInfo {
        rule: Rule::SharedWritten,
        identifier: "shared.written",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_shared_fault, set_pte_range (6.1: do_set_pte)",
        dialects: ALL,
        statement: "A store to an empty entry maps the object's page dirty, soft-dirty and writable, write-notified or not.",
    },
    RuleInfo {
        rule: Rule::SharedReuse,
        identifier: "shared.reuse",
        kind: Kind::EntryByFault,
        source: "mm/memory.c: do_wp_page, wp_page_shared, wp_page_reuse",
        dialects: ALL,
        statement: "A store to a read-only entry of a writable shared VMA makes it dirty, soft-dirty and writable: the same page, however many entries map it.",
    },
    RuleInfo {
        rule: Rule::SharedFolioDirty,
        identifier: "shared.folio-dirty",
        kind: Kind::Folio,
        source: "mm/memory.c: fault_dirty_shared_page, zap_present_folio_ptes; mm/gup.c: follow_page_pte",
        dialects: FOLIO_DIRTY,
        statement: "A write fault makes the object's folio dirty, a dirty entry that is emptied does, and GUP's store through a clean one; a load does not.",
    },
    RuleInfo {
        rule: Rule::ForkParentShared,
        identifier: "fork.parent.shared",
        kind: Kind::EntryByFork,
        source: "mm/memory.c: vma_needs_copy",
        dialects: ALL,
        statement: "A shared VMA is not copied: the parent's entries stay, writable ones too.",
    },
    RuleInfo {
        rule: Rule::ForkChildShared,
        identifier: "fork.child.shared",
        kind: Kind::EntryZap,
        source: "mm/memory.c: vma_needs_copy",
        dialects: ALL,
        statement: "A shared VMA is not copied: the child's entries are empty until it faults.",
    },
    RuleInfo {
        rule: Rule::ProtectShared,
        identifier: "mprotect.shared",
        kind: Kind::EntryByProtect,
        source: "mm/mprotect.c: change_pte_range, can_change_pte_writable; arch/x86/include/asm/pgtable.h: pte_modify",
        dialects: ALL,
        statement: "With PROT_WRITE an entry of a shared VMA is writable at once, dirty or clean, for vm_page_prot has RW.",
    },
    RuleInfo {
        rule: Rule::ProtectSharedNotified,
        identifier: "mprotect.shared.notified",
        kind: Kind::EntryByProtect,
        source: "mm/mprotect.c: change_pte_range; mm/mmap.c (7.2: mm/vma.c): vma_wants_writenotify",
        dialects: ALL,
        statement: "With PROT_WRITE an entry of a write-notified shared VMA becomes or stays read-only, dirty or not.",
    },
    RuleInfo {
        rule: Rule::AdviceShared,
        identifier: "madvise.shared",
        kind: Kind::Errno,
        source: "mm/madvise.c: madvise_free_single_vma, madvise_vma_behavior (7.2: madvise_vma_behavior, madvise_dontneed_free)",
        dialects: ALL,
        statement: "MADV_FREE and WIPEONFORK stop with EINVAL at a shared VMA; what stands before it is done.",
    },
];

impl Rule {
    /// The rule's documentation.
    #[must_use]
    pub fn info(self) -> &'static RuleInfo {
        &RULES[self as usize]
    }

    /// Position in [`RULES`].
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    /// The rule of this name.
    #[must_use]
    pub fn of_identifier(identifier: &str) -> Option<Self> {
        RULES.iter().find(|info| info.identifier == identifier).map(|info| info.rule)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.info().identifier)
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u8(*self as u8) }
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            let identifier = String::deserialize(deserializer)?;
            return Self::of_identifier(&identifier).ok_or_else(|| D::Error::custom(format!("no rule `{identifier}`")));
        }
        let index = u8::deserialize(deserializer)?;
        RULES.get(usize::from(index)).map(|info| info.rule).ok_or_else(|| D::Error::custom(format!("no rule {index}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enumeration_and_names_are_unique() {
        for (index, info) in RULES.iter().enumerate() {
            assert_eq!(info.rule.index(), index, "{}", info.identifier);
            assert_eq!(Rule::of_identifier(info.identifier), Some(info.rule));
            assert!(info.source.contains(": ") || info.source.starts_with("SDM"), "{}", info.identifier);
        }
    }
}
