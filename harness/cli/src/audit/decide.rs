//! What the records of a telling program say.

use ptediff_compare::agrees;
use ptediff_reference_model::kernel::{Change, DEFECTS, Kernel};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;

use super::Told;

/// Decides by the records of a run, and of a second one: all of them must say the same.
///
/// The kernel may have other defects besides: those that its version is known to have, or any single one more or less.
/// What agrees with kernels that have the defect and with such that have not decides nothing.
#[must_use]
pub fn decide(machine: &Machine, defect: Change, program: &Program, runs: &[&[StepRecord]]) -> Told {
    let agrees_with = |kernel: Kernel| runs.iter().all(|records| agrees(machine, kernel, program, records));
    let bases = bases(machine, defect);
    let with = bases.iter().any(|base| agrees_with(base.with(defect)));
    let without = bases.iter().find(|&&base| agrees_with(base));
    match (with, without) {
        _ if runs.is_empty() => Told::CannotTell("its program did not run".to_owned()),
        (true, None) => Told::Present,
        (false, Some(_)) => Told::Absent,
        (true, Some(&base)) => {
            Told::CannotTell(format!("its program shows no difference on {}", described(machine, base)))
        }
        (false, None) => Told::CannotTell(
            "the kernel does otherwise than with the defect or without it: try `ptediff run`".to_owned(),
        ),
    }
}

/// Kernels without the defect that the kernel may be: the intended one, the one that the table expects, and each of them
/// with one other defect more or less.
fn bases(machine: &Machine, defect: Change) -> Vec<Kernel> {
    let roots = [machine.kernel(), machine.kernel_as_released().without(defect)];
    let others = || DEFECTS.iter().map(|info| info.change).filter(move |&other| other != defect);
    let moved = roots.into_iter().flat_map(|root| others().map(move |other| root.moved(other)));
    roots.into_iter().chain(moved).collect()
}

fn described(machine: &Machine, base: Kernel) -> String {
    let defects: Vec<&str> =
        base.iter().filter(|&change| !machine.kernel().has(change)).map(|change| change.info().identifier).collect();
    if defects.is_empty() { "this kernel".to_owned() } else { format!("a kernel with {}", defects.join(", ")) }
}

#[cfg(test)]
mod tests {
    use ptediff_compare::kept_of;
    use ptediff_reference_model::kernel::KernelVersion;

    use super::*;
    use crate::audit::{Telling, search};

    fn all() -> Vec<Change> {
        DEFECTS.iter().map(|info| info.change).collect()
    }

    /// Versions on both sides of most fixes.
    const VERSIONS: [KernelVersion; 5] = [
        KernelVersion::new(6, 1, 190),
        KernelVersion::new(6, 1, 192),
        KernelVersion::new(6, 12, 43),
        KernelVersion::LINUX_6_12,
        KernelVersion::LINUX_7_3,
    ];

    #[test]
    fn a_defect_is_seen_whatever_the_version_says_and_never_for_another() {
        for version in VERSIONS {
            let machine = Machine::imagined(version, true, true);
            let (intended, released) = (machine.kernel(), machine.kernel_as_released());
            for Telling { defect, program } in search(&machine, &all()) {
                let told = |kernel| {
                    let records = kept_of(&machine, kernel, &program);
                    decide(&machine, defect, &program, &[&records, &records])
                };
                let name = format!("{} on {version}", defect.info().identifier);
                assert_eq!(told(intended), Told::Absent, "{name}");
                assert_eq!(told(intended.with(defect)), Told::Present, "{name}");
                assert_eq!(told(released.without(defect)), Told::Absent, "{name}");
                assert_eq!(told(released.with(defect)), Told::Present, "{name}");
                for other in all().into_iter().filter(|&other| other != defect) {
                    assert_ne!(
                        told(intended.with(other)),
                        Told::Present,
                        "{name}, taken for {}",
                        other.info().identifier
                    );
                }
            }
        }
    }

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
}
