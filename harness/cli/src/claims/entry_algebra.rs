//! The entry algebra against kernels: each answers for its own helpers, the host compares with the model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use ptediff_claims::entry_algebra::{KERNEL_HELPERS, KERNEL_HELPERS_BARE, answers_of_model, digest_of_all, helpers};
use ptediff_claims::{Effort, Evidence};
use ptediff_reference_model::algebra::{Algebra, Configuration, Helper, Level, Reach};
use ptediff_reference_model::kernel::{Facts, Kernel, KernelVersion};
use ptediff_vm::store::Store;

use super::{Answers, ClaimFailure, LiveCheck, Machines, Wanted};
use crate::error::Failure;
use crate::host::launch::Platform;

pub(super) const LIVE: &[LiveCheck] = &[
    LiveCheck { claim: KERNEL_HELPERS, run: |machines, effort| ask_all(Oracle::AsConfigured, machines, effort) },
    LiveCheck { claim: KERNEL_HELPERS_BARE, run: |machines, effort| ask_all(Oracle::Bare, machines, effort) },
];

/// Parameter of the guest's half: whether every entry is wanted.
pub(crate) const FULL: &str = "full";

/// Parameter of the guest's half: by helper, the digest of the model's answers.
pub(crate) const EXPECTED: &str = "expected";

/// Which of the two modules of `vm-images/modules/helper-oracle` is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Oracle {
    /// The headers as the kernel was configured.
    AsConfigured,
    /// The headers without shadow stacks, soft-dirty and userfaultfd's write-protection.
    Bare,
}

impl Oracle {
    fn claim(self) -> &'static str {
        match self {
            Self::AsConfigured => KERNEL_HELPERS,
            Self::Bare => KERNEL_HELPERS_BARE,
        }
    }

    /// The module's name in the cache.
    fn module(self) -> &'static str {
        match self {
            Self::AsConfigured => "helper-oracle",
            Self::Bare => "helper-oracle-bare",
        }
    }

    /// Where the module lies in the guest.
    pub(crate) fn path_in_guest(self) -> String {
        format!("oracle/{}.ko", self.module())
    }

    /// Where the module answers.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::AsConfigured => "/proc/ptediff-helper-oracle",
            Self::Bare => "/proc/ptediff-helper-oracle-bare",
        }
    }

    /// The model of what it answers for.
    pub(crate) fn algebra(self, kernel: Kernel, shadow_stack_cpu: bool) -> Algebra {
        let algebra = Algebra::of_kernel(kernel, shadow_stack_cpu);
        match self {
            Self::AsConfigured => algebra,
            Self::Bare => algebra.built_with(Configuration::ALL_OFF),
        }
    }

    /// Whether it can be asked about a helper. The merged kernels' `pte_mkwrite` and `pmd_mkwrite` are functions of the
    /// kernel itself, as it was configured.
    fn knows(self, algebra: &Algebra, level: Level, helper: Helper) -> bool {
        self == Self::AsConfigured
            || !algebra.design.is_saved_dirty()
            || helper != Helper::Mkwrite
            || level == Level::Pud
    }

    /// Where kernels are asked. Only Bochs has shadow stacks; 6.1 knows of none.
    fn machines(self) -> &'static [(Platform, &'static str)] {
        match self {
            Self::AsConfigured => &[
                (Platform::Bochs, "6.12"),
                (Platform::Bochs, "7.2"),
                (Platform::Qemu, "6.1"),
                (Platform::Qemu, "6.12"),
                (Platform::Qemu, "7.2"),
            ],
            Self::Bare => &[(Platform::Bochs, "6.12"), (Platform::Bochs, "7.2"), (Platform::Qemu, "6.1")],
        }
    }
}

/// Constants of the kernel's headers that the guest asks for, by the module's names.
pub(crate) const CONSTANTS: &[&str] = &[
    "cpu_has_shstk",
    "supported_pte_mask",
    "pte_pfn_mask",
    "page_chg_mask",
    "hpage_chg_mask",
    "page_saved_dirty",
    "page_soft_dirty",
    "page_uffd_wp",
    "page_devmap",
];

/// A constant of the kernel's headers; `None` where they do not have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Constant {
    pub(crate) name: String,
    pub(crate) value: Option<u64>,
}

/// What the kernel says about one helper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HelperFinding {
    /// Its name.
    pub(crate) name: String,
    /// Whether the kernel has it.
    pub(crate) exists: bool,
    /// How many answers it gave.
    pub(crate) answers: u64,
    /// SHA-256 over all of them.
    pub(crate) sha256: String,
    /// On how many the guest's model differs.
    pub(crate) mismatches: u64,
    /// The first of those.
    pub(crate) first: Option<Mismatch>,
}

/// An entry on which kernel and model differ.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Mismatch {
    /// The helper's argument.
    pub(crate) argument: u64,
    /// The entry asked about.
    pub(crate) entry: u64,
    /// The kernel's answer.
    pub(crate) kernel: u64,
    /// The model's.
    pub(crate) model: u64,
}

fn ask_all(oracle: Oracle, machines: &Machines, effort: Effort) -> Result<Vec<Evidence>, ClaimFailure> {
    oracle.machines().iter().map(|&(platform, kernel)| ask(oracle, machines, platform, kernel, effort)).collect()
}

fn ask(
    oracle: Oracle,
    machines: &Machines,
    platform: Platform,
    kernel: &'static str,
    effort: Effort,
) -> Result<Evidence, ClaimFailure> {
    let path = Store::open().and_then(|store| store.module(kernel, oracle.module())).map_err(Failure::from)?;
    let module = std::fs::read(&path).map_err(|source| Failure::File { path, source })?;
    let mut wanted = Wanted::new(platform, kernel);
    wanted.files.push((oracle.path_in_guest(), module));
    let expected = expected_digests(oracle, platform, kernel, reach_of(effort))?;
    let answers = machines.ask(&wanted, oracle.claim(), json!({ FULL: effort == Effort::Full, EXPECTED: expected }))?;
    judge(oracle, &answers, effort)
}

