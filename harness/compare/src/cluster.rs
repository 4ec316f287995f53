//! Clusters: programs that diverge in the same way. One defect shows in many programs; it is shrunk, stored and
//! reported once, with a count.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use ptediff_reference_model::entry::{D, Entry, EntryKind, SAVED_DIRTY};
use ptediff_reference_model::expectation::{EntryExpectation, ExpectedFrame, TransitionExpectation};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::VM_FLAGS_COMPARED;
use ptediff_reference_model::observation::{FrameName, ObservedEntry, Transition};
use ptediff_reference_model::outcome::{Outcome, errno_name};
use ptediff_reference_model::program::{OPERATION_NAMES, Program};
use ptediff_reference_model::verdict::{Difference, Divergence, Explanation};

use crate::judge::is_rule_of_the_step;

/// What the programs of one cluster have in common. Two programs with the same key show the same defect, as far as can
/// be told without looking into the kernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterKey {
    /// Identifier of the rule of the step that made the expectation, where one can be named.
    pub rule: Option<String>,
    /// The operation, by its name, where it should not have changed the entry at all: whichever rule left the entry so,
    /// it is the operation that is at fault.
    pub stray: Option<String>,
    /// What differs.
    pub kind: DifferenceKind,
    /// The fields and bits in which it differs: names of bits, or what was got in place of what.
    pub differing: BTreeSet<String>,
    /// What explains the difference. The same difference with two explanations is two clusters; of defects that are known
    /// there is one cluster, however they show.
    pub explanation: Explanation,
}

/// What differs, without the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DifferenceKind {
    /// What the actor got back.
    Result,
    /// An entry after the step.
    Entry,
    /// A change of an entry inside the step.
    Event,
    /// A change that did not happen.
    MissingEvent,
    /// A change that nobody expects.
    ExtraEvent,
    /// Which actors are alive.
    Alive,
    /// `/proc/pid/pagemap`.
    Pagemap,
    /// Whatever a change of the table makes of it: one defect shows in many ways.
    Explained,
}

impl DifferenceKind {
    /// Its name in reports and file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Entry => "entry",
            Self::Event => "event",
            Self::MissingEvent => "missing-event",
            Self::ExtraEvent => "extra-event",
            Self::Alive => "alive",
            Self::Pagemap => "pagemap",
            Self::Explained => "explained",
        }
    }
}

impl ClusterKey {
    /// The key of a divergence of this program.
    #[must_use]
    pub fn of(machine: &Machine, program: &Program, divergence: &Divergence) -> Self {
        if divergence.explanation != Explanation::Unexplained {
            let differing = divergence.explanation.changes().iter().map(ToString::to_string).collect();
            let explanation = divergence.explanation.clone();
            return Self { rule: None, stray: None, kind: DifferenceKind::Explained, differing, explanation };
        }
        let mut differing = BTreeSet::new();
        let kind = match &divergence.difference {
            Difference::Outcome { expected, seen } => {
                differing.insert(outcomes(expected, seen));
                DifferenceKind::Result
            }
            Difference::Entry { expected, seen, .. } => {
                differing.extend(entry(expected, seen));
                DifferenceKind::Entry
            }
            Difference::Transition { expected: Some(expected), seen: Some(seen), .. } => {
                differing.extend(event(expected, seen));
                DifferenceKind::Event
            }
            Difference::Transition { expected: Some(expected), seen: None, .. } => {
                differing.insert(format!("{:?}", expected.cause));
                DifferenceKind::MissingEvent
            }
            Difference::Transition { seen, .. } => {
                differing.extend(seen.map(|seen| format!("{:?}", seen.cause)));
                DifferenceKind::ExtraEvent
            }
            Difference::Alive { expected, seen } => {
                differing.insert(if seen & !expected != 0 { "survives" } else { "dies" }.to_owned());
                DifferenceKind::Alive
            }
            Difference::Pagemap { expected, seen, .. } => {
                differing.extend((0..64).filter(|bit| (expected ^ seen) >> bit & 1 != 0).map(|bit| bit.to_string()));
                DifferenceKind::Pagemap
            }
        };
        let is_about_an_entry = !matches!(kind, DifferenceKind::Result | DifferenceKind::Alive);
        let stray = match program.steps.get(divergence.step) {
            Some(step) if is_about_an_entry && !is_rule_of_the_step(machine, program, divergence) => {
                Some(OPERATION_NAMES[step.operation.kind()].to_owned())
            }
            _ => None,
        };
        let rule = divergence.rule.filter(|_| stray.is_none()).map(|rule| rule.info().identifier.to_owned());
        Self { rule, stray, kind, differing, explanation: divergence.explanation.clone() }
    }

