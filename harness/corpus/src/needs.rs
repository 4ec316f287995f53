//! What a machine must have to run an entry.

use ptediff_reference_model::machine::{Dialect, Machine};
use ptediff_reference_model::program::{Operation, Program};
use serde::{Deserialize, Serialize};

/// What a machine must have. The default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Needs {
    /// User shadow stacks must work.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shadow_stack: bool,
    /// The kernel must follow one of these dialects; none named means any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<Dialect>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Needs {
    /// The least that any machine must have to perform every step of the program.
    #[must_use]
    pub fn of(program: &Program) -> Self {
        let shadow_stack = program.steps.iter().any(|step| step.operation.needs_shadow_stack());
        Self { shadow_stack, kernels: Vec::new() }
    }

    /// Like [`Self::of`], but a program that maps a shadow stack or asks for features needs a machine on which that succeeds.
    /// This is what a divergence found on a machine with shadow stacks is stored with.
    #[must_use]
    pub fn to_behave_alike(program: &Program) -> Self {
        let maps = |operation: &Operation| {
            matches!(
                operation,
                Operation::MapShadowStack { .. } | Operation::ControlShadowStack { .. } | Operation::ShadowStackStatus
            )
        };
        let least = Self::of(program);
        Self { shadow_stack: least.shadow_stack || program.steps.iter().any(|step| maps(&step.operation)), ..least }
    }

    /// What the machine lacks, by name; empty where it has everything.
    #[must_use]
    pub fn missing(&self, machine: &Machine) -> Vec<String> {
        let mut missing = Vec::new();
        if self.shadow_stack && !machine.shadow_stack {
            missing.push("user shadow stacks (CET SHSTK)".to_owned());
        }
        if !self.kernels.is_empty() && !self.kernels.contains(&machine.dialect) {
            let names: Vec<String> = self.kernels.iter().map(ToString::to_string).collect();
            missing.push(format!("a kernel of {} (this one is {})", names.join(" or "), machine.dialect));
        }
        missing
    }

    /// What `self` demands and `declared` does not, by the names of the fields.
    #[must_use]
    pub fn undeclared_in(&self, declared: &Self) -> Vec<&'static str> {
        if self.shadow_stack && !declared.shadow_stack { vec!["shadow-stack"] } else { Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
    use ptediff_reference_model::machine::KernelVersion;
    use ptediff_reference_model::program::Step;

    use super::*;

    fn machine(shadow_stack: bool, dialect: Dialect) -> Machine {
        Machine {
            release: "6.12.107".to_owned(),
            version: KernelVersion { major: 6, minor: 12, patch: 107 },
            dialect,
            dialect_forced: false,
            shadow_stack,
            protection_keys: false,
            exact_accessed: true,
            platform: "test".to_owned(),
            cpu_model: "test".to_owned(),
        }
    }

    fn check(needs: &Needs, machine: &Machine, expected: &[&str]) {
        assert_eq!(needs.missing(machine), expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let both = Needs { shadow_stack: true, kernels: vec![Dialect::Linux7_2] };
        check(&Needs::default(), &machine(false, Dialect::Linux6_12), &[]);
        check(&both, &machine(true, Dialect::Linux7_2), &[]);
        check(
            &both,
            &machine(false, Dialect::Linux6_12),
            &["user shadow stacks (CET SHSTK)", "a kernel of 7.2 (this one is 6.12)"],
        );
    }

    #[test]
    fn needs_follow_from_the_operations() {
        let page = PageIndex::new(0).expect("a slot");
        let of = |operation| Program { steps: vec![Step { actor: ActorId::FIRST, operation }] };
        let map = of(Operation::MapShadowStack { range: PageRange::single(page), token: false });
        let store = of(Operation::WriteShadowStack { page });
        assert!(!Needs::of(&map).shadow_stack);
        assert!(Needs::to_behave_alike(&map).shadow_stack);
        assert!(Needs::of(&store).shadow_stack);
        assert_eq!(Needs::of(&store).undeclared_in(&Needs::default()), ["shadow-stack"]);
        assert!(Needs::of(&store).undeclared_in(&Needs::of(&store)).is_empty());
    }
}
