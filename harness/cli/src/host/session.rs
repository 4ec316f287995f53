//! Reads a trace and judges it again, as it comes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sha2::{Digest, Sha256};

use ptediff_compare::{Judge, Progress as Judged};
use ptediff_reference_model::kernel::NEWEST_KNOWN;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::tracking;
use ptediff_reference_model::verdict::{Inconclusive, Verdict};
use ptediff_trace::{Attempt, Decoder, Frame, WorkList};
use ptediff_vm::{Activity, Ending};

use crate::error::{Failure, complain};
use crate::exit_code::Exit;
use crate::report::progress::Progress;

use super::channel::Channel;
use super::results::{Finish, Found, Minimal, Results, Running, reason};

/// Console lines that a report of a bad end shows.
const CONSOLE_LINES: usize = 25;

/// Where the trace is kept besides.
#[derive(Debug, Default)]
pub struct Keep {
    file: Option<(PathBuf, File)>,
    failure: Option<Failure>,
}

impl Keep {
    /// Keeps the trace in this file.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn at(path: Option<&Path>) -> Result<Self, Failure> {
        let file = match path {
            Some(path) => {
                let file = File::create(path).map_err(|error| Failure::unwritable(path, error))?;
                Some((path.to_owned(), file))
            }
            None => None,
        };
        Ok(Self { file, failure: None })
    }

    /// Keeps these bytes. Where that fails the campaign goes on without: its verdicts are worth more.
    fn write(&mut self, bytes: &[u8]) {
        let Some((path, file)) = &mut self.file else { return };
        if let Err(error) = file.write_all(bytes) {
            self.failure = Some(Failure::unwritable(path, error));
            // Half a trace is none. Only a file is taken away: the path may name a device or a pipe.
            if file.metadata().is_ok_and(|metadata| metadata.is_file()) && std::fs::remove_file(&*path).is_err() {
                eprintln!("{} holds half a trace and could not be removed", path.display());
            }
            self.file = None;
        }
    }

    /// The exit code, now that the campaign itself ended with this one. A bad verdict stands; an agreement of
    /// which the trace was asked for and is not there is a failure of the rig.
    ///
    /// # Errors
    /// The trace could not be kept.
    pub fn finish(self, exit: Exit) -> Result<Exit, Failure> {
        match self.failure {
            None => Ok(exit),
            Some(failure) if matches!(exit, Exit::Agree | Exit::CannotTell) => Err(failure),
            Some(failure) => {
                complain(failure);
                Ok(exit)
            }
        }
    }
}

/// Reads the channel to its end.
///
/// # Errors
/// The rig failed in a way that leaves no results.
pub fn follow(channel: &mut Channel, keep: &mut Keep, progress: &mut Progress) -> Result<Results, Failure> {
    let mut reading = Reading::new();
    let mut decoder = Decoder::new();
    let mut buffer = Vec::with_capacity(1 << 16);
    let ending = loop {
        buffer.clear();
        match channel.read(&mut buffer)? {
            Activity::Ended(ending) => break ending,
            Activity::Bytes(_) => {
                keep.write(&buffer);
                reading.take(&mut decoder, &buffer, progress);
                // The guest has said all it has to say. Not every kernel can power itself off.
                if reading.is_over() {
                    channel.kill();
                }
            }
        }
    };
    let console = channel.console_tail(CONSOLE_LINES);
    let end = match channel {
        Channel::Machine(_) => MachineEnd::Machine(ending),
        Channel::Native { .. } => MachineEnd::InPlace(ending),
    };
    Ok(reading.finish(&decoder, end, console))
}

/// Judges a trace that was kept.
#[must_use]
pub fn judge_bytes(bytes: &[u8]) -> Results {
    let mut reading = Reading::new();
    let mut decoder = Decoder::new();
    reading.take(&mut decoder, bytes, &mut Progress::silent());
    reading.finish(&decoder, MachineEnd::Unknown, String::new())
}

/// What ended when the stream did.
enum MachineEnd {
    /// A machine of ours.
    Machine(Ending),
    /// A session on this very machine.
    InPlace(Ending),
    /// The trace is a file's.
    Unknown,
}

/// The program whose frames are coming in.
struct Current {
    index: u32,
    attempt: Attempt,
    program: Program,
    records: Vec<StepRecord>,
    judge: Judge,
    verdict: Option<Verdict>,
}

struct Reading {
    start: Instant,
    digest: Sha256,
    /// Over the frames of programs alone.
    observed: Sha256,
    results: Results,
    current: Option<Current>,
    /// Steps received.
    steps: u64,
    damage: Option<String>,
    rig_failure: Option<String>,
    last_shrink: Option<(Program, Verdict, Vec<StepRecord>)>,
}

