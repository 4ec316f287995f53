//! Two kernels against each other: where the records of one program part, whatever any model says.

use std::collections::BTreeSet;

use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::observation::{EntryChange, StepRecord, Transition};
use ptediff_reference_model::program::{OPERATION_NAMES, Program};
use serde::Serialize;

/// The first step at which two kernels part, and how. Two programs with the same difference but for the step are one
/// cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PairDifference {
    /// The operation of the step.
    pub operation: &'static str,
    /// What differs first: `result`, `event`, `entry` or `alive`.
    pub kind: &'static str,
    /// The fields and bits in which it differs.
    pub differing: BTreeSet<String>,
}

impl PairDifference {
    /// It in a line.
    #[must_use]
    pub fn text(&self) -> String {
        let differing: Vec<&str> = self.differing.iter().map(String::as_str).collect();
        format!("{}, {}: {}", self.operation, self.kind, differing.join(", "))
    }
}

/// The first difference, with its step; none where everything that both recorded is the same.
#[must_use]
pub fn first_difference(program: &Program, base: &[StepRecord], new: &[StepRecord]) -> Option<(usize, PairDifference)> {
    base.iter().zip(new).enumerate().find_map(|(index, (base, new))| {
        let (kind, differing) = of_step(base, new)?;
        let operation = OPERATION_NAMES[program.steps[index].operation.kind()];
        Some((index, PairDifference { operation, kind, differing }))
    })
}

fn of_step(base: &StepRecord, new: &StepRecord) -> Option<(&'static str, BTreeSet<String>)> {
    if base.outcome != new.outcome {
        return Some(("result", BTreeSet::from([format!("{} for {}", word(&new.outcome), word(&base.outcome))])));
    }
    if base.alive != new.alive {
        return Some(("alive", BTreeSet::from([format!("{:#b} for {:#b}", new.alive, base.alive)])));
    }
    if base.transitions != new.transitions {
        return Some(("event", events(&base.transitions, &new.transitions)));
    }
    (base.changes != new.changes).then(|| ("entry", entries(&base.changes, &new.changes)))
}

/// A result without its values.
fn word(outcome: &ptediff_reference_model::outcome::Outcome) -> String {
    use ptediff_reference_model::outcome::Outcome;
    match outcome {
        Outcome::Loaded(_) => "loaded".to_owned(),
        Outcome::Returned(_) => "returned".to_owned(),
        Outcome::Faulted(fault) => format!("signal {} (error code {:#x})", fault.signal, fault.error_code),
        other => other.to_string(),
    }
}

fn events(base: &[Transition], new: &[Transition]) -> BTreeSet<String> {
    let parted = base.iter().zip(new).find(|(base, new)| base != new);
    let Some((base, new)) = parted else {
        let (more, one) = if base.len() < new.len() { ("more", &new[base.len()]) } else { ("fewer", &base[new.len()]) };
        return BTreeSet::from([format!("{more}: {:?}", one.cause)]);
    };
    let mut differing = BTreeSet::new();
    if (base.cause, base.actor, base.page) != (new.cause, new.actor, new.page) {
        differing.insert("another event".to_owned());
        return differing;
    }
    for (place, base, new) in [("before", base.before, new.before), ("after", base.after, new.after)] {
        differing.extend(bits(base.bits, new.bits).into_iter().map(|bit| format!("{place} {bit}")));
        if base.frame != new.frame {
            differing.insert(format!("{place} frame"));
        }
    }
    let fields = [
        (base.vm_flags != new.vm_flags, format!("vm_flags {:#x}", base.vm_flags ^ new.vm_flags)),
        (base.write != new.write, "write".to_owned()),
        (base.mapcount != new.mapcount, "mapcount".to_owned()),
        (base.anon_exclusive != new.anon_exclusive, "exclusive".to_owned()),
    ];
    differing.extend(fields.into_iter().filter(|(differs, _)| *differs).map(|(_, name)| name));
    differing
}

fn entries(base: &[EntryChange], new: &[EntryChange]) -> BTreeSet<String> {
    let place = |change: &EntryChange| (change.actor, change.page);
    let mut differing = BTreeSet::new();
    for change in base {
        match new.iter().find(|other| place(other) == place(change)) {
            Some(other) if other.entry == change.entry => {}
            Some(other) => {
                differing.extend(bits(change.entry.bits, other.entry.bits));
                if change.entry.frame != other.entry.frame {
                    differing.insert("frame".to_owned());
                }
            }
            None => {
                differing.insert("an entry stays".to_owned());
            }
        }
    }
    if new.iter().any(|change| base.iter().all(|other| place(other) != place(change))) {
        differing.insert("an entry changes".to_owned());
    }
    differing
}

fn bits(base: Entry, new: Entry) -> Vec<String> {
    if base.kind() == new.kind() {
        base.flag_names(base.0 ^ new.0)
    } else {
        vec![format!("{:?} for {:?}", new.kind(), base.kind())]
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
    use ptediff_reference_model::entry::SOFT_DIRTY;
    use ptediff_reference_model::kernel::KernelVersion;
    use ptediff_reference_model::machine::Machine;
    use ptediff_reference_model::outcome::Outcome;
    use ptediff_reference_model::program::{Operation, Placement, Protection, Step};

    use super::*;
    use crate::ideal_records;

    fn program() -> Program {
        let range = PageRange::FIRST_PAGE;
        let operations = [
            Operation::Mmap { range, protection: Protection::READ_WRITE, placement: Placement::Fixed },
            Operation::Write { page: PageIndex::FIRST },
            Operation::Mprotect { range, protection: Protection::READ },
        ];
        Program { steps: operations.map(|operation| Step { actor: ActorId::FIRST, operation }).to_vec() }
    }

    #[track_caller]
    fn check(tamper: fn(&mut Vec<StepRecord>), expected: Option<(usize, &str)>) {
        let base = ideal_records(&Machine::imagined(KernelVersion::LINUX_6_12, false, true), &program());
        let mut new = base.clone();
        tamper(&mut new);
        let found = first_difference(&program(), &base, &new);
        assert_eq!(found.map(|(step, difference)| (step, difference.text())), expected.map(|(s, t)| (s, t.to_owned())));
    }

    #[test]
    fn the_first_difference_is_named_without_its_values() {
        check(|_| {}, None);
        check(|new| new[1].outcome = Outcome::Failed(14), Some((1, "write, result: EFAULT (14) for stored")));
        check(|new| new[2].alive = 0, Some((2, "mprotect, alive: 0b0 for 0b1")));
        check(|new| new[1].changes[0].entry.bits.0 ^= SOFT_DIRTY, Some((1, "write, entry: SOFT_DIRTY")));
        check(|new| new[2].changes.clear(), Some((2, "mprotect, entry: an entry stays")));
        check(|new| new[2].transitions[0].after.bits.0 ^= SOFT_DIRTY, Some((2, "mprotect, event: after SOFT_DIRTY")));
        check(|new| new[2].transitions.clear(), Some((2, "mprotect, event: fewer: Protect")));
        // What one kernel alone recorded is not compared.
        check(|new| new.truncate(1), None);
    }
}
