//! What explains a divergence: other kernels that would have agreed.

use ptediff_reference_model::kernel::{Change, DEFECTS, DESIGNS, Kernel};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::Explanation;

use crate::comparison::{Compared, Comparison};
use crate::ideal::records_of;

/// The comparison with another kernel, if it agrees with all records.
pub(crate) fn follow(
    machine: &Machine,
    kernel: Kernel,
    program: &Program,
    records: &[StepRecord],
) -> Option<Comparison> {
    let mut comparison = Comparison::new(Model::with_kernel(machine, kernel), kernel == machine.kernel());
    let agrees = program
        .steps
        .iter()
        .zip(records)
        .enumerate()
        .all(|(index, (step, record))| comparison.step(index, step, record) == Compared::Agrees);
    agrees.then_some(comparison)
}

/// Whether everything that was recorded is as the model of this kernel says.
#[must_use]
pub fn agrees(machine: &Machine, kernel: Kernel, program: &Program, records: &[StepRecord]) -> bool {
    follow(machine, kernel, program, records).is_some()
}

/// What a session would keep of the program on a kernel that does to the letter what the model of `kernel` says: the
/// records up to the first step that is not as intended.
#[must_use]
pub fn kept_of(machine: &Machine, kernel: Kernel, program: &Program) -> Vec<StepRecord> {
    let mut records = records_of(machine, kernel, program);
    let mut comparison = Comparison::new(Model::new(machine), true);
    let mut steps = program.steps.iter().zip(&records).enumerate();
    let differs = steps.find(|(index, (step, record))| comparison.step(*index, step, record) != Compared::Agrees);
    if let Some((index, _)) = differs {
        records.truncate(index + 1);
    }
    records
}

/// Sets of defects that the table gives this version: each alone, then in pairs, then all.
pub(crate) fn known_defects(machine: &Machine) -> Vec<Vec<Change>> {
    let released = machine.kernel_as_released();
    let known: Vec<Change> = DEFECTS.iter().map(|info| info.change).filter(|&defect| released.has(defect)).collect();
    let mut sets: Vec<Vec<Change>> = known.iter().map(|&defect| vec![defect]).collect();
    for (index, &first) in known.iter().enumerate() {
        sets.extend(known[index + 1..].iter().map(|&second| vec![first, second]));
    }
    if known.len() > 2 {
        sets.push(known);
    }
    sets
}

/// What else explains it: a fix that is missing, else a change that is where the table does not have it. Each is tried
/// on the intended kernel and on the one with all defects that the version is known to have.
pub(crate) fn others(machine: &Machine, program: &Program, records: &[StepRecord]) -> Explanation {
    let (intended, released) = (machine.kernel(), machine.kernel_as_released());
    let explains = |change: Change| {
        [intended, released].into_iter().any(|base| follow(machine, base.moved(change), program, records).is_some())
    };
    let absent = DEFECTS.iter().map(|info| info.change).filter(|&defect| !released.has(defect));
    let missing: Vec<Change> = absent.filter(|&defect| explains(defect)).collect();
    if !missing.is_empty() {
        return Explanation::FixMissing(missing);
    }
    let moved: Vec<Change> = DESIGNS.iter().map(|info| info.change).filter(|&design| explains(design)).collect();
    if moved.is_empty() { Explanation::Unexplained } else { Explanation::ChangeMoved(moved) }
}
