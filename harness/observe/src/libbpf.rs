//! The observer that campaigns use: the probes loaded by libbpf.

use std::cell::RefCell;
use std::ffi::CStr;
use std::fmt;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::sync::Mutex;

use libbpf_rs::{Link, MapCore, Object, ObjectBuilder, OpenObject, PrintLevel, RingBuffer, RingBufferBuilder, btf};
use ptediff_bpf::{
    ActorSnapshot, CONTROL_MAP, Control, EVENTS_MAP, Event, GEOMETRY_GLOBAL, HOOKS, Hook, HookKind, NO_SLOT, OBJECT,
    SNAPSHOT_MAP, SNAPSHOT_PROGRAM, STATUS_EMPTY, STATUS_HUGE, STATUS_NO_TABLE, STATUS_OK, Slot, Snapshot,
};
use ptediff_reference_model::arena::{ARENA_PAGES, ActorId};
use ptediff_reference_model::observation::{RawState, RawTransition};

use crate::error::ObserveError;
use crate::events::transition_of;
use crate::geometry::Geometry;
use crate::mapped::MappedValue;
use crate::observer::{Counters, Description, Observer, Registered};
use crate::test_run;

/// The kernel's BTF; libbpf looks elsewhere too, but no distribution's kernel needs that.
pub(crate) const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// How to set up an observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObserverOptions {
    /// Size of the ring buffer in bytes: a power of two, at least a page. An event takes 48.
    pub ring_bytes: u32,
    /// Kernel functions under another name: pairs of a hook's target and the function to attach to instead.
    /// For kernels in which a function was renamed.
    pub renamed: Vec<(String, String)>,
}

impl Default for ObserverOptions {
    fn default() -> Self {
        Self { ring_bytes: 1 << 20, renamed: Vec::new() }
    }
}

/// The probes, loaded by libbpf and attached.
pub struct LibbpfObserver {
    control: MappedValue<Control>,
    snapshot: MappedValue<Snapshot>,
    ring: RingBuffer<'static>,
    /// Where the ring buffer's callback puts the records.
    records: Rc<RefCell<Vec<Result<Event, usize>>>>,
    next_sequence: u64,
    received: u64,
    reported: u64,
    description: Description,
    snapshot_program: OwnedFd,
    /// Attached as long as they live.
    _links: Vec<Link>,
    /// Owns what the links and the ring buffer point to: the last to go.
    _object: Object,
}

impl fmt::Debug for LibbpfObserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LibbpfObserver").field("description", &self.description).finish_non_exhaustive()
    }
}

impl LibbpfObserver {
    /// Loads the probes and attaches them all.
    ///
    /// # Errors
    /// [`ObserveError::NoBtf`], [`ObserveError::MissingHook`], or whatever else keeps the kernel from taking
    /// the probes.
    pub fn open(options: &ObserverOptions) -> Result<Self, ObserveError> {
        require_btf()?;
        let geometry = Geometry::measure()?;
        libbpf_rs::set_print(Some((PrintLevel::Warn, keep_warning)));
        let open = prepare(options, &geometry)?;
        let object = open.load().map_err(|error| diagnose(options, &error))?;
        let (links, hooks) = attach(&object, options)?;

        let map = |name: &str| {
            object.maps().find(|map| map.name() == name).ok_or_else(|| load_error(format!("no map `{name}`")))
        };
        let mut control = MappedValue::<Control>::open(map(CONTROL_MAP)?.as_fd(), CONTROL_MAP)?;
        control.write_field(offset_of!(Control, expected_child), NO_SLOT);
        let snapshot = MappedValue::open(map(SNAPSHOT_MAP)?.as_fd(), SNAPSHOT_MAP)?;
        let records = Rc::new(RefCell::new(Vec::with_capacity(256)));
        let events = map(EVENTS_MAP)?;
        let ring = ring_buffer(&events, Rc::clone(&records))?;

        let snapshot_program = object
            .progs()
            .find(|program| program.name() == SNAPSHOT_PROGRAM)
            .ok_or_else(|| load_error(format!("no program `{SNAPSHOT_PROGRAM}`")))?
            .as_fd()
            .try_clone_to_owned()
            .map_err(ObserveError::system("keeping the snapshot program"))?;

        let description = Description {
            loader: version(),
            hooks,
            geometry,
            pgd_offset: 0,
            anon_exclusive: 0,
            ring_bytes: options.ring_bytes,
        };
        let mut observer = Self {
            control,
            snapshot,
            ring,
            records,
            next_sequence: 0,
            received: 0,
            reported: 0,
            description,
            snapshot_program,
            _links: links,
            _object: object,
        };
        observer.learn_relocated_values()?;
        Ok(observer)
    }

