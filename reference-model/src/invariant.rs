//! What holds of every entry of any program, whatever it did: the invariants of `ptediff watch`.
//!
//! The probes judge by them in the kernel (`bpf/src/program_watch.bpf.c`: `judge_entry`); [`violated`] judges what they
//! report again. Each is a statement of the form "an entry like this (the premise) is like that". Sources: the kernel
//! functions named, read in 6.1, 6.12 and 7.2.

use std::fmt;

use crate::entry::{
    A, D, Entry, EntryKind, NX, P, PROTNONE, RW, SAVED_DIRTY, SPECIAL, SWP_EXCLUSIVE, SWP_UFFD_WP, UFFD_WP, US,
};
use crate::kernel::{Change, Kernel};
use crate::machine::Machine;

/// `vm_flags` bits by which entries are judged (`include/linux/mm.h`; the same numbers in 6.1, 6.12 and 7.2).
pub mod vm_flag {
    /// VM_WRITE.
    pub const WRITE: u64 = 0x2;
    /// VM_EXEC.
    pub const EXEC: u64 = 0x4;
    /// VM_SHARED.
    pub const SHARED: u64 = 0x8;
    /// VM_PFNMAP.
    pub const PFNMAP: u64 = 0x400;
    /// VM_UFFD_WP.
    pub const UFFD_WP: u64 = 0x1000;
    /// VM_HUGETLB.
    pub const HUGETLB: u64 = 0x40_0000;
    /// VM_MIXEDMAP.
    pub const MIXEDMAP: u64 = 0x1000_0000;
    /// Lowest bit of the protection key, VM_PKEY_BIT0.
    pub const PKEY_SHIFT: u32 = 32;
    /// VM_SHADOW_STACK, in 6.12 and 7.2.
    pub const SHADOW_STACK: u64 = 1 << 37;
}

/// The kernel's function at whose end an entry was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Moment {
    /// `handle_mm_fault`.
    Fault,
    /// `copy_page_range`, the parent's entry.
    ForkParent,
    /// `copy_page_range`, the child's entry.
    ForkChild,
    /// `change_protection`: mprotect, userfaultfd, NUMA balancing.
    Protect,
    /// `clear_refs_pte_range`: soft-dirty.
    ClearRefs,
}

impl Moment {
    /// In the order of the probes' numbers.
    pub const ALL: [Self; 5] = [Self::Fault, Self::ForkParent, Self::ForkChild, Self::Protect, Self::ClearRefs];

    /// What a report calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::ForkParent => "fork, parent",
            Self::ForkChild => "fork, child",
            Self::Protect => "protect",
            Self::ClearRefs => "clear_refs",
        }
    }
}

/// An entry as the probes saw it, not none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The entry, of any level.
    pub entry: Entry,
    /// When.
    pub moment: Moment,
    /// `vm_flags` of its VMA.
    pub vm_flags: u64,
    /// PageAnonExclusive of its frame, where it was asked.
    pub exclusive: Option<bool>,
}

/// An invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// No Write=0, Dirty=1 outside shadow stacks.
    CleanUnlessWritable,
    /// Shadow stacks are never Write=1.
    ShadowStackReadOnly,
    /// SavedDirty is never with Write=1.
    SavedDirtyReadOnly,
    /// A write-protected page is not writable.
    UffdWpReadOnly,
    /// The entry's key is the VMA's.
    ProtectionKey,
    /// Write=1 in writable VMAs alone.
    WritableByVma,
    /// NX=0 in executable VMAs alone.
    ExecutableByVma,
    /// Present entries are the user's.
    User,
    /// Present entries are not global.
    NotGlobal,
    /// PROT_NONE entries permit nothing.
    ProtNoneBare,
    /// A writable private entry maps an exclusive page.
    PrivateWritableExclusive,
    /// Fork clears Accessed in the child.
    ForkChildOld,
    /// A child is write-protected by userfaultfd only where it is registered.
    ForkChildUffdWp,
    /// After fork no swap entry is exclusive.
    ForkSwapShared,
    /// Swap entries are well-formed.
    SwapEncoding,
    /// Markers are well-formed.
    MarkerEncoding,
}

