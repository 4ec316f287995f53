//! Runs a command, or takes a process, and judges its entries by invariants as it runs.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use ptediff_observe::{Attachment, ObserveError, ProgramWatch, WatchReport, WatchSettings};
use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::invariant::{Invariant, Moment, Seen, marker_bits, marker_type, violated, vm_flag};
use ptediff_reference_model::kernel::Change;
use ptediff_reference_model::machine::Machine;
use ptediff_trace::{Finding, Frame, Refused, Writer};

use super::pagemap_audit::PagemapAudit;
use super::program::RigError;
use crate::arguments::Probes;
use crate::watch::{Counters, Output, PagemapCounters, Ran, Transition, Violation, WatchTask, Whom, finding};

/// The hidden word by which a command waits until it is watched.
pub const START_ARGUMENT: &str = "__start";
/// Exit code of a command that could not be started, as in a shell.
const NOT_STARTED: i32 = 127;
/// How often the ring buffer is read.
const POLL: Duration = Duration::from_millis(50);
/// How often the counters are told.
const TELL: Duration = Duration::from_millis(500);

/// Waits for a byte on standard input, then becomes the command.
#[must_use]
pub fn start(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut told = [0];
    if std::io::stdin().read_exact(&mut told).is_err() {
        return ExitCode::FAILURE;
    }
    let arguments: Vec<OsString> = arguments.collect();
    let Some((program, rest)) = arguments.split_first() else { return ExitCode::FAILURE };
    let error = Command::new(program).args(rest).stdin(Stdio::null()).exec();
    eprintln!("ptediff watch: {} cannot be started: {error}", program.to_string_lossy());
    ExitCode::from(NOT_STARTED as u8)
}

/// The guest's whole part.
pub(super) fn run<W: Write>(
    task: &WatchTask,
    ring_bytes: u32,
    machine: &Machine,
    writer: &mut Writer<W>,
) -> Result<(), RigError> {
    let invariants = Invariant::mask_on(machine);
    let (plant_flip, plant_causes) = task.plant.unwrap_or((0, 0));
    let settings = WatchSettings {
        invariants,
        shadow_stack_flag: if machine.shadow_stack { vm_flag::SHADOW_STACK } else { 0 },
        marker_bits: marker_bits(machine.kernel_as_released()),
        marker_type: marker_type(machine.kernel_as_released()).unwrap_or(!0),
        plant_flip,
        plant_causes,
    };
    // Debian's 7.2 preempts what runs in the kernel; 6.12 and 6.1 do not, and have no function graph for it either.
    let attachment = match task.probes {
        Some(Probes::Graph) => Attachment::FunctionGraph,
        Some(Probes::Trampolines) => Attachment::Trampolines,
        None if machine.kernel().has(Change::SessionProbesByGraph) => Attachment::FunctionGraph,
        None => Attachment::Trampolines,
    };
    let watch = match ProgramWatch::load(&settings, attachment, ring_bytes) {
        Ok(watch) => watch,
        Err(error @ (ObserveError::NoBtf(_) | ObserveError::MissingHook { .. })) => {
            return send(writer, &Frame::Refused(Refused { missing: vec![error.to_string()], seen: Vec::new() }));
        }
        Err(error) => return Err(RigError::of("the probes cannot be loaded", &error)),
    };
    let audit = match task.pagemap_every {
        None => Err("nobody asked for it".to_owned()),
        Some(_) if task.pairs > 0 => Err("times are measured".to_owned()),
        Some(seconds) => PagemapAudit::new(&watch, seconds, task.plant_pagemap),
    };
    let told = Instant::now();
    let mut watching = Watching { watch, machine, invariants, symbols: None, audit, told, first_processes: 0, writer };
    match &task.whom {
        Whom::Process(process) => watching.follow_process(*process, task.seconds)?,
        Whom::Command(command) => {
            for _ in 0..task.pairs {
                watching.run_command(command, false)?;
                watching.run_command(command, true)?;
            }
            if task.pairs == 0 {
                watching.run_command(command, true)?;
            }
        }
    }
    watching.tell_reports()?;
    let counters = watching.counters()?;
    find(watching.writer, finding::SUMMARY, &counters)
}

fn send<W: Write>(writer: &mut Writer<W>, frame: &Frame) -> Result<(), RigError> {
    writer.send(frame).map_err(|error| RigError::of("the trace cannot be written", &error))
}

fn find<W: Write>(writer: &mut Writer<W>, name: &str, value: &impl Serialize) -> Result<(), RigError> {
    let value = serde_json::to_string(value).map_err(|error| RigError::of("a finding as JSON", &error))?;
    send(writer, &Frame::Finding(Finding { name: name.to_owned(), value }))
}

