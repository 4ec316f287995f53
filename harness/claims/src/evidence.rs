//! What a check saw, as it is recorded.

use serde::{Deserialize, Serialize};

/// One run of one claim's check on one machine, or over the model alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The kernel's release, `bare` for a guest without one, `model` where no machine was needed.
    pub kernel: String,
    /// The CPU: platform and model name, `-` where no machine was needed.
    pub cpu: String,
    /// How many cases were looked at.
    pub cases: u64,
    /// Of what.
    pub unit: String,
    /// Wall time of the whole check, boot included, in seconds.
    pub seconds: f64,
    /// What else a reader should know: coverage, parts that could not run, deviations by name. May be empty.
    pub note: String,
}

/// All evidence for one claim, from one run of `ptediff claims`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The claim's name.
    pub claim: String,
    /// Whether all of the check was run, or its representative part.
    pub is_full: bool,
    /// What was seen, a row for each machine.
    pub evidence: Vec<Evidence>,
}