use Invariant as I;

impl Invariant {
    /// In the order of the probes' numbers (`PTEDIFF_INVARIANT_*`).
    pub const ALL: [Self; 16] = [
        I::CleanUnlessWritable,
        I::ShadowStackReadOnly,
        I::SavedDirtyReadOnly,
        I::UffdWpReadOnly,
        I::ProtectionKey,
        I::WritableByVma,
        I::ExecutableByVma,
        I::User,
        I::NotGlobal,
        I::ProtNoneBare,
        I::PrivateWritableExclusive,
        I::ForkChildOld,
        I::ForkChildUffdWp,
        I::ForkSwapShared,
        I::SwapEncoding,
        I::MarkerEncoding,
    ];

    /// Its bit in the probes' masks.
    #[must_use]
    pub fn bit(self) -> u64 {
        1 << self as u32
    }

    /// The invariants of a mask.
    pub fn of_mask(mask: u64) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |invariant| mask & invariant.bit() != 0)
    }

    /// Its stable identifier.
    #[must_use]
    pub fn identifier(self) -> &'static str {
        match self {
            I::CleanUnlessWritable => "entry.write-0-dirty-1",
            I::ShadowStackReadOnly => "shadow-stack.write-1",
            I::SavedDirtyReadOnly => "saved-dirty.write-1",
            I::UffdWpReadOnly => "uffd-wp.write-1",
            I::ProtectionKey => "entry.protection-key",
            I::WritableByVma => "entry.writable",
            I::ExecutableByVma => "entry.executable",
            I::User => "entry.user",
            I::NotGlobal => "entry.global",
            I::ProtNoneBare => "entry.prot-none",
            I::PrivateWritableExclusive => "private.writable-not-exclusive",
            I::ForkChildOld => "fork.child-accessed",
            I::ForkChildUffdWp => "fork.child-uffd-wp",
            I::ForkSwapShared => "fork.swap-exclusive",
            I::SwapEncoding => "swap.encoding",
            I::MarkerEncoding => "marker.encoding",
        }
    }

    /// What holds, with its exceptions.
    #[must_use]
    pub fn statement(self) -> &'static str {
        match self {
            I::CleanUnlessWritable => "Outside a shadow-stack VMA no entry has Write=0, Dirty=1.",
            I::ShadowStackReadOnly => "The entries of a shadow-stack VMA are Write=0.",
            I::SavedDirtyReadOnly => {
                "SavedDirty is never with Write=1. Hugetlb memory is excepted: it is made dirty first and writable then, by pte_mkwrite_novma, which leaves SavedDirty there."
            }
            I::UffdWpReadOnly => {
                "In a VMA with VM_UFFD_WP an entry marked uffd-wp is Write=0. (Elsewhere a mark may be left over from an earlier registration.)"
            }
            I::ProtectionKey => "The protection key of an entry is that of its VMA.",
            I::WritableByVma => "An entry is Write=1 only where the VMA has VM_WRITE.",
            I::ExecutableByVma => "A present entry is without NX only where the VMA has VM_EXEC.",
            I::User => "The present entries of user memory have User=1.",
            I::NotGlobal => "The present entries of user memory have Global=0.",
            I::ProtNoneBare => "An entry that is PROT_NONE has neither Write nor User nor NX.",
            I::PrivateWritableExclusive => {
                "A writable entry of private memory maps an anonymous page with PageAnonExclusive; after fork, too, in parent and child. VM_PFNMAP, VM_MIXEDMAP and special entries have no such page."
            }
            I::ForkChildOld => {
                "Fork clears Accessed in the child. Excepted are copies of pinned pages, which are writable and exclusive, and hugetlb memory."
            }
            I::ForkChildUffdWp => "Fork leaves uffd-wp in the child only where its VMA has VM_UFFD_WP.",
            I::ForkSwapShared => "After fork no swap entry is exclusive, in parent or child.",
            I::SwapEncoding => "An entry that is neither none nor present has bits 0 and 4 to 8 clear.",
            I::MarkerEncoding => "A marker's offset holds markers that the kernel has, at least one.",
        }
    }

    /// The kernel functions, SDM sections or documents that it comes from.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            I::CleanUnlessWritable => {
                "arch/x86/include/asm/pgtable.h: pte_mksaveddirty; SDM 1 17.1, 3A 4.6; seed 001_d85f28121b730c12"
            }
            I::ShadowStackReadOnly => {
                "arch/x86/mm/pgtable.c: pte_mkwrite, pmd_mkwrite; include/linux/mm.h: maybe_mkwrite"
            }
            I::SavedDirtyReadOnly => {
                "arch/x86/include/asm/pgtable.h: pte_mkwrite, pte_clear_saveddirty; mm/hugetlb.c: make_huge_pte, set_huge_ptep_writable"
            }
            I::UffdWpReadOnly => "mm/userfaultfd.c: uffd_wp_range; arch/x86/include/asm/pgtable.h: pte_mkuffd_wp",
            I::ProtectionKey => "arch/x86/mm/pgprot.c: vm_get_page_prot; mm/mprotect.c: mprotect_fixup",
            I::WritableByVma => "include/linux/mm.h: maybe_mkwrite; mm/mprotect.c: can_change_pte_writable",
            I::ExecutableByVma => "arch/x86/mm/pgprot.c: protection_map",
            I::User => "arch/x86/mm/pgprot.c: protection_map; arch/x86/include/asm/pgtable_types.h: PAGE_READONLY",
            I::NotGlobal => "arch/x86/include/asm/pgtable_types.h: PAGE_READONLY, without _PAGE_GLOBAL",
            I::ProtNoneBare => "arch/x86/include/asm/pgtable_types.h: PAGE_NONE",
            I::PrivateWritableExclusive => {
                "mm/memory.c: do_wp_page, wp_can_reuse_anon_folio; mm/mprotect.c: can_change_private_pte_writable; include/linux/page-flags.h: PG_anon_exclusive"
            }
            I::ForkChildOld => "mm/memory.c: copy_present_pte, copy_present_page; mm/huge_memory.c: copy_huge_pmd",
            I::ForkChildUffdWp => "mm/memory.c: copy_present_pte, copy_nonpresent_pte",
            I::ForkSwapShared => "mm/memory.c: copy_nonpresent_pte",
            I::SwapEncoding => "arch/x86/include/asm/pgtable_64.h: __swp_entry; pgtable_types.h: _PAGE_SWP_*",
            I::MarkerEncoding => "include/linux/swapops.h: make_pte_marker (leafops.h since 6.19)",
        }
    }

    /// Whether it holds on a machine: the others are not checked there, and a report names them.
    #[must_use]
    pub fn holds_on(self, machine: &Machine) -> bool {
        let saved_dirty = machine.kernel().has(Change::SavedDirty);
        match self {
            // Without shadow stacks nobody needs it, and the helpers may leave such entries.
            I::CleanUnlessWritable | I::ShadowStackReadOnly => machine.shadow_stack,
            I::SavedDirtyReadOnly | I::UffdWpReadOnly => saved_dirty,
            I::ProtectionKey => machine.protection_keys,
            _ => true,
        }
    }

    /// The mask of those that hold on a machine.
    #[must_use]
    pub fn mask_on(machine: &Machine) -> u64 {
        Self::ALL.iter().filter(|invariant| invariant.holds_on(machine)).map(|invariant| invariant.bit()).sum()
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.identifier())
    }
}

