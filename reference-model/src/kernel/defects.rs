//! Defects: what kernels do by mistake, and since when they do not.
//!
//! The model has none of them when it judges. `since` is where the mistake came in, `until` who has the fix.

use super::change::{Arrival, Change, ChangeInfo, ChangeKind, Versions};
use super::version::KernelVersion;

/// The table of defects, in the order of their fixes in mainline.
pub const DEFECTS: &[ChangeInfo] = &[
    ChangeInfo {
        change: Change::CloseKeepsUffdWp,
        identifier: "uffd.close-keeps-uffd-wp",
        statement: "close(userfaultfd) leaves UFFD_WP in the entries.",
        function: "fs/userfaultfd.c: userfaultfd_release",
        source: "mm/userfaultfd: reset ptes when close() for wr-protected ones",
        kind: ChangeKind::Defect {
            cve: Some("CVE-2024-36881"),
            right: "Closing a userfaultfd lifts its write-protection, as UFFDIO_UNREGISTER does.",
        },
        versions: Versions {
            since: Arrival::ALWAYS,
            until: Some(Arrival {
                mainline: Some(KernelVersion::new(6, 9, 0)),
                stable: &[KernelVersion::new(6, 1, 191), KernelVersion::new(6, 8, 10)],
            }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::MremapKeepsUffdWp,
        identifier: "mremap.keeps-uffd-wp",
        statement: "mremap of a registered range without EVENT_REMAP leaves UFFD_WP in entries of a VMA that is not registered.",
        function: "mm/mremap.c: move_ptes",
        source: "mm: clear uffd-wp PTE/PMD state on mremap()",
        kind: ChangeKind::Defect {
            cve: Some("CVE-2025-21696"),
            right: "The entries arrive without UFFD_WP, and markers do not move.",
        },
        versions: Versions {
            since: Arrival::ALWAYS,
            until: Some(Arrival {
                mainline: Some(KernelVersion::new(6, 13, 0)),
                stable: &[KernelVersion::new(6, 12, 11), KernelVersion::new(6, 1, 191)],
            }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::MergeLosesSoftDirty,
        identifier: "vma.merge-loses-soft-dirty",
        statement: "VMAs that merge lose VM_SOFTDIRTY.",
        function: "mm/vma.c: vma_merge_existing_range",
        source: "mm: propagate VM_SOFTDIRTY on merge",
        kind: ChangeKind::Defect { cve: None, right: "The merged VMA has VM_SOFTDIRTY where any of its parts had it." },
        versions: Versions {
            since: Arrival::ALWAYS,
            until: Some(Arrival { mainline: Some(KernelVersion::new(6, 19, 0)), stable: &[] }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::UffdTakesShadowStacks,
        identifier: "uffd.takes-shadow-stacks",
        statement: "userfaultfd takes shadow-stack VMAs.",
        function: "mm/userfaultfd.c: vma_can_userfault",
        source: "userfaultfd: prevent registration of special VMAs",
        kind: ChangeKind::Defect {
            cve: Some("CVE-2026-68166"),
            right: "UFFDIO_REGISTER and UNREGISTER of a shadow stack: EINVAL.",
        },
        versions: Versions {
            since: Arrival { mainline: Some(KernelVersion::new(6, 6, 0)), stable: &[] },
            until: Some(Arrival {
                mainline: Some(KernelVersion::new(7, 1, 0)),
                stable: &[KernelVersion::new(6, 12, 105)],
            }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::PkeyAllocWithoutKeys,
        identifier: "pkey-alloc.without-keys",
        statement: "pkey_alloc on a CPU without protection keys takes key 0: EINVAL the first time.",
        function: "arch/x86/include/asm/pkeys.h: mm_pkey_alloc",
        source: "x86/pkeys: Fix pkey_alloc() return value when pkeys are not supported",
        kind: ChangeKind::Defect { cve: None, right: "ENOSPC always." },
        versions: Versions {
            since: Arrival::ALWAYS,
            until: Some(Arrival {
                mainline: Some(KernelVersion::release_candidate(7, 3, 1)),
                stable: &[KernelVersion::new(6, 1, 188), KernelVersion::new(6, 12, 110), KernelVersion::new(7, 2, 6)],
            }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::DontunmapTakesOriginalAlong,
        identifier: "mremap.dontunmap-takes-original-along",
        statement: "MREMAP_DONTUNMAP of a part unlocks the whole source VMA, and source and copy may merge.",
        function: "mm/mremap.c: move_vma",
        source: "mm/mremap: fix locked_vm leak by splitting VMA for MREMAP_DONTUNMAP; mm/mremap: fix locked_vm leak from MREMAP_DONTUNMAP self-merge",
        kind: ChangeKind::Defect {
            cve: None,
            right: "Only what moves is unlocked; the original and its copy stay apart.",
        },
        versions: Versions {
            since: Arrival::ALWAYS,
            until: Some(Arrival {
                mainline: Some(KernelVersion::release_candidate(7, 3, 7)),
                stable: &[KernelVersion::new(6, 1, 191), KernelVersion::new(6, 12, 114), KernelVersion::new(7, 2, 11)],
            }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::DontunmapKeepsOffset,
        identifier: "mremap.dontunmap-keeps-offset",
        statement: "A VMA that MREMAP_DONTUNMAP leaves without pages keeps the page offset that mremap gave it before.",
        function: "mm/mremap.c: move_vma, dontunmap_complete",
        source: "mm/mremap: reset unfaulted VMA page offset for MREMAP_DONTUNMAP",
        kind: ChangeKind::Defect {
            cve: None,
            right: "It has the offset of its place, as any anonymous VMA without anon_vma, and merges by it.",
        },
        versions: Versions {
            since: Arrival::ALWAYS,
            until: Some(Arrival {
                mainline: Some(KernelVersion::release_candidate(7, 3, 1)),
                stable: &[KernelVersion::new(6, 1, 191), KernelVersion::new(6, 12, 112), KernelVersion::new(7, 2, 6)],
            }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::UnmergeableDropsFlags,
        identifier: "ksm.unmergeable-drops-flags",
        statement: "MADV_UNMERGEABLE clears every flag of the VMA above bit 31 with VM_MERGEABLE: the protection key is lost.",
        function: "mm/ksm.c: ksm_madvise",
        source: "mm/ksm: fix flag-dropping behavior in ksm_madvise",
        kind: ChangeKind::Defect { cve: Some("CVE-2025-40040"), right: "It clears VM_MERGEABLE alone." },
        versions: Versions {
            since: Arrival::ALWAYS,
            until: Some(Arrival {
                mainline: Some(KernelVersion::new(6, 18, 0)),
                stable: &[KernelVersion::new(6, 1, 156), KernelVersion::new(6, 12, 53), KernelVersion::new(6, 17, 3)],
            }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::CopyMergeLosesAnonVma,
        identifier: "mremap.copy-merge-loses-anon-vma",
        statement: "A VMA that mremap moves beside one without anon_vma merges with it and loses its own: fork leaves its pages out.",
        function: "mm/vma.c: copy_vma, vma_merge_new_range",
        source: "mm/vma: fix anon_vma UAF on mremap() faulted, unfaulted merge",
        kind: ChangeKind::Defect { cve: None, right: "The merged VMA takes over the anon_vma of what moved." },
        versions: Versions {
            since: Arrival { mainline: Some(KernelVersion::new(6, 16, 0)), stable: &[] },
            until: Some(Arrival {
                mainline: Some(KernelVersion::new(6, 19, 0)),
                stable: &[KernelVersion::new(6, 18, 15)],
            }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::KsmReplaceDropsSoftDirty,
        identifier: "ksm.replace-drops-soft-dirty",
        statement: "ksmd drops SoftDirty from the entry of a page that it replaces.",
        function: "mm/ksm.c: replace_page",
        source: "mm/ksm: keep soft-dirty when merging a page",
        kind: ChangeKind::Defect {
            cve: None,
            right: "The entry of the KSM page is soft-dirty where the entry that it replaces was.",
        },
        versions: Versions {
            since: Arrival::ALWAYS,
            until: Some(Arrival { mainline: None, stable: &[KernelVersion::new(6, 12, 118)] }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::MremapMergesRegistered,
        identifier: "mremap.merges-registered",
        statement: "A VMA that loses its userfaultfd by mremap merges with a registered neighbour where it arrives, and unregisters that.",
        function: "mm/vma.c: copy_vma",
        source: "mm/vma: avoid broken uffd merge on mremap",
        kind: ChangeKind::Defect { cve: None, right: "It merges with nobody." },
        versions: Versions {
            since: Arrival::ALWAYS,
            until: Some(Arrival {
                mainline: None,
                stable: &[KernelVersion::new(6, 12, 118), KernelVersion::new(7, 3, 4)],
            }),
        },
        fact: None,
    },
    ChangeInfo {
        change: Change::PmdModifyDropsDirty,
        identifier: "pmd.modify-drops-dirty",
        statement: "pmd_modify loses the dirtiness of a huge page that becomes read-only.",
        function: "arch/x86/include/asm/pgtable.h: pmd_modify",
        source: "x86/mm: Fix user-space data loss with MADV_FREE and THP",
        kind: ChangeKind::Defect { cve: None, right: "Dirty moves to SavedDirty, as in pte_modify." },
        versions: Versions {
            since: Arrival { mainline: Some(KernelVersion::new(6, 6, 0)), stable: &[] },
            until: Some(Arrival {
                mainline: Some(KernelVersion::release_candidate(7, 3, 4)),
                stable: &[KernelVersion::new(7, 2, 7), KernelVersion::new(6, 12, 111)],
            }),
        },
        fact: None,
    },
];
