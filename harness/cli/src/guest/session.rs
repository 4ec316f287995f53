//! The session: what the guest does from its first look at the machine to the end of its task.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use ptediff_compare::ClusterKey;
use ptediff_corpus::{Entry, Needs, Origin};
use ptediff_execute::{Executor, ExecutorOptions};
use ptediff_generate::{Options, Profile, program, shrink};
use ptediff_observe::{
    BothObserver, Lie, LyingObserver, ObserveError, Observer, ObserverOptions, ProbeObserver, Witnesses, survey,
};
use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::{Operation, Program, Step};
use ptediff_reference_model::verdict::Verdict;
use ptediff_trace::{Attempt, Campaign, End, Figure, Frame, Hello, Refused, Shrunk, Verdicts, WorkList, Writer};
use ptediff_vm::in_place::pin_to_one_cpu;

use super::bench;
use super::claims;
use super::machine::Evidence;
use super::plant::Plant;
use super::program::{RigError, Runner};
use super::quiet::quieten;
use super::request::{GuestRequest, Task};
use super::swap::NO_SWAP;
use super::trust;
use super::watch;

/// How often a diverging program is run again before it counts as stable.
pub const RERUNS: u16 = 3;

/// Marks at the end of a session with two loaders: what was compared between them.
pub const EVENTS_COMPARED: &str = "events of both loaders";
/// Likewise.
pub const SNAPSHOTS_COMPARED: &str = "snapshots of both loaders";
/// Likewise.
pub const ENTRIES_COMPARED: &str = "entries of both loaders";
/// Likewise.
pub const SNAPSHOTS_MOVED: &str = "snapshots taken anew";

/// A planted liar lies about every this-many-th snapshot or event.
const LIE_PERIOD: u64 = 5;

/// How long an actor may take for one step, in the guest's own clock.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs a session and streams it. The writer's head is written already, or still to be written, as the
/// caller made it.
///
/// # Errors
/// The channel failed, or could not be told of another failure of the rig.
pub fn run<W: Write>(request: &GuestRequest, writer: Writer<W>) -> io::Result<()> {
    let mut writer = writer;
    writer.send(&Frame::Hello(Hello { binary: digest_of(&request.binary), campaign: campaign_of(request) }))?;
    let mut session = Session { request, writer: Some(writer) };
    match session.go() {
        Ok(()) => Ok(()),
        Err(RigError(message)) => {
            eprintln!("ptediff session: {message}");
            match session.writer.as_mut() {
                Some(writer) => writer.send(&Frame::RigFailure { message }),
                None => Err(io::Error::other(message)),
            }
        }
    }
}

struct Session<'request, W> {
    request: &'request GuestRequest,
    /// Here until the runner takes it, and again when the runner is done or failed.
    writer: Option<Writer<W>>,
}

