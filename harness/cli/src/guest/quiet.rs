//! Quietening: everything in the kernel that changes entries by itself is turned off, knob by knob.

use std::fs;
use std::path::Path;

/// One knob: path, value, and what it would do to entries if it were left on.
struct Knob {
    path: &'static str,
    value: &'static str,
    why: &'static str,
}

const KNOBS: &[Knob] = &[
    Knob {
        path: "/sys/kernel/mm/transparent_hugepage/enabled",
        value: "never",
        why: "huge pages take the place of entries",
    },
    Knob {
        path: "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        value: "never",
        why: "huge pages take the place of entries",
    },
    Knob {
        path: "/sys/kernel/mm/transparent_hugepage/khugepaged/defrag",
        value: "0",
        why: "khugepaged collapses entries",
    },
    Knob { path: "/sys/kernel/mm/ksm/run", value: "0", why: "KSM merges pages, but when a program asks for it" },
    Knob { path: "/sys/kernel/mm/lru_gen/enabled", value: "0", why: "MGLRU clears Accessed" },
    Knob {
        path: "/sys/module/damon_stat/parameters/enabled",
        value: "N",
        why: "DAMON clears Accessed of all memory (7.2)",
    },
    Knob { path: "/proc/sys/kernel/numa_balancing", value: "0", why: "NUMA hinting makes entries PROT_NONE" },
    Knob {
        path: "/proc/sys/vm/swappiness",
        value: "0",
        why: "reclaim swaps pages out, once a program has asked for swap",
    },
    Knob { path: "/proc/sys/vm/compaction_proactiveness", value: "0", why: "compaction migrates pages" },
    Knob {
        path: "/sys/kernel/debug/fault_around_bytes",
        value: "4096",
        why: "fault-around maps neighbours of a file page",
    },
];

/// Turns every knob that this kernel has. Returns a line for each that it has not or that would not turn.
#[must_use]
pub fn quieten() -> Vec<String> {
    let mut notes = Vec::new();
    for knob in KNOBS {
        if !Path::new(knob.path).exists() {
            notes.push(format!("no {} on this kernel ({})", knob.path, knob.why));
        } else if let Err(error) = fs::write(knob.path, knob.value) {
            notes.push(format!("{} could not be set to {}: {error} ({})", knob.path, knob.value, knob.why));
        }
    }
    let sizes = fs::read_dir("/sys/kernel/mm/transparent_hugepage").into_iter().flatten().flatten();
    for size in sizes.filter(|entry| entry.file_name().to_string_lossy().starts_with("hugepages-")) {
        let path = size.path().join("enabled");
        if path.exists()
            && let Err(error) = fs::write(&path, "never")
        {
            notes.push(format!("{} could not be set to never: {error}", path.display()));
        }
    }
    notes
}
