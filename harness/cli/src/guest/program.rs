//! Runs one program: execute, observe, normalise, judge, stream; step by step.

use std::io::Write;

use ptediff_compare::{Judge, Progress};
use ptediff_execute::{ExecuteError, Executor, Suspect};
use ptediff_observe::{
    EventLedger, Observer, ProbedStep, Witnesses, cleared_unseen, fills_unseen, flags_changed_later, moved_unseen,
    swaps_unseen,
};
use ptediff_reference_model::arena::ActorId;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::{Normaliser, RawState, RawTransition, StepRecord, WitnessReport};
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::{Operation, Program, Step};
use ptediff_reference_model::verdict::{Inconclusive, Verdict};
use ptediff_trace::{Attempt, Frame, StepDone, Writer};

use crate::error::with_causes;

use super::plant::Plant;
use super::swap::SwapFile;

/// The rig failed: nothing more can be run, or nothing that was seen can be believed.
#[derive(Debug)]
pub struct RigError(pub String);

impl RigError {
    /// From an error with its causes.
    pub fn of(doing: &str, error: &dyn std::error::Error) -> Self {
        Self(format!("{doing}: {}", with_causes(error)))
    }
}

/// How far [`Runner::run_to`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The probes are attached; nobody reads what they give.
    Unread,
    /// The probes are attached; their events are read at the program's end.
    Attached,
    /// Events are drained and a snapshot is taken after each step.
    Observed,
    /// And judged.
    Judged,
}

/// Performs a program with nothing but the executor, for measuring.
///
/// # Errors
/// The rig failed.
pub fn run_bare(executor: &mut Executor, program: &Program) -> Result<(), RigError> {
    executor.begin(&mut |_| {}).map_err(|error| RigError::of("an actor cannot be started", &error))?;
    for (number, step) in program.steps.iter().enumerate() {
        executor.perform(number, step).map_err(|error| RigError::of(&format!("step {number} ({step})"), &error))?;
    }
    executor.end().map_err(|error| RigError::of("the actors cannot be cleaned up", &error))
}

/// Everything that one program needs, kept over all programs of a session.
pub struct Runner<O, W> {
    /// What the machine is.
    pub machine: Machine,
    /// Performs the steps.
    pub executor: Executor,
    /// Reads entries and events.
    pub observer: O,
    /// Check the observer.
    pub witnesses: Witnesses,
    /// Checks that events arrive as the probes sent them.
    pub ledger: EventLedger,
    /// Whether it is asked. Only the test of trust does without, to see what the other witnesses catch.
    pub trusts_ledger: bool,
    /// Takes the trace.
    pub writer: Writer<W>,
    /// The witnesses are asked after every this-many-th step; 0 for never but at divergences.
    pub witness_every: u16,
    /// A failure to be planted.
    pub plant: Option<Plant>,
    /// Frame number of the zero page.
    pub zero_frame: u64,
    /// Steps run so far.
    pub steps: u64,
    /// Programs run so far, re-runs and shrinking included.
    pub runs: u32,
    /// The swap file, which the first program that asks for one gets.
    pub swap: SwapFile,
}

impl<O, W> Runner<O, W> {
    /// The same, with another observer made of the one so far.
    pub fn observed_by<Other>(self, make: impl FnOnce(O) -> Other) -> Runner<Other, W> {
        Runner {
            machine: self.machine,
            executor: self.executor,
            observer: make(self.observer),
            witnesses: self.witnesses,
            ledger: self.ledger,
            trusts_ledger: self.trusts_ledger,
            writer: self.writer,
            witness_every: self.witness_every,
            plant: self.plant,
            zero_frame: self.zero_frame,
            steps: self.steps,
            runs: self.runs,
            swap: self.swap,
        }
    }
}

impl<O: Observer, W: Write> Runner<O, W> {
    /// A runner that asks the witnesses at divergences alone, plants nothing and has run nothing.
    pub fn new(machine: Machine, executor: Executor, observer: O, witnesses: Witnesses, writer: Writer<W>) -> Self {
        let zero_frame = observer.description().geometry.zero_frame;
        Self {
            machine,
            executor,
            observer,
            witnesses,
            ledger: EventLedger::new(),
            trusts_ledger: true,
            writer,
            witness_every: 0,
            plant: None,
            zero_frame,
            steps: 0,
            runs: 0,
            swap: SwapFile::default(),
        }
    }

