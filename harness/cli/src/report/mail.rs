//! A divergence as plain text that can be mailed: no line is wider than [`WIDTH`].
//!
//! What it says of blame it says with the evidence, and no more than the evidence allows.

use ptediff_compare::is_rule_of_the_step;
use ptediff_reference_model::entry::{A, D, Entry, EntryKind, PKEY, SOFT_DIRTY};
use ptediff_reference_model::expectation::{EntryExpectation, ExpectedFrame};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::{FrameName, ObservedEntry, StepRecord};
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::{Difference, Divergence, Verdict};
use ptediff_trace::{Campaign, WorkList};

use crate::host::opinion::blame as who;
use crate::host::results::{Found, FoundCluster, Results};

use super::explanation::explanation_text;
use super::timeline::difference_lines;
use super::wrap::wrap;

/// Characters of the widest line.
pub const WIDTH: usize = 79;

/// pagemap bits: present, and soft-dirty of the entry or its VMA.
const PAGEMAP_PRESENT: u64 = 1 << 63;
const PAGEMAP_SOFT_DIRTY: u64 = 1 << 55;

/// Files that were written beside the report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attached<'a> {
    /// The corpus entry.
    pub entry: Option<&'a str>,
    /// The C reproducer.
    pub reproducer: Option<&'a str>,
}

/// The report of one cluster, by the program that stands for it; `None` where its verdict is none or the trace names no machine.
#[must_use]
pub fn mail(results: &Results, cluster: &FoundCluster<'_>, attached: Attached<'_>) -> Option<String> {
    let found = cluster.representative;
    let machine = results.machine.as_ref()?;
    let (program, verdict, records) = found.smallest();
    let Verdict::Diverge(divergence) = verdict else { return None };
    let mut page = Page::default();
    page.paragraph(&headline(machine, program, divergence));
    page.title("Machine");
    page.field("kernel", &machine.release);
    page.field(
        "judged as",
        &format!("Linux {}{}", machine.judged_version(), if machine.judged_as.is_some() { " (as asked)" } else { "" }),
    );
    page.field("CPU", &format!("{}{}", machine.cpu_model, cpu_features(machine)));
    page.field("platform", &machine.platform);
    page.title("Program");
    steps(&mut page, program, records, divergence);
    page.title("Difference");
    difference(&mut page, divergence);
    for (name, value) in rule_fields(machine, program, divergence) {
        page.field(name, &value);
    }
    page.title("Blame");
    shown_by(&mut page, results, cluster);
    blame(&mut page, machine, found, records, divergence);
    page.title("To reproduce");
    reproduce(&mut page, machine, results, found, attached);
    Some(page.text)
}

/// What made the expectation, and what the kernel calls in the diverging step, as names and values.
pub(super) fn rule_fields(
    machine: &Machine,
    program: &Program,
    divergence: &Divergence,
) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    match divergence.rule {
        Some(rule) => {
            let info = rule.info();
            fields.push(("rule", info.identifier.to_owned()));
            fields.push(("says", info.statement.to_owned()));
            fields.push(("read in", info.source.to_owned()));
            if !is_rule_of_the_step(machine, program, divergence) {
                fields.push(("applies", LEFT_BY_ANOTHER_STEP.to_owned()));
            }
        }
        None => fields.push(("rule", "none: the model expects nothing there, and nothing has been there".to_owned())),
    }
    if let Some(step) = program.steps.get(divergence.step) {
        fields.push(("step calls", step.operation.kernel_functions().to_owned()));
    }
    fields
}

/// What to say of a rule that is not the diverging step's.
const LEFT_BY_ANOTHER_STEP: &str = "not in this step, which should not have changed the entry: it should have stayed \
                                    as an earlier step left it by this rule";

/// What is found, for the head of a reproducer.
#[must_use]
pub fn finding(machine: &Machine, divergence: &Divergence) -> Vec<String> {
    let mut paragraphs = vec![format!(
        "Found on Linux {} ({}, {}): step {} is not as the comments say.",
        machine.release, machine.platform, machine.cpu_model, divergence.step
    )];
    paragraphs.extend(difference_lines(divergence));
    paragraphs
}

