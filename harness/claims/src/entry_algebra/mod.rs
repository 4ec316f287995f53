//! The entry algebra: what was asked, and the checks over the model.

mod answers;
mod recorded;
mod review;
mod seeds;
mod tally;

use crate::claim::{Cases, Check, Claim, Effort, Refuted, Seed, System};

pub use answers::{AnswerDigest, answers_of_model, digest_of_all, helpers};

/// The claim that is checked by asking kernels.
pub const KERNEL_HELPERS: &str = "algebra.kernel-helpers";
/// The one that is checked by asking their headers, configured without the features.
pub const KERNEL_HELPERS_BARE: &str = "algebra.kernel-helpers-bare";

/// The claims of this system.
pub(crate) const CLAIMS: &[Claim] = &[
    live(
        KERNEL_HELPERS,
        "Is what the model says about each pte, pmd and pud helper what the kernels' own helpers do, on every entry?",
        "Yes. A module that is built from the kernel's own headers answers for 6.1, 6.12 and 7.2, with X86_FEATURE_SHSTK on and off, for every combination of the 19 bits outside the frame field that mean something; guest and host compare, the host by a digest of its own.",
    ),
    live(
        KERNEL_HELPERS_BARE,
        "What remains of it in the kernels' headers where shadow stacks, soft-dirty and userfaultfd's write-protection are not configured?",
        "All of SavedDirty, and pte_shstk too: of the merged design the headers drop nothing when CONFIG_X86_USER_SHADOW_STACK is off, as the model says; of soft-dirty and uffd-wp nothing remains.",
    ),
    Claim {
        seed: Seed::CowPatchReview2021,
        ..live(
            "algebra.states-live",
            "Do real system calls leave pages in each of the five states, in the kernels of today?",
            "In all but (e): (a) by fork of a written page, (b) by a write through /proc/self/mem to a read-only mapping (7.2 forces only a tracer's and gives EIO), (c) by a shadow-stack store, (d) by fork of that page. No event of generated programs leaves (e), Write=0, Dirty=1 outside a shadow stack.",
        )
    },
    Claim {
        seed: Seed::CowPatchReview2021,
        ..model(
            "algebra.states",
            "Do the five states (a) to (e) have the encodings that the text gives them?",
            "Yes, in the designs of both years: (a), (b) and (d) are Write=0, Dirty=0, Cow=1, and (c) and (e) are Write=0, Dirty=1, Cow=0. On a CPU without shadow stacks (a) and (b) stay Write=0, Dirty=1, as before the patch.",
            seeds::states_of_the_text,
        )
    },
    Claim {
        seed: Seed::CowPatchReview2021,
        ..model(
            "algebra.helpers-2021",
            "Does each helper of the 2021 series do what its text says, on every state?",
            "Yes, at all three levels, with shadow stacks, without the CPU, and compiled out. pmd_mkdirty looks at RW alone and leaves a huge shadow stack with both bits, which 2022 mended.",
            seeds::helpers_of_2021,
        )
    },
    model(
        "algebra.helpers-2022",
        "Does each helper of the patch of January 2022 do what its diff says, on every state?",
        "Yes, at all three levels, with shadow stacks, without the CPU, and compiled out, where _PAGE_COW is 0 and bit 58 stays as it is.",
        seeds::helpers_of_2022,
    ),
    model(
        "algebra.a-and-b",
        "What is the difference between [a] and [b], and does anything treat them differently?",
        "None and nothing: they are the same bits in every design, and so is [d]. Only the VMA tells [d] from them, which is why the merged pte_mkwrite takes it.",
        review::a_and_b,
    ),
    model(
        "algebra.mkwrite-shstk",
        "How does pte_mkwrite_shstk turn [d] into [c] by clearing a software bit?",
        "It does not: pte_clear_cow also sets Dirty, and Write=0, Dirty=1 is the right to write to a shadow stack. The merged helper clears Write, sets Dirty and leaves the software bit alone.",
        review::mkwrite_shstk,
    ),
    model(
        "algebra.compiled-out",
        "Does it all go away when this is compiled out?",
        "Yes: every helper that the patch touches then answers as before it, on every entry. The merged design does not go away: Dirty moves to bit 58 in every build, and even pte_shstk asks the CPU alone. The kernels say so too, where their headers are configured without (algebra.kernel-helpers-bare).",
        review::compiled_out,
    ),
    model(
        "algebra.dirty-and-cow",
        "Why can a pte_dirty() not also be a \"COW PTE\", or can it?",
        "Every COW entry is pte_dirty(). By no chain of the 2022 helpers does the bit stand beside Dirty or Write; in the merged design Dirty and SavedDirty together are a shadow stack that was written.",
        review::dirty_and_cow,
    ),
    model(
        "algebra.software-bits",
        "Are six bits left to software after _PAGE_COW?",
        "Five: of the ten bits that the CPU ignores, 9 to 11 are taken, 57 became _PAGE_DEVMAP by the same patch, and 58 _PAGE_COW. Six is right again in 7.2, which has no _PAGE_DEVMAP.",
        review::software_bits,
    ),
    model(
        "algebra.shadow-stack-is-writable",
        "Why is pte_write() true for a shadow stack, which no ordinary store can write?",
        "Because fork write-protects what pte_write() says is writable; otherwise parent and child would share a live shadow stack. After pte_wrprotect it is neither a shadow stack nor writable, and still dirty.",
        review::shadow_stack_is_writable,
    ),
    model(
        "algebra.state-e",
        "How are PTEs that look like shadow stacks on hardware without them told from shadow stacks?",
        "By the CPU alone: [e] and [c] are the same bits. pte_shstk() is false on every CPU that can make [e], and a CPU with shadow stacks does not make it.",
        review::state_e,
    ),
    model(
        "algebra.modify-loses-cow",
        "What does pte_modify() of the posted series do to a copy-on-write page?",
        "It loses the page's dirty state: _PAGE_CHG_MASK keeps Dirty and not _PAGE_COW, and 11/35 looks for the bit only after the mask was applied. Version 2 of the series (September 2022) has the bit in the mask.",
        seeds::modify_loses_cow,
    ),
    model(
        "algebra.huge-modify",
        "The patch applies \"the same changes to pmd and pud\": does a change of protection treat a huge page as it does a small one?",
        "Not in 6.12.95 and 6.12.107: pmd_modify masks Dirty out, so that mprotect makes a written huge page clean, Write=0, Dirty=0, SavedDirty=0. Seen by the helper oracle, and in /proc/PID/smaps, where Private_Dirty becomes Private_Clean; 6.1 and 7.2 keep it, and so do pte_modify and pud_modify of 6.12.",
        review::huge_modify,
    ),
    model(
        "algebra.planted-faults",
        "Would a wrong shift in a helper, or any other slip, be seen?",
        "Yes: each of 13 faults planted in the model of the merged helpers, a shift by one too few and swapped branches of pte_modify among them, makes its answers differ from those that the kernels gave.",
        recorded::planted_faults,
    ),
];

const fn live(name: &'static str, question: &'static str, answer: &'static str) -> Claim {
    Claim { name, system: System::EntryAlgebra, seed: Seed::CowPatch2022, question, answer, check: Check::Live }
}

const fn model(
    name: &'static str,
    question: &'static str,
    answer: &'static str,
    check: fn(Effort) -> Result<Cases, Refuted>,
) -> Claim {
    Claim { name, system: System::EntryAlgebra, seed: Seed::CowPatch2022, question, answer, check: Check::Model(check) }
}
