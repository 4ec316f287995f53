//! The report of a divergence: what it says of synthetic ones, and that it is narrow enough to be mailed.
//! The records are those of an ideal kernel, with one thing changed.

use std::path::Path;

use ptediff::host::results::{Found, Results};
use ptediff::report::mail::{Attached, WIDTH, finding, mail};
use ptediff::report::reproducer::{Subject, reproducer};
use ptediff_compare::{ideal_records, judge};
use ptediff_corpus::Corpus;
use ptediff_reference_model::entry::{A, RW, SWP_SOFT_DIRTY};
use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::{PagemapView, StepRecord, WitnessReport};
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::verdict::Verdict;
use ptediff_trace::{Campaign, WorkList};

fn machine() -> Machine {
    Machine {
        release: "6.12.95+deb12-cloud-amd64".to_owned(),
        platform: "bochs".to_owned(),
        cpu_model: "Intel(R) Core(TM) Ultra 5 245K".to_owned(),
        ..Machine::imagined(KernelVersion::new(6, 12, 95), true, true)
    }
}

fn program(name: &str) -> Program {
    let corpus = Corpus::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap();
    corpus.get(name).unwrap().entry.program
}

fn results(found: Found) -> Results {
    let work = WorkList::Generated {
        seed: 18_446_744_073_709_551_615,
        first: 0,
        programs: 5000,
        min_steps: 8,
        max_steps: 20,
        profile: Some("fork-heavy".to_owned()),
    };
    let (judged_as, observer) = (None, "libbpf".to_owned());
    let campaign =
        Campaign { work, judged_as, observer, witness_every: 16, shrink_budget: 200, seconds: 0, bare: false };
    Results {
        campaign: Some(campaign),
        machine: Some(machine()),
        given: Some("--platform bochs --kernel /srv/kernels/bzImage".to_owned()),
        programs: 1,
        runs: 1,
        divergences: vec![found],
        ..Results::default()
    }
}

/// The report on this entry of the corpus after the records were tampered with.
fn report(name: &str, stability: Option<(u16, u16)>, tamper: impl Fn(&mut Vec<StepRecord>)) -> String {
    text_of(name, stability, |_| {}, tamper)
}

fn text_of(
    name: &str,
    stability: Option<(u16, u16)>,
    adjust: impl Fn(&mut Results),
    tamper: impl Fn(&mut Vec<StepRecord>),
) -> String {
    let program = program(name);
    let mut records = ideal_records(&machine(), &program);
    tamper(&mut records);
    let (verdict, _) = judge(&machine(), &program, &records);
    let Verdict::Diverge(divergence) = &verdict else { panic!("{name}: {verdict:?}") };
    records.truncate(divergence.step + 1);
    let head = finding(&machine(), divergence);
    let subject = Subject { name, description: "", machine: &machine(), program: &program, finding: &head };
    let source = reproducer(&subject).unwrap();
    assert!(source.contains("Found on Linux 6.12.95+deb12-cloud-amd64"), "the reproducer tells of what was found");
    let found =
        Found { index: 4_294_967_295, program, verdict, records, stability, minimal: None, opinions: Vec::new() };
    let mut results = results(found);
    adjust(&mut results);
    let clusters = results.clusters();
    let stem = format!("divergences/{}-bochs", clusters[0].key.file_name());
    let (entry, source) = (format!("{stem}.json"), format!("{stem}.c"));
    let attached = Attached { entry: Some(&entry), reproducer: Some(&source) };
    let text = mail(&results, &clusters[0], attached).unwrap();
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH, "wider than {WIDTH}: {line}");
        assert!(line.chars().all(|letter| letter.is_ascii_graphic() || letter == ' '), "no plain text: {line}");
    }
    text
}

/// The last entry that a step changed, and the transition that did it, get these bits flipped.
fn flip(records: &mut [StepRecord], step: usize, bits: u64) {
    let change = records[step].changes.last_mut().expect("a change");
    change.entry.bits.0 ^= bits;
    let place = (change.actor, change.page);
    for transition in records[step].transitions.iter_mut().filter(|one| (one.actor, one.page) == place) {
        transition.after.bits.0 ^= bits;
    }
}

#[test]
fn an_entry_left_writable_by_fork() {
    let text = report("fork-child-writes-first", Some((3, 3)), |records| {
        let step = (0..records.len()).find(|&step| records[step].alive == 0b11).expect("a fork");
        flip(records, step, RW);
    });
    insta::assert_snapshot!("an_entry_left_writable_by_fork", text);
}

#[test]
fn an_entry_that_the_cpu_marked() {
    let text = report("first-write", Some((1, 3)), |records| {
        let step = (0..records.len()).find(|&step| !records[step].changes.is_empty()).expect("a change");
        records[step].changes.last_mut().expect("a change").entry.bits.0 ^= A;
        let change = *records[step].changes.last().expect("a change");
        let mut words = vec![0; 32];
        words[change.page.index()] = 1 << 63 | 1 << 56 | 1 << 55;
        let pagemap = vec![PagemapView { actor: change.actor, words, frame_mismatches: Vec::new() }];
        records[step].witness = Some(WitnessReport { walked: 32, mismatches: Vec::new(), pagemap });
    });
    insta::assert_snapshot!("an_entry_that_the_cpu_marked", text);
}

#[test]
fn another_result() {
    let text = report("munmap-over-hole", None, |records| {
        records[0].outcome = Outcome::Failed(12);
    });
    insta::assert_snapshot!("another_result", text);
}

/// A kernel of somebody's own, judged as the version that the user named, from a trace: no matrix is claimed, no kernel of the
/// cache is named.
#[test]
fn nothing_is_claimed_of_a_forced_version() {
    let text = text_of(
        "munmap-over-hole",
        None,
        |results| {
            let machine = results.machine.as_mut().expect("a machine");
            "6.12.95-mine".clone_into(&mut machine.release);
            machine.judged_as = Some(KernelVersion::LINUX_6_12);
            results.given = None;
        },
        |records| records[0].outcome = Outcome::Failed(12),
    );
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("judged as another version than it says it is"), "{text}");
    assert!(words.contains("--platform bochs --kernel KERNEL --judge-as 6.12 --seed"), "{text}");
    assert!(words.contains("calls itself Linux 6.12.95-mine"), "{text}");
}

/// swap-out drops the mark of a write-protected page: the report names the flags that a swap entry has.
#[test]
fn a_swap_entry_without_its_mark() {
    let text = report("swap-soft-dirty", Some((3, 3)), |records| {
        let swapped = |record: &StepRecord| record.changes.iter().any(|change| change.entry.bits.is_swapped());
        let step = records.iter().position(swapped).expect("a page is swapped out");
        for change in records[step].changes.iter_mut().filter(|change| change.entry.bits.is_swapped()) {
            change.entry.bits.0 &= !SWP_SOFT_DIRTY;
        }
    });
    insta::assert_snapshot!("a_swap_entry_without_its_mark", text);
}
