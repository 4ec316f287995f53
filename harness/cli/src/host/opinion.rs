//! What another machine gave for a program that diverged, and who is to blame by that.

use serde::Serialize;

use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::rule::Rule;
use ptediff_reference_model::verdict::{Difference, Divergence, Verdict};

/// Another machine's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Opinion {
    /// What ran the guest: `bochs`, `qemu`.
    pub platform: String,
    /// `uname -r` of the kernel.
    pub release: String,
    /// Its version.
    pub version: KernelVersion,
    /// What it did.
    pub answer: Answer,
}

/// What another machine did with the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// As its kernel's model says, and that model has the same rule at this place.
    Agrees,
    /// As its kernel's model says, but the rule is none of that kernel's: it says nothing about the first machine.
    AgreesByAnotherRule,
    /// The same difference at the same step.
    Same,
    /// Another difference.
    Other(String),
    /// Nothing that could be judged, and why.
    Nothing(String),
}

/// Who is to blame, as far as other machines can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blame {
    /// The kernel: the same CPU does as the model says under another kernel that has the same rule.
    Kernel,
    /// The emulated CPU: the same kernel does as the model says on another one.
    EmulatedCpu,
    /// The kernel or the model: two CPUs agree against the model.
    KernelOrModel,
    /// It cannot be told.
    Open,
}

impl Blame {
    /// The verdict in words, with the reason.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Kernel => {
                "the kernel: another kernel, which the model holds to the same rule, agrees with it on the same CPU"
            }
            Self::EmulatedCpu => "the emulated CPU: the same kernel agrees with the model on another one",
            Self::KernelOrModel => "the kernel or the model: two CPUs, emulated independently, do the same",
            Self::Open => "kernel, CPU or model: no other machine could settle it",
        }
    }
}

impl Opinion {
    /// What a machine's verdict on the program says about the first machine's divergence.
    #[must_use]
    pub fn of(machine: &Machine, divergence: &Divergence, verdict: &Verdict) -> Self {
        let answer = match verdict {
            Verdict::Agree if holds(divergence.rule, machine) => Answer::Agrees,
            Verdict::Agree => Answer::AgreesByAnotherRule,
            Verdict::Diverge(seen) if same(divergence, seen) => Answer::Same,
            Verdict::Diverge(seen) => Answer::Other(format!("another difference, at step {}", seen.step)),
            Verdict::Inconclusive(why) => Answer::Nothing(super::results::reason(why)),
        };
        Self { platform: machine.platform.clone(), release: machine.release.clone(), version: machine.version, answer }
    }

    /// The answer in words.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.answer {
            Answer::Agrees => "agrees with the model".to_owned(),
            Answer::AgreesByAnotherRule => "agrees with its own model, which has another rule here".to_owned(),
            Answer::Same => "shows the same difference".to_owned(),
            Answer::Other(what) => format!("shows {what}"),
            Answer::Nothing(why) => format!("cannot tell: {why}"),
        }
    }
}

/// Whether the rule is one of this machine's kernel too. Where none can be named, kernels cannot be compared.
fn holds(rule: Option<Rule>, machine: &Machine) -> bool {
    rule.is_some_and(|rule| rule.info().holds_on(machine.kernel()))
}

/// Whether two machines were wrong in the same way. Raw values may differ between kernels' versions, what is
/// compared here does not.
fn same(left: &Divergence, right: &Divergence) -> bool {
    left.step == right.step
        && match (&left.difference, &right.difference) {
            (Difference::Outcome { seen: left, .. }, Difference::Outcome { seen: right, .. }) => left == right,
            (left, right) => std::mem::discriminant(left) == std::mem::discriminant(right),
        }
}

/// Who is to blame for what this machine did.
#[must_use]
pub fn blame(machine: &Machine, opinions: &[Opinion]) -> Blame {
    let other_cpu = opinions.iter().find(|one| one.version == machine.version && one.platform != machine.platform);
    let other_kernel_agrees = opinions
        .iter()
        .any(|one| one.version != machine.version && one.platform == machine.platform && one.answer == Answer::Agrees);
    match other_cpu.map(|one| &one.answer) {
        Some(Answer::Agrees) => Blame::EmulatedCpu,
        _ if other_kernel_agrees => Blame::Kernel,
        Some(Answer::Same) => Blame::KernelOrModel,
        _ => Blame::Open,
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::kernel::KernelVersion;

    use super::*;

    const HERE: KernelVersion = KernelVersion::new(6, 12, 95);
    const NEWER: KernelVersion = KernelVersion::new(7, 2, 13);

    fn check(opinions: &[(&str, KernelVersion, Answer)], expected: Blame) {
        let machine = Machine { platform: "bochs".to_owned(), ..Machine::imagined(HERE, true, true) };
        let opinions: Vec<Opinion> = opinions
            .iter()
            .map(|(platform, version, answer)| Opinion {
                platform: (*platform).to_owned(),
                release: String::new(),
                version: *version,
                answer: answer.clone(),
            })
            .collect();
        assert_eq!(blame(&machine, &opinions), expected, "{opinions:?}");
    }

    #[test]
    fn blame_follows_the_evidence_and_goes_no_further() {
        let nothing = || Answer::Nothing("no shadow stacks".to_owned());
        check(&[], Blame::Open);
        check(&[("qemu", HERE, Answer::Agrees)], Blame::EmulatedCpu);
        // A CPU that is wrong under one kernel only is wrong still.
        check(&[("qemu", HERE, Answer::Agrees), ("bochs", NEWER, Answer::Agrees)], Blame::EmulatedCpu);
        check(&[("qemu", HERE, Answer::Same)], Blame::KernelOrModel);
        check(&[("qemu", HERE, Answer::Same), ("bochs", NEWER, Answer::Agrees)], Blame::Kernel);
        check(&[("qemu", HERE, nothing()), ("bochs", NEWER, Answer::Agrees)], Blame::Kernel);
        check(&[("qemu", HERE, nothing()), ("bochs", NEWER, Answer::AgreesByAnotherRule)], Blame::Open);
        check(&[("qemu", HERE, nothing()), ("bochs", NEWER, Answer::Same)], Blame::Open);
        // Another kernel on another CPU differs in two things at once.
        check(&[("qemu", NEWER, Answer::Agrees)], Blame::Open);
    }
}
