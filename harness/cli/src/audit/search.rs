//! Programs that tell of defects, found over the model.

use std::collections::BTreeMap;

use ptediff_compare::{agrees, records_of};
use ptediff_generate::{Options, Profile, program, shrink};
use ptediff_reference_model::kernel::{Change, DEFECTS, Kernel};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::Program;

/// Generated programs that are looked at: of each profile, none being whatever a campaign gives; and then, for defects
/// of which none of these tells, more of one that maps and moves.
const PROGRAMS: [(Option<Profile>, u32); 6] = [
    (None, 3_000),
    (Some(Profile::Layout), 3_000),
    (Some(Profile::Userfault), 3_000),
    (Some(Profile::Merging), 3_000),
    (Some(Profile::Keys), 3_000),
    (Some(Profile::Layout), 60_000),
];
/// Telling programs of one defect that are made smaller; the smallest is taken.
const CANDIDATES: usize = 4;
/// Seed of the campaign that they are from.
const SEED: u64 = 1;
/// Runs of the model that making one program smaller may cost.
const BUDGET: u32 = 2_000;

/// How long is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// A few thousand programs of each profile.
    Quick,
    /// Ten times as many.
    Full,
}

/// A program that tells of a defect.
#[derive(Debug, Clone)]
pub struct Telling {
    /// The defect.
    pub defect: Change,
    /// The smallest program found.
    pub program: Program,
}

/// A program for each of the defects for which one is found, on a machine like this one.
#[must_use]
pub fn search(machine: &Machine, wanted: &[Change], effort: Effort) -> Vec<Telling> {
    let mut found: BTreeMap<Change, Vec<Program>> = BTreeMap::new();
    for (profile, programs) in PROGRAMS {
        let is_last = programs > PROGRAMS[0].1;
        if is_last && effort == Effort::Quick {
            break;
        }
        for index in 0..programs {
            let enough = if is_last { 1 } else { CANDIDATES };
            let is_open = |defect: &&Change| found.get(defect).is_none_or(|programs| programs.len() < enough);
            let open: Vec<Change> = wanted.iter().filter(is_open).copied().collect();
            if open.is_empty() {
                break;
            }
            let candidate = program(SEED, index, machine, &Options { steps: 8..=50, profile });
            let intended = records_of(machine, machine.kernel(), &candidate);
            for defect in open {
                let kernel = machine.kernel().with(defect);
                if !agrees(machine, kernel, &candidate, &intended) && tells(machine, defect, &candidate) {
                    let mut still = |smaller: &Program| tells(machine, defect, smaller);
                    let smallest = shrink(&candidate, BUDGET, &mut still, &mut |_| {}).program;
                    found.entry(defect).or_default().push(smallest);
                }
            }
        }
    }
    let smallest = |programs: Vec<Program>| programs.into_iter().min_by_key(|program| program.steps.len());
    found.into_iter().filter_map(|(defect, programs)| Some(Telling { defect, program: smallest(programs)? })).collect()
}

/// Whether a kernel with the defect and the intended one would give other records for the program, and whether no other
/// single defect gives what this one gives.
fn tells(machine: &Machine, defect: Change, program: &Program) -> bool {
    let intended = machine.kernel();
    let defective = records_of(machine, intended.with(defect), program);
    let is_other = |kernel: Kernel| !agrees(machine, kernel, program, &defective);
    is_other(intended)
        && !agrees(machine, intended.with(defect), program, &records_of(machine, intended, program))
        && DEFECTS.iter().all(|info| info.change == defect || is_other(intended.with(info.change)))
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::kernel::KernelVersion;

    use super::*;

    /// Operations of the longest telling program.
    const MOST_STEPS: usize = 8;

    #[track_caller]
    fn check(version: KernelVersion, keys: bool, wanted: &[Change]) {
        let machine = Machine::imagined(version, true, keys);
        let found = search(&machine, wanted, Effort::Full);
        let told: Vec<Change> = found.iter().map(|telling| telling.defect).collect();
        assert!(wanted.iter().all(|defect| told.contains(defect)), "{version}: {told:?}");
        for Telling { defect, program } in found {
            assert!(tells(&machine, defect, &program), "{defect}");
            assert!(program.steps.len() <= MOST_STEPS, "{defect} in {version}: {:?}", program.steps);
        }
    }

    #[test]
    fn each_defect_of_memory_has_a_short_program_of_its_own() {
        let of_memory = [
            Change::CloseKeepsUffdWp,
            Change::MremapKeepsUffdWp,
            Change::MergeLosesSoftDirty,
            Change::UffdTakesShadowStacks,
            Change::DontunmapTakesOriginalAlong,
            Change::DontunmapKeepsOffset,
            Change::UnmergeableDropsFlags,
            Change::KsmReplaceDropsSoftDirty,
            Change::MremapMergesRegistered,
        ];
        check(KernelVersion::LINUX_6_12, true, &of_memory);
        check(KernelVersion::LINUX_7_3, true, &of_memory);
    }

    #[test]
    fn a_machine_without_keys_tells_how_they_are_refused() {
        check(KernelVersion::LINUX_6_1, false, &[Change::PkeyAllocWithoutKeys]);
    }
}
