//! Divergences that somebody has looked into: the kernel is wrong, everybody who matters knows, and a campaign
//! shall go on. Never a mask: the program still diverges, is counted, shrunk and printed; only the verdict on the
//! whole campaign does not turn on it.

use ptediff_reference_model::machine::{KernelVersion, Machine};
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::rule::Rule;
use ptediff_reference_model::verdict::{Difference, Divergence};

/// A divergence with its explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownDivergence {
    /// What it is called where it was published.
    pub identifier: &'static str,
    /// The rule that the kernel breaks.
    pub rule: Rule,
    /// What the actor gets instead of what the rule says.
    pub seen: Outcome,
    /// Kernel versions on which exactly this was seen. Others are judged as if nothing were known.
    pub kernels: &'static [KernelVersion],
    /// What is wrong, in a sentence.
    pub reason: &'static str,
    /// Where to read about it.
    pub link: &'static str,
}

/// Every known divergence.
pub const KNOWN_DIVERGENCES: &[KnownDivergence] = &[KnownDivergence {
    identifier: "CVE-2026-68166",
    rule: Rule::UffdShadowStackRefused,
    seen: Outcome::Succeeded,
    kernels: &[KernelVersion { major: 6, minor: 12, patch: 95 }],
    reason: "userfaultfd takes shadow-stack VMAs: vma_can_userfault does not ask for VM_SHADOW_STACK",
    link: "https://www.cve.org/CVERecord?id=CVE-2026-68166",
}];

/// The known divergence that this one is, if any.
#[must_use]
pub fn known_divergence(machine: &Machine, divergence: &Divergence) -> Option<&'static KnownDivergence> {
    among(KNOWN_DIVERGENCES, machine, divergence)
}

fn among(
    known: &'static [KnownDivergence],
    machine: &Machine,
    divergence: &Divergence,
) -> Option<&'static KnownDivergence> {
    let Difference::Outcome { seen, .. } = divergence.difference else { return None };
    known.iter().find(|known| {
        divergence.rule == Some(known.rule) && seen == known.seen && known.kernels.contains(&machine.version)
    })
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::machine::Dialect;

    use super::*;

    const KERNEL: KernelVersion = KernelVersion { major: 6, minor: 12, patch: 95 };
    const TABLE: &[KnownDivergence] = &[KnownDivergence {
        identifier: "TEST-1",
        rule: Rule::ZeroPage,
        seen: Outcome::Succeeded,
        kernels: &[KERNEL],
        reason: "",
        link: "",
    }];

    fn check(patch: u16, rule: Option<Rule>, seen: Outcome, expected: bool) {
        let machine = Machine {
            release: String::new(),
            version: KernelVersion { patch, ..KERNEL },
            dialect: Dialect::Linux6_12,
            dialect_forced: false,
            shadow_stack: true,
            protection_keys: true,
            swap: true,
            merging: true,
            exact_accessed: true,
            platform: String::new(),
            cpu_model: String::new(),
        };
        let difference = Difference::Outcome { expected: Outcome::Failed(22), seen };
        let divergence = Divergence { step: 0, difference, rule };
        let found = among(TABLE, &machine, &divergence).is_some();
        assert_eq!(found, expected, "{patch} {rule:?} {seen:?}");
        assert_eq!(known_divergence(&machine, &divergence), None, "the rule of this test is in the real table");
    }

    #[test]
    fn only_the_same_difference_from_the_same_rule_on_a_named_kernel_is_known() {
        check(95, Some(Rule::ZeroPage), Outcome::Succeeded, true);
        check(96, Some(Rule::ZeroPage), Outcome::Succeeded, false);
        check(95, Some(Rule::NewPage), Outcome::Succeeded, false);
        check(95, None, Outcome::Succeeded, false);
        check(95, Some(Rule::ZeroPage), Outcome::Failed(12), false);
    }
}
