//! The kernel's side: the ways to write-protect an entry that were in use, proposed, feared or merged.

use std::fmt;

use ptediff_reference_model::algebra::{Algebra, Design};
use ptediff_reference_model::entry::{A, Entry, RW};

use super::Mutation;
use super::entry::{Shared, Side, is_write_0_dirty_1};
use super::processor::Processor;

/// A way to write-protect an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Technique {
    /// Read, clear R/W, store. Dirty stays where it is. No kernel did this; the planted module does.
    NonAtomicInPlace,
    /// Read, clear R/W and move Dirty to the software bit, store.
    NonAtomicMoving,
    /// One locked instruction clears R/W (`ptep_set_wrprotect` up to 6.5).
    LockedBitClear,
    /// The compare-and-exchange loop that was feared: read anew, move Dirty, exchange, until nothing came between.
    FearedLoop,
    /// That loop, and once more behind the TLB flush, to move a Dirty that came late.
    FearedLoopTwice,
    /// As posted before the mail: the loop where the CPU has shadow stacks, the locked bit clear elsewhere.
    LoopBehindFeatureTest,
    /// As merged in 6.6 (`ptep_set_wrprotect` with `pte_wrprotect`, `mksaveddirty_shift`): no test of the CPU, and a
    /// failed exchange's value is the next round's.
    MergedLoop,
    /// The "dance": take the entry out, flush the TLB, put the write-protected value in.
    NotPresentUntilFlushed,
    /// Take the entry out, put the write-protected value in, flush later: mprotect, userfaultfd's write-protection
    /// and clear_refs (`ptep_modify_prot_start`, `ptep_modify_prot_commit`).
    NotPresentFlushedLater,
}

impl Technique {
    /// All, in the table's order.
    pub const ALL: [Self; 9] = [
        Self::NonAtomicInPlace,
        Self::NonAtomicMoving,
        Self::LockedBitClear,
        Self::FearedLoop,
        Self::FearedLoopTwice,
        Self::LoopBehindFeatureTest,
        Self::MergedLoop,
        Self::NotPresentUntilFlushed,
        Self::NotPresentFlushedLater,
    ];

    /// The helpers that go with it.
    fn algebra(self, processor: Processor) -> Algebra {
        let design = match self {
            Self::NonAtomicInPlace | Self::LockedBitClear => Design::BeforeShadowStacks,
            Self::LoopBehindFeatureTest => Design::Cow2022,
            _ => Design::SavedDirtyWithDevmap,
        };
        Algebra::new(design, processor == Processor::WithShadowStacks)
    }

    /// Whether it flushes the TLB before the entry has its last value: then a fork pays for a flush per entry,
    /// not for one per fork.
    #[must_use]
    pub fn flushes_within(self) -> bool {
        matches!(self, Self::FearedLoopTwice | Self::NotPresentUntilFlushed)
    }
}

impl fmt::Display for Technique {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NonAtomicInPlace => "read, clear, store; Dirty left",
            Self::NonAtomicMoving => "read, clear, store; Dirty moved",
            Self::LockedBitClear => "locked bit clear (6.1)",
            Self::FearedLoop => "cmpxchg loop, as feared",
            Self::FearedLoopTwice => "cmpxchg loop, again after the flush",
            Self::LoopBehindFeatureTest => "cmpxchg loop if the CPU has shadow stacks, else bit clear (posted)",
            Self::MergedLoop => "try_cmpxchg loop with the shift (6.12)",
            Self::NotPresentUntilFlushed => "not present until the TLB is flushed",
            Self::NotPresentFlushedLater => "not present, flushed later (mprotect, 6.12)",
        })
    }
}

/// Rounds of a loop before it is called endless. Accessed and Dirty are all that processors can change, they only
/// ever set them, and the page-table lock keeps other kernel code away: an exchange fails twice at most, whatever the
/// number of processors. A loop that wants more is reported ([`super::Effect::Endless`]), never cut off in silence.
pub(super) const MOST_RETRIES: u8 = 2;

/// What the kernel's part of a run came to.
pub(super) struct Protected {
    /// The destination's entry.
    pub(super) destination: u64,
    /// The entry from which the destination's was made.
    pub(super) copied_from: u64,
    /// The stores that the copy of the page, made after everything, holds, as bits.
    pub(super) copied_stores: u64,
}

