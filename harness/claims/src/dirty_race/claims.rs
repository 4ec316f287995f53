//! The claims of this system.

use std::sync::OnceLock;

use crate::claim::{Cases, Check, Claim, Effort, Refuted, Seed, System};

use super::explore::{Effect, ForkSide};
use super::kernel::Technique;
use super::processor::Processor;
use super::sentences::{SENTENCES, Verdict};
use super::table::{Table, lines};

/// The claims of this system.
pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        name: "race.common-sequence",
        system: System::DirtyRace,
        seed: Seed::DirtyRace2023,
        question: "Can ptep_set_wrprotect() be one sequence that works for every CPU and penalizes none?",
        answer: "Yes. The try_cmpxchg loop that was merged in 6.6 loses no Dirty, makes no Write=0,Dirty=1 entry and no \
                 extra fault on either kind of CPU. Where nothing comes between it costs one locked operation, as the \
                 bit clear did, and two more at most where Accessed and Dirty are set meanwhile. What an older CPU adds \
                 late stays in Dirty, and is not lost.",
        check: Check::Model(merged_loop_works_for_everybody),
    },
    Claim {
        name: "race.late-dirty",
        system: System::DirtyRace,
        seed: Seed::DirtyRace2023,
        question: "Can a CPU set Dirty after Write was cleared, and is that gone on CPUs with shadow stacks?",
        answer: "Before shadow stacks it can, whichever way the kernel clears Write in a present entry, the cmpxchg loop \
                 included. With shadow stacks no schedule of any way has it.",
        check: Check::Model(late_dirty_is_gone_with_shadow_stacks),
    },
    Claim {
        name: "race.dance",
        system: System::DirtyRace,
        seed: Seed::DirtyRace2023,
        question: "Must the entry be not present until the TLB is flushed to keep older CPUs from Write=0,Dirty=1, and \
                   does fork suffer from that?",
        answer: "Yes to both. It is the one way of nine in which no such entry ever appears on an older CPU, and it costs \
                 a flush for each entry and faults on loads that were permitted. A window that is closed before the \
                 flush, as mprotect has it, does not help. A second pass behind the flush lets one appear for a moment \
                 and removes it.",
        check: Check::Model(only_the_dance_keeps_older_processors_out),
    },
    Claim {
        name: "race.bit-clear",
        system: System::DirtyRace,
        seed: Seed::DirtyRace2023,
        question: "Does one locked bit clear guarantee that no Dirty is lost?",
        answer: "Yes, on both kinds of CPU, and a read, a change and a store do not: a Dirty that comes between is stored \
                 over. But the bit clear cannot move Dirty, so it makes Write=0,Dirty=1 itself.",
        check: Check::Model(bit_clear_loses_nothing),
    },
    Claim {
        name: "race.destination",
        system: System::DirtyRace,
        seed: Seed::DirtyRace2023,
        question: "Does the destination of a fork need anything atomic?",
        answer: "No. Nobody walks it yet, so a plain pte_wrprotect and a store lose nothing in any way of write-protecting \
                 the source. A Dirty that comes after the source was read stands in the source alone, whose page it is.",
        check: Check::Model(destination_needs_nothing_atomic),
    },
    Claim {
        name: "race.sentences",
        system: System::DirtyRace,
        seed: Seed::DirtyRace2023,
        question: "Which of the sentences that the two mails state as facts are so?",
        answer: "Each is a row of docs/dirty-race.md with its verdict and the cells of the race table behind it; the \
                 verdicts are computed from all interleavings.",
        check: Check::Model(sentences_have_their_verdicts),
    },
    Claim {
        name: "race.two-processors",
        system: System::DirtyRace,
        seed: Seed::DirtyRace2023,
        question: "While one CPU writes, does fork, mprotect, userfaultfd or clear_refs on another ever make a \
                   Write=0,Dirty=1 entry, or lose a write or a Dirty?",
        answer: "Not on 6.12 and 7.2: no such entry outside a shadow stack, every write is in the page, and every \
                 written page is dirty, and soft-dirty where it was written after the bits were cleared. 6.1 makes such \
                 entries by design, and loses nothing either.",
        check: Check::Live,
    },
    Claim {
        name: "race.planted-module",
        system: System::DirtyRace,
        seed: Seed::DirtyRace2023,
        question: "Would the live check notice a kernel that write-protects without atomicity?",
        answer: "Yes: a planted module that reads an entry, clears Write and stores it is caught, for the \
                 Write=0,Dirty=1 that it leaves and for the Dirty that it loses.",
        check: Check::Live,
    },
];

