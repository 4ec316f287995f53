//! Evidence for the table of changes: programs on which a kernel was seen to have a change, or not to have it.
//!
//! A program that agrees with a kernel, known defects included, tells of a change if it would not have agreed with the
//! same kernel with this change moved. What no program tells of is not known of the kernel, whatever the table says.

use std::collections::BTreeMap;

use ptediff_reference_model::kernel::{Change, Kernel, changes};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::{Explanation, Verdict};
use serde::Serialize;

use crate::explanation::follow;

/// The first program that tells of a change, by its index, either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Seen {
    /// The kernel does as one that has the change.
    pub present: Option<u32>,
    /// It does as one that has it not.
    pub absent: Option<u32>,
}

/// What was seen of a kernel's changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Evidence(BTreeMap<Change, Seen>);

/// What the evidence says of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The kernel has the change, as the table says.
    Present,
    /// It has not, as the table says.
    Absent,
    /// No program tells.
    Untold,
    /// It does otherwise than the table says, at least once.
    Contradicted,
}

impl Evidence {
    /// Takes what a judged program tells.
    pub fn take(
        &mut self,
        machine: &Machine,
        index: u32,
        program: &Program,
        records: &[StepRecord],
        verdict: &Verdict,
    ) {
        let Some(kernel) = agreed_with(machine, verdict) else { return };
        for change in changes().map(|info| info.change) {
            let seen = self.0.entry(change).or_default();
            let place = if kernel.has(change) { &mut seen.present } else { &mut seen.absent };
            if place.is_none() && follow(machine, kernel.moved(change), program, records).is_none() {
                *place = Some(index);
            }
        }
    }

    /// Takes what another run on the same kernel gave.
    pub fn add(&mut self, other: &Self) {
        for (&change, seen) in &other.0 {
            let own = self.0.entry(change).or_default();
            own.present = own.present.or(seen.present);
            own.absent = own.absent.or(seen.absent);
        }
    }

    /// What was seen of a change.
    #[must_use]
    pub fn seen(&self, change: Change) -> Seen {
        self.0.get(&change).copied().unwrap_or_default()
    }

    /// The same against the table.
    #[must_use]
    pub fn standing(&self, change: Change, machine: &Machine) -> Standing {
        let Seen { present, absent } = self.seen(change);
        match (machine.kernel_as_released().has(change), present.is_some(), absent.is_some()) {
            (_, false, false) => Standing::Untold,
            (true, true, false) => Standing::Present,
            (false, false, true) => Standing::Absent,
            _ => Standing::Contradicted,
        }
    }
}

/// The kernel that a program agreed with to its end.
fn agreed_with(machine: &Machine, verdict: &Verdict) -> Option<Kernel> {
    match verdict {
        Verdict::Agree => Some(machine.kernel()),
        Verdict::Diverge(divergence) => match &divergence.explanation {
            Explanation::KnownDefects(defects) => {
                Some(defects.iter().fold(machine.kernel(), |kernel, &defect| kernel.with(defect)))
            }
            _ => None,
        },
        Verdict::Inconclusive(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
    use ptediff_reference_model::kernel::KernelVersion;
    use ptediff_reference_model::program::{Operation, Placement, Protection, Step};
    use ptediff_reference_model::uffd::{UffdFeatures, UffdId, UffdMode};

    use super::*;
    use crate::{judge, records_of};

    /// A protected page whose userfaultfd is closed.
    fn program() -> Program {
        let (uffd, range) = (UffdId::FIRST, PageRange::FIRST_PAGE);
        let operations = [
            Operation::Mmap { range, protection: Protection::READ_WRITE, placement: Placement::Fixed },
            Operation::Write { page: PageIndex::FIRST },
            Operation::UffdOpen { uffd, features: UffdFeatures::SIGBUS },
            Operation::UffdRegister { uffd, range, mode: UffdMode::WriteProtect },
            Operation::UffdWriteProtect { uffd, range, protect: true },
            Operation::UffdClose { uffd },
        ];
        Program { steps: operations.map(|operation| Step { actor: ActorId::FIRST, operation }).to_vec() }
    }

    #[track_caller]
    fn check(version: KernelVersion, kernel: fn(&Machine) -> Kernel, change: Change, expected: Standing) {
        let machine = Machine::imagined(version, true, true);
        let records = records_of(&machine, kernel(&machine), &program());
        let (verdict, _) = judge(&machine, &program(), &records);
        let mut evidence = Evidence::default();
        evidence.take(&machine, 7, &program(), &records, &verdict);
        assert_eq!(evidence.standing(change, &machine), expected, "{change} in {version}: {verdict:?}");
    }

    #[test]
    fn a_program_tells_what_it_would_have_missed() {
        let (bad, good) = (KernelVersion::new(6, 1, 190), KernelVersion::new(6, 1, 192));
        let (closes, moves) = (Change::CloseKeepsUffdWp, Change::MremapKeepsUffdWp);
        check(bad, Machine::kernel_as_released, closes, Standing::Present);
        check(good, Machine::kernel_as_released, closes, Standing::Absent);
        check(good, Machine::kernel_as_released, moves, Standing::Untold);
        // The table calls it vulnerable, and it is not.
        check(bad, Machine::kernel, closes, Standing::Contradicted);
        check(good, Machine::kernel, Change::UffdWpByPageProtection, Standing::Absent);
        check(KernelVersion::LINUX_7_2, Machine::kernel, Change::UffdWpByPageProtection, Standing::Present);
    }
}
