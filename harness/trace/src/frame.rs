//! The frames of a trace.

use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// One message from the guest to the host.
///
/// The order of the variants is part of the format: new ones go to the end, with a new
/// [`crate::SCHEMA`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    /// Who speaks and what it was asked to do. Always the first frame.
    Hello(Hello),
    /// The machine, as the guest found it.
    Machine(Machine),
    /// A line for people.
    Log(String),
    /// A program is about to run. It is on the wire before its first step, so that the host can name the
    /// program that killed the guest.
    ProgramBegin {
        /// Index in the campaign.
        index: u32,
        /// Why it runs.
        attempt: Attempt,
        /// What runs.
        program: Program,
    },
    /// One step of the program that began last was performed and observed.
    StepDone(StepDone),
    /// The program that began last is over.
    ProgramEnd {
        /// Index in the campaign.
        index: u32,
        /// The guest's own verdict, which the host compares with its own.
        verdict: Verdict,
    },
    /// A divergence was minimised.
    Shrunk(Shrunk),
    /// How far the campaign is.
    Progress(Progress),
    /// Measured numbers.
    Figures(Vec<Figure>),
    /// The machine has less than was asked for, and nothing was run.
    Refused(Refused),
    /// The harness failed, not the kernel.
    RigFailure {
        /// What happened.
        message: String,
    },
    /// The campaign is over. Always the last frame.
    End(End),
    /// Something that the check of a claim found.
    Finding(Finding),
}

impl Frame {
    /// Whether the same seed, binary and kernel must give this frame again, byte for byte. Messages for
    /// people, measured times and findings need not.
    #[must_use]
    pub fn is_reproducible(&self) -> bool {
        !matches!(self, Self::Log(_) | Self::Progress(_) | Self::Figures(_) | Self::Finding(_))
    }

    /// Whether it is of a program: what was done, seen and judged, whoever observed.
    #[must_use]
    pub fn is_observation(&self) -> bool {
        matches!(self, Self::ProgramBegin { .. } | Self::StepDone(_) | Self::ProgramEnd { .. })
    }

    /// The frame's payload, as it travels.
    ///
    /// # Errors
    /// None that a frame gives; the encoder may.
    pub fn payload(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_stdvec(self)
    }

    /// The frame's name, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Machine(_) => "machine",
            Self::Log(_) => "log",
            Self::ProgramBegin { .. } => "program-begin",
            Self::StepDone(_) => "step-done",
            Self::ProgramEnd { .. } => "program-end",
            Self::Shrunk(_) => "shrunk",
            Self::Progress(_) => "progress",
            Self::Figures(_) => "figures",
            Self::Refused(_) => "refused",
            Self::RigFailure { .. } => "rig-failure",
            Self::End(_) => "end",
            Self::Finding(_) => "finding",
        }
    }
}

/// Who speaks, and what it was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// SHA-256 of the `ptediff` file that runs in the guest.
    pub binary: [u8; 32],
    /// What it was asked to do.
    pub campaign: Campaign,
}

/// What the guest was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    /// Where the programs come from.
    pub work: WorkList,
    /// The version to judge by, where the user named one.
    pub judged_as: Option<KernelVersion>,
    /// Observer that reads the entries, by name.
    pub observer: String,
    /// The full witness is asked after every this-many-th step; 0 for never.
    pub witness_every: u16,
    /// Executions that shrinking one divergence may cost.
    pub shrink_budget: u32,
    /// Wall time after which no new program is begun, in seconds; 0 for no limit.
    pub seconds: u32,
    /// Programs are run without being observed, for the bench.
    pub bare: bool,
}

/// Where the programs of a campaign come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkList {
    /// They are generated.
    Generated {
        /// Seed of the campaign.
        seed: u64,
        /// Index of the first program.
        first: u32,
        /// Number of programs.
        programs: u32,
        /// Fewest steps of a program.
        min_steps: u16,
        /// Most steps of a program.
        max_steps: u16,
        /// Weight profile by name; the program's seed picks one where there is none.
        profile: Option<String>,
    },
    /// They are given, in this order. The index of a program is its place here.
    Given(Vec<Program>),
}

/// Why a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Attempt {
    /// For the first time.
    First,
    /// For the n-th time, unchanged, to see whether a divergence is stable.
    Rerun(u16),
    /// As the n-th candidate of the shrinking of the program with this index.
    Shrink(u32),
}

/// One step, performed and observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepDone {
    /// Index of the step in its program.
    pub index: u16,
    /// What was seen.
    #[serde(with = "crate::compact")]
    pub record: StepRecord,
}

/// A divergence, minimised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shrunk {
    /// Index of the program that diverged first.
    pub index: u32,
    /// The smallest program that was found to diverge still.
    pub program: Program,
    /// The guest's verdict on it.
    pub verdict: Verdict,
    /// Executions that the search cost.
    pub executions: u32,
    /// The budget ended the search: a smaller program may exist.
    pub exhausted: bool,
    /// How many of the re-runs of the first program diverged in the same way.
    pub stable_reruns: u16,
    /// How many re-runs there were.
    pub reruns: u16,
}

/// How far a campaign is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Programs done, re-runs and shrinking apart.
    pub done: u32,
    /// Programs asked for.
    pub total: u32,
    /// Steps done, re-runs and shrinking included.
    pub steps: u64,
}

/// One measured number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured, in words, with the unit: `observation us/step`.
    pub name: String,
    /// The number.
    pub value: f64,
}

/// Something that the check of a claim found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is, by the check's own names.
    pub name: String,
    /// JSON, of a shape that the check owns on both sides.
    pub value: String,
}

/// The machine has less than was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Features that are missing, by name.
    pub missing: Vec<String>,
    /// What was looked at, and what it said.
    pub seen: Vec<String>,
}

/// The guest's count of its own verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Verdicts {
    /// Programs that agreed.
    pub agree: u32,
    /// Programs that diverged.
    pub diverge: u32,
    /// Programs that gave no verdict.
    pub inconclusive: u32,
}

/// The campaign is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct End {
    /// Programs that ran for the first time.
    pub programs: u32,
    /// Runs in all: re-runs and shrinking included. Equals the number of [`Frame::ProgramBegin`].
    pub runs: u32,
    /// Steps in all. Equals the number of [`Frame::StepDone`].
    pub steps: u64,
    /// The verdicts on the first runs.
    pub verdicts: Verdicts,
    /// The wall-time limit ended the campaign before its last program.
    pub out_of_time: bool,
}