impl<W: Write> Session<'_, W> {
    fn go(&mut self) -> Result<(), RigError> {
        let evidence = Evidence::gather(&self.request.platform, self.request.without_modules.as_deref())
            .map_err(|error| RigError::of("/proc cannot be read", &error))?;
        if let Some(why) = &evidence.no_swap {
            self.send(&Frame::Log(format!("{NO_SWAP}{why}")))?;
        }
        let missing = evidence.missing(&self.request.require);
        if !missing.is_empty() {
            return self.refuse(missing, evidence.lines());
        }
        if let Task::Claim { name, parameters } = &self.request.task {
            let machine = evidence
                .machine(&self.request.platform, evidence.may_have_shadow_stack(), self.request.judged_as)
                .map_err(RigError)?;
            self.send(&Frame::Machine(machine.clone()))?;
            let Some(writer) = self.writer.as_mut() else { return Err(RigError("the trace is gone".to_owned())) };
            claims::run(name, parameters, &machine, writer)?;
            return self.send(&Frame::End(End::default()));
        }
        if let Task::Watch(task) = &self.request.task {
            let machine = evidence
                .machine(&self.request.platform, evidence.may_have_shadow_stack(), self.request.judged_as)
                .map_err(RigError)?;
            self.send(&Frame::Machine(machine.clone()))?;
            let Some(writer) = self.writer.as_mut() else { return Err(RigError("the trace is gone".to_owned())) };
            watch::run(task, self.request.ring_bytes, &machine, writer)?;
            return self.send(&Frame::End(End::default()));
        }
        let pinned = pin_to_one_cpu().map_err(|error| RigError::of("the session cannot be kept on one CPU", &error))?;
        for note in pinned.into_iter().chain(quieten()) {
            self.send(&Frame::Log(note))?;
        }
        let shadow_stack = evidence.may_have_shadow_stack();
        let executable = PathBuf::from("/proc/self/exe");
        let options = ExecutorOptions { shadow_stack, executable, step_timeout: STEP_TIMEOUT };
        let start = || Executor::start(&options).map_err(|error| RigError::of("the nursery cannot be started", &error));
        let mut executor = start()?;
        if let Task::Bench { seed, programs, max_steps } = &self.request.task {
            let machine =
                evidence.machine(&self.request.platform, shadow_stack, self.request.judged_as).map_err(RigError)?;
            let Some(writer) = self.writer.as_mut() else { return Err(RigError("the trace is gone".to_owned())) };
            bench::bare(writer, &mut executor, &machine, *seed, *programs, *max_steps)?;
            let Some(writer) = self.writer.take() else { return Err(RigError("the trace is gone".to_owned())) };
            self.writer = Some(bench::loaders(writer, &start, &machine)?);
            // Actor 0 is from before the probes: another executor gives the probes one that they know.
            executor = start()?;
        }
        let lie = match &self.request.plant {
            Some(Plant::Lie(name)) => Some(name.parse().map_err(|error| RigError::of("the planted lie", &error))?),
            _ => None,
        };
        let hooking = match &self.request.hooks {
            Some(name) => Some(name.parse().map_err(|error| RigError::of("the way to attach", &error))?),
            None => None,
        };
        let options =
            ObserverOptions { ring_bytes: self.request.ring_bytes, renamed: self.request.renamed.clone(), hooking };
        if matches!(self.request.task, Task::Doctor) {
            let offers = survey(&options).map_err(|error| RigError::of("the hooks cannot be looked up", &error))?;
            for offer in offers {
                self.send(&Frame::Log(format!("hook {offer}")))?;
            }
        }
        let mut observer = match observe(self.request, &options, lie) {
            Ok(observer) => observer,
            // The kernel lacks what the probes need: that is no failure of ours, and no verdict either.
            Err(error @ (ObserveError::NoBtf(_) | ObserveError::MissingHook { .. })) => {
                return self.refuse(vec![error.to_string()], evidence.lines());
            }
            Err(error) => return Err(RigError::of("the probes cannot be attached", &error)),
        };
        observer.set_nursery(executor.nursery_pid());
        if shadow_stack && let Err(outcome) = prove_shadow_stack(&mut executor, &mut *observer)? {
            let missing = vec![format!("a shadow-stack store that works (WRSS gave: {outcome})")];
            return self.refuse(missing, evidence.lines());
        }
        let machine =
            evidence.machine(&self.request.platform, shadow_stack, self.request.judged_as).map_err(RigError)?;
        self.send(&Frame::Machine(machine.clone()))?;
        let description = observer.description().clone();
        for line in description.to_string().lines() {
            self.send(&Frame::Log(line.to_owned()))?;
        }
        let witnesses =
            Witnesses::open(&description).map_err(|error| RigError::of("the witnesses cannot see", &error))?;
        self.work(machine, executor, observer, witnesses)
    }

    fn work<O: Observer>(
        &mut self,
        machine: Machine,
        executor: Executor,
        observer: O,
        witnesses: Witnesses,
    ) -> Result<(), RigError> {
        let Some(writer) = self.writer.take() else { return Err(RigError("the trace is gone".to_owned())) };
        let mut runner = Runner::new(machine, executor, observer, witnesses, writer);
        runner.witness_every = self.request.witness_every;
        runner.plant.clone_from(&self.request.plant);
        let worked = match self.request.task {
            Task::Trust { seed, programs, .. } => {
                let options = generation(&self.request.task)?;
                let ended;
                (runner, ended) = trust::run(runner, seed, programs, &options);
                ended.and_then(|end| send_end(&mut runner, end))
            }
            _ => perform_task(self.request, &mut runner),
        };
        self.writer = Some(runner.writer);
        worked
    }

    fn refuse(&mut self, missing: Vec<String>, seen: Vec<String>) -> Result<(), RigError> {
        self.send(&Frame::Refused(Refused { missing, seen }))
    }

    fn send(&mut self, frame: &Frame) -> Result<(), RigError> {
        match self.writer.as_mut() {
            Some(writer) => writer.send(frame).map_err(|error| RigError::of("the trace cannot be written", &error)),
            None => Err(RigError("the trace is gone".to_owned())),
        }
    }
}

