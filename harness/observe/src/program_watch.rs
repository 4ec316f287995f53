//! The watch over programs that ptediff did not write: probes that judge every entry by invariants, in the kernel.

use std::cell::RefCell;
use std::fmt;
use std::io::Read;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use libbpf_rs::libbpf_sys::{bpf_prog_get_info_by_fd, bpf_prog_info};
use libbpf_rs::{
    Iter, Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, PrintLevel, RingBuffer, RingBufferBuilder,
};
use ptediff_bpf::{
    FOLLOW_HOOKS, GRAPH_HOOKS, Hook, INVARIANTS, JUDGED, JUDGED_MAP, LIST_PROGRAM, PROGRAM_WATCH_MAP,
    PROGRAM_WATCH_OBJECT, ProgramWatchCounters, ProgramWatchState, REPORTS_MAP, TRAMPOLINE_HOOKS, WATCHED_MAP,
    WatchReport, WatchSettings, WatchedProcess,
};

use crate::attachment::Attachment;
use crate::error::ObserveError;
use crate::geometry::Geometry;
use crate::libbpf::{keep_warning, load_error, take_warnings};
use crate::loader::{missing_hook, require_btf};
use crate::mapped::MappedValue;
use crate::watch_counters::JudgedEntries;

/// The probes of `program_watch.bpf.c`, loaded; attached between [`Self::attach`] and [`Self::detach`]. When this process
/// ends, however it does, the kernel detaches and unloads them.
pub struct ProgramWatch {
    state: MappedValue<ProgramWatchState>,
    judged: MappedValue<[u64; JUDGED]>,
    watched: MapHandle,
    ring: RingBuffer<'static>,
    records: Rc<RefCell<Vec<Result<WatchReport, usize>>>>,
    links: Vec<Link>,
    attachment: Attachment,
    geometry: Geometry,
    object: Object,
}

