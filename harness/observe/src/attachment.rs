//! Two ways to attach the probes that judge.

/// How the judging probes are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// Trampolines (fexit): the cheaper way. The kernel leaves a program out where it runs already on the same CPU
    /// (`kernel/bpf/trampoline.c: __bpf_prog_enter_recur`), as happens where it may be preempted.
    Trampolines,
    /// The function graph tracer (`kprobe.session`, by it since 6.14): with preemption off, so that none is left out.
    FunctionGraph,
}
