//! System 2: the race between a processor that sets Dirty and a kernel that clears R/W in one entry.
//!
//! Seed 002 (Linus Torvalds and Dave Hansen, May 2023) and Dave Hansen's review in seed 001. One entry is shared by a
//! processor that loads or stores through its TLB, and by kernel code that write-protects the entry for a fork. All
//! interleavings are explored by shuttle's depth-first scheduler; what they can come to is one table, and each
//! sentence of the mails that states a fact is held against it.

mod claims;
mod entry;
mod explore;
mod kernel;
mod processor;
mod sentences;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use claims::CLAIMS;
pub use entry::{Event, Side};
pub use explore::{Effect, ForkSide, Found, explore};
pub use kernel::Technique;
pub use processor::Processor;
pub use sentences::{SENTENCES, Sentence, Source, Verdict, markdown as sentences_markdown};
pub use table::{Row, Table};

/// The table, the sentences and the schedules as Markdown: the generated part of docs/dirty-race.md.
#[must_use]
pub fn document() -> String {
    let table = Table::explore();
    format!(
        "## The table\n\n{}\n{} interleavings in all.\n\n## The sentences\n\n{}\n## The schedules\n\n{}",
        table.markdown(),
        table.schedules(),
        sentences_markdown(),
        table.schedules_markdown(),
    )
}

/// A planted mistake of the model: each must be noticed by a check of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// The merged loop goes round with the value that it computed from its first read.
    FirstReadStored,
    /// Write-protection leaves Dirty where it is.
    ShiftDropped,
    /// The TLB is not flushed.
    FlushDropped,
    /// The entry is taken out by a read and a store.
    TakenOutInTwoSteps,
    /// A processor with shadow stacks sets Dirty without a look at R/W.
    RecheckDropped,
    /// A processor stores the entry with Dirty set, without a lock.
    UnlockedProcessor,
    /// A processor stores to the page first and sets Dirty then.
    StoreBeforeDirty,
    /// Accessed goes out whenever the kernel has read the entry, as if someone else cleared it meanwhile.
    SomebodyClearsAccessed,
}
