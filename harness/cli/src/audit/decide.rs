//! What the records of a telling program say.

use ptediff_compare::agrees;
use ptediff_reference_model::kernel::Change;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
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
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// It has.
    Present,
    /// It has not.
    Absent,
    /// It cannot be told here, and why.
    CannotTell(String),
    /// No operation of today shows it.
    NotExpressible,
}

/// Decides by the records of a run, and of a second one. Other defects that the version is known to have may show in
/// them too.
#[must_use]
pub fn decide(machine: &Machine, defect: Change, program: &Program, runs: &[&[StepRecord]]) -> Told {
    let (intended, released) = (machine.kernel(), machine.kernel_as_released());
    let either = |kernels: [_; 2]| {
        let agrees_with =
            |records: &&[StepRecord]| kernels.iter().any(|&kernel| agrees(machine, kernel, program, records));
        !runs.is_empty() && runs.iter().all(agrees_with)
    };
    match (either([intended.with(defect), released.with(defect)]), either([intended, released.without(defect)])) {
        (true, false) => Told::Present,
        (false, true) => Told::Absent,
        (true, true) => Told::CannotTell("its program shows no difference on this kernel".to_owned()),
        (false, false) => Told::CannotTell("the kernel does otherwise than with the defect or without it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use ptediff_compare::records_of;
    use ptediff_reference_model::kernel::KernelVersion;

    use super::*;
    use crate::audit::{Effort, search};

    #[test]
    fn a_defect_is_seen_whatever_the_version_says() {
        let defect = Change::CloseKeepsUffdWp;
        for version in [KernelVersion::new(6, 1, 190), KernelVersion::new(6, 1, 192), KernelVersion::LINUX_6_12] {
            let machine = Machine::imagined(version, false, true);
            let program = search(&machine, &[defect], Effort::Quick).remove(0).program;
            let check = |kernel, expected| {
                let records = records_of(&machine, kernel, &program);
                assert_eq!(decide(&machine, defect, &program, &[&records, &records]), expected, "{version}");
            };
            check(machine.kernel().with(defect), Told::Present);
            check(machine.kernel(), Told::Absent);
            let other = machine.kernel().with(defect);
            let unlike = [records_of(&machine, machine.kernel(), &program), records_of(&machine, other, &program)];
            let runs: Vec<&[StepRecord]> = unlike.iter().map(Vec::as_slice).collect();
            assert!(matches!(decide(&machine, defect, &program, &runs), Told::CannotTell(_)), "{version}: unstable");
        }
    }
}