/// Forks one page: write-protects the source, fills in the destination, flushes, and copies the page as the next
/// one who needs it does.
pub(super) fn fork(
    shared: &Shared,
    technique: Technique,
    processor: Processor,
    mutation: Option<Mutation>,
) -> Protected {
    let kernel = Kernel { shared, algebra: technique.algebra(processor), mutation };
    let copied_from = shared.read(Side::Kernel, "reads the entry for the copy");
    match technique {
        Technique::NonAtomicInPlace | Technique::NonAtomicMoving => kernel.read_modify_write(),
        Technique::LockedBitClear => kernel.locked_bit_clear(),
        Technique::FearedLoop | Technique::FearedLoopTwice => kernel.reading_loop(),
        Technique::LoopBehindFeatureTest => match processor {
            Processor::WithShadowStacks => kernel.reading_loop(),
            Processor::BeforeShadowStacks => kernel.locked_bit_clear(),
        },
        Technique::MergedLoop => kernel.merged_loop(),
        Technique::NotPresentUntilFlushed | Technique::NotPresentFlushedLater => {
            let taken = kernel.take_out();
            if technique == Technique::NotPresentUntilFlushed {
                kernel.flush();
            }
            shared.store("puts the write-protected entry in", kernel.protect(taken));
        }
    }
    // copy_present_pte: the value that was read first, write-protected and old. Nobody walks the destination.
    let destination = kernel.protect(copied_from) & !A;
    if technique != Technique::NotPresentUntilFlushed {
        kernel.flush();
    }
    if technique == Technique::FearedLoopTwice {
        kernel.reading_loop();
    }
    Protected { destination, copied_from, copied_stores: shared.copy_page() }
}

/// Whether the kernel itself made a destination of the shadow-stack form.
pub(super) fn destination_is_created(protected: &Protected) -> bool {
    is_write_0_dirty_1(protected.destination)
}

struct Kernel<'run> {
    shared: &'run Shared,
    algebra: Algebra,
    mutation: Option<Mutation>,
}

impl Kernel<'_> {
    /// `pte_wrprotect`.
    fn protect(&self, entry: u64) -> u64 {
        if self.mutation == Some(Mutation::ShiftDropped) {
            return entry & !RW;
        }
        self.algebra.write_protect(Entry(entry)).0
    }

    fn flush(&self) {
        if self.mutation != Some(Mutation::FlushDropped) {
            self.shared.flush();
        }
    }

    fn read_modify_write(&self) {
        let seen = self.shared.read(Side::Kernel, "reads the entry");
        self.shared.store("stores the entry write-protected", self.protect(seen));
    }

    fn locked_bit_clear(&self) {
        self.shared.locked_and("clears Write", !RW);
    }

    fn reading_loop(&self) {
        for _ in 0..=MOST_RETRIES {
            let seen = self.shared.read(Side::Kernel, "reads the entry");
            let protected = self.protect(seen);
            if protected == seen || self.shared.compare_exchange("exchanges the entry", seen, protected).is_ok() {
                return;
            }
        }
        self.shared.note(|notes| notes.gave_up = true);
    }

    fn merged_loop(&self) {
        let first = self.shared.read(Side::Kernel, "reads the entry");
        let mut seen = first;
        for _ in 0..=MOST_RETRIES {
            if self.mutation == Some(Mutation::SomebodyClearsAccessed) {
                self.shared.locked_and("clears Accessed", !A);
            }
            let base = if self.mutation == Some(Mutation::FirstReadStored) { first } else { seen };
            match self.shared.compare_exchange("exchanges the entry", seen, self.protect(base)) {
                Ok(()) => return,
                Err(now) => seen = now,
            }
        }
        self.shared.note(|notes| notes.gave_up = true);
    }

    /// `ptep_get_and_clear`.
    fn take_out(&self) -> u64 {
        if self.mutation == Some(Mutation::TakenOutInTwoSteps) {
            let seen = self.shared.read(Side::Kernel, "reads the entry");
            self.shared.store("stores a not-present entry", 0);
            return seen;
        }
        self.shared.exchange("takes the entry out", 0)
    }
}