/// What the threads say that read the command's output and wait for its end.
enum Said {
    Text(Output),
    Closed,
    Ended(std::io::Result<ExitStatus>, Instant),
}

struct Watching<'task, W> {
    watch: ProgramWatch,
    machine: &'task Machine,
    invariants: u64,
    /// Read when the first violation wants them: seconds in an emulator.
    symbols: Option<Symbols>,
    /// Compares pagemaps; or why not.
    audit: Result<PagemapAudit, String>,
    told: Instant,
    /// Processes that were watched from outside: commands, or a process that ran and its children.
    first_processes: u64,
    writer: &'task mut Writer<W>,
}

impl<W: Write> Watching<'_, W> {
    fn attach(&mut self) -> Result<(), RigError> {
        self.watch.attach().map_err(|error| RigError::of("the probes cannot be attached", &error))
    }

    fn run_command(&mut self, command: &[String], watched: bool) -> Result<(), RigError> {
        let failed = |error: std::io::Error| RigError::of("the command cannot be run", &error);
        let mut child = Command::new("/proc/self/exe")
            .arg(START_ARGUMENT)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if watched {
            self.watch.watch(child.id()).map_err(|error| RigError::of("the command cannot be watched", &error))?;
            self.first_processes += 1;
            if let Ok(audit) = &mut self.audit {
                audit.begin();
            }
            self.attach()?;
        }
        let (sender, receiver) = channel();
        let gate = child.stdin.take();
        let outputs = [
            child.stdout.take().map(|out| read_on(out, false, sender.clone())),
            child.stderr.take().map(|out| read_on(out, true, sender.clone())),
        ];
        let start = Instant::now();
        if let Some(mut gate) = gate {
            gate.write_all(&[1]).map_err(failed)?;
        }
        // Of its own, so that the time does not depend on how often the others are looked after.
        thread::spawn(move || {
            let ended = child.wait();
            drop(sender.send(Said::Ended(ended, Instant::now())));
        });
        let mut open = outputs.iter().flatten().count();
        let mut end = None;
        loop {
            match receiver.recv_timeout(POLL) {
                Ok(Said::Text(output)) => find(self.writer, finding::OUTPUT, &output)?,
                Ok(Said::Closed) => open -= 1,
                Ok(Said::Ended(status, at)) => {
                    if watched {
                        self.watch.detach();
                    }
                    end = Some((status.map_err(failed)?, at));
                }
                // A child of the command may keep the pipes open.
                Err(RecvTimeoutError::Timeout) if end.is_some() => break,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if open == 0 && end.is_some() {
                break;
            }
            self.tell()?;
            if watched && end.is_none() {
                self.look_at_pagemaps()?;
            }
        }
        let Some((status, at)) = end else { return Err(RigError("the command's end was not seen".to_owned())) };
        let seconds = (at - start).as_secs_f64();
        self.tell_reports()?;
        let not_started = status.code() == Some(NOT_STARTED);
        let ran = Ran { watched, seconds, failure: failure_of(status), not_started };
        find(self.writer, finding::RAN, &ran)
    }

    fn tell(&mut self) -> Result<(), RigError> {
        self.tell_reports()?;
        if self.told.elapsed() >= TELL {
            self.told = Instant::now();
            let counters = self.counters()?;
            find(self.writer, finding::COUNTERS, &counters)?;
        }
        Ok(())
    }

    fn follow_process(&mut self, process: u32, seconds: Option<u64>) -> Result<(), RigError> {
        let folder = format!("/proc/{process}");
        if !Path::new(&folder).exists() {
            let missing = vec![format!("a process {process}")];
            return send(self.writer, &Frame::Refused(Refused { missing, seen: Vec::new() }));
        }
        for process in family_of(process) {
            self.watch.watch(process).map_err(|error| RigError::of("a process cannot be watched", &error))?;
            self.first_processes += 1;
        }
        self.attach()?;
        let start = Instant::now();
        while Path::new(&folder).exists() && seconds.is_none_or(|limit| start.elapsed().as_secs() < limit) {
            thread::sleep(POLL);
            self.tell()?;
            self.look_at_pagemaps()?;
        }
        self.watch.detach();
        let ran = Ran { watched: true, seconds: start.elapsed().as_secs_f64(), failure: None, not_started: false };
        find(self.writer, finding::RAN, &ran)
    }

    fn counters(&self) -> Result<Counters, RigError> {
        let missed = self.watch.missed().map_err(|error| RigError::of("the probes' statistics", &error))?;
        let mut counters = Counters::new(&self.watch.counters(), &self.watch.judged(), missed, self.invariants);
        counters.pagemap = match &self.audit {
            Ok(audit) => audit.counters.clone(),
            Err(why) => PagemapCounters { unavailable: Some(why.clone()), ..PagemapCounters::default() },
        };
        counters.processes += self.first_processes;
        Ok(counters)
    }

    fn look_at_pagemaps(&mut self) -> Result<(), RigError> {
        let Ok(audit) = &mut self.audit else { return Ok(()) };
        for violation in audit.look_if_due(&self.watch)? {
            find(self.writer, finding::VIOLATION, &violation)?;
        }
        Ok(())
    }

    fn tell_reports(&mut self) -> Result<(), RigError> {
        let reports = self.watch.reports().map_err(|error| RigError::of("the violations", &error))?;
        for report in reports {
            let symbols = self.symbols.get_or_insert_with(Symbols::read);
            let violation = violation_of(&report, symbols, self.machine, self.invariants);
            find(self.writer, finding::VIOLATION, &violation)?;
        }
        Ok(())
    }
}

