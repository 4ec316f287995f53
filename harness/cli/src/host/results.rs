//! What a campaign gave, judged by the host.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Serialize, Serializer};

use ptediff_compare::{KnownDivergence, Tally};
use ptediff_observe::Compared;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::tracking;
use ptediff_reference_model::verdict::{Inconclusive, Verdict};
use ptediff_trace::{Campaign, End, Refused};

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
    /// The known divergence that this one is.
    #[serde(serialize_with = "identifier")]
    pub known: Option<&'static KnownDivergence>,
    /// What other machines gave for the smallest program.
    pub opinions: Vec<Opinion>,
}

fn identifier<S: Serializer>(known: &Option<&'static KnownDivergence>, serializer: S) -> Result<S::Ok, S::Error> {
    known.map(|known| known.identifier).serialize(serializer)
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

    /// Program, verdict and records in the smallest form that there is.
    #[must_use]
    pub fn smallest(&self) -> (&Program, &Verdict, &[StepRecord]) {
        match &self.minimal {
            Some(minimal) => (&minimal.program, &minimal.verdict, &minimal.records),
            None => (&self.program, &self.verdict, &self.records),
        }
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
    /// The machine.
    pub machine: Option<Machine>,
    /// What was compared.
    pub tally: Tally,
    /// Stores that were judged by the property of userfaultfd's write-protection.
    pub tracking: tracking::Tally,
    /// Stores that break it. They do not decide the exit code; `ptediff claims` does.
    pub untracked: Vec<String>,
    /// Programs whose first run was judged.
    pub programs: u32,
    /// Runs judged, re-runs and shrinking included.
    pub runs: u32,
    /// Programs that agreed.
    pub agreed: u32,
    /// Programs that diverged.
    pub divergences: Vec<Found>,
    /// Whether known divergences decide the exit code as any other.
    pub count_known: bool,
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
        let stable = self.unexplained().any(Found::is_stable);
        match &self.ending {
            Finish::RigFailed(_) => Exit::Rig,
            Finish::BadTrace(_) => Exit::Usage,
            Finish::KernelDied(_) => Exit::KernelDied,
            _ if self.probe_is_contradicted() => Exit::Rig,
            _ if stable => Exit::Diverge,
            Finish::Refused | Finish::NeverBegan(_) => Exit::CannotTell,
            Finish::Finished | Finish::TimeLimit
                if self.inconclusive.is_empty() && self.unexplained().next().is_none() && self.tally.steps > 0 =>
            {
                Exit::Agree
            }
            Finish::Finished | Finish::TimeLimit => Exit::CannotTell,
        }
    }

    /// Divergences that are not known, or that count although they are.
    pub fn unexplained(&self) -> impl Iterator<Item = &Found> {
        self.divergences.iter().filter(|found| found.known.is_none() || self.count_known)
    }

    /// Divergences that are worth a report of their own: all that are not known, and the first of each known one.
    pub fn reported(&self) -> impl Iterator<Item = &Found> {
        self.divergences.iter().enumerate().filter_map(|(index, found)| {
            let first = !self.divergences[..index].iter().any(|earlier| earlier.known == found.known);
            (found.known.is_none() || self.count_known || first).then_some(found)
        })
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

    /// Whether a witness caught the probe: then nothing that it saw can be believed.
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
        Inconclusive::UnblessedKernel { .. } => {
            "differs from the model, on a kernel version that nobody reviewed (--dialect vouches for it)".to_owned()
        }
        Inconclusive::Truncated { .. } => "record cut short".to_owned(),
        Inconclusive::MissingFeature { feature } => format!("the machine lacks {feature}"),
        Inconclusive::Rig { message } => format!("rig: {message}"),
    }
}