    /// Whether a smaller program with this key may stand for one with the other: the same difference, in no other bits.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        (&self.rule, &self.stray, self.kind, &self.explanation)
            == (&other.rule, &other.stray, other.kind, &other.explanation)
            && !self.differing.is_empty()
            && self.differing.is_subset(&other.differing)
    }

    /// Its name: rule or straying operation, kind of difference, bits.
    #[must_use]
    pub fn text(&self) -> String {
        let rule = match (&self.stray, &self.rule) {
            (Some(operation), _) => format!("{operation} strays"),
            (None, Some(rule)) => rule.clone(),
            (None, None) => "no rule".to_owned(),
        };
        let differing: Vec<&str> = self.differing.iter().map(String::as_str).collect();
        if self.kind == DifferenceKind::Explained {
            return differing.join(", ");
        }
        format!("{rule}, {}: {}", self.kind.name(), differing.join(", "))
    }

    /// The same as part of a file's name: lower-case letters, digits and hyphens.
    #[must_use]
    pub fn file_name(&self) -> String {
        let mut name = String::new();
        for letter in self.text().chars().map(|letter| letter.to_ascii_lowercase()) {
            if letter.is_ascii_alphanumeric() {
                name.push(letter);
            } else if !name.ends_with('-') {
                name.push('-');
            }
        }
        name.truncate(MOST_LETTERS);
        name.trim_matches('-').to_owned()
    }
}

/// Letters of a file's name that a cluster's may take: a platform, a prefix and a number come to it.
const MOST_LETTERS: usize = 48;

/// What came in place of what, without addresses and values.
fn outcomes(expected: &Outcome, seen: &Outcome) -> String {
    if std::mem::discriminant(expected) == std::mem::discriminant(seen) {
        if let (Outcome::Faulted(expected), Outcome::Faulted(seen)) = (expected, seen) {
            let fields = [
                (expected.signal != seen.signal, "signal"),
                (expected.code != seen.code, "si_code"),
                (expected.address != seen.address, "si_addr"),
                (expected.error_code != seen.error_code, "error code"),
                (expected.key != seen.key, "si_pkey"),
            ];
            return fields.iter().filter(|(differs, _)| *differs).map(|(_, name)| *name).collect::<Vec<_>>().join(" ");
        }
        if !matches!(expected, Outcome::Failed(_) | Outcome::Killed(_)) {
            return format!("{} with another value", outcome(seen));
        }
    }
    format!("{} for {}", outcome(seen), outcome(expected))
}

fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Succeeded => "ok".to_owned(),
        Outcome::Elsewhere(_) => "elsewhere".to_owned(),
        Outcome::Failed(errno) if errno_name(*errno) == "errno" => format!("errno {errno}"),
        Outcome::Failed(errno) => errno_name(*errno).to_owned(),
        Outcome::Loaded(_) => "loaded".to_owned(),
        Outcome::Stored => "stored".to_owned(),
        Outcome::Executed => "executed".to_owned(),
        Outcome::Faulted(fault) => format!("signal {}", fault.signal),
        Outcome::Returned(_) => "returned".to_owned(),
        Outcome::Killed(signal) => format!("killed {signal}"),
        Outcome::Dead => "dead".to_owned(),
        Outcome::Waits(_) => "waits".to_owned(),
    }
}

