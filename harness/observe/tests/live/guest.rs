//! The guest's side: does, looks, prints. Lines are `entry STEP ACTOR PAGE VALUE`, `event STEP ...`,
//! `check NAME ok` or `check NAME FAILED why`, `figure NAME VALUE`, `mark NAME`, `end`.

use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::io::Write;

use ptediff_observe::{
    BothObserver, Compared, EventLedger, Lie, Loader, LyingObserver, ObserveError, Observer, ObserverOptions,
    ProbeObserver, ProbedStep, Witnesses,
};
use ptediff_reference_model::arena::ActorId;
use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::observation::{RawState, RawTransition};
use ptediff_vm::guest::{E9Port, mount_file_systems, power_off};
use ptediff_vm::in_place::pin_to_one_cpu;

use crate::actor::{Channels, Order};
use crate::crash;

/// Snapshots taken between the marks that the host times.
pub(crate) const TIMED_SNAPSHOTS: u32 = 10_000;
/// Reports of the witnesses between such marks.
pub(crate) const TIMED_REPORTS: u32 = 500;

pub(crate) fn run() {
    let mut port = E9Port::open().expect("the data channel");
    match mount_file_systems() {
        Ok(_) => report(&mut port),
        Err(error) => drop(writeln!(port, "check mounts FAILED {error}")),
    }
    let _ = power_off();
}

/// The same on this machine itself, to standard output.
pub(crate) fn run_here() {
    pin_to_one_cpu().expect("one CPU");
    report(&mut std::io::stdout().lock());
}

fn report(port: &mut impl Write) {
    if let Err(error) = scenario(port) {
        let _ = writeln!(port, "check scenario FAILED {error}");
    }
    let _ = writeln!(port, "end");
}

fn scenario(port: &mut impl Write) -> Result<(), Box<dyn Error>> {
    for loader in Loader::ALL {
        check(port, &format!("missing hook for {loader}"), missing_hook(loader))?;
        check(port, &format!("no BTF for {loader}"), no_btf(loader)?)?;
    }
    let mut open = |loader: Loader| -> Result<Box<dyn Observer>, Box<dyn Error>> {
        writeln!(port, "mark {loader}")?;
        let observer = ProbeObserver::open(loader, &ObserverOptions::default())?;
        writeln!(port, "mark {loader} done")?;
        Ok(Box::new(observer))
    };
    let observer = BothObserver::new(open(Loader::Libbpf)?, open(Loader::Aya)?)?;
    for line in observer.description().to_string().lines() {
        writeln!(port, "figure {line}")?;
    }
    let mut rig = Rig::new(observer)?;
    steps(port, &mut rig)?;
    let compared = rig.observer.compared().unwrap_or_default();
    check(port, "loaders", both_saw_much(compared))?;
    lies(port, &mut rig)?;
    writeln!(port, "mark snapshots")?;
    for _ in 0..TIMED_SNAPSHOTS {
        rig.observer.snapshot(&mut rig.state)?;
    }
    writeln!(port, "mark snapshots done")?;
    let asleep = ProbedStep {
        before: &rig.state,
        transitions: &[],
        after: &rig.state,
        cleared_unseen: 0,
        moved_unseen: None,
        fills_unseen: false,
        merges_unseen: false,
        swaps_unseen: false,
        flags_changed_later: 0,
    };
    writeln!(port, "mark reports")?;
    for _ in 0..TIMED_REPORTS {
        rig.witnesses.report(&rig.observer, asleep)?;
    }
    writeln!(port, "mark reports done")?;
    drop(rig);
    for loader in Loader::ALL {
        check(port, &format!("loss for {loader}"), loss(loader))?;
    }
    // Five loads more: Bochs would take a minute for what is the same there.
    if !fs::read_to_string("/proc/cpuinfo")?.contains("user_shstk") {
        for what in crash::ATTACHED {
            check(port, &format!("crash with {what}"), crash::leaves_nothing(what))?;
        }
    }
    Ok(())
}

/// That the loaders agreed is worth as much as they saw.
fn both_saw_much(compared: Compared) -> Result<String, String> {
    let said = format!("{compared:?}");
    if compared.events >= 25 && compared.snapshots >= 15 && compared.moved == 0 { Ok(said) } else { Err(said) }
}

fn check(port: &mut impl Write, name: &str, verdict: Result<String, String>) -> Result<(), Box<dyn Error>> {
    match verdict {
        Ok(remark) => writeln!(port, "check {name} ok {remark}")?,
        Err(why) => writeln!(port, "check {name} FAILED {why}")?,
    }
    Ok(())
}

fn wrong(error: impl Display) -> String {
    error.to_string().replace('\n', " / ")
}

fn missing_hook(loader: Loader) -> Result<String, String> {
    let renamed = vec![("copy_page_range".to_owned(), "copy_page_strange".to_owned())];
    match ProbeObserver::open(loader, &ObserverOptions { renamed, ..ObserverOptions::default() }) {
        Err(error @ ObserveError::MissingHook { .. }) if error.to_string().contains("`copy_page_strange`") => {
            Ok(wrong(error))
        }
        Err(error) => Err(wrong(error)),
        Ok(_) => Err("a function that does not exist was attached to".to_owned()),
    }
}