/// Lowest swap type that is no swap file's, see [`Entry::is_swapped`].
const MARKER_TYPE: u64 = 31;

/// `PTE_MARKER_*` bits that a kernel has: uffd-wp in all, poisoned since 6.6 (swapin errors in 6.1), guard since 6.13.
#[must_use]
pub fn marker_bits(kernel: Kernel) -> u64 {
    if kernel.has(Change::GuardMarkers) { 0b111 } else { 0b11 }
}

/// The swap type of markers, where it is the last one and no other can be taken for it (`include/linux/swap.h`).
#[must_use]
pub fn marker_type(kernel: Kernel) -> Option<u64> {
    kernel.has(Change::MarkersHaveLastType).then_some(MARKER_TYPE)
}

/// The invariants that an entry breaks, of those of the mask.
#[must_use]
pub fn violated(seen: &Seen, kernel: Kernel, mask: u64) -> Vec<Invariant> {
    Invariant::of_mask(mask).filter(|invariant| breaks(seen, kernel, *invariant)).collect()
}

fn breaks(seen: &Seen, kernel: Kernel, invariant: Invariant) -> bool {
    let Seen { entry, moment, vm_flags, exclusive } = *seen;
    let vma = |flag: u64| vm_flags & flag != 0;
    let kind = entry.kind();
    let (present, leaf) = (kind == EntryKind::Present, entry.is_present());
    let (writable, child) = (entry.has(RW), moment == Moment::ForkChild);
    let no_anonymous_page = vma(vm_flag::SHARED | vm_flag::PFNMAP | vm_flag::MIXEDMAP) || entry.has(SPECIAL);
    let forked = child || moment == Moment::ForkParent;
    match invariant {
        I::CleanUnlessWritable => leaf && !writable && entry.has(D) && !vma(vm_flag::SHADOW_STACK),
        I::ShadowStackReadOnly => leaf && writable && vma(vm_flag::SHADOW_STACK),
        I::SavedDirtyReadOnly => leaf && writable && entry.has(SAVED_DIRTY) && !vma(vm_flag::HUGETLB),
        I::UffdWpReadOnly => leaf && writable && entry.has(UFFD_WP) && vma(vm_flag::UFFD_WP),
        I::ProtectionKey => leaf && u64::from(entry.protection_key()) != vm_flags >> vm_flag::PKEY_SHIFT & 0xf,
        I::WritableByVma => leaf && writable && !vma(vm_flag::WRITE),
        I::ExecutableByVma => present && !entry.has(NX) && !vma(vm_flag::EXEC),
        I::User => present && !entry.has(US),
        I::NotGlobal => present && entry.has(PROTNONE),
        I::ProtNoneBare => leaf && !present && entry.0 & (RW | US | NX) != 0,
        I::PrivateWritableExclusive => leaf && writable && !no_anonymous_page && exclusive == Some(false),
        I::ForkChildOld => {
            let copied = writable && exclusive == Some(true);
            child && leaf && entry.has(A) && !vma(vm_flag::HUGETLB) && !copied
        }
        I::ForkChildUffdWp => {
            let marked = leaf && entry.has(UFFD_WP) || entry.is_swapped() && entry.has(SWP_UFFD_WP);
            child && marked && !vma(vm_flag::UFFD_WP)
        }
        I::ForkSwapShared => forked && entry.is_swapped() && entry.has(SWP_EXCLUSIVE),
        I::SwapEncoding => kind == EntryKind::NonPresent && entry.0 & (P | 0x1f0) != 0,
        I::MarkerEncoding => {
            let is_marker = kind == EntryKind::NonPresent && marker_type(kernel) == Some(entry.0 >> 59);
            is_marker && entry.marker().is_some_and(|bits| bits == 0 || bits & !marker_bits(kernel) != 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Facts, KernelVersion};

    const ALL: u64 = 0xffff;
    const PRIVATE: u64 = vm_flag::WRITE;

    #[track_caller]
    fn check(raw: u64, moment: Moment, vm_flags: u64, exclusive: Option<bool>, expected: &[Invariant]) {
        let seen = Seen { entry: Entry(raw), moment, vm_flags, exclusive };
        assert_eq!(violated(&seen, Kernel::intended(KernelVersion::LINUX_6_12, Facts::ALL), ALL), expected, "{raw:#x}");
    }

    /// The entries of vm-facts: what a healthy kernel makes breaks nothing.
    #[test]
    fn healthy_entries_break_nothing() {
        let shadow_stack = PRIVATE | vm_flag::SHADOW_STACK;
        check(0x8000_0000_0000_0867, Moment::Fault, PRIVATE, Some(true), &[]);
        check(0x8000_0000_0000_0225, Moment::Fault, PRIVATE, None, &[]);
        check(0x8400_0000_0000_0825, Moment::ForkParent, PRIVATE, None, &[]);
        check(0x8400_0000_0000_0805, Moment::ForkChild, PRIVATE, None, &[]);
        check(0x8400_0000_0000_0865, Moment::Fault, shadow_stack, None, &[]);
        check(Entry::UFFD_WP_MARKER.0, Moment::Fault, PRIVATE, None, &[]);
        check(Entry::SWAPPED.0, Moment::ForkChild, PRIVATE, None, &[]);
        // A pinned page that fork copied; hugetlb memory, private and (seen in the kernel's selftest pagemap_ioctl on
        // 6.12.95, after write-protection by userfaultfd) shared.
        check(0x8000_0000_0000_0827, Moment::ForkChild, PRIVATE, Some(true), &[]);
        check(0x8400_0000_0000_08e7, Moment::Fault, PRIVATE | vm_flag::HUGETLB, Some(true), &[]);
        check(0x8400_0000_06a0_08a7, Moment::Fault, 0x84_410fb, None, &[]);
    }

    /// Each invariant is broken by an entry that differs from a healthy one in a bit.
    #[test]
    fn each_invariant_can_be_broken() {
        let shadow_stack = PRIVATE | vm_flag::SHADOW_STACK;
        let uffd = PRIVATE | vm_flag::UFFD_WP;
        let (fault, child) = (Moment::Fault, Moment::ForkChild);
        check(0x8000_0000_0000_0865, fault, PRIVATE, None, &[I::CleanUnlessWritable]);
        check(0x8000_0000_0000_0867, fault, shadow_stack, Some(true), &[I::ShadowStackReadOnly]);
        check(0x8400_0000_0000_0867, fault, PRIVATE, Some(true), &[I::SavedDirtyReadOnly]);
        check(0x8000_0000_0000_0c67, fault, uffd, Some(true), &[I::UffdWpReadOnly]);
        check(0x8800_0000_0000_0867, fault, PRIVATE, Some(true), &[I::ProtectionKey]);
        check(0x8000_0000_0000_0867, fault, 0, Some(true), &[I::WritableByVma]);
        check(0x0000_0000_0000_0867, fault, PRIVATE, Some(true), &[I::ExecutableByVma]);
        check(0x8000_0000_0000_0863, fault, PRIVATE, Some(true), &[I::User]);
        check(0x8000_0000_0000_0967, fault, PRIVATE, Some(true), &[I::NotGlobal]);
        check(0x000f_ffff_ffff_f922, fault, PRIVATE, Some(true), &[I::ProtNoneBare]);
        check(0x8000_0000_0000_0867, fault, PRIVATE, Some(false), &[I::PrivateWritableExclusive]);
        check(0x8400_0000_0000_0825, child, PRIVATE, None, &[I::ForkChildOld]);
        check(0x8400_0000_0000_0c05, child, PRIVATE, None, &[I::ForkChildUffdWp]);
        check(Entry::SWAPPED.0 | SWP_UFFD_WP, child, PRIVATE, None, &[I::ForkChildUffdWp]);
        check(Entry::SWAPPED.0 | SWP_EXCLUSIVE, Moment::ForkParent, PRIVATE, None, &[I::ForkSwapShared]);
        check(Entry::SWAPPED.0 | 0x80, fault, PRIVATE, None, &[I::SwapEncoding]);
        check(0xffff_ffff_ffff_de00, fault, PRIVATE, None, &[I::MarkerEncoding]);
    }

    #[test]
    fn bits_are_positions() {
        for (position, invariant) in Invariant::ALL.into_iter().enumerate() {
            assert_eq!(invariant.bit(), 1 << position);
        }
        assert!(Invariant::of_mask(0b101).eq([I::CleanUnlessWritable, I::SavedDirtyReadOnly]));
    }
}
