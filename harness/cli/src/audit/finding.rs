//! What an audit says of a defect.

use ptediff_reference_model::kernel::Change;
use ptediff_reference_model::program::Program;
use serde::Serialize;

/// What is known of one defect on one kernel.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The defect.
    pub defect: Change,
    /// The program that told, or would.
    pub program: Option<Program>,
    /// What it told.
    pub told: Told,
}

/// Whether a kernel has a defect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "why")]
pub enum Told {
    /// It has.
    Present,
    /// It has not.
    Absent,
    /// The defect lives by something that this kernel lacks.
    NotAffected(String),
    /// The kernel died of the program.
    Died(String),
    /// It cannot be told here, and why.
    CannotTell(String),
    /// No operation of today shows it.
    NotExpressible,
}

impl Told {
    /// Its name in a report.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Present => "PRESENT",
            Self::Absent => "absent",
            Self::NotAffected(_) => "not affected",
            Self::Died(_) => "KERNEL DIED",
            Self::CannotTell(_) => "cannot tell here",
            Self::NotExpressible => "not expressible yet",
        }
    }

    /// What more there is to say.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::NotAffected(why) | Self::Died(why) | Self::CannotTell(why) => Some(why),
            Self::Present | Self::Absent | Self::NotExpressible => None,
        }
    }
}
