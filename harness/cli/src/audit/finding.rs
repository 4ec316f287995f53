//! What an audit says of a defect.

use std::cmp::Ordering;

use ptediff_reference_model::kernel::Change;
use ptediff_reference_model::program::Program;
use serde::Serialize;

use super::Telling;

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
    /// Programs that told so.
    pub programs: usize,
    /// Programs of this defect.
    pub of: usize,
}

impl Finding {
    /// What one program told.
    #[must_use]
    pub fn of(telling: Telling, told: Told) -> Self {
        Self { defect: telling.defect, program: Some(telling.program), told, programs: 1, of: 1 }
    }

    /// What is known without a program.
    #[must_use]
    pub fn without_program(defect: Change, told: Told) -> Self {
        Self { defect, program: None, told, programs: 0, of: 0 }
    }
}

/// One finding for each defect. It is present where one program shows it, and absent where all say so.
#[must_use]
pub fn combined(findings: Vec<Finding>) -> Vec<Finding> {
    let mut combined: Vec<Finding> = Vec::new();
    for finding in findings {
        let Some(known) = combined.iter_mut().find(|known| known.defect == finding.defect) else {
            combined.push(finding);
            continue;
        };
        let of = known.of + finding.of;
        match finding.told.rank().cmp(&known.told.rank()) {
            Ordering::Less => *known = finding,
            Ordering::Equal => known.programs += finding.programs,
            Ordering::Greater => {}
        }
        known.of = of;
    }
    combined
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

    /// What decides among programs: the lowest.
    fn rank(&self) -> u8 {
        match self {
            Self::Present => 0,
            Self::Died(_) => 1,
            Self::CannotTell(_) => 2,
            Self::Absent => 3,
            Self::NotAffected(_) => 4,
            Self::NotExpressible => 5,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_program_that_shows_it_outweighs_those_that_do_not() {
        let defect = Change::CopyMergeLosesAnonVma;
        let why = || "noise".to_owned();
        let check = |told: &[Told], expected: (Told, usize)| {
            let finding =
                |told: &Told| Finding { programs: 1, of: 1, ..Finding::without_program(defect, told.clone()) };
            let findings = combined(told.iter().map(finding).collect());
            let [one] = &findings[..] else { panic!("{findings:?}") };
            assert_eq!((one.told.clone(), one.programs, one.of), (expected.0, expected.1, told.len()));
        };
        check(&[Told::Absent, Told::Present, Told::Absent], (Told::Present, 1));
        check(&[Told::Absent, Told::Absent, Told::CannotTell(why())], (Told::CannotTell(why()), 1));
        check(&[Told::Absent, Told::Absent], (Told::Absent, 2));
        check(&[Told::CannotTell(why()), Told::Died(why())], (Told::Died(why()), 1));
        assert_eq!(combined(Vec::new()).len(), 0);
    }
}
