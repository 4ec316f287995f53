//! Programs that tell of defects, found over the model.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::thread;

use ptediff_compare::{agrees, kept_of, records_of};
use ptediff_generate::{Options, Profile, program, shrink};
use ptediff_reference_model::kernel::{Change, DEFECTS, Kernel};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::Program;

use super::{Finding, Told};

/// Programs that are looked at, by weight profile; `None` is whatever a campaign gives. What VMAs become when they move
/// and merge is told by few, and by most where nothing else is drawn: of these there are more.
const BATCHES: [Batch; 6] = [
    Batch { profile: None, plain: false, programs: 0..2_000 },
    Batch { profile: Some(Profile::Userfault), plain: false, programs: 0..2_000 },
    Batch { profile: Some(Profile::Merging), plain: false, programs: 0..2_000 },
    Batch { profile: Some(Profile::Keys), plain: false, programs: 0..2_000 },
    Batch { profile: Some(Profile::Layout), plain: true, programs: 0..6_000 },
    Batch { profile: Some(Profile::Layout), plain: true, programs: 6_000..12_000 },
];
/// Steps of each. Long ones cost little, and more happens in them.
const STEPS: RangeInclusive<usize> = 20..=100;
/// Telling programs of one defect and one batch that are made smaller.
const CANDIDATES: usize = 1;
/// Programs of one defect that are run, the smallest of all batches: a kernel that has the defect may lack what else one of
/// them lives by.
const PROGRAMS: usize = 3;
/// Seed of the campaign that they are from.
const SEED: u64 = 1;
/// Runs of the model that making one program smaller may cost.
const BUDGET: u32 = 2_000;

/// A program that tells of a defect.
#[derive(Debug, Clone)]
pub struct Telling {
    /// The defect.
    pub defect: Change,
    /// The program.
    pub program: Program,
}

impl Telling {
    /// What is said where its program does not run.
    #[must_use]
    pub fn not_told(self, why: &str) -> Finding {
        Finding::of(self, Told::CannotTell(why.to_owned()))
    }
}

/// Programs for each of the defects for which one is found, on a machine like this one, by defect, the smallest first. The
/// same machine and the same defects give the same programs.
#[must_use]
pub fn search(machine: &Machine, wanted: &[Change]) -> Vec<Telling> {
    let mut found: BTreeMap<Change, Vec<Program>> = BTreeMap::new();
    thread::scope(|scope| {
        let searches = BATCHES.map(|batch| scope.spawn(move || batch.search(machine, wanted)));
        for search in searches {
            for (defect, programs) in search.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                found.entry(defect).or_default().extend(programs);
            }
        }
    });
    let smallest = |(defect, mut programs): (Change, Vec<Program>)| {
        programs.sort_by_key(|program| program.steps.len());
        programs.dedup();
        programs.into_iter().take(PROGRAMS).map(move |program| Telling { defect, program })
    };
    found.into_iter().flat_map(smallest).collect()
}

/// Generated programs.
struct Batch {
    profile: Option<Profile>,
    /// Whether they are drawn as for a machine that has nothing but memory.
    plain: bool,
    programs: Range<u32>,
}

impl Batch {
    fn search(self, machine: &Machine, wanted: &[Change]) -> BTreeMap<Change, Vec<Program>> {
        let mut found: BTreeMap<Change, Vec<Program>> = BTreeMap::new();
        let plain =
            Machine { shadow_stack: false, protection_keys: false, swap: false, merging: false, ..machine.clone() };
        let options = Options { steps: STEPS, profile: self.profile };
        let mut open = wanted.to_vec();
        for index in self.programs {
            open.retain(|defect| found.get(defect).is_none_or(|programs| programs.len() < CANDIDATES));
            if open.is_empty() {
                break;
            }
            let candidate = program(SEED, index, if self.plain { &plain } else { machine }, &options);
            let intended = records_of(machine, machine.kernel(), &candidate);
            for &defect in &open {
                let makes_a_difference = !agrees(machine, machine.kernel().with(defect), &candidate, &intended);
                if makes_a_difference && tells_alone(machine, defect, &candidate) {
                    let mut still = |smaller: &Program| tells_alone(machine, defect, smaller);
                    let smallest = shrink(&candidate, BUDGET, &mut still, &mut |_| {}).program;
                    // The other defects of the version show in few programs as small as this.
                    if tells(machine, defect, &smallest) {
                        found.entry(defect).or_default().push(smallest);
                    }
                }
            }
        }
        found
    }
}