/// The observer that was asked for. A planted lie is told by it, or by the second of two.
fn observe(
    request: &GuestRequest,
    options: &ObserverOptions,
    lie: Option<Lie>,
) -> Result<Box<dyn Observer>, ObserveError> {
    let open = |loader, lie: Option<Lie>| -> Result<Box<dyn Observer>, ObserveError> {
        let observer = ProbeObserver::open(loader, options)?;
        Ok(match lie {
            Some(lie) => Box::new(LyingObserver::new(observer, lie, LIE_PERIOD)),
            None => Box::new(observer),
        })
    };
    Ok(match request.loader.loaders() {
        (only, None) => open(only, lie)?,
        (first, Some(second)) => Box::new(BothObserver::new(open(first, None)?, open(second, lie)?)?),
    })
}

/// A shadow-stack page is mapped and stored to; `Err` with what came instead.
fn prove_shadow_stack(executor: &mut Executor, observer: &mut dyn Observer) -> Result<Result<(), Outcome>, RigError> {
    let actor = ActorId::FIRST;
    let steps = [
        (Operation::MapShadowStack { range: PageRange::FIRST_PAGE, token: true }, Outcome::Succeeded),
        (Operation::WriteShadowStack { page: PageIndex::FIRST }, Outcome::Stored),
    ];
    let rig = |error: ptediff_execute::ExecuteError| RigError::of("the proof of shadow stacks", &error);
    executor.begin(&mut |actor| observer.expect_child(actor)).map_err(rig)?;
    for (index, (operation, expected)) in steps.into_iter().enumerate() {
        let outcome = executor.perform(index, &Step { actor, operation }).map_err(rig)?;
        if outcome != expected {
            return Ok(Err(outcome));
        }
    }
    executor.end().map_err(rig)?;
    Ok(Ok(()))
}

fn perform_task<O: Observer, W: Write>(request: &GuestRequest, runner: &mut Runner<O, W>) -> Result<(), RigError> {
    let mut end = End::default();
    match &request.task {
        // The test of trust changes the observer: it has a loop of its own.
        Task::Doctor | Task::Trust { .. } | Task::Claim { .. } | Task::Watch(_) => {}
        Task::Replay { programs, needs, repeat } => {
            for (index, program) in programs.iter().enumerate() {
                let missing = needs.get(index).map(|needs| missing(needs, program, &runner.machine));
                if let Some(missing) = missing.filter(|missing| !missing.is_empty()) {
                    let verdict = runner.pass_over(index as u32, program, missing.join(", "))?;
                    count(&mut end.verdicts, &verdict);
                    end.programs += 1;
                    continue;
                }
                let first = runner.run(index as u32, Attempt::First, program)?;
                count(&mut end.verdicts, &first);
                end.programs += 1;
                for again in 1..*repeat {
                    runner.run(index as u32, Attempt::Rerun(again), program)?;
                }
            }
        }
        Task::Campaign { seed, first, programs, .. } => {
            let options = generation(&request.task)?;
            let mut met = MetClusters::default();
            for index in *first..first.saturating_add(*programs) {
                let program = program(*seed, index, &runner.machine, &options);
                let verdict = runner.run(index, Attempt::First, &program)?;
                end.programs += 1;
                count(&mut end.verdicts, &verdict);
                let Some(key) = cluster_of(&runner.machine, &program, &verdict) else { continue };
                if met.is_done_with(&key) {
                    continue;
                }
                let shrunk = examine(request, runner, index, &program, &verdict)?;
                let smallest =
                    cluster_of(&runner.machine, &shrunk.program, &shrunk.verdict).unwrap_or_else(|| key.clone());
                let counts = request.count_known || !key.explanation.is_known();
                met.enter([key, smallest], shrunk.stable_reruns == shrunk.reruns, counts);
                runner.send(&Frame::Shrunk(shrunk))?;
                if met.counted >= request.stop_after {
                    break;
                }
            }
        }
        Task::Bench { seed, programs, max_steps } => bench::observed(runner, *seed, *programs, *max_steps)?,
    }
    send_end(runner, end)
}

