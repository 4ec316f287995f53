//! The probes' object loaded by aya: the same bytes, and no library in C.

use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use ptediff_bpf::{EVENTS_MAP, Event, GEOMETRY_GLOBAL, Hook, HookKind, OBJECT, SNAPSHOT_PROGRAM};

use crate::error::ObserveError;
use crate::geometry::Geometry;
use crate::loader::{KERNEL_BTF, LoadedProbes, ObserverOptions, missing_hook};

/// The version that Cargo.toml pins; aya itself does not say it.
const LIBRARY: &str = "aya 0.14.0";

/// The object, with its ring buffer. It owns what is attached of it.
pub(crate) struct AyaProbes {
    ring: RingBuf<MapData>,
    kernel: Btf,
    object: Ebpf,
}

impl AyaProbes {
    pub(crate) fn load(options: &ObserverOptions, geometry: &Geometry) -> Result<Self, ObserveError> {
        let kernel = Btf::parse_file(KERNEL_BTF, Endianness::Little).map_err(load_error)?;
        let geometry = geometry.record().to_bytes();
        let mut object = EbpfLoader::new()
            .btf(Some(&kernel))
            .override_global(GEOMETRY_GLOBAL, &geometry, true)
            .map_max_entries(EVENTS_MAP, options.ring_bytes)
            .load(OBJECT)
            .map_err(load_error)?;
        let events = object.take_map(EVENTS_MAP).ok_or_else(|| missing("map", EVENTS_MAP))?;
        let ring = RingBuf::try_from(events).map_err(load_error)?;
        let snapshot: &mut RawTracePoint =
            program(&mut object, SNAPSHOT_PROGRAM)?.try_into().map_err(|error: ProgramError| load_error(error))?;
        snapshot.load().map_err(load_error)?;
        Ok(Self { ring, kernel, object })
    }
}

impl LoadedProbes for AyaProbes {
    fn library(&self) -> String {
        LIBRARY.to_owned()
    }

    fn map(&self, name: &'static str) -> Result<OwnedFd, ObserveError> {
        let Some(Map::Array(map)) = self.object.map(name) else { return Err(missing("array", name)) };
        map.fd().as_fd().try_clone_to_owned().map_err(ObserveError::system("keeping a map"))
    }

    fn snapshot_program(&self) -> Result<OwnedFd, ObserveError> {
        let program = self.object.program(SNAPSHOT_PROGRAM).ok_or_else(|| missing("program", SNAPSHOT_PROGRAM))?;
        let program = program.fd().map_err(load_error)?;
        program.as_fd().try_clone_to_owned().map_err(ObserveError::system("keeping the snapshot program"))
    }

    fn attach(&mut self, hook: &Hook, target: &str) -> Result<(), ObserveError> {
        let Self { kernel, object, .. } = self;
        attach(program(object, hook.program)?, hook.kind, target, kernel).map_err(|error| match error {
            // The verifier's words, not a lack of the kernel's.
            ProgramError::LoadError { .. } => load_error(error),
            _ => missing_hook(hook, target, &whole(&error)),
        })
    }

    fn consume(&mut self, records: &mut Vec<Result<Event, usize>>) -> Result<(), ObserveError> {
        while let Some(bytes) = self.ring.next() {
            records.push(Event::of_bytes(&bytes).ok_or(bytes.len()));
        }
        Ok(())
    }
}

/// Loads and attaches one hook's program.
fn attach(program: &mut Program, kind: HookKind, target: &str, kernel: &Btf) -> Result<(), ProgramError> {
    match kind {
        HookKind::Tracepoint => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(target, kernel)?;
            program.attach()?;
        }
        HookKind::FunctionEntry => {
            let program: &mut FEntry = program.try_into()?;
            program.load(target, kernel)?;
            program.attach()?;
        }
        HookKind::FunctionExit => {
            let program: &mut FExit = program.try_into()?;
            program.load(target, kernel)?;
            program.attach()?;
        }
        HookKind::RawTracepoint => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            program.attach(target)?;
        }
        HookKind::Kprobe | HookKind::Kretprobe => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(target, 0)?;
        }
    }
    Ok(())
}

fn program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Program, ObserveError> {
    object.program_mut(name).ok_or_else(|| missing("program", name))
}

fn missing(kind: &str, name: &str) -> ObserveError {
    ObserveError::Load { loader: "aya", reason: format!("no {kind} `{name}`") }
}

fn load_error(error: impl std::error::Error) -> ObserveError {
    ObserveError::Load { loader: "aya", reason: whole(&error) }
}

/// An error with everything that caused it: aya keeps the verifier's words in the sources.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