/// Hides the kernel's BTF under an empty file system for a while.
fn no_btf(loader: Loader) -> Result<Result<String, String>, Box<dyn Error>> {
    let place = c"/sys/kernel/btf";
    // SAFETY: the strings end in a zero; the mount hides a folder that nothing has open.
    if unsafe { libc::mount(c"none".as_ptr(), place.as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null()) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    let answer = ProbeObserver::open(loader, &ObserverOptions::default());
    // SAFETY: undoes the mount above.
    if unsafe { libc::umount(place.as_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(match answer {
        Err(error @ ObserveError::NoBtf(_)) => Ok(wrong(error)),
        Err(error) => Err(wrong(error)),
        Ok(_) => Err("the probes were loaded without BTF".to_owned()),
    })
}

/// An observer with its witnesses, and the actors.
struct Rig<Observing> {
    observer: Observing,
    witnesses: Witnesses,
    ledger: EventLedger,
    channels: Channels,
    state: RawState,
}

impl<Observing: Observer> Rig<Observing> {
    fn new(mut observer: Observing) -> Result<Self, Box<dyn Error>> {
        let witnesses = Witnesses::open(observer.description())?;
        let channels = Channels::make()?;
        observer.set_nursery(std::process::id());
        observer.expect_child(ActorId::FIRST);
        channels.fork_first()?;
        Ok(Self { observer, witnesses, ledger: EventLedger::new(), channels, state: RawState::default() })
    }

    /// Looks at what a step left, and has the witnesses look too.
    fn look(&mut self, port: &mut impl Write, step: &str) -> Result<(), Box<dyn Error>> {
        let mut after = RawState::default();
        let mut transitions = Vec::new();
        self.observer.snapshot(&mut after)?;
        let lost = self.observer.drain(&mut transitions)?;
        let probed = ProbedStep {
            before: &self.state,
            transitions: &transitions,
            after: &after,
            cleared_unseen: 0,
            moved_unseen: None,
            fills_unseen: false,
            merges_unseen: false,
            swaps_unseen: false,
            flags_changed_later: 0,
        };
        let report = self.witnesses.report(&self.observer, probed)?;
        let ledger = self.ledger.enter(&transitions, self.observer.event_digest());
        for (actor, arena) in after.actors.iter().enumerate() {
            for (page, &raw) in arena.iter().flatten().enumerate().filter(|(_, raw)| **raw != 0) {
                writeln!(port, "entry {step} {actor} {page} {:016x}", Entry(raw).without_frame().0)?;
            }
        }
        for event in &transitions {
            let RawTransition { cause, actor, page, before, after, vm_flags, write, mapcount, anon_exclusive } = *event;
            let (actor, page) = (actor.index(), page.index());
            let [before, after] = [before, after].map(|raw| Entry(raw).without_frame().0);
            let (write, exclusive) = (u8::from(write), u8::from(anon_exclusive));
            writeln!(
                port,
                "event {step} {cause:?} {actor} {page} {before:016x} {after:016x} {write} {mapcount} {exclusive} {vm_flags:x}",
            )?;
        }
        let alive = after.actors.iter().flatten().count();
        let frames_agree = report.pagemap.iter().all(|view| view.frame_mismatches.is_empty());
        let verdict = if lost != 0 {
            Err(format!("{lost} events were lost"))
        } else if let Err(mismatch) = ledger {
            Err(wrong(mismatch))
        } else if !report.mismatches.is_empty() || !frames_agree {
            Err(format!("{report:x?}"))
        } else if report.walked as usize != 32 * alive || report.pagemap.len() != alive {
            Err(format!("the witnesses saw {} entries of {alive} actors", report.walked))
        } else {
            Ok(format!("{} entries", report.walked))
        };
        self.state = after;
        check(port, &format!("witnesses of {step}"), verdict)
    }

    fn tell(
        &mut self,
        port: &mut impl Write,
        step: &str,
        actor: usize,
        order: (Order, u8, u8),
    ) -> Result<(), Box<dyn Error>> {
        let answer = self.channels.tell(actor, order.0, order.1, order.2)?;
        if answer != 0 {
            writeln!(port, "figure errno of {step}: {answer}")?;
        }
        self.look(port, step)
    }
}

fn steps(port: &mut impl Write, rig: &mut Rig<BothObserver>) -> Result<(), Box<dyn Error>> {
    rig.look(port, "birth")?;
    rig.tell(port, "map", 0, (Order::Map, 0, 8))?;
    rig.tell(port, "write", 0, (Order::Write, 0, 1))?;
    rig.tell(port, "read", 0, (Order::Read, 1, 1))?;
    rig.tell(port, "protect-read", 0, (Order::ProtectRead, 0, 8))?;
    rig.tell(port, "protect-read-write", 0, (Order::ProtectReadWrite, 0, 8))?;
    rig.tell(port, "map-shadow-stack", 0, (Order::MapShadowStack, 16, 1))?;

    let second = ActorId::new(1)?;
    rig.observer.expect_child(second);
    rig.tell(port, "fork", 0, (Order::Fork, 1, 0))?;
    let parent = rig.observer.registered_pid(ActorId::FIRST);
    let child = rig.observer.registered_pid(second);
    let distinct = parent.is_some() && child.is_some() && parent != child;
    check(port, "registration", if distinct { Ok(String::new()) } else { Err(format!("{parent:?} {child:?}")) })?;
    rig.tell(port, "child-write", 1, (Order::Write, 0, 1))?;
    rig.tell(port, "parent-write", 0, (Order::Write, 0, 2))?;
    rig.tell(port, "protect-none", 0, (Order::ProtectNone, 0, 2))?;

    let pid = parent.ok_or("the first actor is not registered")?;
    fs::write(format!("/proc/{pid}/clear_refs"), "4")?;
    rig.look(port, "clear-refs")?;

    rig.channels.tell(1, Order::Exit, 0, 0)?;
    // It is the first actor's child, who never waits for it: it stays a zombie.
    let status = format!("/proc/{}/stat", child.ok_or("the second actor is not registered")?);
    while !fs::read_to_string(&status)?.contains(") Z ") {
        std::thread::yield_now();
    }
    rig.observer.forget(second);
    rig.look(port, "exit")?;
    rig.tell(port, "protect-back", 0, (Order::ProtectReadWrite, 0, 2))?;
    rig.tell(port, "unmap", 0, (Order::Unmap, 1, 1))?;
    rig.tell(port, "write-all", 0, (Order::Write, 2, 6))
}

/// Tells every lie once and asks who noticed. Pages 2 to 7 are written, so that a change of protection has
/// six events.
fn lies(port: &mut impl Write, rig: &mut Rig<BothObserver>) -> Result<(), Box<dyn Error>> {
    let mut only_by_ledger = Vec::new();
    let (mut by_witness, mut read_only) = (0, false);
    for lie in Lie::all() {
        read_only = !read_only;
        let order = if read_only { Order::ProtectRead } else { Order::ProtectReadWrite };
        rig.channels.tell(0, order, 2, 6)?;
        let mut liar = LyingObserver::new(&mut rig.observer, lie, 1);
        let mut after = RawState::default();
        let mut transitions = Vec::new();
        liar.snapshot(&mut after)?;
        liar.drain(&mut transitions)?;
        let told = liar.lies_told();
        let probed = ProbedStep {
            before: &rig.state,
            transitions: &transitions,
            after: &after,
            cleared_unseen: 0,
            moved_unseen: None,
            fills_unseen: false,
            merges_unseen: false,
            swaps_unseen: false,
            flags_changed_later: 0,
        };
        let report = rig.witnesses.report(&rig.observer, probed)?;
        let ledger = rig.ledger.enter(&transitions, rig.observer.event_digest());
        let frames = report.pagemap.iter().any(|view| !view.frame_mismatches.is_empty());
        let witnessed = !report.mismatches.is_empty() || frames;
        if told == 0 || (!witnessed && ledger.is_ok()) || (lie.is_about_snapshots() && !witnessed) {
            check(port, &format!("lie {lie}"), Err(format!("told {told} times and not noticed")))?;
        }
        by_witness += usize::from(witnessed);
        if !witnessed {
            only_by_ledger.push(lie.to_string());
        }
        rig.observer.snapshot(&mut rig.state)?;
    }
    // The honest observer must pass again.
    rig.look(port, "after-lies")?;
    writeln!(port, "figure lies seen by the ledger alone: {}", only_by_ledger.join(" "))?;
    check(port, "lies", Ok(format!("{by_witness} seen by a witness, {} by the ledger alone", only_by_ledger.len())))
}

/// A ring buffer of one page cannot hold the events of many changes of protection.
fn loss(loader: Loader) -> Result<String, String> {
    let observer = ProbeObserver::open(loader, &ObserverOptions { ring_bytes: 4096, ..ObserverOptions::default() });
    let mut rig = Rig::new(observer.map_err(wrong)?).map_err(wrong)?;
    let tell = |order, first, pages| rig.channels.tell(0, order, first, pages).map_err(wrong);
    tell(Order::Map, 0, 32)?;
    for _ in 0..4 {
        tell(Order::Write, 0, 32)?;
        tell(Order::ProtectRead, 0, 32)?;
        tell(Order::ProtectReadWrite, 0, 32)?;
    }
    let mut transitions = Vec::new();
    let lost = rig.observer.drain(&mut transitions).map_err(wrong)?;
    let counters = rig.observer.counters();
    let again = rig.observer.drain(&mut Vec::new()).map_err(wrong)?;
    let ledger = rig.ledger.enter(&transitions, rig.observer.event_digest());
    let adds_up = u64::from(lost) + transitions.len() as u64 == counters.events && u64::from(lost) == counters.lost;
    if lost == 0 || again != 0 || !adds_up || ledger.is_err() {
        return Err(format!("{lost} lost, then {again}, {} received, {counters:?}, {ledger:?}", transitions.len()));
    }
    Ok(format!("{lost} lost, {} received", transitions.len()))
}