fn send_end<O: Observer, W: Write>(runner: &mut Runner<O, W>, mut end: End) -> Result<(), RigError> {
    end.runs = runner.runs;
    end.steps = runner.steps;
    if let Some(compared) = runner.observer.compared() {
        let figure = |name: &str, value: u64| Figure { name: name.to_owned(), value: value as f64 };
        let figures = vec![
            figure(EVENTS_COMPARED, compared.events),
            figure(SNAPSHOTS_COMPARED, compared.snapshots),
            figure(ENTRIES_COMPARED, compared.entries),
            figure(SNAPSHOTS_MOVED, compared.moved),
        ];
        runner.send(&Frame::Figures(figures))?;
    }
    runner.send(&Frame::End(end))
}

/// What the machine lacks for an entry of the corpus, by name.
fn missing(needs: &Needs, program: &Program, machine: &Machine) -> Vec<String> {
    let entry = Entry {
        name: String::new(),
        description: String::new(),
        origin: Origin::hand(),
        needs: needs.clone(),
        program: program.clone(),
    };
    entry.missing(machine)
}

pub(super) fn count(verdicts: &mut Verdicts, verdict: &Verdict) {
    match verdict {
        Verdict::Agree => verdicts.agree += 1,
        Verdict::Diverge(_) => verdicts.diverge += 1,
        Verdict::Inconclusive(_) => verdicts.inconclusive += 1,
    }
}

fn generation(task: &Task) -> Result<Options, RigError> {
    let (steps, profile) = match task {
        Task::Campaign { min_steps, max_steps, profile, .. } => {
            let profile: Option<Profile> = match profile {
                Some(name) => Some(name.parse().map_err(|error| RigError::of("the profile", &error))?),
                None => None,
            };
            (usize::from(*min_steps)..=usize::from(*max_steps), profile)
        }
        Task::Trust { max_steps, .. } => (8.min(usize::from(*max_steps))..=usize::from(*max_steps), None),
        Task::Bench { .. } | Task::Replay { .. } | Task::Doctor | Task::Claim { .. } | Task::Watch(_) => {
            return Ok(Options::default());
        }
    };
    Ok(Options { steps, profile })
}

/// How many programs of a cluster are looked at more closely until one is stable.
const UNSTABLE_TRIES: usize = 3;

/// The clusters that a campaign has met.
#[derive(Debug, Default)]
struct MetClusters {
    /// Keys of clusters of which a stable program was examined.
    stable: Vec<ClusterKey>,
    /// Keys of the programs that were not stable.
    unstable: Vec<ClusterKey>,
    /// Clusters that count for the end of the campaign.
    counted: u32,
}

impl MetClusters {
    /// Whether another program of this key would say nothing new.
    fn is_done_with(&self, key: &ClusterKey) -> bool {
        self.stable.contains(key) || self.unstable.iter().filter(|met| *met == key).count() >= UNSTABLE_TRIES
    }

    /// An examined program: its own key, and that of the smallest form.
    fn enter(&mut self, keys: [ClusterKey; 2], is_stable: bool, counts: bool) {
        let is_new = !keys.iter().any(|key| self.stable.contains(key) || self.unstable.contains(key));
        self.counted += u32::from(is_new && counts);
        if is_stable {
            self.stable.extend(keys);
        } else {
            let [own, _] = keys;
            self.unstable.push(own);
        }
    }
}

/// A divergence: run again to see whether it is stable, then shrunk on the live kernel.
fn examine<O: Observer, W: Write>(
    request: &GuestRequest,
    runner: &mut Runner<O, W>,
    index: u32,
    program: &Program,
    verdict: &Verdict,
) -> Result<Shrunk, RigError> {
    let mut stable_reruns = 0;
    for rerun in 1..=RERUNS {
        if same_divergence(&runner.run(index, Attempt::Rerun(rerun), program)?, verdict) {
            stable_reruns += 1;
        }
    }
    let mut result = Shrunk {
        index,
        program: program.clone(),
        verdict: verdict.clone(),
        executions: 0,
        exhausted: false,
        stable_reruns,
        reruns: RERUNS,
    };
    if stable_reruns < RERUNS || request.shrink_budget == 0 {
        return Ok(result);
    }
    let mut key = cluster_of(&runner.machine, program, verdict);
    let mut failure = None;
    let mut attempt = 0;
    let mut log = Vec::new();
    let shrunk = shrink(
        program,
        request.shrink_budget,
        &mut |candidate| {
            if failure.is_some() {
                return false;
            }
            attempt += 1;
            match runner.run(index, Attempt::Shrink(attempt), candidate) {
                // Not from one defect into another.
                Ok(seen) => match (cluster_of(&runner.machine, candidate, &seen), &mut key) {
                    (Some(smaller), Some(key)) if smaller.is_within(key) => {
                        *key = smaller;
                        true
                    }
                    _ => false,
                },
                Err(error) => {
                    failure = Some(error);
                    false
                }
            }
        },
        &mut |step| log.push(step),
    );
    if let Some(failure) = failure {
        return Err(failure);
    }
    for step in log.iter().filter(|step| step.kept) {
        let line = format!("shrinking {index}: execution {} keeps {} steps", step.execution, step.steps);
        runner.send(&Frame::Log(line))?;
    }
    result.verdict = runner.run(index, Attempt::Shrink(attempt + 1), &shrunk.program)?;
    result.program = shrunk.program;
    result.executions = shrunk.executions;
    result.exhausted = shrunk.exhausted;
    Ok(result)
}