fn failure_of(status: ExitStatus) -> Option<String> {
    match (status.code(), status.signal()) {
        (Some(0), _) => None,
        (Some(code), _) => Some(format!("exit code {code}")),
        (None, signal) => Some(format!("killed by signal {}", signal.unwrap_or(0))),
    }
}

/// Reads to the end, piece by piece.
fn read_on(mut from: impl Read + Send + 'static, is_error: bool, to: Sender<Said>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            let text = String::from_utf8_lossy(&piece[..length]).into_owned();
            if to.send(Said::Text(Output { is_error, text })).is_err() {
                return;
            }
        }
        // Nobody listens any more where the command has ended.
        drop(to.send(Said::Closed));
    })
}

/// A process and all that come from it, as /proc has them now.
fn family_of(first: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
            Some((process, parent))
        })
        .collect();
    let mut family = vec![first];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(process, _)| *process));
        next += 1;
    }
    family
}

fn violation_of(report: &WatchReport, symbols: &Symbols, machine: &Machine, invariants: u64) -> Violation {
    let exclusive = match report.exclusive {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    let moment = Moment::ALL.get(report.cause as usize).copied();
    let contradiction = match moment {
        None => Some(format!("there is no cause {}", report.cause)),
        Some(moment) => {
            let seen = Seen { entry: Entry(report.after), moment, vm_flags: report.vm_flags, exclusive };
            let by_model: u64 = violated(&seen, machine.kernel_as_released(), invariants)
                .into_iter()
                .map(|invariant| invariant.bit())
                .sum();
            (by_model != report.broken).then(|| format!("the probes say {:#x}, the model {by_model:#x}", report.broken))
        }
    };
    let depth = (report.stack_bytes as usize / size_of::<u64>()).min(report.stack.len());
    let end = report.task.iter().position(|byte| *byte == 0).unwrap_or(report.task.len());
    let history = report.told.iter().filter(|told| told.number != 0).map(|told| Transition {
        number: told.number,
        cause: told.cause,
        entry: (told.cause == 0).then_some(told.after),
        thread: told.thread,
    });
    Violation {
        number: report.number,
        broken: Invariant::of_mask(report.broken).map(|invariant| invariant.identifier().to_owned()).collect(),
        cause: report.cause,
        address: report.address,
        after: report.after,
        level: report.level,
        vm_flags: report.vm_flags,
        vma: (report.vm_start, report.vm_end),
        exclusive,
        task: String::from_utf8_lossy(&report.task[..end]).into_owned(),
        process: (report.process, report.thread),
        stack: report.stack[..depth].iter().filter_map(|address| symbols.name(*address)).collect(),
        history: history.collect(),
        pagemap: None,
        contradiction,
    }
}

/// Functions through which the function graph tracer calls the probes.
const TRACER: [&str; 4] =
    ["kprobe_multi_link_exit_handler", "fprobe_return", "ftrace_return_to_handler", "return_to_handler"];

/// The kernel's functions by address.
struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Of /proc/kallsyms; none where it cannot be read.
    fn read() -> Self {
        let text = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        let mut symbols: Vec<(u64, String)> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let address = u64::from_str_radix(words.next()?, 16).ok()?;
                let kind = words.next()?;
                // The programs themselves stand between the functions that they hook.
                let name = words.next()?;
                matches!(kind, "t" | "T" | "w" | "W").then(|| (address, name.to_owned()))
            })
            .collect();
        symbols.sort();
        Self(symbols)
    }

    /// `function+0x12`; nothing for the probes' own frames.
    fn name(&self, address: u64) -> Option<String> {
        let behind = self.0.partition_point(|(start, _)| *start <= address);
        let Some((start, name)) = behind.checked_sub(1).and_then(|place| self.0.get(place)) else {
            return Some(format!("{address:#x}"));
        };
        let is_ours = name.starts_with("bpf_") || name.contains("__bpf") || TRACER.contains(&name.as_str());
        (!is_ours).then(|| format!("{name}+{:#x}", address - start))
    }
}
