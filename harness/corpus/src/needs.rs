//! What a machine must have to run an entry.

use ptediff_reference_model::kernel::{Change, Need};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::{Operation, Program, Protection};
use serde::{Deserialize, Serialize};

/// What a machine must have. The default is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Needs {
    /// User shadow stacks must work.
    #[serde(default, skip_serializing_if = "is_false")]
    pub shadow_stack: bool,
    /// The CPU must have protection keys for user pages, and the kernel use them.
    #[serde(default, skip_serializing_if = "is_false")]
    pub protection_keys: bool,
    /// There must be a swap file.
    #[serde(default, skip_serializing_if = "is_false")]
    pub swap: bool,
    /// ksmd must be there to merge pages.
    #[serde(default, skip_serializing_if = "is_false")]
    pub merging: bool,
    /// Changes that the kernel must have, or must not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Need>,
}

/// The needs of schema 1, which named kernels by their series.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct NeedsOfSchema1 {
    #[serde(default)]
    shadow_stack: bool,
    #[serde(default)]
    protection_keys: bool,
    #[serde(default)]
    swap: bool,
    #[serde(default)]
    merging: bool,
    #[serde(default)]
    kernels: Vec<SeriesOfSchema1>,
}

/// The series that schema 1 knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum SeriesOfSchema1 {
    #[serde(rename = "6.1")]
    Linux6_1,
    #[serde(rename = "6.12")]
    Linux6_12,
    #[serde(rename = "7.2")]
    Linux7_2,
}

impl From<NeedsOfSchema1> for Needs {
    /// What told the series that were named from the others: markers came after 6.1, mremap of several VMAs after 6.12.
    fn from(old: NeedsOfSchema1) -> Self {
        let NeedsOfSchema1 { shadow_stack, protection_keys, swap, merging, kernels } = old;
        let mut changes = Vec::new();
        if !kernels.is_empty() {
            let (later, latest) = (Change::UffdWpAsync, Change::MremapMovesSeveralVmas);
            if !kernels.contains(&SeriesOfSchema1::Linux6_1) {
                changes.push(Need::With(later));
                if !kernels.contains(&SeriesOfSchema1::Linux6_12) {
                    changes.push(Need::With(latest));
                }
            }
            if !kernels.contains(&SeriesOfSchema1::Linux7_2) {
                changes.push(Need::Without(latest));
                if !kernels.contains(&SeriesOfSchema1::Linux6_12) {
                    changes.push(Need::Without(later));
                }
            }
        }
        Self { shadow_stack, protection_keys, swap, merging, changes }
    }
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
        let protection_keys = program.steps.iter().any(|step| step.operation.needs_protection_keys());
        let swap = program.steps.iter().any(|step| step.operation.swaps());
        let merging = program.steps.iter().any(|step| step.operation.merges());
        Self { shadow_stack, protection_keys, swap, merging, changes: Vec::new() }
    }

    /// Like [`Self::of`], but a program that maps a shadow stack or asks for a key needs a machine on which that
    /// succeeds, and one with execute-only mappings a machine where they have a key.
    /// This is what a divergence found on a machine with shadow stacks is stored with.
    #[must_use]
    pub fn to_behave_alike(program: &Program) -> Self {
        let least = Self::of(program);
        let any = |wanted: fn(&Operation) -> bool| program.steps.iter().any(|step| wanted(&step.operation));
        Self {
            shadow_stack: least.shadow_stack || any(asks_for_shadow_stack),
            protection_keys: least.protection_keys || any(takes_key),
            ..least
        }
    }

    /// What the machine lacks, by name; empty where it has everything.
    #[must_use]
    pub fn missing(&self, machine: &Machine) -> Vec<String> {
        let mut missing = Vec::new();
        if self.shadow_stack && !machine.shadow_stack {
            missing.push("user shadow stacks (CET SHSTK)".to_owned());
        }
        if self.protection_keys && !machine.protection_keys {
            missing.push("protection keys (PKU)".to_owned());
        }
        if self.swap && !machine.swap {
            missing.push("a swap file".to_owned());
        }
        if self.merging && !machine.merging {
            missing.push("KSM".to_owned());
        }
        let kernel = machine.kernel();
        missing.extend(self.changes.iter().filter(|need| !need.is_met_by(kernel)).map(|need| match need {
            Need::With(change) => format!("a kernel with {change}"),
            Need::Without(change) => format!("a kernel without {change}"),
        }));
        missing
    }

    /// What `self` demands and `declared` does not, by the names of the fields.
    #[must_use]
    pub fn undeclared_in(&self, declared: &Self) -> Vec<&'static str> {
        let mut undeclared = Vec::new();
        if self.shadow_stack && !declared.shadow_stack {
            undeclared.push("shadow-stack");
        }
        if self.protection_keys && !declared.protection_keys {
            undeclared.push("protection-keys");
        }
        if self.swap && !declared.swap {
            undeclared.push("swap");
        }
        if self.merging && !declared.merging {
            undeclared.push("merging");
        }
        undeclared
    }
}

