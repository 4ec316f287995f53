//! The eBPF probes of ptediff: the compiled object, and the Rust mirror of the records that it shares with
//! user space.
//!
//! The C source is `pte_snapshot.bpf.c` (GPL-2.0), its records are described in `pte_snapshot.h`. One object
//! serves libbpf and aya.
//!
//! # What this crate must not know
//!
//! Who loads the object, and what an entry, an actor or an event means to the model. It imports none of the
//! other crates.
#![forbid(unsafe_code)]

mod program_watch_records;
mod records;
mod watch_records;

pub use program_watch_records::*;
pub use records::*;
pub use watch_records::*;

/// Bytes at an address that suits an ELF file's headers.
#[repr(C, align(8))]
struct Aligned<Bytes: ?Sized>(Bytes);

static ALIGNED_OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/pte_snapshot.bpf.o")));
static ALIGNED_WATCH: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/write_protect_watch.bpf.o")));

static ALIGNED_PROGRAM_WATCH: &Aligned<[u8]> =
    &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/program_watch.bpf.o")));

/// The compiled object, 8-byte aligned.
pub static OBJECT: &[u8] = &ALIGNED_OBJECT.0;

/// The compiled object of `write_protect_watch.bpf.c`, 8-byte aligned. libbpf alone loads it.
pub static WATCH_OBJECT: &[u8] = &ALIGNED_WATCH.0;

/// The compiled object of `program_watch.bpf.c`, 8-byte aligned.
pub static PROGRAM_WATCH_OBJECT: &[u8] = &ALIGNED_PROGRAM_WATCH.0;

/// A program of the object and the kernel function that it hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// Name of the program in the object.
    pub program: &'static str,
    /// How it is attached.
    pub kind: HookKind,
    /// Kernel function or tracepoint.
    pub target: &'static str,
}

/// How a program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// A tracepoint with BTF arguments.
    Tracepoint,
    /// The entry of a kernel function.
    FunctionEntry,
    /// The exit of a kernel function.
    FunctionExit,
    /// A tracepoint whose arguments are numbers.
    RawTracepoint,
    /// A breakpoint at the entry of a kernel function.
    Kprobe,
    /// The return of a kernel function, by a changed return address.
    Kretprobe,
}

impl HookKind {
    /// Its name in the object's section names.
    #[must_use]
    pub const fn section(self) -> &'static str {
        match self {
            Self::Tracepoint => "tp_btf",
            Self::FunctionEntry => "fentry",
            Self::FunctionExit => "fexit",
            Self::RawTracepoint => "raw_tp",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
        }
    }
}

const fn hook(program: &'static str, kind: HookKind, target: &'static str) -> Hook {
    Hook { program, kind, target }
}

/// Every program that is attached where the kernel has trampolines and its BTF knows the functions, in that order.
pub const HOOKS: [Hook; 9] = [
    hook("fork_done", HookKind::Tracepoint, "sched_process_fork"),
    hook("fault_enter", HookKind::FunctionEntry, "handle_mm_fault"),
    hook("fault_exit", HookKind::FunctionExit, "handle_mm_fault"),
    hook("fork_copy_enter", HookKind::FunctionEntry, "copy_page_range"),
    hook("fork_copy_exit", HookKind::FunctionExit, "copy_page_range"),
    hook("protect_enter", HookKind::FunctionEntry, "change_protection"),
    hook("protect_exit", HookKind::FunctionExit, "change_protection"),
    hook("clear_refs_enter", HookKind::FunctionEntry, "clear_refs_pte_range"),
    hook("clear_refs_exit", HookKind::FunctionExit, "clear_refs_pte_range"),
];

/// The same by kprobes, for other kernels: every program that is attached there.
pub const KPROBE_HOOKS: [Hook; 9] = [
    hook("kprobe_fork_done", HookKind::RawTracepoint, "sched_process_fork"),
    hook("kprobe_fault_enter", HookKind::Kprobe, "handle_mm_fault"),
    hook("kprobe_fault_exit", HookKind::Kretprobe, "handle_mm_fault"),
    hook("kprobe_fork_copy_enter", HookKind::Kprobe, "copy_page_range"),
    hook("kprobe_fork_copy_exit", HookKind::Kretprobe, "copy_page_range"),
    hook("kprobe_protect_enter", HookKind::Kprobe, "change_protection"),
    hook("kprobe_protect_exit", HookKind::Kretprobe, "change_protection"),
    hook("kprobe_clear_refs_enter", HookKind::Kprobe, "clear_refs_pte_range"),
    hook("kprobe_clear_refs_exit", HookKind::Kretprobe, "clear_refs_pte_range"),
];