/// The text as it grows.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn wrapped(&mut self, text: &str, first: &str, rest: &str) {
        for line in wrap(text, first, rest, WIDTH) {
            self.line(&line);
        }
    }

    fn paragraph(&mut self, text: &str) {
        self.wrapped(text, "", "");
    }

    /// A command that a shell takes as it stands, continued lines too.
    fn command(&mut self, text: &str) {
        for line in command_lines(text) {
            self.line(&line);
        }
    }

    fn title(&mut self, title: &str) {
        self.line("");
        self.line(title);
        self.line(&"-".repeat(title.len()));
    }

    fn field(&mut self, name: &str, value: &str) {
        self.wrapped(value, &format!("{name:<10} "), &" ".repeat(11));
    }
}

/// A command in lines that a shell joins again. A word that is too long for a line is continued at the beginning of the
/// next one, where the shell adds no space. A backslash keeps the space, or whatever it is, behind it.
fn command_lines(text: &str) -> Vec<String> {
    /// Before the backslash that continues a line.
    const MOST: usize = WIDTH - 2;
    let mut words: Vec<String> = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, words.last_mut()) {
            (' ', _) => words.push(String::new()),
            ('\\', Some(word)) => word.extend(std::iter::once(letter).chain(letters.next())),
            (_, Some(word)) => word.push(letter),
            (_, None) => {}
        }
    }
    let mut lines: Vec<String> = Vec::new();
    let mut line = "    ".to_owned();
    let mut is_empty = true;
    for word in words.iter().filter(|word| !word.is_empty()) {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > MOST {
            lines.push(format!("{line} \\"));
            line = "        ".to_owned();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        let mut letters = word.chars().peekable();
        while let Some(letter) = letters.next() {
            line.push(letter);
            // What a backslash stands before is not parted from it.
            if letter == '\\' {
                line.extend(letters.next());
            }
            if line.chars().count() >= MOST && letters.peek().is_some() {
                // No space: the word goes on.
                lines.push(format!("{line}\\"));
                line.clear();
            }
        }
        is_empty = false;
    }
    lines.push(line);
    lines
}

fn headline(machine: &Machine, program: &Program, divergence: &Divergence) -> String {
    let what = match divergence.difference {
        Difference::Outcome { .. } => "another result",
        Difference::Entry { .. } => "another page-table entry",
        Difference::Transition { .. } => "another change of a page-table entry",
        Difference::Alive { .. } => "other processes alive",
        Difference::Pagemap { .. } => "another word in /proc/pid/pagemap",
    };
    let step = program.steps.get(divergence.step).map_or_else(String::new, |step| format!(" ({})", step.operation));
    format!("ptediff: Linux {}: step {}{step} gives {what} than expected", machine.release, divergence.step)
}

fn cpu_features(machine: &Machine) -> String {
    let with = |has: bool| if has { "with" } else { "without" };
    let (stacks, keys) = (with(machine.shadow_stack), with(machine.protection_keys));
    format!(", {stacks} user shadow stacks, {keys} protection keys")
}

fn steps(page: &mut Page, program: &Program, records: &[StepRecord], divergence: &Divergence) {
    for (index, step) in program.steps.iter().enumerate() {
        let mark = if index == divergence.step { '>' } else { ' ' };
        page.wrapped(&step.to_string(), &format!("{mark} {index:>3}  "), "          ");
        match records.get(index) {
            Some(record) => page.wrapped(&record.outcome.to_string(), "         -> ", "            "),
            None => page.line("         (not reached)"),
        }
    }
}

