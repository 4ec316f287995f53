//! The five states (a) to (e) of the seeds' text.

use std::fmt;

use super::Algebra;
use crate::entry::{D, Entry, RW, SAVED_DIRTY};

/// A page in one of the five states, as the seeds tell them: what led to it, not how it is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Page {
    /// (a) A modified page that fork made copy-on-write.
    ModifiedThenShared,
    /// (b) A page of a read-only VMA, copied because GUP wanted to write.
    ReadOnlyCopiedForGup,
    /// (c) A shadow stack.
    ShadowStack,
    /// (d) A shadow stack that fork shares.
    SharedShadowStack,
    /// (e) A CPU without shadow stacks saw Write=1, set Dirty, and found Write=0 when it was done.
    DirtySetLate,
}

impl Page {
    /// All five.
    pub const ALL: [Self; 5] = [
        Self::ModifiedThenShared,
        Self::ReadOnlyCopiedForGup,
        Self::ShadowStack,
        Self::SharedShadowStack,
        Self::DirtySetLate,
    ];

    /// Its letter in the text.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::ModifiedThenShared => 'a',
            Self::ReadOnlyCopiedForGup => 'b',
            Self::ShadowStack => 'c',
            Self::SharedShadowStack => 'd',
            Self::DirtySetLate => 'e',
        }
    }
}

impl Page {
    /// What such a page is, in the words of people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::ModifiedThenShared => "a modified page that became copy-on-write",
            Self::ReadOnlyCopiedForGup => "a page of a read-only VMA that get_user_pages had copied for writing",
            Self::ShadowStack => "a shadow stack",
            Self::SharedShadowStack => "a shadow stack that processes share: the next shadow-stack access copies it",
            Self::DirtySetLate => {
                "Dirty that a CPU without shadow stacks set late; on one with them no kernel may leave this"
            }
        }
    }
}

/// The three bits by which the text tells states apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct State {
    /// Write.
    pub write: bool,
    /// Dirty.
    pub dirty: bool,
    /// `_PAGE_COW` or `_PAGE_SAVED_DIRTY`.
    pub saved: bool,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 8] = {
        let mut all = [Self { write: false, dirty: false, saved: false }; 8];
        let mut number = 0;
        while number < 8 {
            all[number] = Self { write: number & 4 != 0, dirty: number & 2 != 0, saved: number & 1 != 0 };
            number += 1;
        }
        all
    };

    /// From Write, Dirty and the saved bit as digits, `[0, 1, 0]` for a shadow stack.
    #[must_use]
    pub const fn of([write, dirty, saved]: [u8; 3]) -> Self {
        Self { write: write != 0, dirty: dirty != 0, saved: saved != 0 }
    }

    /// The state of an entry.
    #[must_use]
    pub fn of_entry(entry: u64) -> Self {
        Self { write: entry & RW != 0, dirty: entry & D != 0, saved: entry & SAVED_DIRTY != 0 }
    }

    /// The bits in their places.
    #[must_use]
    pub fn bits(self) -> u64 {
        let bit = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        bit(self.write, RW) | bit(self.dirty, D) | bit(self.saved, SAVED_DIRTY)
    }

    /// The pages of the text that this kernel may leave in this state: more than one where it cannot tell them
    /// apart.
    #[must_use]
    pub fn pages(self, algebra: &Algebra) -> Vec<Page> {
        Page::ALL.into_iter().filter(|page| algebra.state_of(*page) == Some(self)).collect()
    }
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { write, dirty, saved } = *self;
        write!(formatter, "Write={} Dirty={} Saved={}", u8::from(write), u8::from(dirty), u8::from(saved))
    }
}

impl Algebra {
    /// The state that the helpers give such a page, by the steps that lead to it. `None` where the kernel or CPU
    /// has no such pages.
    #[must_use]
    pub fn state_of(&self, page: Page) -> Option<State> {
        let written = self.make_writable(self.make_dirty(Entry::NONE));
        let fresh_shadow_stack = || {
            // A series that was not merged sets Dirty in a fresh entry by pte_mkdirty and then asks for the
            // shadow-stack form; so do the merged kernels (mm/memory.c: do_anonymous_page, maybe_mkwrite).
            self.shadow_stacks_enabled().then(|| self.make_writable_shadow_stack(self.make_dirty(Entry::NONE)))
        };
        let entry = match page {
            // mm/memory.c: copy_present_pte.
            Page::ModifiedThenShared => Some(self.write_protect(written)),
            // mm/memory.c: wp_page_copy, whose pte_mkdirty meets an entry that maybe_mkwrite left read-only.
            Page::ReadOnlyCopiedForGup => Some(self.make_dirty(Entry::NONE)),
            Page::ShadowStack => fresh_shadow_stack(),
            Page::SharedShadowStack => fresh_shadow_stack().map(|entry| self.write_protect(entry)),
            // Write=1 gone by pte_wrprotect while the entry was clean; then the CPU's late Dirty.
            Page::DirtySetLate => {
                (!self.shadow_stack_cpu).then(|| Entry(self.write_protect(self.make_writable(Entry::NONE)).0 | D))
            }
        };
        entry.map(|entry| State::of_entry(entry.0))
    }
}

/// Where an entry is mapped, as far as its state's name depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In a shadow stack.
    ShadowStack,
    /// In another VMA that may be written.
    Writable,
    /// In another VMA that may not.
    ReadOnly,
}

impl Place {
    /// By the VMA's flags (`include/linux/mm.h`, 64-bit x86): VM_SHADOW_STACK is bit 37, VM_WRITE bit 1.
    #[must_use]
    pub fn of_vma(flags: u64) -> Self {
        match (flags & 1 << 37 != 0, flags & 1 << 1 != 0) {
            (true, _) => Self::ShadowStack,
            (false, true) => Self::Writable,
            (false, false) => Self::ReadOnly,
        }
    }

    /// The pages of the text that an entry here may belong to, on a kernel of the merged design; none where it is
    /// writable, clean or not present. In a read-only VMA a dirty page may have been copied for GUP, or may have
    /// been written and shared before mprotect: nothing in the entry tells (a) from (b).
    #[must_use]
    pub fn pages(self, entry: Entry) -> &'static [Page] {
        let State { write, dirty, saved } = State::of_entry(entry.0);
        if write || !entry.is_present() {
            return &[];
        }
        match (self, dirty, saved) {
            (_, false, false) => &[],
            (Self::ShadowStack, true, _) => &[Page::ShadowStack],
            (Self::ShadowStack, false, true) => &[Page::SharedShadowStack],
            (_, true, _) => &[Page::DirtySetLate],
            (Self::Writable, false, true) => &[Page::ModifiedThenShared],
            (Self::ReadOnly, false, true) => &[Page::ModifiedThenShared, Page::ReadOnlyCopiedForGup],
        }
    }

    /// The letters of [`Place::pages`]: `(a) or (b)`. Empty where there is none.
    #[must_use]
    pub fn letters(self, entry: Entry) -> String {
        let letters: Vec<String> = self.pages(entry).iter().map(|page| format!("({})", page.letter())).collect();
        letters.join(" or ")
    }
}
