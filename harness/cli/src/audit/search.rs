//! Programs that tell of defects, found over the model.

use std::collections::BTreeMap;
use std::thread;

use ptediff_compare::{agrees, kept_of, records_of};
use ptediff_generate::{Options, Profile, program, shrink};
use ptediff_reference_model::kernel::{Change, DEFECTS, Kernel};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::Program;

use super::{Finding, Told};

/// Profiles of which programs are looked at; `None` is whatever a campaign gives.
const PROFILES: [Option<Profile>; 5] =
    [None, Some(Profile::Layout), Some(Profile::Userfault), Some(Profile::Merging), Some(Profile::Keys)];
/// Programs of each.
const PROGRAMS: u32 = 3_000;
/// Telling programs of one defect and one profile that are made smaller; the smallest of all profiles is taken.
const CANDIDATES: usize = 2;
/// Seed of the campaign that they are from.
const SEED: u64 = 1;
/// Runs of the model that making one program smaller may cost.
const BUDGET: u32 = 2_000;

/// A program that tells of a defect.
#[derive(Debug, Clone)]
pub struct Telling {
    /// The defect.
    pub defect: Change,
    /// The smallest program found.
    pub program: Program,
}

impl Telling {
    /// What is said where its program does not run.
    #[must_use]
    pub fn not_told(self, why: &str) -> Finding {
        Finding { defect: self.defect, program: Some(self.program), told: Told::CannotTell(why.to_owned()) }
    }
}

/// A program for each of the defects for which one is found, on a machine like this one. The same machine and the same
/// defects give the same programs.
#[must_use]
pub fn search(machine: &Machine, wanted: &[Change]) -> Vec<Telling> {
    let mut found: BTreeMap<Change, Vec<Program>> = BTreeMap::new();
    thread::scope(|scope| {
        let searches = PROFILES.map(|profile| scope.spawn(move || of_profile(machine, wanted, profile)));
        for search in searches {
            for (defect, programs) in search.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                found.entry(defect).or_default().extend(programs);
            }
        }
    });
    let smallest = |programs: Vec<Program>| programs.into_iter().min_by_key(|program| program.steps.len());
    found.into_iter().filter_map(|(defect, programs)| Some(Telling { defect, program: smallest(programs)? })).collect()
}

fn of_profile(machine: &Machine, wanted: &[Change], profile: Option<Profile>) -> BTreeMap<Change, Vec<Program>> {
    let mut found: BTreeMap<Change, Vec<Program>> = BTreeMap::new();
    let mut open = wanted.to_vec();
    for index in 0..PROGRAMS {
        open.retain(|defect| found.get(defect).is_none_or(|programs| programs.len() < CANDIDATES));
        if open.is_empty() {
            break;
        }
        let candidate = program(SEED, index, machine, &Options { steps: 8..=50, profile });
        let intended = records_of(machine, machine.kernel(), &candidate);
        for &defect in &open {
            let makes_a_difference = !agrees(machine, machine.kernel().with(defect), &candidate, &intended);
            if makes_a_difference && tells(machine, defect, &candidate) {
                let mut still = |smaller: &Program| tells(machine, defect, smaller);
                let smallest = shrink(&candidate, BUDGET, &mut still, &mut |_| {}).program;
                found.entry(defect).or_default().push(smallest);
            }
        }
    }
    found
}

/// Whether what a session keeps of the program is one thing on a kernel with the defect and another on one without,
/// whether or not the kernel has the other defects that its version is known to have; and whether no other single defect
/// gives what this one gives.
pub(super) fn tells(machine: &Machine, defect: Change, program: &Program) -> bool {
    let (intended, released) = (machine.kernel(), machine.kernel_as_released().without(defect));
    tells_on(machine, intended, defect, program)
        && (released == intended || tells_on(machine, released, defect, program))
        && {
            let kept = kept_of(machine, intended.with(defect), program);
            let is_other = |kernel: Kernel| !agrees(machine, kernel, program, &kept);
            DEFECTS.iter().all(|info| info.change == defect || is_other(intended.with(info.change)))
        }
}

/// Whether the defect makes a difference on a kernel that else is `base`.
fn tells_on(machine: &Machine, base: Kernel, defect: Change, program: &Program) -> bool {
    let with = base.with(defect);
    let differ = |one, other| !agrees(machine, one, program, &kept_of(machine, other, program));
    differ(base, with) && differ(with, base)
}

/// Whether the defect makes a difference on this kernel of the machine.
pub(super) fn makes_a_difference(machine: &Machine, kernel: Kernel, defect: Change, program: &Program) -> bool {
    let records = records_of(machine, kernel.with(defect), program);
    !agrees(machine, kernel, program, &records)
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
        let found = search(&machine, wanted);
        let told: Vec<Change> = found.iter().map(|telling| telling.defect).collect();
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(told, wanted, "{version}");
        for Telling { defect, program } in found {
            assert!(tells(&machine, defect, &program), "{defect}");
            assert!(program.steps.len() <= MOST_STEPS, "{defect} in {version}: {:?}", program.steps);
        }
    }

    const OF_MEMORY: [Change; 8] = [
        Change::CloseKeepsUffdWp,
        Change::MremapKeepsUffdWp,
        Change::MergeLosesSoftDirty,
        Change::DontunmapTakesOriginalAlong,
        Change::DontunmapKeepsOffset,
        Change::UnmergeableDropsFlags,
        Change::KsmReplaceDropsSoftDirty,
        Change::MremapMergesRegistered,
    ];

    #[test]
    fn each_defect_of_memory_has_a_short_program_of_its_own() {
        check(KernelVersion::new(6, 1, 190), true, &OF_MEMORY);
        check(KernelVersion::LINUX_6_1, true, &OF_MEMORY);
        let of_6_12 = [&OF_MEMORY[..], &[Change::UffdTakesShadowStacks]].concat();
        check(KernelVersion::new(6, 12, 43), true, &of_6_12);
        check(KernelVersion::LINUX_6_12, true, &of_6_12);
        let of_7_3 = [&of_6_12[..], &[Change::CopyMergeLosesAnonVma]].concat();
        check(KernelVersion::series(6, 17), true, &of_7_3);
        check(KernelVersion::LINUX_7_3, true, &of_7_3);
    }

    #[test]
    fn a_machine_without_keys_tells_how_they_are_refused() {
        check(KernelVersion::LINUX_6_1, false, &[Change::PkeyAllocWithoutKeys]);
    }
}
