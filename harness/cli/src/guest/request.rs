//! What the host asks of the guest: one JSON file in the initramfs.

use serde::{Deserialize, Serialize};

use ptediff_corpus::Needs;
use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::program::Program;

use super::plant::Plant;
use crate::arguments::LoaderChoice;
use crate::watch::WatchTask;

/// Where the request lies in the guest.
pub const REQUEST_PATH: &str = "/ptediff.json";

/// What the guest is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestRequest {
    /// The job.
    pub task: Task,
    /// What runs the guest: `bochs`, `qemu`, `native`.
    pub platform: String,
    /// CPU features without which the guest must refuse, by their names in /proc/cpuinfo.
    pub require: Vec<String>,
    /// Rules to judge by, where the user named them.
    pub judged_as: Option<KernelVersion>,
    /// The witnesses are asked after every this-many-th step; 0 for never but at divergences.
    pub witness_every: u16,
    /// Bytes of the probes' ring buffer.
    pub ring_bytes: u32,
    /// Who loads the probes.
    pub loader: LoaderChoice,
    /// How they are attached, where the user says so: a name of [`ptediff_observe::Hooking`].
    pub hooks: Option<String>,
    /// Hooked functions that this kernel has under another name.
    pub renamed: Vec<(String, String)>,
    /// Executions that shrinking one cluster's program may cost.
    pub shrink_budget: u32,
    /// Clusters of divergences after which the campaign ends.
    pub stop_after: u32,
    /// Whether known divergences are treated as any other.
    pub count_known: bool,
    /// SHA-256 of the `ptediff` file, for the trace's head.
    pub binary: String,
    /// Why the machine has no modules for a swap file, where it has none.
    pub without_modules: Option<String>,
    /// A failure to be planted, for tests of trust.
    pub plant: Option<Plant>,
}

/// The job.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Generate and run programs.
    Campaign {
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
        /// Weight profile by name; each program's seed picks one where there is none.
        profile: Option<String>,
    },
    /// Run these programs.
    Replay {
        /// The programs, in order.
        programs: Vec<Program>,
        /// What a machine must have for each of them.
        needs: Vec<Needs>,
        /// Times that each is run.
        repeat: u16,
    },
    /// Tell what the machine has and which hooks could be attached; run nothing.
    Doctor,
    /// Measure: the same generated programs bare, then observed and compared.
    Bench {
        /// Seed of the programs.
        seed: u64,
        /// Number of programs.
        programs: u32,
        /// Most steps of a program.
        max_steps: u16,
    },
    /// Do the guest's part of a claim's check.
    Claim {
        /// The claim.
        name: String,
        /// What the check asks of its other half.
        parameters: serde_json::Value,
    },
    /// Watch a program that ptediff did not write.
    Watch(WatchTask),
    /// Run generated programs while the observer tells every lie in turn.
    Trust {
        /// Seed of the programs.
        seed: u64,
        /// Programs under one lie at most.
        programs: u32,
        /// Most steps of a program.
        max_steps: u16,
    },
}
