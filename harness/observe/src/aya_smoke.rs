//! Proof that aya loads and runs the object that libbpf loads and runs.

use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::ptr;

use aya::maps::{Map, RingBuf};
use aya::programs::{BtfTracePoint, FEntry, FExit, Program, RawTracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use ptediff_bpf::{
    CONTROL_MAP, Control, EVENTS_MAP, Event, GEOMETRY_GLOBAL, HOOKS, HookKind, NO_SLOT, OBJECT, SNAPSHOT_MAP,
    SNAPSHOT_PROGRAM, Slot, Snapshot,
};
use ptediff_reference_model::arena::{ARENA_BASE, ActorId, PAGE_SIZE};
use ptediff_reference_model::observation::{RawArena, RawState, RawTransition};

use crate::error::ObserveError;
use crate::events::transition_of;
use crate::libbpf::{
    KERNEL_BTF, LibbpfObserver, ObserverOptions, decode_snapshot, kind_name, missing_hook, require_btf, slot_offset,
};
use crate::mapped::MappedValue;
use crate::observer::Observer;
use crate::test_run;

/// What the smoke test saw. Both loaders saw the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AyaReport {
    /// Hooks that aya attached, such as `fentry handle_mm_fault`.
    pub hooks: Vec<String>,
    /// Entries of the child's arena that are not none.
    pub entries: usize,
    /// Events of the child's faults.
    pub events: usize,
}

/// Loads the object by libbpf and by aya side by side, forks a child that writes and reads pages of an
/// arena, and compares what the two copies of the probes saw.
///
/// To be called by a process with one thread and nothing mapped in the arena, while no actor is alive.
///
/// # Errors
/// aya refuses the object or a hook, or the loaders disagree.
pub fn aya_smoke() -> Result<AyaReport, ObserveError> {
    require_btf()?;
    let options = ObserverOptions { ring_bytes: 1 << 16, ..ObserverOptions::default() };
    let mut libbpf = LibbpfObserver::open(&options)?;
    let mut aya = AyaProbes::open(libbpf.description().geometry.record().to_bytes(), options.ring_bytes)?;

    let actor = ActorId::FIRST;
    libbpf.set_nursery(std::process::id());
    libbpf.expect_child(actor);
    aya.control.write_field(offset_of!(Control, nursery_pid), std::process::id());
    aya.control.write_field(offset_of!(Control, expected_child), actor.index() as u32);
    let child = Child::fork()?;

    let mut state = RawState::default();
    libbpf.snapshot(&mut state)?;
    let by_libbpf = state.actors[actor.index()].ok_or_else(|| disagree("libbpf did not register the child"))?;
    let by_aya = aya.snapshot(actor)?.ok_or_else(|| disagree("aya did not register the child"))?;
    if by_libbpf != by_aya {
        return Err(disagree("the snapshots differ"));
    }
    let mut events_by_libbpf = Vec::new();
    let lost = libbpf.drain(&mut events_by_libbpf)?;
    let events_by_aya = aya.drain()?;
    if lost != 0 || events_by_libbpf != events_by_aya {
        return Err(disagree(&format!(
            "libbpf gave {} events and lost {lost}, aya gave {}, and they differ",
            events_by_libbpf.len(),
            events_by_aya.len()
        )));
    }
    drop(child);
    let entries = by_aya.iter().filter(|&&raw| raw != 0).count();
    if entries != TOUCHED_PAGES || events_by_aya.is_empty() {
        return Err(disagree(&format!("{entries} entries and {} events were seen", events_by_aya.len())));
    }
    Ok(AyaReport { hooks: aya.hooks, entries, events: events_by_aya.len() })
}

fn disagree(what: &str) -> ObserveError {
    ObserveError::LoadersDisagree(what.to_owned())
}