impl fmt::Debug for ProgramWatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ProgramWatch").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl ProgramWatch {
    /// Loads the probes. `ring_bytes` is the size of the ring buffer of violations: a power of two, at least a page; a
    /// report takes 624 bytes.
    ///
    /// # Errors
    /// The kernel lacks BTF, or does not take the object.
    pub fn load(settings: &WatchSettings, attachment: Attachment, ring_bytes: u32) -> Result<Self, ObserveError> {
        require_btf()?;
        let geometry = Geometry::measure()?;
        libbpf_rs::set_print(Some((PrintLevel::Warn, keep_warning)));
        drop(take_warnings());
        let refused = |error: libbpf_rs::Error| load_error(format!("{error}\n{}", take_warnings()));
        let mut open = ObjectBuilder::default().open_memory(PROGRAM_WATCH_OBJECT).map_err(refused)?;
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if name == REPORTS_MAP {
                map.set_max_entries(ring_bytes).map_err(refused)?;
            } else if name.ends_with(".rodata") {
                let bytes = geometry.record().to_bytes();
                map.initial_value_mut()
                    .filter(|constants| constants.len() == bytes.len())
                    .ok_or_else(|| load_error("`geometry` is not alone in .rodata"))?
                    .copy_from_slice(&bytes);
            }
        }
        for mut program in open.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            let is_graph = GRAPH_HOOKS.iter().any(|(known, _)| *known == name);
            let is_follower = FOLLOW_HOOKS.iter().any(|hook| hook.program == name);
            let is_wanted = is_graph == (attachment == Attachment::FunctionGraph);
            program.set_autoload(is_follower || name == LIST_PROGRAM || is_wanted);
        }
        let object = open.load().map_err(refused)?;
        let map = |name: &str| {
            object.maps().find(|map| map.name() == name).ok_or_else(|| load_error(format!("no map `{name}`")))
        };
        let mut state = MappedValue::<ProgramWatchState>::open(map(PROGRAM_WATCH_MAP)?.as_fd(), PROGRAM_WATCH_MAP)?;
        state.write_field(offset_of!(ProgramWatchState, settings), *settings);
        let judged = MappedValue::open(map(JUDGED_MAP)?.as_fd(), JUDGED_MAP)?;
        let watched = MapHandle::try_from(&map(WATCHED_MAP)?).map_err(refused)?;
        let records = Rc::new(RefCell::new(Vec::new()));
        let mut builder = RingBufferBuilder::new();
        let into = Rc::clone(&records);
        let reports = map(REPORTS_MAP)?;
        builder
            .add(&reports, move |bytes| {
                into.borrow_mut().push(WatchReport::of_bytes(bytes).ok_or(bytes.len()));
                0
            })
            .map_err(refused)?;
        let ring = builder.build().map_err(refused)?;
        Ok(Self { state, judged, watched, ring, records, links: Vec::new(), attachment, geometry, object })
    }

    /// Watches a process, and the children that it will have.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn watch(&mut self, process: u32) -> Result<(), ObserveError> {
        self.watched
            .update(&process.to_ne_bytes(), &1u32.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| load_error(format!("process {process} cannot be watched: {error}")))
    }

    /// Attaches every probe.
    ///
    /// # Errors
    /// [`ObserveError::MissingHook`]
    pub fn attach(&mut self) -> Result<(), ObserveError> {
        let tracing: &[Hook] = if self.attachment == Attachment::Trampolines { &TRAMPOLINE_HOOKS } else { &[] };
        let graph: &[(&str, &str)] = if self.attachment == Attachment::FunctionGraph { &GRAPH_HOOKS } else { &[] };
        for hook in FOLLOW_HOOKS.iter().chain(tracing) {
            let link = self.program(hook.program)?.attach_trace();
            self.links.push(link.map_err(|error| missing_hook(hook, hook.target, &error.to_string()))?);
        }
        for (program, function) in graph {
            let link = self.program(program)?.attach().map_err(|error| ObserveError::MissingHook {
                function: (*function).to_owned(),
                hint: format!("probe `{program}` (kprobe.session) needs it: {error}"),
            })?;
            self.links.push(link);
        }
        Ok(())
    }

    fn program(&self, name: &str) -> Result<libbpf_rs::ProgramMut<'_>, ObserveError> {
        let mut programs = self.object.progs_mut();
        programs.find(|program| program.name() == name).ok_or_else(|| load_error(format!("no program `{name}`")))
    }

    /// Detaches every probe. Counters stay.
    pub fn detach(&mut self) {
        self.links.clear();
    }

    /// What was counted until now.
    #[must_use]
    pub fn counters(&self) -> ProgramWatchCounters {
        self.state.read_field(offset_of!(ProgramWatchState, counters))
    }

    /// The entries that were judged until now.
    #[must_use]
    pub fn judged(&self) -> JudgedEntries {
        let mut judged = JudgedEntries::default();
        for place in 0..JUDGED {
            let count = self.judged.read_field::<u64>(place * size_of::<u64>());
            if count == 0 {
                continue;
            }
            judged.entries[place >> INVARIANTS] += count;
            for (invariant, premise) in judged.premises.iter_mut().enumerate() {
                *premise += count * (place as u64 >> invariant & 1);
            }
        }
        judged
    }

    /// The reports since the last call.
    ///
    /// # Errors
    /// The ring buffer gives something that no probe writes.
    pub fn reports(&mut self) -> Result<Vec<WatchReport>, ObserveError> {
        self.ring
            .consume()
            .map_err(|error| ObserveError::BadEvent(format!("libbpf cannot read the ring buffer: {error}")))?;
        self.records
            .borrow_mut()
            .drain(..)
            .map(|record| record.map_err(|bytes| ObserveError::BadEvent(format!("a record of {bytes} bytes"))))
            .collect()
    }

    /// The watched processes that have memory now. One whose first thread has ended is not among them.
    ///
    /// # Errors
    /// The kernel does not iterate.
    pub fn processes(&self) -> Result<Vec<WatchedProcess>, ObserveError> {
        let refused = |error: libbpf_rs::Error| load_error(format!("the iterator over tasks: {error}"));
        let link = self.program(LIST_PROGRAM)?.attach().map_err(refused)?;
        let mut bytes = Vec::new();
        Iter::new(&link)
            .map_err(refused)?
            .read_to_end(&mut bytes)
            .map_err(ObserveError::system("reading the iterator over tasks"))?;
        WatchedProcess::of_bytes(&bytes)
            .ok_or_else(|| ObserveError::BadEvent(format!("the iterator over tasks gave {} bytes", bytes.len())))
    }

    /// Where the kernel keeps memory and page tables.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Runs of the probes that the kernel left out, as one was running already on the same CPU (`recursion_misses`, since
    /// they were loaded): what they would have seen is lost.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn missed(&self) -> Result<u64, ObserveError> {
        let mut missed = 0;
        // One that was not loaded has no descriptor.
        for program in self.object.progs().filter(|program| program.as_fd().as_raw_fd() >= 0) {
            // SAFETY: a record of integers and addresses, for which zeroes are values.
            let mut info = unsafe { std::mem::zeroed::<bpf_prog_info>() };
            let mut length = size_of::<bpf_prog_info>() as u32;
            // SAFETY: the kernel writes at most `length` bytes to `info`; its pointers are null, with lengths of 0.
            let answer =
                unsafe { bpf_prog_get_info_by_fd(program.as_fd().as_raw_fd(), &raw mut info, &raw mut length) };
            if answer != 0 {
                return Err(ObserveError::last_os_error("asking about a loaded program"));
            }
            missed += info.recursion_misses;
        }
        Ok(missed)
    }
}