/// The table with so many processors beside the kernel. Six claims ask for it.
fn table(processors: u8) -> &'static Table {
    static WITH_ONE: OnceLock<Table> = OnceLock::new();
    static WITH_TWO: OnceLock<Table> = OnceLock::new();
    let table = if processors == 1 { &WITH_ONE } else { &WITH_TWO };
    table.get_or_init(|| Table::of(processors, None))
}

fn over(effort: Effort, check: fn(&Table) -> Result<(), Refuted>) -> Result<Cases, Refuted> {
    let most = if effort == Effort::Full { 2 } else { 1 };
    let mut count = 0;
    for processors in 1..=most {
        check(table(processors))?;
        count += table(processors).schedules();
    }
    Ok(Cases { count, unit: "interleavings" })
}

/// Whether an effect is what it should be; the counter-example is the shortest schedule that has it.
pub(super) fn expect(
    table: &Table,
    technique: Technique,
    processor: Processor,
    side: ForkSide,
    effect: Effect,
    expected: bool,
) -> Result<(), Refuted> {
    let schedule = table.row(technique, processor).found.effects.get(&(side, effect));
    if schedule.is_some() == expected {
        return Ok(());
    }
    let mut what = format!("{technique}, {side:?}, {processor}: {effect:?} should be {expected}");
    for line in schedule.into_iter().flat_map(|events| lines(events)) {
        what.push('\n');
        what.push_str(&line);
    }
    Err(Refuted { what })
}

fn require(is_so: bool, what: impl FnOnce() -> String) -> Result<(), Refuted> {
    if is_so { Ok(()) } else { Err(Refuted { what: what() }) }
}

fn merged_loop_works_for_everybody(effort: Effort) -> Result<Cases, Refuted> {
    over(effort, common_sequence)
}

/// The merged loop, on both processors.
pub(super) fn common_sequence(table: &Table) -> Result<(), Refuted> {
    use Effect::{CreatedByKernel, DirtyLost, Endless, ExtraFault, LostWrite, ProtectionLost, StoreBeforeDirty};
    for processor in Processor::ALL {
        for effect in [Endless, DirtyLost, CreatedByKernel, ExtraFault, LostWrite, ProtectionLost, StoreBeforeDirty] {
            expect(table, Technique::MergedLoop, processor, ForkSide::Source, effect, false)?;
        }
        let found = &table.row(Technique::MergedLoop, processor).found;
        require(found.locked_operations == (1, 3) && found.retries == 2, || {
            format!("{processor}: {:?} locked operations, {} retries", found.locked_operations, found.retries)
        })?;
    }
    let with = Processor::WithShadowStacks;
    expect(table, Technique::MergedLoop, with, ForkSide::Source, Effect::LeftBehind, false)
}

fn late_dirty_is_gone_with_shadow_stacks(effort: Effort) -> Result<Cases, Refuted> {
    over(effort, late_dirty)
}

