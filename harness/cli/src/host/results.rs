//! What a campaign gave, judged by the host.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use ptediff_compare::{Cluster, ClusterKey, Evidence, Tally, clusters};
use ptediff_observe::Compared;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::tracking;
use ptediff_reference_model::verdict::{Explanation, Inconclusive, Verdict};
use ptediff_trace::{Campaign, End, Refused};

use crate::arguments::Weighing;
use crate::exit_code::Exit;
use crate::guest::session::{ENTRIES_COMPARED, EVENTS_COMPARED, SNAPSHOTS_COMPARED, SNAPSHOTS_MOVED};
use crate::guest::swap::NO_SWAP;

use super::opinion::Opinion;

/// A program that diverged.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Index in the campaign.
    pub index: u32,
    /// The program as it was generated.
    pub program: Program,
    /// Its verdict.
    pub verdict: Verdict,
    /// Its records, up to the diverging step.
    pub records: Vec<StepRecord>,
    /// Re-runs that diverged in the same way, of how many; `None` where none was made.
    pub stability: Option<(u16, u16)>,
    /// The smallest program found that diverges still, its verdict and its records.
    pub minimal: Option<Minimal>,
    /// What other machines gave for the smallest program.
    pub opinions: Vec<Opinion>,
}

/// A shrunk program.
#[derive(Debug, Clone, Serialize)]
pub struct Minimal {
    /// The program.
    pub program: Program,
    /// Its verdict.
    pub verdict: Verdict,
    /// Its records.
    pub records: Vec<StepRecord>,
    /// Executions that the search cost.
    pub executions: u32,
    /// Whether the budget ended the search.
    pub exhausted: bool,
}

impl Found {
    /// Whether every re-run diverged in the same way.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.stability.is_none_or(|(same, reruns)| same == reruns)
    }

    /// What the table of changes makes of it.
    #[must_use]
    pub fn explanation(&self) -> &Explanation {
        match &self.verdict {
            Verdict::Diverge(divergence) => &divergence.explanation,
            Verdict::Agree | Verdict::Inconclusive(_) => &Explanation::Unexplained,
        }
    }

    /// The keys of the program's cluster: of its own verdict, and of its smallest form's.
    fn keys(&self, machine: &Machine) -> Option<(ClusterKey, Option<ClusterKey>)> {
        let key = |program: &Program, verdict: &Verdict| match verdict {
            Verdict::Diverge(divergence) => Some(ClusterKey::of(machine, program, divergence)),
            Verdict::Agree | Verdict::Inconclusive(_) => None,
        };
        let smallest = self.minimal.as_ref().and_then(|minimal| key(&minimal.program, &minimal.verdict));
        Some((key(&self.program, &self.verdict)?, smallest))
    }

    /// Program, verdict and records in the smallest form that there is.
    #[must_use]
    pub fn smallest(&self) -> (&Program, &Verdict, &[StepRecord]) {
        match &self.minimal {
            Some(minimal) => (&minimal.program, &minimal.verdict, &minimal.records),
            None => (&self.program, &self.verdict, &self.records),
        }
    }
}

/// Programs that diverge in the same way, and the one that stands for them.
#[derive(Debug, Clone)]
pub struct FoundCluster<'a> {
    /// What they have in common: the key of the program that stands for them.
    pub key: ClusterKey,
    /// The programs, by index.
    pub members: Vec<&'a Found>,
    /// The smallest one, stable where one is.
    pub representative: &'a Found,
}

impl<'a> FoundCluster<'a> {
    fn of(machine: &Machine, cluster: &Cluster, found: &[&'a Found]) -> Option<Self> {
        let members: Vec<&Found> = cluster.members.iter().map(|&member| found[member]).collect();
        let rank = |found: &&&Found| {
            let is_stable = found.stability.is_some() && found.is_stable();
            (!is_stable, found.smallest().0.steps.len(), found.index)
        };
        let representative: &Found = members.iter().min_by_key(rank)?;
        let (own, smallest) = representative.keys(machine)?;
        Some(Self { key: smallest.unwrap_or(own), members, representative })
    }

    /// Whether a program of it was run again and diverged in the same way each time; or none was run again.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.members.iter().any(|found| found.stability.is_some() && found.is_stable())
            || self.members.iter().all(|found| found.stability.is_none())
    }
}

