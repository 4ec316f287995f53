//! What kernels answered, as digests, and the faults that these must find.
//!
//! The digests are printed by `ptediff claims --run algebra.kernel-helpers` beside each machine. They are of the
//! representative entries; a kernel whose helpers have not changed gives the same in every build.

use ptediff_reference_model::algebra::{Algebra, Design, PlantedFault, Reach};

use super::answers::digest_of_model;
use super::tally::Tally;
use crate::claim::{Cases, Effort, Refuted};

/// What one kernel on one CPU answered.
struct Recorded {
    /// Which kernel and CPU, for people.
    machine: &'static str,
    /// The model of it.
    algebra: Algebra,
    /// [`digest_of_model`]'s counterpart.
    sha256: &'static str,
}

const RECORDED: [Recorded; 5] = [
    Recorded {
        machine: "6.1.0-50-cloud-amd64 on qemu",
        algebra: Algebra::new(Design::BeforeShadowStacks, false),
        sha256: "aa1dc0ef093b547c1ba058c0e31e897a9a621531c8d79bf5851e890e232080a1",
    },
    Recorded {
        machine: "6.12.95+deb12-cloud-amd64 on qemu",
        algebra: Algebra::new(Design::SavedDirtyWithDevmap, false),
        sha256: "6ac9d9a05fe64374c3f0ade315611d394c5d953d8caca232a3146dcc2cfb7697",
    },
    Recorded {
        machine: "6.12.95+deb12-cloud-amd64 on bochs",
        algebra: Algebra::new(Design::SavedDirtyWithDevmap, true),
        sha256: "5a32e08ed928dd2dca82e2fe41dd99862d5e36a01dc52f666214bb97b2b5adf4",
    },
    Recorded {
        machine: "7.2.13+deb14-cloud-amd64 on qemu",
        algebra: Algebra::new(Design::SavedDirty, false),
        sha256: "6c82cb40e0851363d16e75b89534f56d582e80aa963b36d6df797c7d39e01953",
    },
    Recorded {
        machine: "7.2.13+deb14-cloud-amd64 on bochs",
        algebra: Algebra::new(Design::SavedDirty, true),
        sha256: "69c88782a4abe9d0964679526ba7ce376023e18138f82bcd85b7c36d80dda856",
    },
];

/// The model gives what the kernels gave, and with any fault planted it no longer does.
pub(super) fn planted_faults(_: Effort) -> Result<Cases, Refuted> {
    let mut tally = Tally::default();
    for Recorded { machine, algebra, sha256 } in &RECORDED {
        let model = digest_of_model(algebra, Reach::Representative);
        tally.must(model == *sha256, || format!("{machine} answered {sha256}, the model gives {model}"))?;
    }
    for fault in PlantedFault::OF_SAVED_DIRTY {
        let seen = RECORDED.iter().any(|Recorded { algebra, sha256, .. }| {
            digest_of_model(&algebra.with_planted(fault), Reach::Representative) != *sha256
        });
        tally.must(seen, || format!("{fault:?} changes no answer"))?;
    }
    tally.of("machines and faults")
}

#[cfg(test)]
mod tests {
    use super::super::answers::{AnswerDigest, answers_of_model, helpers};
    use super::*;

    /// The helpers whose answers a fault changes on one machine.
    fn changed_by(algebra: &Algebra, fault: PlantedFault) -> Vec<String> {
        let digest = |algebra: &Algebra, level, helper| {
            answers_of_model(algebra, level, helper, Reach::Representative).map(AnswerDigest::finish)
        };
        let wrong = algebra.with_planted(fault);
        let changed =
            helpers().filter(|&(level, helper)| digest(algebra, level, helper) != digest(&wrong, level, helper));
        changed.map(|(level, helper)| helper.name(level)).collect()
    }

    /// Each fault is seen where it must be, and a fault of one kernel alone is not seen on another.
    #[test]
    fn a_wrong_helper_is_found_by_name() {
        let [.., new, _, newest] = &RECORDED;
        let check = |recorded: &Recorded, fault, expected: &[&str]| {
            let changed = changed_by(&recorded.algebra, fault);
            assert_eq!(changed, expected, "{fault:?} on {}", recorded.machine);
        };
        check(
            new,
            PlantedFault::SaveDirtyToBit57,
            &[
                "pte_mkdirty",
                "pte_wrprotect",
                "pte_mksaveddirty",
                "pte_mkuffd_wp",
                "pte_modify",
                "pmd_mkdirty",
                "pmd_wrprotect",
                "pmd_mksaveddirty",
                "pmd_mkuffd_wp",
                "pud_mkdirty",
                "pud_wrprotect",
                "pud_mksaveddirty",
                "pud_modify",
            ],
        );
        check(new, PlantedFault::MkcleanLeavesSavedDirty, &["pte_mkclean", "pmd_mkclean", "pud_mkclean"]);
        check(new, PlantedFault::MkdirtyWithoutSave, &["pte_mkdirty", "pmd_mkdirty", "pud_mkdirty"]);
        check(new, PlantedFault::ModifyBranchesSwapped, &["pte_modify", "pmd_modify", "pud_modify"]);
        check(new, PlantedFault::PmdModifyKeepsDirty, &["pmd_modify"]);
        check(newest, PlantedFault::PmdModifyKeepsDirty, &[]);
        check(new, PlantedFault::ShstkWithoutLeaf, &["pmd_shstk", "pmd_write", "pud_shstk"]);
        check(new, PlantedFault::PudWriteCountsShadowStacks, &["pud_write"]);
    }
}
