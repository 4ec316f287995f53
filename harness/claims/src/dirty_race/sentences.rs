//! Each sentence of the mails that states a fact, held against the table.

use std::fmt;
use std::fmt::Write as _;

use ptediff_reference_model::entry::RW;

use super::Table;
use super::explore::{Effect, ForkSide};
use super::kernel::Technique::{self, FearedLoopTwice, LockedBitClear, MergedLoop, NotPresentUntilFlushed};
use super::processor::Processor::{self, BeforeShadowStacks, WithShadowStacks};

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The Intel SDM, as quoted in seed 002.
    Sdm,
    /// Dave Hansen in seed 002.
    DaveHansen2023,
    /// Linus Torvalds in seed 002.
    LinusTorvalds2023,
    /// Rick Edgecombe and Yu-cheng Yu, the patch in seed 001.
    Patch2022,
    /// Dave Hansen's review in seed 001.
    DaveHansen2022,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sdm => "SDM, in 002",
            Self::DaveHansen2023 => "Dave Hansen, 002",
            Self::LinusTorvalds2023 => "Linus Torvalds, 002",
            Self::Patch2022 => "patch, 001",
            Self::DaveHansen2022 => "Dave Hansen, 001",
        })
    }
}

/// What the table says of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is so.
    Confirmed,
    /// It is not so, or not in these words.
    Refuted,
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Confirmed => "confirmed",
            Self::Refuted => "refuted",
        })
    }
}

/// A sentence and what the table says of it.
pub struct Sentence {
    /// Who said it.
    pub source: Source,
    /// What was said, shortened.
    pub said: &'static str,
    /// Whether it is so.
    pub verdict: Verdict,
    /// The cells that say so, in words.
    pub cells: &'static str,
    /// Whether the sentence, taken at its word, is true of a table.
    pub is_true: fn(&Table) -> bool,
}

/// Whether the effect can come to the source's entry.
fn can(table: &Table, technique: Technique, processor: Processor, effect: Effect) -> bool {
    table.can(technique, processor, ForkSide::Source, effect)
}

/// Whether some processor's row has it.
fn anywhere(table: &Table, technique: Technique, effect: Effect) -> bool {
    Processor::ALL.into_iter().any(|processor| can(table, technique, processor, effect))
}

/// Nothing sets an entry to Write=0, Dirty=1, not even for a moment.
fn never_appears(table: &Table, technique: Technique, processor: Processor) -> bool {
    [Effect::CreatedByKernel, Effect::CreatedByProcessor, Effect::LeftBehind]
        .into_iter()
        .all(|effect| !can(table, technique, processor, effect))
}

/// One extra fault, or a flush for each entry.
fn fork_suffers(table: &Table, technique: Technique) -> bool {
    technique.flushes_within() || anywhere(table, technique, Effect::ExtraFault)
}

