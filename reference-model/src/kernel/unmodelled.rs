//! Defects that the operations of today cannot show: of huge pages, hugetlb, and the kernel's own views. The model has
//! no behaviour for them; their versions are told all the same.

use super::change::{Arrival, Versions};
use super::version::KernelVersion;

/// A defect without behaviour in the model.
#[derive(Debug, Clone, Copy)]
pub struct UnmodelledDefect {
    /// Stable name.
    pub identifier: &'static str,
    /// Its CVE, where one was given.
    pub cve: Option<&'static str>,
    /// What a kernel that has it does, in a sentence.
    pub statement: &'static str,
    /// Kernel function (file: function) in which it shows.
    pub function: &'static str,
    /// Upstream commit of the fix, by its subject.
    pub source: &'static str,
    /// Kernels that have it, by version.
    pub versions: Versions,
}

const fn until(mainline: Option<KernelVersion>, stable: &'static [KernelVersion]) -> Option<Arrival> {
    Some(Arrival { mainline, stable })
}

const fn since(mainline: KernelVersion) -> Arrival {
    Arrival { mainline: Some(mainline), stable: &[] }
}

/// The table.
pub const UNMODELLED: &[UnmodelledDefect] = &[
    UnmodelledDefect {
        identifier: "thp.zero-subpage-loses-bits",
        cve: None,
        statement: "A split huge page loses SoftDirty and UFFD_WP at subpages of zeros.",
        function: "mm/migrate.c: try_to_map_unused_to_zeropage",
        source: "mm/rmap: fix soft-dirty and uffd-wp bit loss when remapping zero-filled mTHP subpage to shared zeropage",
        versions: Versions {
            since: since(KernelVersion::new(6, 12, 0)),
            until: until(
                Some(KernelVersion::new(6, 18, 0)),
                &[KernelVersion::new(6, 12, 54), KernelVersion::new(6, 17, 6)],
            ),
        },
    },
    UnmodelledDefect {
        identifier: "pagemap-scan.gigantic-page",
        cve: None,
        statement: "PAGEMAP_SCAN reports nothing of a page of 1 GiB and does not protect it.",
        function: "fs/proc/task_mmu.c: pagemap_scan_hugetlb_entry",
        source: "fs/proc/task_mmu: use huge_page_size() in pagemap_scan_hugetlb_entry()",
        versions: Versions {
            since: since(KernelVersion::new(6, 7, 0)),
            until: until(Some(KernelVersion::new(7, 1, 0)), &[KernelVersion::new(6, 12, 97)]),
        },
    },
    UnmodelledDefect {
        identifier: "hugetlb.fork-keeps-uffd-wp",
        cve: None,
        statement: "fork without EVENT_FORK leaves UFFD_WP in the child's hugetlb entries.",
        function: "mm/hugetlb.c: copy_hugetlb_page_range",
        source: "mm/hugetlb: fix uffd-wp during fork()",
        versions: Versions { since: Arrival::ALWAYS, until: until(Some(KernelVersion::new(6, 4, 0)), &[]) },
    },
    UnmodelledDefect {
        identifier: "thp.zap-drops-dirty",
        cve: Some("CVE-2026-89987"),
        statement: "Zapping a huge page does not hand its Dirty to the folio.",
        function: "mm/huge_memory.c: zap_huge_pmd",
        source: "mm/huge_memory: transfer the pmd dirty bit to the folio on zap",
        versions: Versions {
            since: Arrival::ALWAYS,
            until: until(
                Some(KernelVersion::new(7, 3, 0)),
                &[KernelVersion::new(6, 1, 191), KernelVersion::new(6, 12, 114)],
            ),
        },
    },
    UnmodelledDefect {
        identifier: "hugetlb.mremap-skips",
        cve: Some("CVE-2026-98373"),
        statement: "mremap of hugetlb memory loses its place where a page table is missing.",
        function: "mm/hugetlb.c: move_hugetlb_page_tables",
        source: "mm/hugetlb: preserve mremap address delta when skipping page tables",
        versions: Versions {
            since: Arrival::ALWAYS,
            until: until(
                Some(KernelVersion::new(7, 3, 0)),
                &[KernelVersion::new(6, 1, 191), KernelVersion::new(6, 12, 112), KernelVersion::new(7, 2, 9)],
            ),
        },
    },
    UnmodelledDefect {
        identifier: "ksm.madv-free-cleans",
        cve: None,
        statement: "MADV_FREE of a KSM page with one mapping cleans its folio: mergers that come later read zeros after page-out.",
        function: "mm/madvise.c: madvise_free_pte_range",
        source: "mm/madvise: fix data loss from MADV_FREE on a KSM page",
        versions: Versions { since: Arrival::ALWAYS, until: until(None, &[KernelVersion::new(6, 12, 118)]) },
    },
];
