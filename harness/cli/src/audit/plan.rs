//! Which programs run where, and what is known of a defect that none of them tells.

use ptediff_corpus::Needs;
use ptediff_reference_model::kernel::{Change, DEFECTS, NEWEST_KNOWN};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::Program;

use super::search::makes_a_difference;
use super::{Finding, Telling, Told, combined, search};

/// What is to be run for an audit.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Programs for the machine.
    pub here: Vec<Telling>,
    /// Programs for the same machine with a CPU that has no protection keys.
    pub without_keys: Vec<Telling>,
    /// What is known without running anything.
    pub settled: Vec<Finding>,
}

/// Plans the audit of a machine. What it cannot show another might.
#[must_use]
pub fn plan(machine: &Machine) -> Plan {
    let mut open: Vec<Change> = DEFECTS.iter().map(|info| info.change).collect();
    let mut find = |machine: &Machine| {
        let found = search(machine, &open);
        open.retain(|&defect| found.iter().all(|telling| telling.defect != defect));
        found
    };
    let shadow_stack = machine.kernel().has(Change::UserShadowStacks);
    let whole = Machine { shadow_stack, protection_keys: true, swap: true, merging: true, ..machine.clone() };
    let newest = Machine::imagined(NEWEST_KNOWN, true, true);
    let here = find(machine);
    let without_keys = find(&Machine { protection_keys: false, ..machine.clone() });
    let elsewhere = find(&whole);
    let of_newer = find(&newest);
    let elsewhere = elsewhere.into_iter().map(|telling| {
        let why = format!("needs {}", lacking(machine, &telling.program));
        telling.not_told(&why)
    });
    let of_newer = of_newer.into_iter().map(|Telling { defect, program }| {
        Finding::without_program(defect, Told::NotAffected(not_affected(machine, &newest, defect, &program)))
    });
    let not_expressible = open.into_iter().map(|defect| Finding::without_program(defect, Told::NotExpressible));
    Plan { here, without_keys, settled: combined(elsewhere.chain(of_newer).chain(not_expressible).collect()) }
}

/// What the machine lacks for the program, with the way to have it.
fn lacking(machine: &Machine, program: &Program) -> String {
    let missing = Needs::to_behave_alike(program).missing(machine);
    let with_way = |what: &String| match what {
        what if what.contains("shadow stacks") => format!("{what}: --platform bochs"),
        what => what.clone(),
    };
    if missing.is_empty() {
        "another machine".to_owned()
    } else {
        missing.iter().map(with_way).collect::<Vec<_>>().join(", ")
    }
}

/// Changes of newer kernels that this one lacks, and without which the defect makes no difference.
fn not_affected(machine: &Machine, newest: &Machine, defect: Change, program: &Program) -> String {
    let (kernel, newer) = (machine.kernel(), newest.kernel());
    let is_needed = |change: &Change| {
        let less = newer.without(*change);
        let shadow_stack = newest.shadow_stack && less.has(Change::UserShadowStacks);
        let machine = Machine { shadow_stack, ..newest.clone() };
        !kernel.has(*change) && !makes_a_difference(&machine, less, defect, program)
    };
    let needed: Vec<&str> = newer.iter().filter(is_needed).map(|change| change.info().identifier).collect();
    if needed.is_empty() {
        "on this kernel it makes no difference".to_owned()
    } else {
        format!("it lives by {}, which this kernel lacks", needed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::kernel::{Facts, KernelVersion};

    use super::*;

    fn defects(telling: &[Telling]) -> Vec<Change> {
        let mut defects: Vec<Change> = telling.iter().map(|telling| telling.defect).collect();
        defects.dedup();
        defects
    }

    #[track_caller]
    fn told(plan: &Plan, defect: Change) -> &Told {
        &plan.settled.iter().find(|finding| finding.defect == defect).expect("it is settled").told
    }

    /// A plan, which must have each defect once.
    #[track_caller]
    fn planned(machine: &Machine) -> Plan {
        let plan = plan(machine);
        let settled = plan.settled.iter().map(|finding| finding.defect);
        let mut planned: Vec<Change> =
            defects(&plan.here).into_iter().chain(defects(&plan.without_keys)).chain(settled).collect();
        let mut all: Vec<Change> = DEFECTS.iter().map(|info| info.change).collect();
        planned.sort_unstable();
        all.sort_unstable();
        assert_eq!(planned, all);
        plan
    }

    #[test]
    fn what_a_machine_lacks_is_told_from_what_a_kernel_lacks() {
        let of_6_12 = Machine::imagined(KernelVersion::LINUX_6_12, false, true);
        let here = planned(&of_6_12);
        let Told::CannotTell(why) = told(&here, Change::UffdTakesShadowStacks) else { panic!("{here:?}") };
        assert!(why.contains("--platform bochs"), "{why}");
        assert_eq!(defects(&here.without_keys), [Change::PkeyAllocWithoutKeys]);
        let Told::NotAffected(why) = told(&here, Change::CopyMergeLosesAnonVma) else { panic!("{here:?}") };
        assert!(why.contains(Change::MergesFaultedWithUnfaulted.info().identifier), "{why}");
        assert_eq!(*told(&here, Change::PmdModifyDropsDirty), Told::NotExpressible);

        let facts = Facts { user_shadow_stacks: false, ..of_6_12.facts };
        let without = planned(&Machine { facts, ..of_6_12 });
        let Told::NotAffected(why) = told(&without, Change::UffdTakesShadowStacks) else { panic!("{without:?}") };
        assert!(why.contains(Change::UserShadowStacks.info().identifier), "{why}");
    }
}