/// Expected and seen, decoded, side by side.
fn difference(page: &mut Page, divergence: &Divergence) {
    let row = |name: &str, expected: &str, seen: &str| {
        let mark = if expected == seen { "" } else { "  <--" };
        format!("  {name:<14} {expected:<22} {seen:<22}{mark}").trim_end().to_owned()
    };
    let head = |page: &mut Page| page.line("                 expected               seen");
    match &divergence.difference {
        Difference::Outcome { expected, seen } => {
            page.field("expected", &expected.to_string());
            page.field("seen", &seen.to_string());
        }
        Difference::Entry { actor, page: slot, expected, seen } => {
            page.paragraph(&format!("The entry of actor {} page {} after the step:", actor.index(), slot.index()));
            head(page);
            for line in entry_rows(expected, seen, row) {
                page.line(&line);
            }
            if bits_agree(expected, seen) {
                page.line("");
                page.paragraph(OTHER_FRAME);
            }
        }
        Difference::Transition { index, expected: Some(expected), seen: Some(seen) } => {
            page.paragraph(&format!("Change {index} inside the step:"));
            head(page);
            let place = |actor: usize, slot: usize| format!("actor {actor} page {slot}");
            let (wanted, got) =
                (place(expected.actor.index(), expected.page.index()), place(seen.actor.index(), seen.page.index()));
            page.line(&row("of", &wanted, &got));
            page.line(&row("at", &format!("{:?}", expected.cause), &format!("{:?}", seen.cause)));
            page.line(&row("for write", &expected.write.to_string(), &seen.write.to_string()));
            page.line(&row("mapcount", &expected.mapcount.to_string(), &seen.mapcount.to_string()));
            page.line(&row("exclusive", &expected.anon_exclusive.to_string(), &seen.anon_exclusive.to_string()));
            let flags = seen.vm_flags & ptediff_reference_model::model::VM_FLAGS_COMPARED;
            page.line(&row("vm_flags", &format!("{:#x}", expected.vm_flags), &format!("{flags:#x}")));
            for (title, expected, seen) in
                [("entry before:", &expected.before, &seen.before), ("entry after:", &expected.after, &seen.after)]
            {
                page.line(&format!("  {title}"));
                for line in entry_rows(expected, seen, row) {
                    page.line(&line);
                }
            }
        }
        Difference::Transition { .. } | Difference::Alive { .. } | Difference::Pagemap { .. } => {
            let lines = difference_lines(&Divergence { rule: None, ..divergence.clone() });
            for line in lines {
                page.wrapped(&line, "", "  ");
            }
        }
    }
}

/// What to say where only frames differ.
const OTHER_FRAME: &str = "Every bit agrees: the frame is another than it must be. (The model and the kernel name \
                           frames each in their own way: what must agree is which entries hold the same one.)";

fn bits_agree(expected: &EntryExpectation, seen: &ObservedEntry) -> bool {
    (expected.bits.0 ^ seen.bits.0) & !expected.unspecified == 0
}

