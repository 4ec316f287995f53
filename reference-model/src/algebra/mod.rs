//! The helper algebra: what each pte, pmd and pud helper of the kernel makes of an entry, in four designs.
//!
//! Sources: `arch/x86/include/asm/pgtable.h` and `pgtable_types.h`, read in 6.1.176, 6.12.95 and 7.2.13; the
//! series that were never merged, as [`Design`] says. What the three kernels say is compared with them
//! exhaustively, by a module that asks their own headers (the claim `algebra.kernel-helpers`).
//!
//! An answer is a `u64`: an entry, 0 or 1 of a predicate, or a number. Nothing here is about page tables or VMAs.

mod bits;
mod cow;
mod helper;
mod planted;
mod predicate;
mod question;
mod saved_dirty;
mod states;
mod transformer;

#[cfg(test)]
mod tests;

pub use bits::{DEVMAP_BIT_57, DEVMAP_BIT_58, FREE_FOR_SOFTWARE, SAVED_DIRTY_OR_COW};
pub use helper::{Helper, Kind, Level};
pub use planted::PlantedFault;
pub use question::{Domain, Entries, Question, Reach};
pub use states::{Page, Place, State};

use crate::entry::Entry;
use crate::kernel::{Change, Kernel};

/// How a kernel tells a dirty read-only page from a shadow stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Design {
    /// It does not: Dirty stays where it is. Up to 6.5; read in 6.1.176.
    BeforeShadowStacks,
    /// `_PAGE_COW` of 2021, which seed 000 reviews (v23, March 2021). The helpers are those of v21 (February
    /// 2021), the nearest posting whose diff is at hand: its text and states are the seed's, word for word.
    /// `pte_modify` is that of v22 11/28.
    Cow2021,
    /// `_PAGE_COW` of January 2022 (seed 001, 35 patches). `pte_modify` is that of 11/35.
    Cow2022,
    /// `_PAGE_SAVED_DIRTY`, merged in 6.6; read in 6.12.95.
    SavedDirtyWithDevmap,
    /// The same without `_PAGE_DEVMAP`; read in 7.2.13.
    SavedDirty,
}

impl Design {
    /// Every design, oldest first.
    pub const ALL: [Self; 5] =
        [Self::BeforeShadowStacks, Self::Cow2021, Self::Cow2022, Self::SavedDirtyWithDevmap, Self::SavedDirty];

    /// Whether it is `_PAGE_COW` of either year.
    #[must_use]
    pub fn is_cow(self) -> bool {
        matches!(self, Self::Cow2021 | Self::Cow2022)
    }

    /// Whether it is the merged design.
    #[must_use]
    pub fn is_saved_dirty(self) -> bool {
        matches!(self, Self::SavedDirtyWithDevmap | Self::SavedDirty)
    }
}

/// What the kernel was built with, as far as the helpers depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// `CONFIG_X86_USER_SHADOW_STACK` (`CONFIG_X86_SHADOW_STACK` in 2022, `CONFIG_X86_CET` in 2021).
    pub shadow_stack: bool,
    /// `CONFIG_MEM_SOFT_DIRTY`.
    pub soft_dirty: bool,
    /// `CONFIG_HAVE_ARCH_USERFAULTFD_WP`.
    pub userfaultfd_write_protect: bool,
}

impl Configuration {
    /// As the distribution builds it.
    pub const ALL_ON: Self = Self { shadow_stack: true, soft_dirty: true, userfaultfd_write_protect: true };
    /// Without any of it.
    pub const ALL_OFF: Self = Self { shadow_stack: false, soft_dirty: false, userfaultfd_write_protect: false };
}

/// The helpers of one kernel on one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Algebra {
    /// The design.
    pub design: Design,
    /// What was compiled in.
    pub configuration: Configuration,
    /// `X86_FEATURE_SHSTK`: the CPU has shadow stacks and the kernel did not switch them off.
    pub shadow_stack_cpu: bool,
    /// The kernel's own mistake: `pmd_modify` drops Dirty ([`Change::PmdModifyDropsDirty`]).
    pub pmd_modify_drops_dirty: bool,
    /// A helper that is wrong on purpose, for tests of the checks.
    pub planted: Option<PlantedFault>,
}

impl Algebra {
    /// Everything compiled in; the helpers as they were read, mistake of 6.12.95 included.
    #[must_use]
    pub const fn new(design: Design, shadow_stack_cpu: bool) -> Self {
        let pmd_modify_drops_dirty = matches!(design, Design::SavedDirtyWithDevmap);
        Self { design, configuration: Configuration::ALL_ON, shadow_stack_cpu, pmd_modify_drops_dirty, planted: None }
    }

