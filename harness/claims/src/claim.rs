//! What a claim is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One of the four systems that the seed documents describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// What the pte, pmd and pud helpers do to an entry, in four designs.
    EntryAlgebra,
    /// A CPU that sets Dirty while the kernel takes the right to write away.
    DirtyRace,
    /// Which pages the user write-protected by userfaultfd.
    WriteProtectTracking,
    /// What a CPU permits, protection keys of supervisor pages included.
    ProcessorAccess,
}

impl System {
    /// Every system, in the order of reports.
    pub const ALL: [Self; 4] = [Self::EntryAlgebra, Self::DirtyRace, Self::WriteProtectTracking, Self::ProcessorAccess];

    /// What the names of its claims begin with, before the dot.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::EntryAlgebra => "algebra",
            Self::DirtyRace => "race",
            Self::WriteProtectTracking => "tracking",
            Self::ProcessorAccess => "processor",
        }
    }

    /// Its title in documents.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::EntryAlgebra => "The entry algebra: _PAGE_COW and _PAGE_SAVED_DIRTY",
            Self::DirtyRace => "The Dirty/RW race",
            Self::WriteProtectTracking => "userfaultfd write-protect tracking",
            Self::ProcessorAccess => "The CPU's side of every check, and PKS",
        }
    }
}

/// The mail in which the question was asked or the fact was stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Seed {
    /// Review of the `_PAGE_COW` patch by Kirill A. Shutemov, March 2021.
    CowPatchReview2021,
    /// `[PATCH 09/35] x86/mm: Introduce _PAGE_COW`, January 2022, and Dave Hansen's review.
    CowPatch2022,
    /// Linus Torvalds and Dave Hansen on `[GIT PULL] x86/shstk for 6.4`, May 2023.
    DirtyRace2023,
    /// `[RFC 10/24] userfaultfd: wp: add WP pagetable tracking to x86`, January 2019, and its discussion.
    UffdWriteProtect2019,
    /// Kees Cook on the `PKS` series of Ira Weiny, July 2020.
    ProtectionKeysSupervisor2020,
}

impl Seed {
    /// Its title in documents.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::CowPatchReview2021 => "`_PAGE_COW`, reviewed by Kirill A. Shutemov (March 2021)",
            Self::CowPatch2022 => "[PATCH 09/35] x86/mm: Introduce `_PAGE_COW`, reviewed by Dave Hansen (January 2022)",
            Self::DirtyRace2023 => "Re: [GIT PULL] x86/shstk for 6.4, Linus Torvalds and Dave Hansen (May 2023)",
            Self::UffdWriteProtect2019 => {
                "[RFC 10/24] userfaultfd: wp: add WP pagetable tracking to x86, Peter Xu and Jerome Glisse (January 2019)"
            }
            Self::ProtectionKeysSupervisor2020 => {
                "PKS: Add Protection Keys Supervisor support, Ira Weiny and Kees Cook (July 2020)"
            }
        }
    }
}

/// How much of a check is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effort {
    /// A part that stands for the whole: seconds, for continuous integration.
    Representative,
    /// All of it (`ptediff claims --full`).
    Full,
}

/// What a check that held looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cases {
    /// How many.
    pub count: u64,
    /// Of what: `entries x helpers`, `interleavings`.
    pub unit: &'static str,
}

/// The claim is false.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refuted {
    /// The counter-example, for people.
    pub what: String,
}

impl fmt::Display for Refuted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)
    }
}

/// How a claim is checked.
#[derive(Debug, Clone, Copy)]
pub enum Check {
    /// Over the model alone.
    Model(fn(Effort) -> Result<Cases, Refuted>),
    /// Against a live kernel or CPU: the `ptediff` command has the check of the claim's name.
    Live,
}

/// Something that a seed document asks or states, with its answer.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// `<system>.<what>`, stable.
    pub name: &'static str,
    /// The system it is about.
    pub system: System,
    /// Where it was asked.
    pub seed: Seed,
    /// The question, as a reader of the thread would ask it.
    pub question: &'static str,
    /// The answer, in a few sentences.
    pub answer: &'static str,
    /// How it is checked.
    pub check: Check,
}