/// The bits in which two entries differ; their kinds, where these differ; else it is the frame. A swap entry has no Dirty.
fn entry(expected: &EntryExpectation, seen: &ObservedEntry) -> Vec<String> {
    let (wanted, got) = (kind(expected.bits), kind(seen.bits));
    if wanted != got {
        return vec![format!("{got} for {wanted}")];
    }
    let bits = (expected.bits.0 ^ seen.bits.0) & !expected.unspecified;
    // Dirty is one of two bits, as Write has it: a loss of it is one defect, whichever bit it is lost from.
    match bits {
        0 => vec!["frame".to_owned()],
        _ if got != "swap"
            && (bits & (D | SAVED_DIRTY)).count_ones() == 1
            && expected.bits.is_dirty() != seen.bits.is_dirty() =>
        {
            let mut names = seen.bits.flag_names(bits & !(D | SAVED_DIRTY));
            names.push("dirty".to_owned());
            names
        }
        _ => seen.bits.flag_names(bits),
    }
}

fn kind(entry: Entry) -> &'static str {
    match entry.kind() {
        EntryKind::None => "none",
        EntryKind::Present => "present",
        EntryKind::ProtNone => "PROT_NONE",
        EntryKind::NonPresent if entry.is_swapped() => "swap",
        EntryKind::NonPresent if entry.marker().is_some() => "marker",
        EntryKind::NonPresent => "non-present",
    }
}

/// The fields in which two events differ. Where they are not about the same thing, that alone.
fn event(expected: &TransitionExpectation, seen: &Transition) -> Vec<String> {
    if expected.cause != seen.cause {
        return vec![format!("{:?} for {:?}", seen.cause, expected.cause)];
    }
    if (expected.actor, expected.page) != (seen.actor, seen.page) {
        return vec!["another page".to_owned()];
    }
    let mut differing = Vec::new();
    for (place, expected, seen) in [("before", &expected.before, &seen.before), ("after", &expected.after, &seen.after)]
    {
        let other_frame = match expected.frame {
            ExpectedFrame::None => seen.frame != FrameName::NONE,
            ExpectedFrame::Zero => seen.frame != FrameName::ZERO,
            ExpectedFrame::Frame(_) => seen.frame == FrameName::NONE || seen.frame == FrameName::ZERO,
        };
        if (expected.bits.0 ^ seen.bits.0) & !expected.unspecified != 0 || other_frame {
            differing.extend(entry(expected, seen).into_iter().map(|bit| format!("{place} {bit}")));
        }
    }
    let flags = expected.vm_flags ^ (seen.vm_flags & VM_FLAGS_COMPARED);
    if flags != 0 {
        differing.push(format!("vm_flags {flags:#x}"));
    }
    let fields = [
        (expected.write != seen.write, "write"),
        (expected.mapcount != seen.mapcount, "mapcount"),
        (expected.anon_exclusive != seen.anon_exclusive, "exclusive"),
    ];
    differing.extend(fields.iter().filter(|(differs, _)| *differs).map(|(_, name)| (*name).to_owned()));
    if differing.is_empty() {
        differing.push("frame".to_owned());
    }
    differing
}

/// Divergences that share a key, or whose smallest programs do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Every key that a program of the cluster has or was shrunk to; the first is that of the first program.
    pub keys: Vec<ClusterKey>,
    /// The programs, by their places in what was clustered.
    pub members: Vec<usize>,
}

