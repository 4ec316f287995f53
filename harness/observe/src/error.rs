//! What can go wrong while observing.

use std::io;
use std::path::PathBuf;

use ptediff_reference_model::arena::ActorId;
use thiserror::Error;

use crate::loader::Loader;

/// Why nothing can be observed, or why what was observed cannot be trusted. All of these are failures of the
/// rig or a lack of the kernel's; none is a divergence.
#[derive(Debug, Error)]
pub enum ObserveError {
    /// The kernel has no BTF: neither loader can find the functions and fields that the probes name.
    #[error("this kernel has no BTF ({0} is missing): it needs CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf(PathBuf),
    /// A function or tracepoint that a probe hooks is not in the kernel's BTF, or cannot be attached to.
    #[error(
        "the kernel offers no hook at `{function}`: {hint}. Was it renamed, or inlined by the compiler? `ptediff doctor` \
         looks it up. fentry and fexit need CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, kprobes \
         CONFIG_KPROBE_EVENTS"
    )]
    MissingHook {
        /// Kernel function or tracepoint.
        function: String,
        /// What it is needed for and what to look at.
        hint: String,
    },
    /// The loader refused the object for another reason.
    #[error("{loader} cannot load the probes: {reason}")]
    Load {
        /// `libbpf` or `aya`.
        loader: &'static str,
        /// Its words.
        reason: String,
    },
    /// A system call failed.
    #[error("{action}: {error}")]
    System {
        /// What was tried.
        action: String,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// Something that the kernel says about itself is missing or contradicts itself.
    #[error("the kernel's layout cannot be told: {0}")]
    Geometry(String),
    /// An arena is not mapped by one page table of 4 KiB entries.
    #[error("the arena of actor {actor} cannot be read: {reason}", actor = .actor.index())]
    Arena {
        /// Whose arena.
        actor: ActorId,
        /// Why.
        reason: String,
    },
    /// A record of the ring buffer that no probe writes.
    #[error("the ring buffer gave a record that no probe writes: {0}")]
    BadEvent(String),
    /// Two loaders' observations of the same thing differ: one of them is wrong.
    #[error("the loaders disagree: {0}")]
    LoadersDisagree(String),
    /// This build lacks the loader.
    #[error("{0} is not built in: this ptediff was built without the cargo feature `{0}`")]
    NotBuiltIn(Loader),
}

impl ObserveError {
    /// A failed system call, with the error that the C library left.
    pub(crate) fn last_os_error(action: impl Into<String>) -> Self {
        Self::System { action: action.into(), error: io::Error::last_os_error() }
    }

    /// For `map_err` of I/O operations.
    pub(crate) fn system(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |error| Self::System { action, error }
    }
}