    /// The helpers of a kernel.
    #[must_use]
    pub const fn of_kernel(kernel: Kernel, shadow_stack_cpu: bool) -> Self {
        let design = match (kernel.has(Change::SavedDirty), kernel.has(Change::WithoutDevmapBit)) {
            (false, _) => Design::BeforeShadowStacks,
            (true, false) => Design::SavedDirtyWithDevmap,
            (true, true) => Design::SavedDirty,
        };
        let pmd_modify_drops_dirty = kernel.has(Change::PmdModifyDropsDirty);
        Self { pmd_modify_drops_dirty, ..Self::new(design, shadow_stack_cpu) }
    }

    /// The same kernel built with another configuration.
    #[must_use]
    pub const fn built_with(self, configuration: Configuration) -> Self {
        Self { configuration, ..self }
    }

    /// The same with a helper that is wrong.
    #[must_use]
    pub const fn with_planted(self, fault: PlantedFault) -> Self {
        Self { planted: Some(fault), ..self }
    }

    /// What the helper gives, or `None` if this kernel has no such helper.
    #[must_use]
    pub fn answer(&self, question: Question, entry: u64) -> Option<u64> {
        self.has(question.level, question.helper).then(|| self.answer_of_existing(question, entry))
    }

    /// What a helper that exists ([`Algebra::has`]) gives. Of one that does not, the answer is meaningless.
    #[must_use]
    #[inline]
    pub fn answer_of_existing(&self, question: Question, entry: u64) -> u64 {
        let Question { level, helper, argument } = question;
        match helper.kind() {
            Kind::Predicate => u64::from(self.predicate(level, helper, entry)),
            Kind::Number => Self::frame_number(level, entry),
            Kind::Transformer => self.transform(level, helper, argument, entry),
        }
    }

    fn is_planted(&self, fault: PlantedFault) -> bool {
        self.planted == Some(fault)
    }
}

/// The helpers that the memory model calls, at the lowest level.
impl Algebra {
    fn make(&self, helper: Helper, argument: u64, entry: Entry) -> Entry {
        Entry(self.transform(Level::Pte, helper, argument, entry.0))
    }

    /// `pte_dirty`.
    #[must_use]
    pub fn is_dirty(&self, entry: Entry) -> bool {
        self.predicate(Level::Pte, Helper::Dirty, entry.0)
    }

    /// `pte_write`: a shadow stack counts as writable.
    #[must_use]
    pub fn is_writable(&self, entry: Entry) -> bool {
        self.predicate(Level::Pte, Helper::Write, entry.0)
    }

    /// `pte_wrprotect`.
    #[must_use]
    pub fn write_protect(&self, entry: Entry) -> Entry {
        self.make(Helper::Wrprotect, 0, entry)
    }

    /// `pte_mkdirty`.
    #[must_use]
    pub fn make_dirty(&self, entry: Entry) -> Entry {
        self.make(Helper::Mkdirty, 0, entry)
    }

    /// `pte_mkclean`.
    #[must_use]
    pub fn make_clean(&self, entry: Entry) -> Entry {
        self.make(Helper::Mkclean, 0, entry)
    }

    /// `pte_mkwrite` in an ordinary VMA.
    #[must_use]
    pub fn make_writable(&self, entry: Entry) -> Entry {
        self.make(Helper::Mkwrite, Question::ORDINARY_VMA, entry)
    }

    /// `pte_mkwrite_shstk`: the form that `pte_mkwrite` takes in a shadow-stack VMA.
    #[must_use]
    pub fn make_writable_shadow_stack(&self, entry: Entry) -> Entry {
        self.make(Helper::MkwriteShstk, 0, entry)
    }

    /// `pte_mkuffd_wp`.
    #[must_use]
    pub fn make_uffd_wp(&self, entry: Entry) -> Entry {
        self.make(Helper::MkuffdWp, 0, entry)
    }

    /// `pte_modify` with the bits of `protection`, on an entry whose frame field is clear, as the memory model
    /// keeps them: the field stays clear, where the kernel inverts it when the presence changes.
    #[must_use]
    pub fn modify(&self, entry: Entry, protection: u64) -> Entry {
        Entry(self.make(Helper::Modify, protection, entry).0 & !crate::entry::FRAME)
    }
}