/// Sorts programs into clusters, by each one's own key and, where it was shrunk, the key of its smallest form. Clusters
/// and their members are in the order of the programs.
#[must_use]
pub fn clusters(programs: impl IntoIterator<Item = (ClusterKey, Option<ClusterKey>)>) -> Vec<Cluster> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for (member, (own, smallest)) in programs.into_iter().enumerate() {
        let mut merged = Cluster { keys: vec![own], members: vec![member] };
        if let Some(smallest) = smallest.filter(|key| *key != merged.keys[0]) {
            merged.keys.push(smallest);
        }
        // A program can join what was apart. The earliest place stays.
        let mut place = clusters.len();
        for index in (0..clusters.len()).rev() {
            if clusters[index].keys.iter().any(|key| merged.keys.contains(key)) {
                let mut earlier = clusters.remove(index);
                merged.keys.retain(|key| !earlier.keys.contains(key));
                earlier.keys.append(&mut merged.keys);
                earlier.members.append(&mut merged.members);
                merged = earlier;
                place = index;
            }
        }
        merged.members.sort_unstable();
        clusters.insert(place.min(clusters.len()), merged);
    }
    clusters
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
    use ptediff_reference_model::entry::{RW, SOFT_DIRTY, SWP_SOFT_DIRTY};
    use ptediff_reference_model::kernel::{Change, KernelVersion};
    use ptediff_reference_model::outcome::Fault;
    use ptediff_reference_model::program::{Operation, Placement, Protection, Step};
    use ptediff_reference_model::rule::Rule;

    use super::*;

    fn machine() -> Machine {
        Machine::imagined(KernelVersion::new(6, 12, 95), true, true)
    }

    /// A page is mapped, stored to and locked.
    fn program() -> Program {
        let (protection, placement) = (Protection::READ_WRITE, Placement::Fixed);
        let range = PageRange::FIRST_PAGE;
        let operations = [
            Operation::Mmap { range, protection, placement },
            Operation::Write { page: PageIndex::FIRST },
            Operation::Mlock { range },
        ];
        Program { steps: operations.map(|operation| Step { actor: ActorId::FIRST, operation }).to_vec() }
    }

    const WRITTEN: u64 = 0x8000_0000_0000_0867;
    const SWAPPED: u64 = 0x07ff_ffff_fffb_fe00;

    fn entries(expected: u64, seen: u64) -> ClusterKey {
        entries_at(1, expected, seen)
    }

    fn entries_at(step: usize, expected: u64, seen: u64) -> ClusterKey {
        let expected =
            EntryExpectation { bits: Entry(expected), unspecified: 0, reason: None, frame: ExpectedFrame::Frame(3) };
        let seen = ObservedEntry { bits: Entry(seen), frame: FrameName(9) };
        let difference = Difference::Entry { actor: ActorId::FIRST, page: PageIndex::FIRST, expected, seen };
        let (explanation, met) = (Explanation::Unexplained, Vec::new());
        let divergence = Divergence { step, difference, rule: Some(Rule::NewPage), explanation, met };
        ClusterKey::of(&machine(), &program(), &divergence)
    }

    fn results(expected: Outcome, seen: Outcome) -> String {
        let difference = Difference::Outcome { expected, seen };
        let (explanation, met) = (Explanation::Unexplained, Vec::new());
        let divergence = Divergence { step: 0, difference, rule: None, explanation, met };
        ClusterKey::of(&machine(), &program(), &divergence).text()
    }

    #[test]
    fn a_key_names_what_differs_and_no_more() {
        let check = |expected, seen, text: &str| assert!(entries(expected, seen).text().ends_with(text), "{text}");
        check(WRITTEN, WRITTEN & !SOFT_DIRTY, ", entry: SOFT_DIRTY");
        check(WRITTEN, WRITTEN & !(SOFT_DIRTY | D | RW), ", entry: RW, SOFT_DIRTY, dirty");
        check(WRITTEN & !(D | RW) | SAVED_DIRTY, WRITTEN & !(D | RW), ", entry: dirty");
        check(WRITTEN & !(D | RW) | SAVED_DIRTY, WRITTEN & !RW, ", entry: D, SAVED_DIRTY");
        check(WRITTEN, WRITTEN | 5 << 59, ", entry: protection key");
        check(WRITTEN, WRITTEN, ", entry: frame");
        check(WRITTEN, 0, ", entry: none for present");
        check(SWAPPED | SWP_SOFT_DIRTY, SWAPPED, ", entry: SOFT_DIRTY");
        check(0xffff_ffff_ffff_fc00, SWAPPED, ", entry: swap for marker");
        assert_eq!(results(Outcome::Failed(22), Outcome::Succeeded), "no rule, result: ok for EINVAL");
        assert_eq!(results(Outcome::Failed(22), Outcome::Failed(12)), "no rule, result: ENOMEM for EINVAL");
        assert_eq!(results(Outcome::Loaded(1), Outcome::Loaded(2)), "no rule, result: loaded with another value");
        let fault = |error_code| Outcome::Faulted(Fault { signal: 11, code: 2, address: 4096, error_code, key: 0 });
        assert_eq!(results(fault(7), fault(5)), "no rule, result: error code");
    }

    #[test]
    fn an_operation_that_changes_what_should_stay_is_one_cluster_whatever_was_there() {
        let check = |step, text| assert_eq!(entries_at(step, WRITTEN, WRITTEN & !SOFT_DIRTY).text(), text);
        check(1, "anon.new-page, entry: SOFT_DIRTY");
        check(2, "mlock strays, entry: SOFT_DIRTY");
    }

    #[test]
    fn names_of_files_are_lower_case_letters_digits_and_hyphens() {
        let key = entries(WRITTEN, WRITTEN & !(SOFT_DIRTY | D));
        let name = key.file_name();
        assert!(name.ends_with("-entry-soft-dirty-dirty"), "{name}");
        let long = ClusterKey { differing: (0..30).map(|bit| format!("bit {bit}")).collect(), ..key };
        assert!(long.file_name().len() <= MOST_LETTERS && !long.file_name().ends_with('-'));
    }

    #[test]
    fn a_smaller_program_may_differ_in_fewer_bits_and_in_no_other() {
        let both = entries(WRITTEN, WRITTEN & !(SOFT_DIRTY | D));
        let one = entries(WRITTEN, WRITTEN & !SOFT_DIRTY);
        let other = entries(WRITTEN, WRITTEN & !RW);
        assert!(one.is_within(&both) && both.is_within(&both));
        assert!(!both.is_within(&one) && !other.is_within(&both));
        let explained =
            ClusterKey { explanation: Explanation::KnownDefects(vec![Change::MremapKeepsUffdWp]), ..one.clone() };
        assert!(!explained.is_within(&both));
    }

    #[test]
    fn programs_cluster_by_their_own_keys_and_by_those_that_they_were_shrunk_to() {
        let both = entries(WRITTEN, WRITTEN & !(SOFT_DIRTY | D));
        let one = entries(WRITTEN, WRITTEN & !SOFT_DIRTY);
        let other = entries(WRITTEN, WRITTEN & !RW);
        let members = |programs: Vec<(&ClusterKey, Option<&ClusterKey>)>| {
            let programs = programs.into_iter().map(|(own, smallest)| (own.clone(), smallest.cloned()));
            clusters(programs).into_iter().map(|cluster| cluster.members).collect::<Vec<_>>()
        };
        assert_eq!(members(vec![(&one, None), (&other, None), (&one, None)]), [vec![0, 2], vec![1]]);
        assert_eq!(members(vec![(&both, None), (&one, None)]), [vec![0], vec![1]]);
        assert_eq!(members(vec![(&both, Some(&one)), (&other, None), (&one, None)]), [vec![0, 2], vec![1]]);
        // The third program shows that the first two are one.
        assert_eq!(members(vec![(&both, None), (&one, None), (&both, Some(&one))]), [vec![0, 1, 2]]);
    }
}