/// How the machine ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// With its last frame, and powered off.
    #[default]
    Finished,
    /// The time limit stopped it.
    TimeLimit,
    /// It refused: the machine lacks what was asked for.
    Refused,
    /// The machine ended before the session in it began: nothing is known about the kernel's entries, and a kernel that
    /// does not boot is another fault than the one that is looked for.
    NeverBegan(String),
    /// The kernel under test died, with the session running.
    KernelDied(String),
    /// The rig failed.
    RigFailed(String),
    /// The trace's file is damaged or cut; what was whole before stays.
    BadTrace(String),
}

/// The program that was running when the machine ended.
#[derive(Debug, Clone, Serialize)]
pub struct Running {
    /// Index in the campaign.
    pub index: u32,
    /// The program.
    pub program: Program,
    /// Steps that were done.
    pub steps_done: usize,
    /// What the program did alone, where the kernel had died and it was run again.
    pub alone: Option<Alone>,
}

/// What a program that was running when the kernel died does alone.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alone {
    /// The kernel survives it: earlier programs have their part in it.
    Survives,
    /// The kernel dies again.
    Dies {
        /// The smallest program that was found to kill it still.
        program: Program,
        /// Boots that the search cost.
        boots: u32,
        /// Whether the budget or the time ended the search.
        exhausted: bool,
    },
}

/// Everything that a campaign gave.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Results {
    /// What was asked for.
    pub campaign: Option<Campaign>,
    /// The options by which the user named the machine, for a command that starts it again; `None` for a trace from a
    /// file, which does not hold them.
    pub given: Option<String>,
    /// The machine.
    pub machine: Option<Machine>,
    /// What was compared.
    pub tally: Tally,
    /// Stores that were judged by the property of userfaultfd's write-protection.
    pub tracking: tracking::Tally,
    /// Stores that break it. They do not decide the exit code; `ptediff claims` does.
    pub untracked: Vec<String>,
    /// What the programs tell of the kernel's changes.
    pub evidence: Evidence,
    /// Programs whose first run was judged.
    pub programs: u32,
    /// Runs judged, re-runs and shrinking included.
    pub runs: u32,
    /// Programs that agreed.
    pub agreed: u32,
    /// Programs that diverged.
    pub divergences: Vec<Found>,
    /// Whether defects that the version is known to have decide the exit code as any other divergence.
    pub count_known: bool,
    /// Whether an unexplained divergence is inconclusive on a version that is not calibrated.
    pub strict: bool,
    /// Programs without a verdict: by reason, how many and the first.
    pub inconclusive: BTreeMap<String, (u32, u32)>,
    /// Each program without a verdict: its index, and why.
    pub undecided: Vec<(u32, Inconclusive)>,
    /// Programs about which guest and host disagree.
    pub disagreements: Vec<String>,
    /// Lines that the guest wrote for people.
    pub log: Vec<String>,
    /// Why it refused.
    pub refused: Option<Refused>,
    /// The guest's own count.
    pub end: Option<End>,
    /// How it ended.
    pub ending: Finish,
    /// The program that was running then.
    pub running: Option<Running>,
    /// The console's last lines, where it ended badly.
    pub console: String,
    /// From power-on to the first compared step.
    pub first_comparison: Option<Duration>,
    /// From power-on to the end.
    pub wall: Duration,
    /// Marks that the guest set, with the host's time since power-on and the value.
    pub marks: Vec<(String, f64, Duration)>,
    /// What the check of a claim found, by name, as JSON.
    pub findings: Vec<(String, String)>,
    /// Bytes of trace.
    pub trace_bytes: u64,
    /// SHA-256 of the trace: the same seed, binary and kernel give the same.
    pub trace_digest: String,
    /// SHA-256 over the frames of programs: what was done, seen and judged. Loaders that see the same give the same.
    pub observation_digest: String,
    /// The records of each replayed program's first run, in order.
    pub records: Vec<Vec<StepRecord>>,
}

