//! What the records of a telling program say.

use ptediff_compare::agrees;
use ptediff_reference_model::kernel::{Change, DEFECTS, Kernel};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;

use super::Told;

/// Decides by the records of a run, and of a second one: all of them must say the same.
///
/// The kernel is asked first as the intended one and as the one that the version is known to be. Where neither agrees,
/// with the defect or without, it may have one other defect more or less. A defect is present only where no other single
/// one gives the same.
#[must_use]
pub fn decide(machine: &Machine, defect: Change, program: &Program, runs: &[&[StepRecord]]) -> Told {
    let agrees_with = |kernel: Kernel| runs.iter().all(|records| agrees(machine, kernel, program, records));
    let roots = [machine.kernel(), machine.kernel_as_released().without(defect)];
    let others = || DEFECTS.iter().map(|info| info.change).filter(|&other| other != defect);
    let near: Vec<Kernel> = roots.into_iter().flat_map(|root| others().map(move |other| root.moved(other))).collect();
    let with = |bases: &[Kernel]| bases.iter().any(|base| agrees_with(base.with(defect)));
    let without = |bases: &[Kernel]| bases.iter().copied().find(|&base| agrees_with(base));
    let same = |base: Kernel| {
        let name = named(machine, base);
        Told::CannotTell(format!("{name} does the same with the defect and without"))
    };
    match (with(&roots), without(&roots)) {
        _ if runs.is_empty() => Told::CannotTell("its program did not run".to_owned()),
        (true, None) => without(&near).map_or(Told::Present, same),
        (false, Some(_)) => Told::Absent,
        (true, Some(base)) => same(base),
        (false, None) => match (with(&near), without(&near)) {
            (true, None) => Told::Present,
            (false, Some(_)) => Told::Absent,
            (true, Some(base)) => same(base),
            (false, None) => Told::CannotTell(
                "the kernel does otherwise than with the defect or without it: see what `ptediff run` finds".to_owned(),
            ),
        },
    }
}

fn named(machine: &Machine, base: Kernel) -> String {
    let defects: Vec<&str> =
        base.iter().filter(|&change| !machine.kernel().has(change)).map(|change| change.info().identifier).collect();
    if defects.is_empty() { "this kernel".to_owned() } else { format!("a kernel with {}", defects.join(", ")) }
}

#[cfg(test)]
mod tests {
    use ptediff_compare::kept_of;
    use ptediff_reference_model::kernel::KernelVersion;

    use super::*;
    use crate::audit::search::{search, tells};

    #[test]
    fn two_runs_must_say_the_same() {
        let defect = Change::CloseKeepsUffdWp;
        let machine = Machine::imagined(KernelVersion::LINUX_6_12, false, true);
        let program = search(&machine, &[defect]).remove(0).program;
        let kept = |kernel| kept_of(&machine, kernel, &program);
        let (one, other) = (kept(machine.kernel()), kept(machine.kernel().with(defect)));
        assert!(matches!(decide(&machine, defect, &program, &[&one, &other]), Told::CannotTell(_)));
        assert!(matches!(decide(&machine, defect, &program, &[]), Told::CannotTell(_)));
        // A record that ends before anything could differ.
        assert!(matches!(decide(&machine, defect, &program, &[&one[..1], &one[..1]]), Told::CannotTell(_)));
    }

    /// A program on which what one defect does another does, too: soft-dirty is lost where VMAs should not merge, or where
    /// they merge as they should not.
    #[test]
    fn a_defect_that_another_imitates_is_not_told() {
        let (one, other) = (Change::MergeLosesSoftDirty, Change::DontunmapKeepsOffset);
        let program: Program = serde_json::from_value(serde_json::json!([
            {"actor": 0, "operation": {"mmap": {"range": {"first": 0, "pages": 1}, "protection": "-w-", "placement": "fixed"}}},
            {"actor": 0, "operation": {"write": {"page": 0}}},
            {"actor": 0, "operation": {"mremap": {"range": {"first": 0, "pages": 1}, "to": {"first": 1, "pages": 1}, "keep": false}}},
            {"actor": 0, "operation": "clear-soft-dirty"},
            {"actor": 0, "operation": {"mremap": {"range": {"first": 1, "pages": 1}, "to": {"first": 0, "pages": 1}, "keep": true}}},
            {"actor": 0, "operation": {"mmap": {"range": {"first": 3, "pages": 1}, "protection": "-w-", "placement": "fixed"}}},
            {"actor": 0, "operation": {"mremap-resize": {"range": {"first": 1, "pages": 1}, "pages": 2}}},
            {"actor": 0, "operation": {"read": {"page": 1}}},
        ]))
        .unwrap();
        let machine = Machine::imagined(KernelVersion::LINUX_6_12, false, true);
        for (defect, imitator) in [(one, other), (other, one)] {
            assert!(!tells(&machine, defect, &program), "{}", defect.info().identifier);
            let kept = kept_of(&machine, machine.kernel().with(imitator), &program);
            let told = decide(&machine, defect, &program, &[&kept]);
            assert!(matches!(told, Told::CannotTell(_)), "{told:?}");
        }
    }
}
