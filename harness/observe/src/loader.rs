//! The two eBPF libraries, and what this crate asks of either.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;

use ptediff_bpf::{Event, Hook};
use thiserror::Error;

use crate::error::ObserveError;
use crate::geometry::Geometry;
use crate::hooks::Hooking;

/// The kernel's BTF; libbpf looks elsewhere too, but no distribution's kernel needs that.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// A library that loads the probes' object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loader {
    /// libbpf, by libbpf-rs. It is C, as are libelf and zlib, which it needs.
    Libbpf,
    /// aya, Rust alone.
    Aya,
}

impl Loader {
    /// Both, built in or not.
    pub const ALL: [Self; 2] = [Self::Libbpf, Self::Aya];

    /// Whether this build has it: the cargo features `libbpf` and `aya`.
    #[must_use]
    pub const fn is_built_in(self) -> bool {
        match self {
            Self::Libbpf => cfg!(feature = "libbpf"),
            Self::Aya => cfg!(feature = "aya"),
        }
    }

    /// Those that this build has.
    pub fn built_in() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|loader| loader.is_built_in())
    }

    /// `libbpf` or `aya`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Libbpf => "libbpf",
            Self::Aya => "aya",
        }
    }
}

impl fmt::Display for Loader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no loader's.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a loader: libbpf or aya")]
pub struct UnknownLoader(String);

impl FromStr for Loader {
    type Err = UnknownLoader;
    fn from_str(name: &str) -> Result<Self, UnknownLoader> {
        Self::ALL.into_iter().find(|loader| loader.name() == name).ok_or_else(|| UnknownLoader(name.to_owned()))
    }
}

/// How to set up an observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObserverOptions {
    /// Size of the ring buffer in bytes: a power of two, at least a page. An event takes 48.
    pub ring_bytes: u32,
    /// Kernel functions under another name: pairs of a hook's target and the function to attach to instead.
    /// For kernels in which a function was renamed.
    pub renamed: Vec<(String, String)>,
    /// How the probes are attached; `None` for trampolines, and kprobes where these cannot be had.
    pub hooking: Option<Hooking>,
}

impl Default for ObserverOptions {
    fn default() -> Self {
        Self { ring_bytes: 1 << 20, renamed: Vec::new(), hooking: None }
    }
}

impl ObserverOptions {
    /// How the probes are attached, where nobody tries several ways.
    pub(crate) fn way(&self) -> Hooking {
        self.hooking.unwrap_or(Hooking::Trampolines)
    }

    /// The kernel function to which a hook goes.
    pub(crate) fn target<'a>(&'a self, hook: &'a Hook) -> &'a str {
        let renamed = self.renamed.iter().find(|(from, _)| from == hook.target);
        renamed.map_or(hook.target, |(_, to)| to)
    }
}

/// The probes' object as one of the libraries has loaded it. Dropped, it detaches and unloads everything.
pub(crate) trait LoadedProbes {
    /// Name and version of the library.
    fn library(&self) -> String;

    /// A map of the object.
    fn map(&self, name: &'static str) -> Result<OwnedFd, ObserveError>;

    /// The program that takes snapshots.
    fn snapshot_program(&self) -> Result<OwnedFd, ObserveError>;

    /// Attaches a hook's program to this function or tracepoint.
    fn attach(&mut self, hook: &Hook, target: &str) -> Result<(), ObserveError>;

    /// Appends what the ring buffer of events has got: records, or the length of what is none.
    fn consume(&mut self, records: &mut Vec<Result<Event, usize>>) -> Result<(), ObserveError>;
}

/// Has a library load the object.
pub(crate) fn load(
    loader: Loader,
    options: &ObserverOptions,
    geometry: &Geometry,
) -> Result<Box<dyn LoadedProbes>, ObserveError> {
    require_btf()?;
    match loader {
        #[cfg(feature = "libbpf")]
        Loader::Libbpf => Ok(Box::new(crate::libbpf::LibbpfProbes::load(options, geometry)?)),
        #[cfg(feature = "aya")]
        Loader::Aya => Ok(Box::new(crate::aya::AyaProbes::load(options, geometry)?)),
        #[cfg(not(all(feature = "libbpf", feature = "aya")))]
        other => Err(ObserveError::NotBuiltIn(other)),
    }
}

/// Refuses a kernel without BTF before a loader stumbles over it.
pub(crate) fn require_btf() -> Result<(), ObserveError> {
    match Path::new(KERNEL_BTF).exists() {
        true => Ok(()),
        false => Err(ObserveError::NoBtf(KERNEL_BTF.into())),
    }
}

pub(crate) fn missing_hook(hook: &Hook, function: &str, reason: &str) -> ObserveError {
    ObserveError::MissingHook {
        function: function.to_owned(),
        hint: format!("probe `{}` ({}) needs it: {reason}", hook.program, hook.kind.section()),
    }
}