    /// Runs a program and streams it. The verdict is the guest's own.
    ///
    /// # Errors
    /// The rig failed.
    pub fn run(&mut self, index: u32, attempt: Attempt, program: &Program) -> Result<Verdict, RigError> {
        self.runs += 1;
        let begin = Frame::ProgramBegin { index, attempt, program: program.clone() };
        self.send(&begin)?;
        if self.machine.swap && program.steps.iter().any(|step| step.operation.swaps()) {
            self.swap.turn_on().map_err(|error| RigError::of("swap cannot be turned on", &error))?;
        }
        let observer = &mut self.observer;
        self.executor
            .begin(&mut |actor| observer.expect_child(actor))
            .map_err(|error| RigError::of("an actor cannot be started", &error))?;
        let mut stale = Vec::new();
        self.drain(&mut stale)?;
        let mut verdict = self.steps(index, attempt, program)?;
        if let Some(Plant::Verdict(planted)) = &self.plant
            && *planted == index
        {
            verdict = Verdict::Inconclusive(Inconclusive::Rig { message: "planted".to_owned() });
        }
        self.send(&Frame::ProgramEnd { index, verdict: verdict.clone() })?;
        self.clean_up()?;
        Ok(verdict)
    }

    /// Streams a program that cannot run here, with what the machine lacks as its verdict.
    ///
    /// # Errors
    /// The channel failed.
    pub fn pass_over(&mut self, index: u32, program: &Program, feature: String) -> Result<Verdict, RigError> {
        self.runs += 1;
        self.send(&Frame::ProgramBegin { index, attempt: Attempt::First, program: program.clone() })?;
        let verdict = Verdict::Inconclusive(Inconclusive::MissingFeature { feature });
        self.send(&Frame::ProgramEnd { index, verdict: verdict.clone() })?;
        Ok(verdict)
    }

    fn steps(&mut self, index: u32, attempt: Attempt, program: &Program) -> Result<Verdict, RigError> {
        let mut judge = Judge::new(&self.machine);
        let mut records: Vec<StepRecord> = Vec::with_capacity(program.steps.len());
        let mut normaliser = Normaliser::new(self.zero_frame);
        let mut before = RawState::default();
        let mut state = RawState::default();
        let mut transitions = Vec::with_capacity(64);
        for (number, step) in program.steps.iter().enumerate() {
            if number == program.steps.len() / 2
                && attempt == Attempt::First
                && let Some(plant) = &self.plant
            {
                plant.strike(index).map_err(|error| RigError(format!("planting {plant}: {error}")))?;
            }
            if let Some(plant) = &self.plant {
                plant.strike_at(&step.operation).map_err(|error| RigError(format!("planting {plant}: {error}")))?;
            }
            if !judge.model().is_possible(step) {
                if judge.has_met_defect() {
                    break;
                }
                let feature = format!("what step {number} needs ({step})");
                return Ok(Verdict::Inconclusive(Inconclusive::MissingFeature { feature }));
            }
            let outcome = match self.perform(number, step) {
                Ok(outcome) => match &self.plant {
                    Some(plant) => plant.distort(attempt, &step.operation, outcome),
                    None => outcome,
                },
                Err(error) if error.suspect() == Suspect::Rig => {
                    return Err(RigError::of(&format!("step {number} ({step})"), &error));
                }
                Err(error) => {
                    let message = format!("step {number} ({step}): {}", with_causes(&error));
                    return Ok(Verdict::Inconclusive(Inconclusive::Rig { message }));
                }
            };
            transitions.clear();
            let lost = self.drain(&mut transitions)?;
            std::mem::swap(&mut before, &mut state);
            self.observer.snapshot(&mut state).map_err(|error| RigError::of("no snapshot", &error))?;
            let (named, changes) = normaliser.step(&step.operation, &state, &transitions);
            let alive = self.alive();
            let mut record = StepRecord { outcome, alive, changes, transitions: named, lost, witness: None };
            self.steps += 1;
            if self.is_witness_due(index, attempt, number) {
                record.witness = Some(self.ask(step, &before, &transitions, &state)?);
            }
            let mut judged = judge.step(number, step, &record);
            // Neither is the kernel blamed nor the probe before the page walk was asked.
            let blames =
                matches!(judged, Progress::Differs | Progress::CannotTell(Inconclusive::ProbeContradicted { .. }));
            if blames && record.witness.is_none() {
                record.witness = Some(self.ask(step, &before, &transitions, &state)?);
                if let Some(contradiction) = judge.witness_contradiction(number, &record) {
                    judged = Progress::CannotTell(contradiction);
                }
            }
            let done = Frame::StepDone(StepDone { index: number as u16, record });
            self.send(&done)?;
            if let Frame::StepDone(StepDone { record, .. }) = done {
                records.push(record);
            }
            match judged {
                Progress::GoesOn => {}
                Progress::CannotTell(why) => return Ok(Verdict::Inconclusive(why)),
                Progress::Differs => {
                    if let Some(divergence) = judge.explain(program, &records) {
                        return Ok(Verdict::Diverge(Box::new(divergence)));
                    }
                }
            }
        }
        Ok(judge.end(program, records.len()))
    }