/// Whether the operation asks for a shadow stack, or for its features.
fn asks_for_shadow_stack(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::MapShadowStack { .. } | Operation::ControlShadowStack { .. } | Operation::ShadowStackStatus
    )
}

/// Whether the operation asks for a protection key, or takes one where the machine has them.
fn takes_key(operation: &Operation) -> bool {
    match operation {
        Operation::PkeyAlloc { .. } | Operation::PkeyFree { .. } | Operation::PkeyMprotect { .. } => true,
        Operation::Mmap { protection, .. }
        | Operation::MmapShared { protection, .. }
        | Operation::Mprotect { protection, .. } => *protection == Protection::EXECUTE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
    use ptediff_reference_model::kernel::KernelVersion;
    use ptediff_reference_model::program::Step;
    use ptediff_reference_model::protection_key::{KeyRights, ProtectionKey};

    use super::*;

    fn machine(shadow_stack: bool, version: KernelVersion) -> Machine {
        Machine::imagined(version, shadow_stack, false)
    }

    fn check(needs: &Needs, machine: &Machine, expected: &[&str]) {
        assert_eq!(needs.missing(machine), expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let changes = vec![Need::With(Change::MremapChecksFirst)];
        let both = Needs { shadow_stack: true, protection_keys: true, changes, ..Needs::default() };
        check(&Needs::default(), &machine(false, KernelVersion::LINUX_6_12), &[]);
        check(&both, &Machine { protection_keys: true, ..machine(true, KernelVersion::LINUX_7_2) }, &[]);
        check(
            &both,
            &machine(false, KernelVersion::LINUX_6_12),
            &["user shadow stacks (CET SHSTK)", "protection keys (PKU)", "a kernel with mremap.checks-first"],
        );
    }

    #[test]
    fn series_of_schema_1_become_changes() {
        let of = |kernels: &str| {
            let old: NeedsOfSchema1 = serde_json::from_str(&format!("{{\"kernels\": [{kernels}]}}")).expect("needs");
            Needs::from(old).changes.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of(""), Vec::<String>::new());
        assert_eq!(of("\"6.12\", \"7.2\""), ["uffd.wp-async"]);
        assert_eq!(of("\"7.2\""), ["uffd.wp-async", "mremap.moves-several-vmas"]);
        assert_eq!(of("\"6.1\""), ["not mremap.moves-several-vmas", "not uffd.wp-async"]);
        assert_eq!(of("\"6.1\", \"6.12\""), ["not mremap.moves-several-vmas"]);
    }

    #[test]
    fn needs_follow_from_the_operations() {
        let page = PageIndex::new(0).expect("a slot");
        let of = |operation| Program { steps: vec![Step { actor: ActorId::FIRST, operation }] };
        let map = of(Operation::MapShadowStack { range: PageRange::single(page), token: false });
        let store = of(Operation::WriteShadowStack { page });
        let (key, rights) = (ProtectionKey::FIRST, KeyRights::Allow);
        let (alloc, pkru) = (of(Operation::PkeyAlloc { rights }), of(Operation::WritePkru { key, rights }));
        assert!(!Needs::of(&alloc).protection_keys && Needs::to_behave_alike(&alloc).protection_keys);
        assert_eq!(Needs::of(&pkru).undeclared_in(&Needs::default()), ["protection-keys"]);
        assert!(!Needs::of(&map).shadow_stack);
        assert!(Needs::to_behave_alike(&map).shadow_stack);
        assert!(Needs::of(&store).shadow_stack);
        assert_eq!(Needs::of(&store).undeclared_in(&Needs::default()), ["shadow-stack"]);
        assert!(Needs::of(&store).undeclared_in(&Needs::of(&store)).is_empty());
    }
}