/// Whether the program tells of the defect, whether or not the kernel has the other defects that its version is known to
/// have.
pub(super) fn tells(machine: &Machine, defect: Change, program: &Program) -> bool {
    tells_alone(machine, defect, program)
        && tells_on(machine, machine.kernel_as_released().without(defect), defect, program)
}

/// Whether what a session keeps of the program is one thing on a kernel with this defect alone and another on one
/// without; and whether no other single defect gives what this one gives.
fn tells_alone(machine: &Machine, defect: Change, program: &Program) -> bool {
    let intended = machine.kernel();
    if !tells_on(machine, intended, defect, program) {
        return false;
    }
    let kept = kept_of(machine, intended.with(defect), program);
    let is_other = |kernel: Kernel| !agrees(machine, kernel, program, &kept);
    DEFECTS.iter().all(|info| info.change == defect || is_other(intended.with(info.change)))
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
    use crate::audit::decide;

    /// Steps that the smallest program of a defect may have.
    const MOST_STEPS: usize = 8;

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

    fn all() -> Vec<Change> {
        DEFECTS.iter().map(|info| info.change).collect()
    }

    /// Whether the program tells of the defect on kernels that have it and on such that have not, and never takes another
    /// for it.
    #[track_caller]
    fn must_tell(machine: &Machine, defect: Change, program: &Program) {
        let (intended, released) = (machine.kernel(), machine.kernel_as_released());
        let told = |kernel| {
            let records = kept_of(machine, kernel, program);
            decide(machine, defect, program, &[&records, &records])
        };
        let name = format!("{} on {}", defect.info().identifier, machine.version);
        for base in [intended, released.without(defect)] {
            assert_eq!(told(base), Told::Absent, "{name}");
            assert_eq!(told(base.with(defect)), Told::Present, "{name}");
        }
        for other in all().into_iter().filter(|&other| other != defect) {
            let other_alone = told(intended.with(other));
            assert_ne!(other_alone, Told::Present, "{name}: {} is taken for it", other.info().identifier);
        }
    }

    #[track_caller]
    fn check(machine: &Machine, expected: &[Change]) {
        let found = search(machine, &all());
        let mut told: Vec<Change> = found.iter().map(|telling| telling.defect).collect();
        let mut expected = expected.to_vec();
        told.dedup();
        told.sort_unstable();
        expected.sort_unstable();
        assert_eq!(told, expected, "{}", machine.version);
        for &defect in &told {
            let programs = found.iter().filter(|telling| telling.defect == defect).map(|telling| &telling.program);
            let smallest = programs.clone().next().expect("one is found").steps.len();
            assert!(smallest <= MOST_STEPS, "{defect} on {}: {smallest} steps", machine.version);
            programs.for_each(|program| must_tell(machine, defect, program));
        }
    }

    #[track_caller]
    fn check_version(version: KernelVersion, more: &[Change]) {
        check(&Machine::imagined(version, true, true), &[&OF_MEMORY[..], more].concat());
    }

    #[test]
    fn each_defect_has_a_short_program_of_its_own_on_6_1() {
        check_version(KernelVersion::new(6, 1, 190), &[]);
    }

    #[test]
    fn each_defect_has_a_short_program_of_its_own_on_6_12() {
        check_version(KernelVersion::new(6, 12, 43), &[Change::UffdTakesShadowStacks]);
    }

    #[test]
    fn each_defect_has_a_short_program_of_its_own_on_6_17() {
        check_version(KernelVersion::series(6, 17), &[Change::UffdTakesShadowStacks, Change::CopyMergeLosesAnonVma]);
    }

    #[test]
    fn each_defect_has_a_short_program_of_its_own_on_7_3() {
        check_version(KernelVersion::LINUX_7_3, &[Change::UffdTakesShadowStacks, Change::CopyMergeLosesAnonVma]);
    }

    #[test]
    fn a_machine_without_keys_tells_how_they_are_refused() {
        let machine = Machine::imagined(KernelVersion::LINUX_6_1, true, false);
        let found = search(&machine, &[Change::PkeyAllocWithoutKeys]);
        must_tell(&machine, Change::PkeyAllocWithoutKeys, &found[0].program);
    }
}