fn load_error(reason: impl ToString) -> ObserveError {
    ObserveError::Load { loader: "aya", reason: reason.to_string() }
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

/// The probes, loaded by aya.
struct AyaProbes {
    ebpf: Ebpf,
    control: MappedValue<Control>,
    snapshot: MappedValue<Snapshot>,
    hooks: Vec<String>,
}

impl AyaProbes {
    fn open(geometry: [u8; size_of::<ptediff_bpf::Geometry>()], ring_bytes: u32) -> Result<Self, ObserveError> {
        let btf = Btf::parse_file(KERNEL_BTF, aya::Endianness::Little).map_err(|error| load_error(whole(&error)))?;
        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global(GEOMETRY_GLOBAL, &geometry, true)
            .map_max_entries(EVENTS_MAP, ring_bytes)
            .load(OBJECT)
            .map_err(|error| load_error(whole(&error)))?;
        let mut control = MappedValue::<Control>::open(array(&ebpf, CONTROL_MAP)?, CONTROL_MAP)?;
        control.write_field(offset_of!(Control, expected_child), NO_SLOT);
        let snapshot = MappedValue::open(array(&ebpf, SNAPSHOT_MAP)?, SNAPSHOT_MAP)?;
        let snapshot_program: &mut RawTracePoint =
            program(&mut ebpf, SNAPSHOT_PROGRAM)?.try_into().map_err(|error| load_error(whole(&error)))?;
        snapshot_program.load().map_err(|error| load_error(whole(&error)))?;
        let mut hooks = Vec::new();
        for hook in &HOOKS {
            attach(program(&mut ebpf, hook.program)?, hook.kind, hook.target, &btf)
                .map_err(|error| missing_hook(hook, hook.target, &whole(&error)))?;
            hooks.push(format!("{} {}", kind_name(hook.kind), hook.target));
        }
        Ok(Self { ebpf, control, snapshot, hooks })
    }

    fn snapshot(&mut self, actor: ActorId) -> Result<Option<RawArena>, ObserveError> {
        let program: &RawTracePoint = self
            .ebpf
            .program(SNAPSHOT_PROGRAM)
            .ok_or_else(|| load_error(format!("no program `{SNAPSHOT_PROGRAM}`")))?
            .try_into()
            .map_err(|error| load_error(whole(&error)))?;
        test_run::run_once(program.fd().map_err(|error| load_error(whole(&error)))?.as_fd())?;
        let mut state = RawState::default();
        decode_snapshot(&self.snapshot, &mut state)?;
        let slot = self.control.read_field::<Slot>(slot_offset(actor));
        Ok(state.actors[actor.index()].filter(|_| slot.pid != 0))
    }

    fn drain(&mut self) -> Result<Vec<RawTransition>, ObserveError> {
        let map = self.ebpf.map_mut(EVENTS_MAP).ok_or_else(|| load_error(format!("no map `{EVENTS_MAP}`")))?;
        let mut ring = RingBuf::try_from(map).map_err(|error| load_error(whole(&error)))?;
        let mut transitions = Vec::new();
        while let Some(bytes) = ring.next() {
            let record = Event::of_bytes(&bytes)
                .ok_or_else(|| ObserveError::BadEvent(format!("a record of {} bytes is no event", bytes.len())))?;
            transitions.push(transition_of(&record)?);
        }
        Ok(transitions)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program, ObserveError> {
    ebpf.program_mut(name).ok_or_else(|| load_error(format!("no program `{name}`")))
}

fn array<'a>(ebpf: &'a Ebpf, name: &str) -> Result<std::os::fd::BorrowedFd<'a>, ObserveError> {
    match ebpf.map(name) {
        Some(Map::Array(data)) => Ok(data.fd().as_fd()),
        _ => Err(load_error(format!("no array `{name}`"))),
    }
}

/// Loads and attaches one hook.
fn attach(program: &mut Program, kind: HookKind, target: &str, btf: &Btf) -> Result<(), aya::programs::ProgramError> {
    match kind {
        HookKind::Tracepoint => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(target, btf)?;
            program.attach()?;
        }
        HookKind::FunctionEntry => {
            let program: &mut FEntry = program.try_into()?;
            program.load(target, btf)?;
            program.attach()?;
        }
        HookKind::FunctionExit => {
            let program: &mut FExit = program.try_into()?;
            program.load(target, btf)?;
            program.attach()?;
        }
    }
    Ok(())
}

/// Pages of the arena that the child touches; every other one is only read.
const TOUCHED_PAGES: usize = 6;

/// A forked process with pages in its arena. It sleeps until it is killed.
struct Child {
    pid: libc::pid_t,
}

impl Child {
    /// Forks, and returns when the child has touched its pages.
    fn fork() -> Result<Self, ObserveError> {
        let mut ready = [0; 2];
        // SAFETY: `ready` has room for the two descriptors.
        if unsafe { libc::pipe2(ready.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return Err(ObserveError::last_os_error("making a pipe"));
        }
        let [reader, writer] = ready;
        // SAFETY: this process has one thread (a condition of `aya_smoke`), so the child's memory is whole; the
        // child makes plain system calls only and never returns.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            sleep_with_an_arena(writer);
        }
        let mut byte = [0u8; 1];
        // SAFETY: the descriptors are ours and open; the buffer has the length that is given.
        let answer = unsafe {
            libc::close(writer);
            let answer = if pid > 0 { libc::read(reader, byte.as_mut_ptr().cast(), 1) } else { -1 };
            libc::close(reader);
            answer
        };
        if pid < 0 {
            return Err(ObserveError::last_os_error("forking a child"));
        }
        let child = Self { pid };
        match answer {
            1 => Ok(child),
            _ => Err(ObserveError::System {
                action: "waiting for the child to touch its arena".to_owned(),
                error: io::Error::other("it died"),
            }),
        }
    }
}

/// The child's life: maps pages, touches them, says so, sleeps.
fn sleep_with_an_arena(writer: libc::c_int) -> ! {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let bytes = TOUCHED_PAGES * PAGE_SIZE as usize;
    // SAFETY: system calls on the child's own memory and descriptors. MAP_FIXED_NOREPLACE replaces no
    // mapping, and the pages touched are those just mapped.
    unsafe {
        let address = ptr::with_exposed_provenance_mut::<u8>(ARENA_BASE as usize);
        let mapped = libc::mmap(address.cast(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if mapped != address.cast() {
            libc::_exit(1);
        }
        for page in 0..TOUCHED_PAGES {
            let first = address.add(page * PAGE_SIZE as usize);
            if page % 2 == 0 {
                first.write_volatile(1);
            } else {
                first.read_volatile();
            }
        }
        libc::write(writer, [1u8].as_ptr().cast(), 1);
        loop {
            libc::pause();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: `pid` is a child of ours that nobody else waits for, so it cannot name another process.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, ptr::null_mut(), 0);
        }
    }
}