/// Every sentence of seed 002 that states a fact, and of seed 001 those about this race, in the mails' order.
pub const SENTENCES: &[Sentence] = &[
    Sentence {
        source: Source::Sdm,
        said: "a write, while another processor clears R/W, \"may result in the entry's dirty flag being set\"",
        verdict: Verdict::Confirmed,
        cells: "before shadow stacks, every way that clears Write in a present entry: by the processor, yes",
        is_true: |table| {
            let techniques = Technique::ALL.into_iter().filter(|&technique| technique != NotPresentUntilFlushed);
            techniques
                .into_iter()
                .all(|technique| can(table, technique, BeforeShadowStacks, Effect::CreatedByProcessor))
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "\"we've done special things in the past to make sure that the dirty bit is guaranteed stable\" (ptep_clear)",
        verdict: Verdict::Confirmed,
        cells: "not present until the TLB is flushed: no Dirty lost, none late, on either processor",
        is_true: |table| {
            !anywhere(table, NotPresentUntilFlushed, Effect::DirtyLost)
                && Processor::ALL.into_iter().all(|processor| never_appears(table, NotPresentUntilFlushed, processor))
        },
    },
    Sentence {
        source: Source::DaveHansen2023,
        said: "\"This behavior is gone on shadow stack CPUs\"",
        verdict: Verdict::Confirmed,
        cells: "with shadow stacks, every way: by the processor, no",
        is_true: |table| {
            Technique::ALL
                .into_iter()
                .all(|technique| !can(table, technique, WithShadowStacks, Effect::CreatedByProcessor))
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "so it \"will set dirty only if the pte is actually writable?\"",
        verdict: Verdict::Confirmed,
        cells: "with shadow stacks, every way: by the processor, no; before: yes",
        is_true: |table| {
            Technique::ALL
                .into_iter()
                .all(|technique| !can(table, technique, WithShadowStacks, Effect::CreatedByProcessor))
                && anywhere(table, MergedLoop, Effect::CreatedByProcessor)
        },
    },
    Sentence {
        source: Source::DaveHansen2023,
        said: "\"I can't think of a way to do it without making fork() suffer\" (no Write=0,Dirty=1 on any CPU)",
        verdict: Verdict::Confirmed,
        cells: "before shadow stacks: each way that leaves none behind flushes per entry or faults more",
        is_true: |table| {
            Technique::ALL
                .into_iter()
                .filter(|&technique| !can(table, technique, BeforeShadowStacks, Effect::LeftBehind))
                .all(|technique| fork_suffers(table, technique))
        },
    },
    Sentence {
        source: Source::DaveHansen2023,
        said: "\"fork() of course modifies the PTE (RW->RO) and flushes the TLB now\"",
        verdict: Verdict::Confirmed,
        cells: "locked bit clear, both processors: Write clear in the end; write lost through a stale TLB, no. (With the \
                flush planted away: yes, a test.)",
        is_true: |table| {
            !anywhere(table, LockedBitClear, Effect::ProtectionLost)
                && !anywhere(table, LockedBitClear, Effect::LostWrite)
        },
    },
    Sentence {
        source: Source::DaveHansen2023,
        said: "\"there would need to be a Present=0 PTE in there somewhere before the TLB flush\"",
        verdict: Verdict::Confirmed,
        cells: "before shadow stacks: not present until flushed is the one way in which none ever appears; not present \
                with the flush later (mprotect) is not enough",
        is_true: |table| {
            Technique::ALL.into_iter().all(|technique| {
                (technique == NotPresentUntilFlushed) == never_appears(table, technique, BeforeShadowStacks)
            })
        },
    },
    Sentence {
        source: Source::DaveHansen2023,
        said: "the same, if one may appear for a moment and only must not stay",
        verdict: Verdict::Refuted,
        cells: "cmpxchg loop, again after the flush, before shadow stacks: by the processor yes, left behind no, \
                extra fault no",
        is_true: |table| {
            can(table, FearedLoopTwice, BeforeShadowStacks, Effect::LeftBehind)
                || anywhere(table, FearedLoopTwice, Effect::ExtraFault)
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "if it matters on shadow-stack CPUs only, and there no dance is needed: \"a sequence that works for \
               everybody?\"",
        verdict: Verdict::Confirmed,
        cells: "try_cmpxchg loop, both processors: no Dirty lost, none by the kernel, no extra fault, no write lost, no \
                flush per entry; with shadow stacks none left behind",
        is_true: |table| {
            let bad =
                [Effect::DirtyLost, Effect::CreatedByKernel, Effect::ExtraFault, Effect::LostWrite, Effect::Endless];
            bad.into_iter().all(|effect| !anywhere(table, MergedLoop, effect))
                && !fork_suffers(table, MergedLoop)
                && never_appears(table, MergedLoop, WithShadowStacks)
        },
    },
    Sentence {
        source: Source::DaveHansen2023,
        said: "the rule: \"The *kernel* will never itself create Write=0,Dirty=1 PTEs\"",
        verdict: Verdict::Confirmed,
        cells: "try_cmpxchg loop and mprotect's way, source and destination, both processors: by the kernel, no",
        is_true: |table| {
            [MergedLoop, Technique::NotPresentFlushedLater].into_iter().all(|technique| {
                Processor::ALL.into_iter().all(|processor| {
                    [ForkSide::Source, ForkSide::Destination]
                        .into_iter()
                        .all(|side| !table.can(technique, processor, side, Effect::CreatedByKernel))
                })
            })
        },
    },
    Sentence {
        source: Source::DaveHansen2023,
        said: "(not said: that the code of the day kept that rule)",
        verdict: Verdict::Refuted,
        cells: "locked bit clear (6.1), both processors, source and destination: by the kernel, yes",
        is_true: |table| {
            Processor::ALL.into_iter().all(|processor| {
                [ForkSide::Source, ForkSide::Destination]
                    .into_iter()
                    .any(|side| !table.can(LockedBitClear, processor, side, Effect::CreatedByKernel))
            })
        },
    },
    Sentence {
        source: Source::DaveHansen2023,
        said: "\"That won't prevent the hardware from still being able to do it behind our backs on older CPUs\"",
        verdict: Verdict::Confirmed,
        cells: "try_cmpxchg loop, before shadow stacks: by the processor, yes; left behind, yes; no Dirty lost",
        is_true: |table| {
            can(table, MergedLoop, BeforeShadowStacks, Effect::CreatedByProcessor)
                && can(table, MergedLoop, BeforeShadowStacks, Effect::LeftBehind)
                && !can(table, MergedLoop, BeforeShadowStacks, Effect::DirtyLost)
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "ptep_set_wrprotect() \"atomically just clears the WRITE bit (and thus guarantees that dirty bits cannot \
               get lost)\"",
        verdict: Verdict::Confirmed,
        cells: "locked bit clear, both processors: Dirty lost, no; read, clear, store: yes",
        is_true: |table| {
            !anywhere(table, LockedBitClear, Effect::DirtyLost)
                && Processor::ALL
                    .into_iter()
                    .all(|processor| can(table, Technique::NonAtomicInPlace, processor, Effect::DirtyLost))
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "\"it doesn't matter if some other CPU atomically sets another bit concurrently\"",
        verdict: Verdict::Confirmed,
        cells: "locked bit clear: one locked operation at least and at most, no retry, Write clear in the end",
        is_true: |table| {
            Processor::ALL.into_iter().all(|processor| {
                let found = &table.row(LockedBitClear, processor).found;
                found.locked_operations == (1, 1)
                    && found.retries == 0
                    && !can(table, LockedBitClear, processor, Effect::ProtectionLost)
            })
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "\"On the destination we don't have any races\", \"entirely non-atomic pte_wrprotect\" and set_pte_at",
        verdict: Verdict::Confirmed,
        cells: "destination, every way, both processors: Dirty lost, no, with no locked operation. (A Dirty that comes \
                after the source was read stands in the source alone, which is enough: the page is one.)",
        is_true: |table| {
            Technique::ALL.into_iter().all(|technique| {
                Processor::ALL.into_iter().all(|processor| {
                    let is_lost = |effect| table.can(technique, processor, ForkSide::Destination, effect);
                    !is_lost(Effect::DirtyLost) && !is_lost(Effect::ProtectionLost)
                })
            })
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "\"there is no possible common sequence for that ptep_set_wrprotect() that doesn't penalize some case\"",
        verdict: Verdict::Refuted,
        cells: "try_cmpxchg loop, both processors: one locked operation if nothing comes between, as the bit clear has; \
                no extra fault, no flush. Its price: two more locked operations at most, when a processor sets Accessed \
                or Dirty in between",
        is_true: |table| {
            Processor::ALL.into_iter().any(|processor| {
                let found = &table.row(MergedLoop, processor).found;
                found.locked_operations.0 > table.row(LockedBitClear, processor).found.locked_operations.1
                    || found.retries > 2
            }) || fork_suffers(table, MergedLoop)
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "it \"can just be an atomic clear_bit()\", `lock andb $-3`",
        verdict: Verdict::Confirmed,
        cells: "locked bit clear: one locked operation; the byte -3 has every bit but Write",
        is_true: |table| {
            let mask = u64::from((-3_i8).cast_unsigned());
            mask == 0xff & !RW
                && Processor::ALL
                    .into_iter()
                    .all(|processor| table.row(LockedBitClear, processor).found.locked_operations == (1, 1))
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "it \"would inevitably become a horror of a cmpxchg loop when you need to move the dirty bit\"",
        verdict: Verdict::Confirmed,
        cells: "the ways that move Dirty in a present entry without losing one are loops; without one (read, clear, \
                store; Dirty moved): Dirty lost, yes. The horror is three locked operations at most",
        is_true: |table| {
            let in_loop = |technique| !matches!(technique, Technique::NonAtomicMoving);
            [Technique::NonAtomicMoving, Technique::FearedLoop, FearedLoopTwice, MergedLoop].into_iter().all(
                |technique| {
                    in_loop(technique) != anywhere(table, technique, Effect::DirtyLost)
                        && Processor::ALL
                            .into_iter()
                            .all(|processor| table.row(technique, processor).found.retries <= 2)
                },
            )
        },
    },
    Sentence {
        source: Source::LinusTorvalds2023,
        said: "... \"on CPU's where the dirty bit can come in late\" (that the loop helps against a late Dirty)",
        verdict: Verdict::Refuted,
        cells: "cmpxchg loop, before shadow stacks: left behind, yes, as with the bit clear. The loop is needed where \
                Dirty never comes late, too",
        is_true: |table| !can(table, Technique::FearedLoop, BeforeShadowStacks, Effect::LeftBehind),
    },
    Sentence {
        source: Source::Patch2022,
        said: "(e): a processor observed Write=1, set Dirty=1, \"but then observed a Write=0 PTE\"; \"possible today\", not \
               \"on processors that support shadow stack\"",
        verdict: Verdict::Confirmed,
        cells: "locked bit clear and each loop: by the processor, yes before shadow stacks and no with them",
        is_true: |table| {
            [LockedBitClear, Technique::FearedLoop, MergedLoop].into_iter().all(|technique| {
                can(table, technique, BeforeShadowStacks, Effect::CreatedByProcessor)
                    && !can(table, technique, WithShadowStacks, Effect::CreatedByProcessor)
            })
        },
    },
    Sentence {
        source: Source::DaveHansen2022,
        said: "\"Dirty=1 is normally set _before_ a write\"",
        verdict: Verdict::Confirmed,
        cells: "every way, both processors: no schedule has a store before its Dirty",
        is_true: |table| {
            Technique::ALL.into_iter().all(|technique| !anywhere(table, technique, Effect::StoreBeforeDirty))
        },
    },
    Sentence {
        source: Source::DaveHansen2022,
        said: "hardware can \"both set Write=1 *and* generate the fault, resulting in a Dirty=0,Write=1 PTE\"",
        verdict: Verdict::Refuted,
        cells: "every way, both processors: no schedule ends with Write=1. With the two names exchanged (Dirty=1, \
                Write=0) it is the SDM's sentence",
        is_true: |table| Technique::ALL.into_iter().any(|technique| anywhere(table, technique, Effect::ProtectionLost)),
    },
    Sentence {
        source: Source::DaveHansen2022,
        said: "with the names exchanged: sets Dirty=1 and faults; \"hardware which supports shadow stacks will no longer\"",
        verdict: Verdict::Confirmed,
        cells: "before shadow stacks: a schedule in which the processor sets Dirty in a Write=0 entry and faults; with \
                them: none",
        is_true: |table| {
            can(table, LockedBitClear, BeforeShadowStacks, Effect::DirtyWithFault)
                && Technique::ALL
                    .into_iter()
                    .all(|technique| !can(table, technique, WithShadowStacks, Effect::DirtyWithFault))
        },
    },
];

/// The sentences as a Markdown table.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from("| said by | said | verdict | because |\n| --- | --- | --- | --- |\n");
    for Sentence { source, said, verdict, cells, .. } in SENTENCES {
        let _ = writeln!(text, "| {source} | {said} | **{verdict}** | {cells} |");
    }
    text
}
