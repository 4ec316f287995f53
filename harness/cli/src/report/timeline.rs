//! A program's timeline: each step with what came back, what changed, and what was seen inside it.

use std::fmt::Write;

use ptediff_reference_model::algebra::Place;
use ptediff_reference_model::arena::{ActorId, PageIndex};
use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::expectation::{EntryExpectation, ExpectedFrame, TransitionExpectation};
use ptediff_reference_model::kernel::Change;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::VM_FLAGS_COMPARED;
use ptediff_reference_model::observation::{Cause, FrameName, ObservedEntry, StepRecord, Transition};
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::{Difference, Divergence, Verdict};

/// The timeline of as many steps as were recorded. On kernels that keep Dirty out of read-only entries each entry
/// that an event leaves has its state by the letters of the `_PAGE_COW` patch; `None` names none.
#[must_use]
pub fn timeline(program: &Program, records: &[StepRecord], verdict: &Verdict, machine: Option<&Machine>) -> String {
    let has_states = machine.is_some_and(|machine| machine.kernel().has(Change::SavedDirty));
    let mut text = String::new();
    for (index, step) in program.steps.iter().enumerate() {
        let Some(record) = records.get(index) else {
            put(&mut text, format_args!("{index:3}  {step}\n       not reached\n"));
            continue;
        };
        put(&mut text, format_args!("{index:3}  {step}\n       -> {}\n", record.outcome));
        for transition in &record.transitions {
            let flags = transition.vm_flags & VM_FLAGS_COMPARED;
            let letters = Place::of_vma(transition.vm_flags).letters(transition.after.bits);
            let state = if has_states && !letters.is_empty() { format!(", state {letters}") } else { String::new() };
            put(&mut text, format_args!("       {}, vm_flags {flags:#x}{state}\n", seen_transition(transition)));
        }
        for change in &record.changes {
            put(
                &mut text,
                format_args!(
                    "       actor {} page {:2}: {}\n",
                    change.actor.index(),
                    change.page.index(),
                    seen_entry(&change.entry)
                ),
            );
        }
    }
    put(&mut text, format_args!("verdict: {}\n", verdict_line(verdict)));
    text
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
}

/// An entry that was seen.
#[must_use]
pub fn seen_entry(entry: &ObservedEntry) -> String {
    let frame = match entry.frame {
        FrameName::NONE => String::new(),
        FrameName::ZERO => ", zero page".to_owned(),
        FrameName(number) => format!(", frame {number}"),
    };
    format!("{:#018x} [{}]{frame}", entry.bits.0, entry.bits)
}

fn expected_entry(entry: &EntryExpectation) -> String {
    let frame = match entry.frame {
        ExpectedFrame::None => String::new(),
        ExpectedFrame::Zero => ", zero page".to_owned(),
        ExpectedFrame::Frame(number) => format!(", the model's frame {number}"),
    };
    let open = if entry.unspecified == 0 { String::new() } else { format!(", open: {:#x}", entry.unspecified) };
    format!("{:#018x} [{}]{frame}{open}", entry.bits.0, entry.bits)
}

fn cause_name(cause: Cause) -> &'static str {
    match cause {
        Cause::Fault => "fault",
        Cause::ForkParent => "fork, parent",
        Cause::ForkChild => "fork, child",
        Cause::Protect => "mprotect",
        Cause::ClearRefs => "clear_refs",
    }
}

fn seen_transition(transition: &Transition) -> String {
    transition_text(
        (transition.cause, transition.write),
        (transition.actor, transition.page),
        (transition.before.bits, transition.after.bits),
        (transition.mapcount, transition.anon_exclusive),
    )
}

fn expected_transition(transition: &TransitionExpectation) -> String {
    let text = transition_text(
        (transition.cause, transition.write),
        (transition.actor, transition.page),
        (transition.before.bits, transition.after.bits),
        (transition.mapcount, transition.anon_exclusive),
    );
    format!("{text}, vm_flags {:#x}", transition.vm_flags)
}

fn transition_text(
    (cause, write): (Cause, bool),
    (actor, page): (ActorId, PageIndex),
    (before, after): (Entry, Entry),
    (mapcount, exclusive): (u16, bool),
) -> String {
    format!(
        "{}{}: actor {} page {}: {before} => {after} (mapcount {mapcount}{})",
        cause_name(cause),
        if write { " for write" } else { "" },
        actor.index(),
        page.index(),
        if exclusive { ", exclusive" } else { "" },
    )
}

/// The verdict in a line.
#[must_use]
pub fn verdict_line(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Agree => "agree".to_owned(),
        Verdict::Diverge(divergence) if divergence.explanation.is_known() => {
            let defects: Vec<String> = divergence.explanation.changes().iter().map(ToString::to_string).collect();
            format!("known defect from step {} on: {}", divergence.step, defects.join(", "))
        }
        Verdict::Diverge(divergence) => format!("diverges at step {}", divergence.step),
        Verdict::Inconclusive(why) => format!("inconclusive: {}", crate::host::results::reason(why)),
    }
}

/// A divergence decoded, expected and seen side by side.
#[must_use]
pub fn difference_lines(divergence: &Divergence) -> Vec<String> {
    let mut lines = Vec::new();
    let nothing = || "nothing".to_owned();
    match &divergence.difference {
        Difference::Outcome { expected, seen } => {
            lines.push("what the actor got back differs".to_owned());
            lines.push(format!("expected {expected}"));
            lines.push(format!("seen     {seen}"));
        }
        Difference::Entry { actor, page, expected, seen } => {
            lines.push(format!("the entry of actor {} page {} differs", actor.index(), page.index()));
            lines.push(format!("expected {}", expected_entry(expected)));
            lines.push(format!("seen     {}", seen_entry(seen)));
            let bits = (expected.bits.0 ^ seen.bits.0) & !expected.unspecified;
            if bits == 0 {
                lines.push("the bits agree: it is another frame than it must be".to_owned());
            } else {
                lines.push(format!("bits that differ: {bits:#018x}"));
            }
        }
        Difference::Transition { index, expected, seen } => {
            lines.push(format!("transition {index} inside the step differs"));
            lines.push(format!("expected {}", expected.as_ref().map_or_else(nothing, expected_transition)));
            lines.push(format!(
                "seen     {}",
                seen.as_ref().map_or_else(nothing, |seen| format!(
                    "{}, vm_flags {:#x}",
                    seen_transition(seen),
                    seen.vm_flags & VM_FLAGS_COMPARED
                ))
            ));
        }
        Difference::Alive { expected, seen } => {
            lines.push(format!("living actors differ: expected {expected:#06b}, seen {seen:#06b}"));
        }
        Difference::Pagemap { actor, page, expected, seen } => {
            lines.push(format!(
                "pagemap of actor {} page {} differs: expected {expected:#x}, seen {seen:#x} (bit 63 present, 56 exclusive, 55 soft-dirty)",
                actor.index(),
                page.index()
            ));
        }
    }
    if let Some(rule) = divergence.rule {
        let info = rule.info();
        lines.push(format!("rule {}: {}", info.identifier, info.statement));
        lines.push(format!("source: {}", info.source));
    }
    lines
}