fn reach_of(effort: Effort) -> Reach {
    if effort == Effort::Full { Reach::Full } else { Reach::Representative }
}

/// What the model's digests will be if the machine is the one that was asked for. They spare the guest the model; the
/// verdict does not rest on them.
fn expected_digests(
    oracle: Oracle,
    platform: Platform,
    kernel: &str,
    reach: Reach,
) -> Result<BTreeMap<String, String>, ClaimFailure> {
    let version: KernelVersion = kernel.parse().map_err(|error| Failure::rig(&error))?;
    let kernel = Kernel::as_released(version, Facts::usual(version));
    let algebra = oracle.algebra(kernel, platform == Platform::Bochs);
    let digest = |(level, helper): (Level, Helper)| {
        let answers = answers_of_model(&algebra, level, helper, reach)?;
        Some((helper.name(level), answers.finish()))
    };
    Ok(helpers().filter_map(digest).collect())
}

/// The host's own comparison: the guest's counts of differences are not trusted, only shown.
fn judge(oracle: Oracle, answers: &Answers, effort: Effort) -> Result<Evidence, ClaimFailure> {
    let constants: Vec<Constant> = answers.one("constants")?;
    let constant = |name: &str| constants.iter().find(|known| known.name == name).and_then(|known| known.value);
    let shadow_stack_cpu = constant("cpu_has_shstk") == Some(1);
    let place = format!("{} on {}", answers.machine.release, answers.machine.platform);
    if constant("supported_pte_mask") != Some(!0) {
        // Some protections would lose bits on this CPU, which the model of the helpers does not have.
        return Err(ClaimFailure::Inconclusive(format!("{place}: __supported_pte_mask lacks bits")));
    }
    if shadow_stack_cpu != answers.machine.shadow_stack {
        let what = format!("{place}: the helpers see X86_FEATURE_SHSTK={shadow_stack_cpu}, /proc/cpuinfo the contrary");
        return Err(ClaimFailure::Inconclusive(what));
    }
    let algebra = oracle.algebra(answers.machine.kernel_as_released(), shadow_stack_cpu);
    check_constants(&algebra, &constant).map_err(|what| ClaimFailure::Refuted(format!("{place}: {what}")))?;

    let reach = reach_of(effort);
    let findings: Vec<HelperFinding> = answers.of("helper")?;
    let (mut cases, mut asked, mut wrong, mut digests) = (0, 0, Vec::new(), Vec::new());
    for (level, helper) in helpers() {
        let name = helper.name(level);
        let Some(finding) = findings.iter().find(|finding| finding.name == name) else {
            let message = format!("{place}: the guest did not report on {name}");
            return Err(Failure::Rig { message, help: None }.into());
        };
        cases += finding.answers;
        asked += u32::from(finding.exists);
        digests.push((name, finding.exists.then(|| finding.sha256.clone())));
        if oracle.knows(&algebra, level, helper) {
            wrong.extend(difference(&algebra, level, helper, reach, finding));
        }
    }
    if !wrong.is_empty() {
        return Err(ClaimFailure::Refuted(format!("{place}: {}", wrong.join("\n"))));
    }
    let shadow_stacks = if shadow_stack_cpu { "on" } else { "off" };
    let digest = digest_of_all(digests);
    let note = format!("{asked} helpers, X86_FEATURE_SHSTK {shadow_stacks}, answers {digest}");
    Ok(answers.evidence(cases, "entries x helpers", note))
}

fn check_constants(algebra: &Algebra, constant: &dyn Fn(&str) -> Option<u64>) -> Result<(), String> {
    // A name that a kernel does not have stands for no bit.
    for (name, expected) in [
        ("pte_pfn_mask", Level::Pte.leaf_frame()),
        ("page_chg_mask", algebra.kept_by_modify(Level::Pte)),
        ("hpage_chg_mask", algebra.kept_by_modify(Level::Pmd)),
        ("page_saved_dirty", algebra.saved_dirty_bit()),
        ("page_soft_dirty", algebra.soft_dirty_bit()),
        ("page_uffd_wp", algebra.uffd_wp_bit()),
        ("page_devmap", algebra.devmap_bit()),
    ] {
        let found = constant(name).unwrap_or(0);
        if found != expected {
            return Err(format!("{name} is {found:#018x}, the model has {expected:#018x}"));
        }
    }
    Ok(())
}

fn difference(
    algebra: &Algebra,
    level: Level,
    helper: Helper,
    reach: Reach,
    finding: &HelperFinding,
) -> Option<String> {
    let name = &finding.name;
    let model = answers_of_model(algebra, level, helper, reach);
    match (model, finding.exists) {
        (None, false) => None,
        (None, true) => Some(format!("{name}: the kernel has it, the model does not")),
        (Some(_), false) => Some(format!("{name}: the model has it, the kernel does not")),
        (Some(model), true) => {
            let count = model.count();
            let same = model.finish() == finding.sha256 && count == finding.answers && finding.mismatches == 0;
            (!same).then(|| match finding.first {
                Some(Mismatch { argument, entry, kernel, model }) => format!(
                    "{name} of {entry:#018x} (argument {argument:#x}): the kernel gives {kernel:#018x}, the model \
                     {model:#018x}; {} of {} answers differ",
                    finding.mismatches, finding.answers
                ),
                None => format!("{name}: the digests differ ({} answers, the model gives {count})", finding.answers),
            })
        }
    }
}