impl Results {
    /// The exit code of the whole.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if !self.disagreements.is_empty() {
            return Exit::Rig;
        }
        let stable = self.deciding_clusters().iter().any(|cluster| cluster.is_stable() && !self.is_doubted(cluster));
        match &self.ending {
            Finish::RigFailed(_) => Exit::Rig,
            Finish::BadTrace(_) => Exit::Usage,
            Finish::KernelDied(_) => Exit::KernelDied,
            // Before a program counts as diverging the witnesses agreed with the probe about it: what they caught the
            // probe at in another program does not take that back.
            _ if stable => Exit::Diverge,
            _ if self.probe_is_contradicted() => Exit::Rig,
            Finish::Refused | Finish::NeverBegan(_) => Exit::CannotTell,
            Finish::Finished | Finish::TimeLimit
                if self.inconclusive.is_empty() && self.deciding_clusters().is_empty() && self.tally.steps > 0 =>
            {
                Exit::Agree
            }
            Finish::Finished | Finish::TimeLimit => Exit::CannotTell,
        }
    }

    /// Takes over what decides the exit code.
    pub fn weigh(&mut self, weighing: Weighing) {
        self.count_known = weighing.count_known;
        self.strict = weighing.strict;
    }

    /// Whether nothing explains it and the version is not one whose behaviour was looked at.
    fn is_doubted(&self, cluster: &FoundCluster<'_>) -> bool {
        let is_calibrated = self.machine.as_ref().is_some_and(Machine::is_calibrated);
        self.strict && !is_calibrated && cluster.key.explanation == Explanation::Unexplained
    }

    /// Clusters on which the exit code turns: all but those that defects known of this version explain, and these too
    /// where they are to count.
    #[must_use]
    pub fn deciding_clusters(&self) -> Vec<FoundCluster<'_>> {
        let decides = |cluster: &FoundCluster<'_>| !cluster.key.explanation.is_known() || self.count_known;
        self.clusters().into_iter().filter(decides).collect()
    }

    /// The divergences by cluster, in the order of their first programs. One report each.
    #[must_use]
    pub fn clusters(&self) -> Vec<FoundCluster<'_>> {
        // No program begins before the machine is described.
        let Some(machine) = &self.machine else { return Vec::new() };
        let (found, keys): (Vec<&Found>, Vec<_>) =
            self.divergences.iter().filter_map(|found| Some((found, found.keys(machine)?))).unzip();
        clusters(keys).iter().filter_map(|cluster| FoundCluster::of(machine, cluster, &found)).collect()
    }

    /// What two loaders gave alike, where two observed to the end.
    #[must_use]
    pub fn loaders(&self) -> Option<Compared> {
        let mark =
            |name: &str| self.marks.iter().find(|(known, _, _)| known == name).map(|(_, value, _)| *value as u64);
        Some(Compared {
            events: mark(EVENTS_COMPARED)?,
            snapshots: mark(SNAPSHOTS_COMPARED)?,
            entries: mark(ENTRIES_COMPARED)?,
            moved: mark(SNAPSHOTS_MOVED)?,
        })
    }

    /// Why the machine had no swap file, where it had none and said so.
    #[must_use]
    pub fn no_swap(&self) -> Option<&str> {
        self.log.iter().find_map(|line| line.strip_prefix(NO_SWAP))
    }

    /// Whether a witness caught the probe: then no agreement that it saw can be believed.
    #[must_use]
    pub fn probe_is_contradicted(&self) -> bool {
        self.inconclusive.keys().any(|reason| reason.starts_with(PROBE_CONTRADICTED))
    }
}

/// Head of the reasons that blame the probe.
pub const PROBE_CONTRADICTED: &str = "probe contradicted";