impl Reading {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            digest: Sha256::new(),
            observed: Sha256::new(),
            results: Results::default(),
            current: None,
            steps: 0,
            damage: None,
            rig_failure: None,
            last_shrink: None,
        }
    }

    /// Whether the guest's last word was received: its count, a refusal, or a failure of the rig.
    fn is_over(&self) -> bool {
        self.results.end.is_some() || self.results.refused.is_some() || self.rig_failure.is_some()
    }

    fn take(&mut self, decoder: &mut Decoder, bytes: &[u8], progress: &mut Progress) {
        self.digest.update(bytes);
        self.results.trace_bytes += bytes.len() as u64;
        decoder.push(bytes);
        // A refusal is the guest's last word. An old Bochs with a debugger adds words of its own to the port.
        while self.damage.is_none() && self.results.refused.is_none() {
            let offset = decoder.offset();
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    self.frame(frame, progress);
                    self.damage = self
                        .damage
                        .take()
                        .map(|what| format!("the trace is damaged: the frame at byte {offset}: {what}"));
                }
                Ok(None) => break,
                Err(error) => self.damage = Some(error.to_string()),
            }
        }
    }

    fn frame(&mut self, frame: Frame, progress: &mut Progress) {
        if frame.is_observation() {
            match frame.payload() {
                Ok(payload) => self.observed.update(payload),
                Err(error) => self.damage = Some(error.to_string()),
            }
        }
        match frame {
            Frame::Hello(hello) => {
                progress.begin(match &hello.campaign.work {
                    WorkList::Generated { programs, .. } => u64::from(*programs),
                    WorkList::Given(programs) => programs.len() as u64,
                });
                self.results.campaign = Some(hello.campaign);
            }
            Frame::Machine(machine) => {
                progress.note(&describe(&machine));
                self.results.machine = Some(machine);
            }
            Frame::Log(line) => self.results.log.push(line),
            Frame::ProgramBegin { index, attempt, program } => self.begin(index, attempt, program),
            Frame::StepDone(done) => {
                self.steps += 1;
                self.step(done.record);
            }
            Frame::ProgramEnd { index, verdict } => {
                self.end(index, verdict);
                progress.advance(u64::from(self.results.programs), self.results.divergences.len());
            }
            Frame::Shrunk(shrunk) => {
                let last = self.last_shrink.take();
                if let Some(found) = self.results.divergences.iter_mut().rev().find(|found| found.index == shrunk.index)
                {
                    found.stability = Some((shrunk.stable_reruns, shrunk.reruns));
                    if let Some((program, verdict, records)) = last
                        && program == shrunk.program
                    {
                        let (executions, exhausted) = (shrunk.executions, shrunk.exhausted);
                        found.minimal = Some(Minimal { program, verdict, records, executions, exhausted });
                    }
                }
            }
            Frame::Progress(_) => {}
            Frame::Figures(figures) => {
                let now = self.start.elapsed();
                self.results.marks.extend(figures.into_iter().map(|figure| (figure.name, figure.value, now)));
            }
            Frame::Refused(refused) => self.results.refused = Some(refused),
            Frame::RigFailure { message } => self.rig_failure = Some(message),
            Frame::End(end) => self.results.end = Some(end),
            Frame::Finding(finding) => {
                if !progress.hear(&finding.name, &finding.value) {
                    self.results.findings.push((finding.name, finding.value));
                }
            }
        }
    }

    fn begin(&mut self, index: u32, attempt: Attempt, program: Program) {
        let Some(machine) = &self.results.machine else {
            self.damage = Some(format!("program {index} begins before the machine is described"));
            return;
        };
        if let Some(current) = &self.current {
            self.damage = Some(format!("program {index} begins before program {} has ended", current.index));
            return;
        }
        let judge = Judge::new(machine);
        self.current = Some(Current { index, attempt, program, records: Vec::new(), judge, verdict: None });
    }

    fn step(&mut self, record: StepRecord) {
        let Some(current) = &mut self.current else {
            self.damage = Some("a step outside a program".to_owned());
            return;
        };
        let number = current.records.len();
        if current.verdict.is_none()
            && let Some(step) = current.program.steps.get(number)
        {
            let judged = current.judge.step(number, step, &record);
            current.records.push(record);
            current.verdict = match judged {
                Judged::GoesOn => None,
                Judged::CannotTell(why) => Some(Verdict::Inconclusive(why)),
                Judged::Differs => {
                    let divergence = current.judge.explain(&current.program, &current.records);
                    divergence.map(|divergence| Verdict::Diverge(Box::new(divergence)))
                }
            };
        } else {
            current.records.push(record);
        }
        if self.results.first_comparison.is_none() {
            self.results.first_comparison = Some(self.start.elapsed());
        }
    }

    fn end(&mut self, index: u32, guest: Verdict) {
        let Some(current) = self.current.take() else {
            self.damage = Some(format!("program {index} ends and did not begin"));
            return;
        };
        let results = &mut self.results;
        results.runs += 1;
        results.tally.add(current.judge.tally());
        let host = current.verdict.unwrap_or_else(|| current.judge.end(&current.program, current.records.len()));
        // The guest knows why it stopped early; the host can only see that it did.
        let excused = matches!(
            (&host, &guest),
            (
                Verdict::Inconclusive(Inconclusive::Truncated { .. }),
                Verdict::Inconclusive(Inconclusive::Rig { .. } | Inconclusive::MissingFeature { .. })
            )
        );
        if host != guest && !excused {
            results.disagreements.push(format!("program {index}: the guest says {guest:?}, the host {host:?}"));
        }
        let verdict = if excused { guest } else { host };
        match current.attempt {
            Attempt::First => {}
            Attempt::Rerun(_) => return,
            Attempt::Shrink(_) => {
                if matches!(verdict, Verdict::Diverge(_)) {
                    self.last_shrink = Some((current.program, verdict, current.records));
                }
                return;
            }
        }
        results.programs += 1;
        if let Some(machine) = &results.machine {
            match tracking::judge(machine.kernel_as_released(), &current.program, &current.records) {
                Ok(tally) => results.tracking.add(&tally),
                Err(violation) => {
                    let steps = current.program.steps.iter().take(violation.step + 1).enumerate();
                    let steps: String =
                        steps.map(|(number, step)| format!("\n               {number}  {step}")).collect();
                    results.untracked.push(format!("program {index}, {violation}{steps}"));
                }
            }
        }
        if let Some(machine) = &results.machine {
            results.evidence.take(machine, index, &current.program, &current.records, &verdict);
        }
        match &verdict {
            Verdict::Agree => results.agreed += 1,
            Verdict::Diverge(_) => {
                results.divergences.push(Found {
                    index,
                    program: current.program,
                    verdict,
                    records: current.records.clone(),
                    stability: None,
                    minimal: None,
                    opinions: Vec::new(),
                });
            }
            Verdict::Inconclusive(why) => {
                results.inconclusive.entry(reason(why)).or_insert((0, index)).0 += 1;
                results.undecided.push((index, why.clone()));
            }
        }
        if matches!(results.campaign.as_ref().map(|campaign| &campaign.work), Some(WorkList::Given(_))) {
            results.records.push(current.records);
        }
    }

    /// The verdict on the whole.
    fn finish(mut self, decoder: &Decoder, end: MachineEnd, console: String) -> Results {
        self.results.wall = self.start.elapsed();
        self.results.trace_digest = hexadecimal(&self.digest.finalize());
        self.results.observation_digest = hexadecimal(&self.observed.finalize());
        self.results.running = self.current.map(|current| Running {
            index: current.index,
            program: current.program,
            steps_done: current.records.len(),
            alone: None,
        });
        if let Some(end) = &self.results.end
            && (end.runs, end.programs) != (self.results.runs, self.results.programs)
        {
            self.results.disagreements.push(format!(
                "the guest counts {} programs and {} runs, the host {} and {}",
                end.programs, end.runs, self.results.programs, self.results.runs
            ));
        }
        if let Some(end) = &self.results.end
            && self.damage.is_none()
            && (end.runs, end.steps) != (self.results.runs, self.steps)
        {
            let (runs, steps) = (self.results.runs, self.steps);
            self.damage = Some(format!(
                "it holds {runs} runs and {steps} steps, and the guest counted {} and {}",
                end.runs, end.steps
            ));
        }
        let complete = self.results.end.is_some() && self.damage.is_none() && decoder.finish().is_ok();
        let cut = decoder.finish().err().map(|error| error.to_string());
        let died = |what: String| Finish::KernelDied(what);
        let in_program = self.results.running.is_some();
        // The guest's first frame; all before it is the kernel's boot and process 1.
        let began = self.results.campaign.is_some();
        let (ending, in_machine) = match end {
            MachineEnd::Machine(ending) => (Some(ending), true),
            MachineEnd::InPlace(ending) => (Some(ending), false),
            MachineEnd::Unknown => (None, false),
        };
        self.results.ending = match (self.damage, self.rig_failure, ending) {
            (_, failure, Some(ending)) if in_machine && !began && is_of_guest(&ending) => {
                let failure = failure.map(|failure| format!("{failure}; ")).unwrap_or_default();
                Finish::NeverBegan(format!("{failure}{ending}"))
            }
            (_, _, Some(ending @ (Ending::GuestPanic { .. } | Ending::GuestOops { .. } | Ending::TripleFault))) => {
                died(ending.to_string())
            }
            (Some(damage), _, None) => Finish::BadTrace(damage),
            (Some(damage), _, _) => Finish::RigFailed(damage),
            (None, Some(failure), _) => Finish::RigFailed(failure),
            (None, None, _) if self.results.refused.is_some() => Finish::Refused,
            (None, None, _) if complete => Finish::Finished,
            (None, None, Some(Ending::TimeLimit)) => Finish::TimeLimit,
            (None, None, Some(ending @ Ending::Reset)) => died(ending.to_string()),
            (None, None, Some(ending @ Ending::Hang { .. })) if in_program => died(ending.to_string()),
            (None, None, Some(Ending::PoweredOff)) => {
                Finish::RigFailed(format!("the guest powered off before its last frame ({})", cut.unwrap_or_default()))
            }
            (None, None, Some(ending)) => Finish::RigFailed(ending.to_string()),
            (None, None, None) => Finish::BadTrace(cut.unwrap_or_default()),
        };
        if !matches!(self.results.ending, Finish::Finished | Finish::TimeLimit) {
            self.results.console = console;
        }
        self.results
    }
}