fn entry_rows(
    expected: &EntryExpectation,
    seen: &ObservedEntry,
    row: impl Fn(&str, &str, &str) -> String,
) -> Vec<String> {
    let raw = |entry: Entry| format!("{:#018x}", entry.0);
    let mut lines = vec![
        row("raw, no frame", &raw(expected.bits), &raw(seen.bits)),
        row("is", &what_it_is(expected.bits), &what_it_is(seen.bits)),
    ];
    // A swap entry has flags of its own at places where a present entry has others.
    let mut names: Vec<&str> = Vec::new();
    for (entry, more) in [(expected.bits, expected.unspecified), (seen.bits, 0)] {
        for (mask, name) in entry.flags() {
            if (entry.0 | more) & mask != 0 && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    for name in names {
        let of = |entry: Entry, open: u64| {
            let Some((mask, _)) = entry.flags().into_iter().find(|(_, known)| *known == name) else {
                return "-".to_owned();
            };
            match mask {
                PKEY => entry.protection_key().to_string(),
                _ if open & mask != 0 => "0 or 1".to_owned(),
                _ => u8::from(entry.0 & mask != 0).to_string(),
            }
        };
        let (wanted, got) = (of(expected.bits, expected.unspecified), of(seen.bits, 0));
        lines.push(row(name, if wanted == "0 or 1" { &got } else { &wanted }, &got));
    }
    let identity = if expected.bits.is_swapped() && seen.bits.is_swapped() { "slot" } else { "frame" };
    lines.push(format!("  {identity:<14} {:<22} {}", expected_frame(expected.frame), seen_frame(seen.frame)));
    lines
}

/// What kind of entry it is, in words.
fn what_it_is(entry: Entry) -> String {
    match (entry.kind(), entry.marker()) {
        (EntryKind::None, _) => "none".to_owned(),
        (EntryKind::Present, _) => "present".to_owned(),
        (EntryKind::ProtNone, _) => "present, PROT_NONE".to_owned(),
        (EntryKind::NonPresent, None) if entry.is_swapped() => "swap entry".to_owned(),
        // A marker, by its name, or another non-present entry.
        (EntryKind::NonPresent, _) => entry.to_string(),
    }
}

fn expected_frame(frame: ExpectedFrame) -> String {
    match frame {
        ExpectedFrame::None => "none".to_owned(),
        ExpectedFrame::Zero => "the zero page".to_owned(),
        ExpectedFrame::Frame(number) => format!("the model's {number}"),
    }
}

fn seen_frame(frame: FrameName) -> String {
    match frame {
        FrameName::NONE => "none".to_owned(),
        FrameName::ZERO => "the zero page".to_owned(),
        FrameName(number) => format!("the kernel's {number}"),
    }
}

/// How many programs show it.
fn shown_by(page: &mut Page, results: &Results, cluster: &FoundCluster<'_>) {
    let (members, programs) = (cluster.members.len(), results.programs);
    let smallest = if members > 1 { ", of which this is the smallest one found" } else { "" };
    page.field("shown by", &format!("{members} of {programs} programs{smallest}"));
}

/// Who may be at fault, each with the evidence for and against.
fn blame(page: &mut Page, machine: &Machine, found: &Found, records: &[StepRecord], divergence: &Divergence) {
    let witness = records.get(divergence.step).and_then(|record| record.witness.as_ref());
    page.field("explained", &explanation_text(&divergence.explanation));
    if !found.opinions.is_empty() {
        page.field("by others", who(machine, &found.opinions).text());
        for opinion in &found.opinions {
            page.field("", &format!("- {} on {}: {}", opinion.release, opinion.platform, opinion.text()));
        }
    }
    let stability = match found.stability {
        Some((same, reruns)) if same == reruns => format!("stable: {same} of {reruns} re-runs diverged alike"),
        Some((same, reruns)) => format!("UNSTABLE: {same} of {reruns} re-runs diverged alike"),
        None => "not known: the program was not run again".to_owned(),
    };
    page.field("stability", &stability);
    let probe = match witness {
        Some(witness) => format!(
            "no, as far as the witnesses see: a page walk through /proc/kcore read {} entries as the probe did; \
             pagemap of {} actors has the probe's frame numbers{}",
            witness.walked,
            witness.pagemap.len(),
            pagemap_word_of_the_entry(witness.pagemap.iter(), divergence),
        ),
        None => "not excluded: the witnesses were not asked at this step".to_owned(),
    };
    page.field("probe", &probe);
    page.field("CPU", &cpu_evidence(machine, found, divergence));
    page.field(
        "kernel",
        if machine.judged_as.is_some_and(|version| version != machine.version) {
            "possible, but it was judged as another version than it says it is"
        } else if machine.is_calibrated() {
            "possible: a matrix on this very version had nothing unexplained"
        } else {
            "possible: judged by the table of changes; no matrix was run on this version"
        },
    );
    let model = match divergence.rule {
        Some(rule) => format!("possible: read {} again", rule.info().source),
        None => "possible: it has no rule that does this".to_owned(),
    };
    page.field("model", &model);
}

/// Whether the kernel's own view shows the entry as the probe does, for a difference in an entry.
fn pagemap_word_of_the_entry<'a>(
    mut views: impl Iterator<Item = &'a ptediff_reference_model::observation::PagemapView>,
    divergence: &Divergence,
) -> &'static str {
    let Difference::Entry { actor, page, seen, .. } = &divergence.difference else { return "" };
    let word = views.find(|view| view.actor == *actor).and_then(|view| view.words.get(page.index()));
    let Some(word) = word else { return ", but says nothing of this page" };
    let present = seen.bits.is_present();
    // pagemap's soft-dirty bit may come from the VMA; clear, it contradicts a soft-dirty entry.
    let contradicted = (word & PAGEMAP_PRESENT != 0) != present
        || present && seen.bits.has(SOFT_DIRTY) && word & PAGEMAP_SOFT_DIRTY == 0;
    if contradicted { ", BUT SHOWS THIS PAGE OTHERWISE" } else { ", and shows this page as the probe does" }
}