/// Every program of [`WATCH_OBJECT`] that is attached.
pub const WATCH_HOOKS: [Hook; 8] = [
    hook("watch_protect_enter", HookKind::FunctionEntry, "change_protection"),
    hook("watch_protect_exit", HookKind::FunctionExit, "change_protection"),
    hook("watch_clear_enter", HookKind::FunctionEntry, "clear_refs_pte_range"),
    hook("watch_clear_exit", HookKind::FunctionExit, "clear_refs_pte_range"),
    hook("watch_fork_enter", HookKind::FunctionEntry, "copy_page_range"),
    hook("watch_fork_exit", HookKind::FunctionExit, "copy_page_range"),
    hook("watch_fault_enter", HookKind::FunctionEntry, "handle_mm_fault"),
    hook("watch_fault_exit", HookKind::FunctionExit, "handle_mm_fault"),
];

/// The program of [`WATCH_OBJECT`] that is driven by BPF_PROG_TEST_RUN.
pub const INSPECT_PROGRAM: &str = "watch_inspect";

/// Name of the mmapable array of one [`Watch`].
pub const WATCH_MAP: &str = "watch";
/// Name of the mmapable array of one [`RegionTable`].
pub const INSPECTED_MAP: &str = "inspected";

/// The program that is never attached: BPF_PROG_TEST_RUN drives it, with no context.
pub const SNAPSHOT_PROGRAM: &str = "snapshot_arenas";

/// Name of the mmapable array of one [`Control`].
pub const CONTROL_MAP: &str = "control";
/// Name of the mmapable array of one [`Snapshot`].
pub const SNAPSHOT_MAP: &str = "snapshot";
/// Name of the ring buffer of [`Event`] records.
pub const EVENTS_MAP: &str = "events";
/// Name of the constant of type [`Geometry`], alone in `.rodata`.
pub const GEOMETRY_GLOBAL: &str = "geometry";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_is_an_aligned_bpf_elf_with_btf_and_without_kernel_symbols() {
        assert_eq!(OBJECT.as_ptr() as usize % 8, 0);
        assert_eq!(&OBJECT[..4], b"\x7fELF");
        assert_eq!(u16::from_le_bytes([OBJECT[18], OBJECT[19]]), 247, "e_machine is EM_BPF");
        let holds = |name: &str| OBJECT.windows(name.len()).any(|window| window == name.as_bytes());
        assert!(holds(".BTF.ext"), "CO-RE relocations");
        for refused_by_aya in [".ksyms", "syscall\0"] {
            assert!(!holds(refused_by_aya), "{refused_by_aya}");
        }
    }

    #[test]
    fn every_hook_is_a_program_of_the_source() {
        let hooks: Vec<Hook> = HOOKS.into_iter().chain(KPROBE_HOOKS).collect();
        check_hooks(include_str!("pte_snapshot.bpf.c"), &hooks, SNAPSHOT_PROGRAM);
        check_hooks(include_str!("write_protect_watch.bpf.c"), &WATCH_HOOKS, INSPECT_PROGRAM);
        let source = include_str!("program_watch.bpf.c");
        let hooks: Vec<Hook> = FOLLOW_HOOKS.iter().chain(&TRAMPOLINE_HOOKS).copied().collect();
        check_all(source, &hooks, GRAPH_HOOKS.len() + 1);
        assert!(source.contains(&format!("SEC(\"iter/task\")\nint {LIST_PROGRAM}(")));
        for (program, target) in GRAPH_HOOKS {
            assert!(source.contains(&format!("SEC(\"kprobe.session/{target}\")\nint {program}(")), "{program}");
        }
    }

    #[track_caller]
    fn check_hooks(source: &str, hooks: &[Hook], on_demand: &str) {
        check_all(source, hooks, 1);
        assert!(source.contains(&format!("int {on_demand}(")));
    }

    #[track_caller]
    fn check_all(source: &str, hooks: &[Hook], others: usize) {
        for Hook { program, kind, target } in hooks {
            let section = kind.section();
            let head = format!("SEC(\"{section}/{target}\")\nint {program}(");
            assert!(source.contains(&head), "{head}");
        }
        assert_eq!(source.matches("\nSEC(\"").count(), hooks.len() + others, "hooks, and what is run on demand");
    }
}