/// The version that it is judged as.
fn judged_as(machine: &Machine) -> String {
    match (machine.judged_as, machine.caveat()) {
        (Some(version), _) => format!("judged as {version}, as asked"),
        (None, Some(_)) => format!("{}, judged as {NEWEST_KNOWN}", machine.version),
        (None, None) => machine.version.to_string(),
    }
}

/// Whether the guest ended the machine, or its silence did; as opposed to the emulator, the user, or the time limit.
fn is_of_guest(ending: &Ending) -> bool {
    matches!(
        ending,
        Ending::PoweredOff
            | Ending::GuestPanic { .. }
            | Ending::GuestOops { .. }
            | Ending::TripleFault
            | Ending::Reset
            | Ending::Hang { .. }
    )
}

/// The machine, in a line.
#[must_use]
pub fn describe(machine: &Machine) -> String {
    let with = |has: bool| if has { "with" } else { "without" };
    format!(
        "Linux {} ({}) on {}, {}, {} user shadow stacks, {} protection keys",
        machine.release,
        judged_as(machine),
        machine.platform,
        machine.cpu_model,
        with(machine.shadow_stack),
        with(machine.protection_keys)
    )
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use ptediff_trace::Campaign;

    use super::*;

    fn check(began: bool, end: MachineEnd, expected: Exit) {
        let mut reading = Reading::new();
        let work = WorkList::Given(Vec::new());
        let campaign = Campaign {
            work,
            judged_as: None,
            observer: String::new(),
            witness_every: 0,
            shrink_budget: 0,
            seconds: 0,
            bare: false,
        };
        reading.results.campaign = began.then_some(campaign);
        let results = reading.finish(&Decoder::new(), end, "the console".to_owned());
        assert_eq!(results.exit(), expected, "{began}: {:?}", results.ending);
        assert_eq!(results.console, "the console");
    }

    #[test]
    fn a_boot_that_never_reaches_the_session_blames_nobody() {
        let panic = || Ending::GuestPanic { message: "no memory".to_owned() };
        for ending in [panic(), Ending::TripleFault, Ending::Reset] {
            check(false, MachineEnd::Machine(ending.clone()), Exit::CannotTell);
            check(true, MachineEnd::Machine(ending), Exit::KernelDied);
        }
        let hang = || Ending::Hang { silent_for: std::time::Duration::from_secs(1) };
        for ending in [hang(), Ending::PoweredOff] {
            check(false, MachineEnd::Machine(ending.clone()), Exit::CannotTell);
            // Not in a program: it may be our session that waits.
            check(true, MachineEnd::Machine(ending), Exit::Rig);
        }
        // The emulator and a session in place are our own.
        check(false, MachineEnd::Machine(Ending::EmulatorKilled { signal: 9 }), Exit::Rig);
        check(false, MachineEnd::InPlace(Ending::PoweredOff), Exit::Rig);
    }
}