/// The cluster of a program that diverges: what it shares with every other one that shows the same defect.
fn cluster_of(machine: &Machine, program: &Program, verdict: &Verdict) -> Option<ClusterKey> {
    match verdict {
        Verdict::Diverge(divergence) => Some(ClusterKey::of(machine, program, divergence)),
        Verdict::Agree | Verdict::Inconclusive(_) => None,
    }
}

/// Whether two verdicts name the same difference at the same step.
fn same_divergence(left: &Verdict, right: &Verdict) -> bool {
    match (left, right) {
        (Verdict::Diverge(left), Verdict::Diverge(right)) => {
            left.step == right.step
                && std::mem::discriminant(&left.difference) == std::mem::discriminant(&right.difference)
        }
        _ => false,
    }
}

fn campaign_of(request: &GuestRequest) -> Campaign {
    let work = match &request.task {
        Task::Campaign { seed, first, programs, min_steps, max_steps, profile } => WorkList::Generated {
            seed: *seed,
            first: *first,
            programs: *programs,
            min_steps: *min_steps,
            max_steps: *max_steps,
            profile: profile.clone(),
        },
        Task::Trust { seed, programs, max_steps } => WorkList::Generated {
            seed: *seed,
            first: 0,
            // Every lie is told until it is unmasked, so that this is the most there can be.
            programs: trust::schedule(*programs).map(|telling| telling.programs).sum(),
            min_steps: 8.min(*max_steps),
            max_steps: *max_steps,
            profile: None,
        },
        Task::Bench { seed, programs, max_steps } => WorkList::Generated {
            seed: *seed,
            first: 0,
            programs: *programs,
            min_steps: 8,
            max_steps: *max_steps,
            profile: None,
        },
        Task::Replay { programs, .. } => WorkList::Given(programs.clone()),
        Task::Doctor | Task::Claim { .. } | Task::Watch(_) => WorkList::Given(Vec::new()),
    };
    Campaign {
        work,
        judged_as: request.judged_as,
        observer: request.loader.name().to_owned(),
        witness_every: request.witness_every,
        shrink_budget: request.shrink_budget,
        seconds: 0,
        bare: false,
    }
}

fn digest_of(hexadecimal: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(hexadecimal.as_bytes().chunks(2)) {
        let text = std::str::from_utf8(pair).unwrap_or("0");
        *byte = u8::from_str_radix(text, 16).unwrap_or(0);
    }
    digest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ptediff_compare::DifferenceKind;
    use ptediff_reference_model::verdict::Explanation;

    use super::*;

    fn key(differing: &str) -> ClusterKey {
        let differing = BTreeSet::from([differing.to_owned()]);
        let explanation = Explanation::Unexplained;
        ClusterKey { rule: None, stray: None, kind: DifferenceKind::Entry, differing, explanation }
    }

    #[test]
    fn a_cluster_counts_once_and_is_examined_until_a_program_is_stable() {
        let mut met = MetClusters::default();
        met.enter([key("a"), key("b")], true, true);
        assert!(met.is_done_with(&key("a")) && met.is_done_with(&key("b")) && !met.is_done_with(&key("c")));
        // Shrunk to what is known already: no new cluster.
        met.enter([key("c"), key("b")], true, true);
        assert_eq!(met.counted, 1);
        met.enter([key("d"), key("d")], true, false);
        assert_eq!(met.counted, 1, "a known divergence does not count");
        for _ in 0..UNSTABLE_TRIES {
            assert!(!met.is_done_with(&key("e")));
            met.enter([key("e"), key("e")], false, true);
        }
        assert!(met.is_done_with(&key("e")));
        assert_eq!(met.counted, 2);
    }
}