    /// Performs a program and goes only so far in looking at it: for measuring.
    ///
    /// # Errors
    /// The rig failed.
    pub fn run_to(&mut self, program: &Program, depth: Depth) -> Result<(), RigError> {
        if self.machine.swap && program.steps.iter().any(|step| step.operation.swaps()) {
            self.swap.turn_on().map_err(|error| RigError::of("swap cannot be turned on", &error))?;
        }
        let observer = &mut self.observer;
        self.executor
            .begin(&mut |actor| observer.expect_child(actor))
            .map_err(|error| RigError::of("an actor cannot be started", &error))?;
        let mut judge = Judge::new(&self.machine);
        let mut normaliser = Normaliser::new(self.zero_frame);
        let mut state = RawState::default();
        let mut transitions = Vec::with_capacity(64);
        for (number, step) in program.steps.iter().enumerate() {
            let outcome =
                self.perform(number, step).map_err(|error| RigError::of(&format!("step {number} ({step})"), &error))?;
            if matches!(depth, Depth::Unread | Depth::Attached) {
                continue;
            }
            transitions.clear();
            let lost = self.drain(&mut transitions)?;
            self.observer.snapshot(&mut state).map_err(|error| RigError::of("no snapshot", &error))?;
            if depth == Depth::Judged {
                let (named, changes) = normaliser.step(&step.operation, &state, &transitions);
                let alive = self.alive();
                let record = StepRecord { outcome, alive, changes, transitions: named, lost, witness: None };
                std::hint::black_box(judge.step(number, step, &record));
            }
        }
        self.clean_up()?;
        if depth == Depth::Unread {
            return Ok(());
        }
        transitions.clear();
        self.drain(&mut transitions).map(drop)
    }

    /// Whether the witnesses are asked after this step. It depends on the program and the step alone, so
    /// that a re-run sees what the first run saw; while shrinking they are asked always, as what only they
    /// see must not be lost by a step more or less.
    fn is_witness_due(&self, index: u32, attempt: Attempt, number: usize) -> bool {
        match (self.witness_every, attempt) {
            (0, _) => false,
            (_, Attempt::Shrink(_)) => true,
            (every, _) => (u64::from(index) + number as u64).is_multiple_of(u64::from(every)),
        }
    }

    /// Living actors, bit `n` for actor `n`.
    fn alive(&self) -> u8 {
        ActorId::all()
            .filter(|&actor| self.executor.pid(actor).is_some())
            .fold(0, |mask, actor| mask | 1 << actor.index())
    }

    /// Ends all actors but a healthy first one.
    fn clean_up(&mut self) -> Result<(), RigError> {
        for actor in ActorId::all() {
            if actor != ActorId::FIRST && self.executor.pid(actor).is_some() {
                self.observer.forget(actor);
            }
        }
        self.executor.end().map_err(|error| RigError::of("the actors cannot be cleaned up", &error))?;
        if self.executor.pid(ActorId::FIRST).is_none() {
            self.observer.forget(ActorId::FIRST);
        }
        Ok(())
    }

    fn perform(&mut self, number: usize, step: &Step) -> Result<Outcome, ExecuteError> {
        let acts = self.executor.pid(step.actor).is_some();
        if let Operation::Fork { child } = step.operation
            && acts
        {
            self.observer.expect_child(child);
        }
        let outcome = self.executor.perform(number, step)?;
        if acts && self.executor.pid(step.actor).is_none() {
            self.observer.forget(step.actor);
        }
        Ok(outcome)
    }

    fn ask(
        &mut self,
        step: &Step,
        before: &RawState,
        transitions: &[RawTransition],
        after: &RawState,
    ) -> Result<WitnessReport, RigError> {
        self.witnesses
            .report(
                &self.observer,
                ProbedStep {
                    before,
                    transitions,
                    after,
                    cleared_unseen: cleared_unseen(&step.operation),
                    moved_unseen: moved_unseen(step),
                    fills_unseen: fills_unseen(&step.operation),
                    swaps_unseen: swaps_unseen(&step.operation),
                    merges_unseen: step.operation == Operation::MergePages,
                    flags_changed_later: flags_changed_later(&step.operation),
                },
            )
            .map_err(|error| RigError::of("a witness cannot see", &error))
    }

    /// Reads the events since the last time. An event that was changed, dropped or moved between the probes
    /// and us counts as lost: the probes' own digest says so.
    ///
    /// # Errors
    /// The events cannot be read.
    pub fn drain(&mut self, transitions: &mut Vec<RawTransition>) -> Result<u32, RigError> {
        let lost =
            self.observer.drain(transitions).map_err(|error| RigError::of("the events cannot be read", &error))?;
        let differs = self.ledger.enter(transitions, self.observer.event_digest()).is_err();
        Ok(lost + u32::from(differs && self.trusts_ledger))
    }

    /// Streams a frame at once.
    ///
    /// # Errors
    /// The channel failed.
    pub fn send(&mut self, frame: &Frame) -> Result<(), RigError> {
        self.writer.send(frame).map_err(|error| RigError::of("the trace cannot be written", &error))
    }
}