/// An inconclusive verdict's reason, without what differs from program to program.
#[must_use]
pub fn reason(inconclusive: &Inconclusive) -> String {
    match inconclusive {
        Inconclusive::EventsLost { .. } => "events lost".to_owned(),
        Inconclusive::ProbeContradicted { mismatch, .. } => {
            format!("{PROBE_CONTRADICTED} by a witness: {:?}", mismatch.field)
        }
        Inconclusive::FrameContradicted { .. } => format!("{PROBE_CONTRADICTED} by pagemap: frame number"),
        Inconclusive::Truncated { .. } => "record cut short".to_owned(),
        Inconclusive::MissingFeature { feature } => format!("the machine lacks {feature}"),
        Inconclusive::Rig { message } => format!("rig: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageIndex};
    use ptediff_reference_model::kernel::KernelVersion;
    use ptediff_reference_model::outcome::Outcome;
    use ptediff_reference_model::program::{Operation, Step};
    use ptediff_reference_model::verdict::{Difference, Divergence};

    use super::*;

    fn machine() -> Option<Machine> {
        Some(Machine::imagined(KernelVersion::new(6, 12, 95), true, true))
    }

    /// A program of so many steps that got this errno where it should not have.
    fn found(index: u32, steps: usize, errno: i32, stability: Option<(u16, u16)>) -> Found {
        let step = Step { actor: ActorId::FIRST, operation: Operation::Read { page: PageIndex::FIRST } };
        let difference = Difference::Outcome { expected: Outcome::Succeeded, seen: Outcome::Failed(errno) };
        Found {
            index,
            program: Program { steps: vec![step; steps] },
            verdict: Verdict::Diverge(Box::new(Divergence {
                step: 0,
                difference,
                rule: None,
                explanation: Explanation::Unexplained,
                met: Vec::new(),
            })),
            records: Vec::new(),
            stability,
            minimal: None,
            opinions: Vec::new(),
        }
    }

    #[test]
    fn a_caught_probe_does_not_hide_a_stable_divergence_beside_it() {
        let check = |divergences: Vec<Found>, caught: bool, expected: Exit| {
            let reason = format!("{PROBE_CONTRADICTED} by a witness: Entry");
            let inconclusive = caught.then_some((reason, (1, 7))).into_iter().collect();
            let results = Results { machine: machine(), divergences, inconclusive, ..Results::default() };
            assert_eq!(results.exit(), expected);
        };
        check(vec![found(1, 3, 12, Some((3, 3)))], true, Exit::Diverge);
        check(vec![found(1, 3, 12, Some((2, 3)))], true, Exit::Rig);
        check(Vec::new(), true, Exit::Rig);
        check(vec![found(1, 3, 12, Some((2, 3)))], false, Exit::CannotTell);
        // Of a cluster whose examined programs are unstable the others say nothing.
        check(vec![found(1, 3, 12, Some((2, 3))), found(2, 3, 12, None)], false, Exit::CannotTell);
        check(vec![found(1, 3, 12, Some((2, 3))), found(2, 3, 12, Some((3, 3)))], false, Exit::Diverge);
    }

    #[test]
    fn the_smallest_stable_program_stands_for_a_cluster() {
        let divergences = vec![
            found(4, 9, 12, None),
            found(5, 2, 22, Some((3, 3))),
            found(6, 7, 12, Some((3, 3))),
            found(8, 3, 12, Some((1, 3))),
            found(9, 6, 12, Some((3, 3))),
        ];
        let results = Results { machine: machine(), divergences, ..Results::default() };
        let clusters = results.clusters();
        let indices = |cluster: &FoundCluster<'_>| cluster.members.iter().map(|found| found.index).collect::<Vec<_>>();
        assert_eq!(clusters.iter().map(indices).collect::<Vec<_>>(), [vec![4, 6, 8, 9], vec![5]]);
        assert_eq!(clusters[0].representative.index, 9);
        assert_eq!(clusters[0].key.text(), "no rule, result: ENOMEM for ok");
    }
}
