//! The entry algebra: what was asked, and the checks over the model.

mod answers;

use crate::claim::{Check, Claim, Seed, System};

pub use answers::{AnswerDigest, answers_of_model, helpers};

/// The claim that is checked by asking kernels.
pub const KERNEL_HELPERS: &str = "algebra.kernel-helpers";

/// The claims of this system.
pub(crate) const CLAIMS: &[Claim] = &[Claim {
    name: KERNEL_HELPERS,
    system: System::EntryAlgebra,
    seed: Seed::CowPatch2022,
    question: "Is what the model says about each pte, pmd and pud helper what the kernels' own helpers do, on every entry?",
    answer: "Yes. A module that is built from the kernel's own headers answers for 6.1, 6.12 and 7.2, with and without X86_FEATURE_SHSTK, for every combination of the 19 bits outside the frame field that mean something.",
    check: Check::Live,
}];