    /// Reads what the loader relocated: the snapshot program writes it into the control block.
    fn learn_relocated_values(&mut self) -> Result<(), ObserveError> {
        self.run_snapshot()?;
        let control = self.control.read();
        if u64::from(control.page_size_of) != self.description.geometry.struct_page.size {
            return Err(ObserveError::Geometry(format!(
                "struct page has {} bytes by BTF and {} by vmcoreinfo",
                control.page_size_of, self.description.geometry.struct_page.size
            )));
        }
        self.description.pgd_offset = control.pgd_offset;
        self.description.anon_exclusive = control.anon_exclusive;
        Ok(())
    }

    /// The probes' counters since they were loaded.
    #[must_use]
    pub fn counters(&self) -> Counters {
        counters_of(&self.control.read())
    }

    /// Runs the snapshot program and leaves the result in the shared array.
    fn run_snapshot(&self) -> Result<(), ObserveError> {
        test_run::run_once(self.snapshot_program.as_fd())
    }
}

impl Observer for LibbpfObserver {
    fn set_nursery(&mut self, pid: u32) {
        self.control.write_field(offset_of!(Control, nursery_pid), pid);
    }

    fn expect_child(&mut self, actor: ActorId) {
        self.control.write_field(offset_of!(Control, expected_child), actor.index() as u32);
    }

    fn forget(&mut self, actor: ActorId) {
        self.control.write_field(slot_offset(actor), Slot::default());
    }

    fn registered(&self, actor: ActorId) -> Option<Registered> {
        let slot = self.control.read_field::<Slot>(slot_offset(actor));
        (slot.mm != 0).then_some(Registered { pid: slot.pid, mm: slot.mm })
    }

    fn snapshot(&mut self, state: &mut RawState) -> Result<(), ObserveError> {
        self.run_snapshot()?;
        decode_snapshot(&self.snapshot, state)
    }

    fn drain(&mut self, transitions: &mut Vec<RawTransition>) -> Result<u32, ObserveError> {
        self.ring
            .consume()
            .map_err(|error| ObserveError::BadEvent(format!("libbpf cannot read the ring buffer: {error}")))?;
        let mut records = self.records.borrow_mut();
        for record in records.drain(..) {
            let record =
                record.map_err(|bytes| ObserveError::BadEvent(format!("a record of {bytes} bytes is no event")))?;
            if record.sequence < self.next_sequence {
                return Err(ObserveError::BadEvent(format!(
                    "event {} came after event {}",
                    record.sequence,
                    self.next_sequence - 1
                )));
            }
            self.next_sequence = record.sequence + 1;
            self.received += 1;
            transitions.push(transition_of(&record)?);
        }
        let counters = counters_of(&self.control.read());
        // What was numbered and did not arrive is lost, whatever the reason.
        let missing = counters.events.saturating_sub(self.received).max(counters.lost);
        let total = missing + counters.unpaired + counters.unexpected;
        let new = total.saturating_sub(self.reported);
        self.reported = total;
        Ok(u32::try_from(new).unwrap_or(u32::MAX))
    }

    fn event_digest(&self) -> u64 {
        self.control.read_field(offset_of!(Control, digest))
    }

    fn description(&self) -> &Description {
        &self.description
    }
}

fn counters_of(control: &Control) -> Counters {
    Counters {
        events: control.sequence,
        lost: control.lost,
        retries: control.retries,
        unpaired: control.unpaired,
        unexpected: control.unexpected,
        snapshots: control.snapshots,
    }
}

/// Offset of an actor's slot in the control block.
pub(crate) fn slot_offset(actor: ActorId) -> usize {
    offset_of!(Control, slots) + actor.index() * size_of::<Slot>()
}