/// Who sets Dirty behind the kernel's back.
pub(super) fn late_dirty(table: &Table) -> Result<(), Refuted> {
    for technique in Technique::ALL {
        for processor in Processor::ALL {
            let is_late = processor == Processor::BeforeShadowStacks && technique != Technique::NotPresentUntilFlushed;
            expect(table, technique, processor, ForkSide::Source, Effect::CreatedByProcessor, is_late)?;
            expect(table, technique, processor, ForkSide::Source, Effect::DirtyWithFault, is_late)?;
        }
    }
    Ok(())
}

fn only_the_dance_keeps_older_processors_out(effort: Effort) -> Result<Cases, Refuted> {
    over(effort, dance)
}

/// The ways with a window.
pub(super) fn dance(table: &Table) -> Result<(), Refuted> {
    let before = Processor::BeforeShadowStacks;
    for technique in Technique::ALL {
        let stays = !matches!(technique, Technique::NotPresentUntilFlushed | Technique::FearedLoopTwice);
        expect(table, technique, before, ForkSide::Source, Effect::LeftBehind, stays)?;
        for processor in Processor::ALL {
            let has_window = matches!(technique, Technique::NotPresentUntilFlushed | Technique::NotPresentFlushedLater);
            expect(table, technique, processor, ForkSide::Source, Effect::ExtraFault, has_window)?;
            if has_window {
                expect(table, technique, processor, ForkSide::Source, Effect::DirtyLost, false)?;
            }
            expect(table, technique, processor, ForkSide::Source, Effect::LostWrite, false)?;
        }
    }
    require(Technique::NotPresentUntilFlushed.flushes_within(), || "no flush for each entry".to_owned())
}

fn bit_clear_loses_nothing(effort: Effort) -> Result<Cases, Refuted> {
    over(effort, bit_clear)
}

/// The locked bit clear against the plain read and store.
pub(super) fn bit_clear(table: &Table) -> Result<(), Refuted> {
    for processor in Processor::ALL {
        for technique in [Technique::NonAtomicInPlace, Technique::NonAtomicMoving] {
            expect(table, technique, processor, ForkSide::Source, Effect::DirtyLost, true)?;
        }
        expect(table, Technique::LockedBitClear, processor, ForkSide::Source, Effect::DirtyLost, false)?;
        expect(table, Technique::LockedBitClear, processor, ForkSide::Source, Effect::ProtectionLost, false)?;
        expect(table, Technique::LockedBitClear, processor, ForkSide::Source, Effect::CreatedByKernel, true)?;
    }
    Ok(())
}

fn destination_needs_nothing_atomic(effort: Effort) -> Result<Cases, Refuted> {
    over(effort, destination)
}

/// The destination, whatever is done to the source.
pub(super) fn destination(table: &Table) -> Result<(), Refuted> {
    let side = ForkSide::Destination;
    for technique in Technique::ALL {
        for processor in Processor::ALL {
            expect(table, technique, processor, side, Effect::DirtyLost, false)?;
            expect(table, technique, processor, side, Effect::ProtectionLost, false)?;
            let keeps_in_place = matches!(technique, Technique::NonAtomicInPlace | Technique::LockedBitClear)
                || technique == Technique::LoopBehindFeatureTest && processor == Processor::BeforeShadowStacks;
            expect(table, technique, processor, side, Effect::CreatedByKernel, keeps_in_place)?;
            // A plain read and store may drop the Dirty of the source, too; all else keeps it there.
            expect(table, technique, processor, side, Effect::DirtyInSourceAlone, true)?;
        }
    }
    Ok(())
}

fn sentences_have_their_verdicts(effort: Effort) -> Result<Cases, Refuted> {
    over(effort, sentences)
}

/// Each sentence's verdict, computed again.
pub(super) fn sentences(table: &Table) -> Result<(), Refuted> {
    for sentence in SENTENCES {
        let is_so = (sentence.is_true)(table);
        require(is_so == (sentence.verdict == Verdict::Confirmed), || {
            format!("{}: {} is {is_so}, not {}", sentence.source, sentence.said, sentence.verdict)
        })?;
    }
    Ok(())
}
