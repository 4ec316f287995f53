//! The watches in a build without libbpf: they cannot be opened, and say so.

use std::convert::Infallible;
use std::sync::atomic::AtomicU64;

use ptediff_bpf::{ProgramWatchCounters, WatchReport, WatchSettings, WatchedProcess};

use crate::attachment::Attachment;
use crate::error::ObserveError;
use crate::geometry::Geometry;
use crate::loader::Loader;
use crate::watch_counters::{JudgedEntries, WatchCounters};

const UNAVAILABLE: ObserveError = ObserveError::NotBuiltIn(Loader::Libbpf);

/// The watch over programs that ptediff did not write. This build has none.
#[derive(Debug)]
pub struct ProgramWatch(Infallible);

#[expect(missing_docs, clippy::missing_errors_doc, reason = "none of these can be reached; libbpf's tell what they do")]
impl ProgramWatch {
    pub fn load(_: &WatchSettings, _: Attachment, _: u32) -> Result<Self, ObserveError> {
        Err(UNAVAILABLE)
    }
    pub fn watch(&mut self, _: u32) -> Result<(), ObserveError> {
        match self.0 {}
    }
    pub fn attach(&mut self) -> Result<(), ObserveError> {
        match self.0 {}
    }
    pub fn detach(&mut self) {
        match self.0 {}
    }
    #[must_use]
    pub fn counters(&self) -> ProgramWatchCounters {
        match self.0 {}
    }
    #[must_use]
    pub fn judged(&self) -> JudgedEntries {
        match self.0 {}
    }
    pub fn reports(&mut self) -> Result<Vec<WatchReport>, ObserveError> {
        match self.0 {}
    }
    pub fn processes(&self) -> Result<Vec<WatchedProcess>, ObserveError> {
        match self.0 {}
    }
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        match self.0 {}
    }
    pub fn missed(&self) -> Result<u64, ObserveError> {
        match self.0 {}
    }
}

/// The watch over write-protections on several CPUs. This build has none.
#[derive(Debug)]
pub struct WriteProtectWatch(Infallible);

#[expect(missing_docs, clippy::missing_errors_doc, reason = "none of these can be reached; libbpf's tell what they do")]
impl WriteProtectWatch {
    pub fn open() -> Result<Self, ObserveError> {
        Err(UNAVAILABLE)
    }
    pub fn inspect(&self) -> Result<Vec<u64>, ObserveError> {
        match self.0 {}
    }
    #[must_use]
    pub fn begun(&self) -> &'static AtomicU64 {
        match self.0 {}
    }
    #[must_use]
    pub fn counters(&self) -> WatchCounters {
        match self.0 {}
    }
}