/// Reads what the snapshot program left.
pub(crate) fn decode_snapshot(snapshot: &MappedValue<Snapshot>, state: &mut RawState) -> Result<(), ObserveError> {
    for actor in ActorId::all() {
        let offset = offset_of!(Snapshot, actors) + actor.index() * size_of::<ActorSnapshot>();
        let status = snapshot.read_field::<u32>(offset + offset_of!(ActorSnapshot, status));
        let arena = match status {
            STATUS_EMPTY => None,
            STATUS_NO_TABLE => Some([0; ARENA_PAGES]),
            STATUS_OK => Some(snapshot.read_field::<ActorSnapshot>(offset).entries),
            _ => {
                let level = snapshot.read_field::<u32>(offset + offset_of!(ActorSnapshot, level));
                let what = if status == STATUS_HUGE { "a huge page maps it" } else { "the kernel refused a read" };
                let reason = format!("{what} (level {level}, status {status})");
                return Err(ObserveError::Arena { actor, reason });
            }
        };
        state.actors[actor.index()] = arena;
    }
    Ok(())
}

/// `libbpf` and its version, as it says it.
fn version() -> String {
    // SAFETY: the function returns a constant C string.
    let version = unsafe { CStr::from_ptr(libbpf_rs::libbpf_sys::libbpf_version_string()) };
    format!("libbpf {}", version.to_string_lossy())
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

/// Refuses a kernel without BTF before a loader stumbles over it.
pub(crate) fn require_btf() -> Result<(), ObserveError> {
    match Path::new(KERNEL_BTF).exists() {
        true => Ok(()),
        false => Err(ObserveError::NoBtf(KERNEL_BTF.into())),
    }
}

/// The kernel function to which a hook goes.
fn target<'a>(options: &'a ObserverOptions, hook: &'a Hook) -> &'a str {
    let renamed = options.renamed.iter().find(|(from, _)| from == hook.target);
    renamed.map_or(hook.target, |(_, to)| to)
}

/// Opens the object, fills in the constants and sizes the ring buffer.
fn prepare(options: &ObserverOptions, geometry: &Geometry) -> Result<OpenObject, ObserveError> {
    drop(take_warnings());
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
        let Some(hook) = HOOKS.iter().find(|hook| program.name() == hook.program) else {
            continue;
        };
        let wanted = target(options, hook);
        if wanted != hook.target {
            program
                .set_attach_target(0, Some(wanted.to_owned()))
                .map_err(|error| missing_hook(hook, wanted, &error.to_string()))?;
        }
    }
    Ok(open)
}

/// Why libbpf could not load the object: a hook that the kernel's BTF does not know, or its own words.
fn diagnose(options: &ObserverOptions, error: &libbpf_rs::Error) -> ObserveError {
    if let Ok(kernel) = btf::Btf::from_vmlinux() {
        for hook in &HOOKS {
            let function = target(options, hook);
            let known = match hook.kind {
                HookKind::Tracepoint => {
                    kernel.type_by_name::<btf::types::Typedef<'_>>(&format!("btf_trace_{function}")).is_some()
                }
                HookKind::FunctionEntry | HookKind::FunctionExit => {
                    kernel.type_by_name::<btf::types::Func<'_>>(function).is_some()
                }
            };
            if !known {
                return missing_hook(hook, function, "the kernel's BTF does not know it");
            }
        }
    }
    load_error(format!("{error}\n{}", take_warnings()))
}

pub(crate) fn missing_hook(hook: &Hook, function: &str, reason: &str) -> ObserveError {
    ObserveError::MissingHook {
        function: function.to_owned(),
        hint: format!(
            "probe `{}` ({}) needs it: {reason}. Was it renamed, or inlined by the compiler? Function hooks need \
             CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
            hook.program,
            kind_name(hook.kind)
        ),
    }
}

/// The name of a kind of hook, as in the object's section names.
pub(crate) fn kind_name(kind: HookKind) -> &'static str {
    match kind {
        HookKind::Tracepoint => "tp_btf",
        HookKind::FunctionEntry => "fentry",
        HookKind::FunctionExit => "fexit",
    }
}

/// Attaches every hook; also returns what a report calls them.
fn attach(object: &Object, options: &ObserverOptions) -> Result<(Vec<Link>, Vec<String>), ObserveError> {
    let mut links = Vec::new();
    let mut names = Vec::new();
    for hook in &HOOKS {
        let program = object
            .progs_mut()
            .find(|program| program.name() == hook.program)
            .ok_or_else(|| load_error(format!("no program `{}`", hook.program)))?;
        let function = target(options, hook);
        links.push(program.attach_trace().map_err(|error| missing_hook(hook, function, &error.to_string()))?);
        names.push(format!("{} {function}", kind_name(hook.kind)));
    }
    Ok((links, names))
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
