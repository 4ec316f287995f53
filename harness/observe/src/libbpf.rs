//! The probes' object loaded by libbpf.

use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Mutex;

use aya_obj::btf::Btf;
use libbpf_rs::{Link, MapCore, Object, ObjectBuilder, OpenObject, PrintLevel, RingBuffer, RingBufferBuilder};
use ptediff_bpf::{EVENTS_MAP, Event, GEOMETRY_GLOBAL, Hook, HookKind, OBJECT, SNAPSHOT_PROGRAM};

use crate::error::ObserveError;
use crate::geometry::Geometry;
use crate::hooks::{Hooking, is_in_btf};
use crate::loader::{LoadedProbes, ObserverOptions, missing_hook};

/// The object, with its ring buffer and what is attached of it.
pub(crate) struct LibbpfProbes {
    ring: RingBuffer<'static>,
    /// Where the ring buffer's callback puts the records.
    records: Rc<RefCell<Vec<Result<Event, usize>>>>,
    /// Attached as long as they live.
    links: Vec<Link>,
    /// Owns what the links and the ring buffer point to: the last to go.
    object: Object,
}

impl LibbpfProbes {
    pub(crate) fn load(options: &ObserverOptions, geometry: &Geometry) -> Result<Self, ObserveError> {
        libbpf_rs::set_print(Some((PrintLevel::Warn, keep_warning)));
        let open = prepare(options, geometry)?;
        let object = open.load().map_err(|error| diagnose(options, &error))?;
        let records = Rc::new(RefCell::new(Vec::with_capacity(256)));
        let events = object.maps().find(|map| map.name() == EVENTS_MAP);
        let events = events.ok_or_else(|| load_error(format!("no map `{EVENTS_MAP}`")))?;
        let ring = ring_buffer(&events, Rc::clone(&records))?;
        Ok(Self { ring, records, links: Vec::new(), object })
    }
}

impl LoadedProbes for LibbpfProbes {
    fn library(&self) -> String {
        // SAFETY: the function returns a constant C string.
        let version = unsafe { CStr::from_ptr(libbpf_rs::libbpf_sys::libbpf_version_string()) };
        format!("libbpf {}", version.to_string_lossy())
    }

    fn map(&self, name: &'static str) -> Result<OwnedFd, ObserveError> {
        self.object
            .maps()
            .find(|map| map.name() == name)
            .ok_or_else(|| load_error(format!("no map `{name}`")))?
            .as_fd()
            .try_clone_to_owned()
            .map_err(ObserveError::system("keeping a map"))
    }

    fn snapshot_program(&self) -> Result<OwnedFd, ObserveError> {
        self.object
            .progs()
            .find(|program| program.name() == SNAPSHOT_PROGRAM)
            .ok_or_else(|| load_error(format!("no program `{SNAPSHOT_PROGRAM}`")))?
            .as_fd()
            .try_clone_to_owned()
            .map_err(ObserveError::system("keeping the snapshot program"))
    }

    fn attach(&mut self, hook: &Hook, target: &str) -> Result<(), ObserveError> {
        let program = self
            .object
            .progs_mut()
            .find(|program| program.name() == hook.program)
            .ok_or_else(|| load_error(format!("no program `{}`", hook.program)))?;
        let link = match hook.kind {
            HookKind::Tracepoint | HookKind::FunctionEntry | HookKind::FunctionExit => program.attach_trace(),
            HookKind::RawTracepoint => program.attach_raw_tracepoint(target),
            HookKind::Kprobe => program.attach_kprobe(false, target),
            HookKind::Kretprobe => program.attach_kprobe(true, target),
        };
        self.links.push(link.map_err(|error| missing_hook(hook, target, &error.to_string()))?);
        Ok(())
    }

    fn consume(&mut self, records: &mut Vec<Result<Event, usize>>) -> Result<(), ObserveError> {
        self.ring
            .consume()
            .map_err(|error| ObserveError::BadEvent(format!("libbpf cannot read the ring buffer: {error}")))?;
        records.append(&mut self.records.borrow_mut());
        Ok(())
    }
}

pub(crate) fn load_error(reason: impl Into<String>) -> ObserveError {
    ObserveError::Load { loader: "libbpf", reason: reason.into() }
}

/// libbpf's warnings since the last load began; it gives them to a plain function.
static WARNINGS: Mutex<String> = Mutex::new(String::new());

pub(crate) fn keep_warning(_: PrintLevel, text: String) {
    if let Ok(mut warnings) = WARNINGS.lock() {
        warnings.push_str(&text);
    }
}

/// The warnings since they were taken last: the verifier's log may be megabytes, its last lines say what it did not
/// like.
pub(crate) fn take_warnings() -> String {
    let warnings = WARNINGS.lock().map(|mut warnings| std::mem::take(&mut *warnings)).unwrap_or_default();
    let last: Vec<&str> = warnings.lines().rev().take(20).collect();
    last.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Opens the object, fills in the constants and sizes the ring buffer.
fn prepare(options: &ObserverOptions, geometry: &Geometry) -> Result<OpenObject, ObserveError> {
    drop(take_warnings());
    let hooking = options.way();
    let mut open = ObjectBuilder::default().open_memory(OBJECT).map_err(|error| load_error(error.to_string()))?;
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name == EVENTS_MAP {
            map.set_max_entries(options.ring_bytes).map_err(|error| load_error(error.to_string()))?;
        } else if name.ends_with(".rodata") {
            let bytes = geometry.record().to_bytes();
            let constants = map.initial_value_mut().filter(|constants| constants.len() == bytes.len());
            constants
                .ok_or_else(|| load_error(format!("`{GEOMETRY_GLOBAL}` is not alone in .rodata")))?
                .copy_from_slice(&bytes);
        }
    }
    for mut program in open.progs_mut() {
        let hook = hooking.hooks().iter().find(|hook| program.name() == hook.program);
        program.set_autoload(hook.is_some() || program.name() == SNAPSHOT_PROGRAM);
        let Some(hook) = hook else { continue };
        let wanted = options.target(hook);
        if wanted != hook.target && hooking == Hooking::Trampolines {
            program
                .set_attach_target(0, Some(wanted.to_owned()))
                .map_err(|error| missing_hook(hook, wanted, &error.to_string()))?;
        }
    }
    Ok(open)
}

/// Why libbpf could not load the object: a hook that the kernel's BTF does not know, or its own words.
fn diagnose(options: &ObserverOptions, error: &libbpf_rs::Error) -> ObserveError {
    if let Ok(kernel) = Btf::from_sys_fs() {
        for hook in options.way().hooks() {
            let function = options.target(hook);
            if !is_in_btf(&kernel, hook.kind, function) {
                return missing_hook(hook, function, "the kernel's BTF does not know it");
            }
        }
    }
    load_error(format!("{error}\n{}", take_warnings()))
}

/// A reader of the ring buffer that decodes records and keeps the length of anything else.
fn ring_buffer(
    events: &dyn MapCore,
    records: Rc<RefCell<Vec<Result<Event, usize>>>>,
) -> Result<RingBuffer<'static>, ObserveError> {
    let mut builder = RingBufferBuilder::new();
    builder
        .add(events, move |bytes| {
            records.borrow_mut().push(Event::of_bytes(bytes).ok_or(bytes.len()));
            0
        })
        .map_err(|error| load_error(error.to_string()))?;
    builder.build().map_err(|error| load_error(error.to_string()))
}