fn cpu_evidence(machine: &Machine, found: &Found, divergence: &Divergence) -> String {
    let other = match machine.platform.as_str() {
        "bochs" => Some("qemu"),
        "qemu" => Some("bochs"),
        _ => None,
    };
    let entries = match &divergence.difference {
        Difference::Entry { expected, seen, .. } => Some((expected, seen)),
        Difference::Transition { expected: Some(expected), seen: Some(seen), .. } => {
            Some((&expected.after, &seen.after))
        }
        _ => None,
    };
    let only_by_cpu = entries.is_some_and(|(expected, seen)| {
        let bits = (expected.bits.0 ^ seen.bits.0) & !expected.unspecified;
        let is_seen_by_cpu = expected.bits.kind() == EntryKind::Present && seen.bits.kind() == EntryKind::Present;
        is_seen_by_cpu && bits != 0 && bits & !(A | D) == 0
    });
    let by_rule = divergence.rule.is_some_and(|rule| rule.info().source.starts_with("SDM"));
    let suspicion = match (only_by_cpu, by_rule) {
        (true, _) => "suspect: only Accessed or Dirty differ, which the CPU sets",
        (false, true) => "suspect: the rule is the CPU's own (SDM)",
        (false, false) => "less likely: what differs is written by the kernel",
    };
    let asked = found.opinions.iter().any(|one| one.version == machine.version && one.platform != machine.platform);
    if asked {
        return format!("{suspicion}, before other machines were asked. Seen on {}", machine.platform);
    }
    match other {
        Some(other) => format!(
            "{suspicion}. Seen on {}, an emulator; not tried on the other here: replay the entry with --platform {other}",
            machine.platform
        ),
        None => format!("{suspicion}. Seen on {}", machine.platform),
    }
}

fn reproduce(page: &mut Page, machine: &Machine, results: &Results, found: &Found, attached: Attached<'_>) {
    let kernel = match &results.given {
        Some(given) => given.clone(),
        None => {
            let version = machine.judged_as.map_or_else(String::new, |version| format!(" --judge-as {version}"));
            format!("--platform {} --kernel KERNEL{version}", machine.platform)
        }
    };
    if let Some(Campaign { work: WorkList::Generated { seed, max_steps, profile, .. }, .. }) = &results.campaign {
        let profile = profile.as_ref().map_or_else(String::new, |profile| format!(" --profile {profile}"));
        page.paragraph("The generated program, alone:");
        let (index, seed) = (found.index, seed);
        let command =
            format!("ptediff run {kernel} --seed {seed} --first {index} --cases 1 --steps {max_steps}{profile}");
        page.command(&command);
    }
    if let Some(entry) = attached.entry {
        page.paragraph("The program above, as a corpus entry:");
        page.command(&format!("ptediff replay {kernel} {entry}"));
    }
    if let Some(reproducer) = attached.reproducer {
        page.paragraph("The program above, as C without ptediff (as root):");
        page.command(&format!("gcc -Wall -O1 -o repro {reproducer} && ./repro"));
    }
    let which = match &results.given {
        Some(_) => format!("The kernel was Linux {}.", machine.release),
        None => format!(
            "KERNEL is the path of a bzImage, or a kernel's name in the cache. The trace does not tell which it was: \
             it calls itself Linux {}.",
            machine.release
        ),
    };
    page.paragraph(&which);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a shell makes of continued lines.
    fn joined(lines: &[String]) -> String {
        let text = lines.join("\n").replace("\\\n", "");
        let mut words = text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>();
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }

    #[test]
    fn a_command_survives_narrow_lines() {
        let long =
            format!("ptediff replay --kernel /{}/bzImage --dialect 6.12 {}.json", "k".repeat(100), "e".repeat(60));
        for text in ["./repro", "gcc -Wall -O1 -o repro a.c && ./repro", &long, &format!("run /a\\ {}", "b".repeat(90))]
        {
            let lines = command_lines(text);
            assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{lines:#?}");
            assert_eq!(joined(&lines), text);
        }
    }
}
