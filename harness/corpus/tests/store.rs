//! Entries come back as they were written, and a write that fails leaves nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ptediff_corpus::{Corpus, CorpusError, Entry, Needs, Origin, format_entry, parse_entry, read_entry, write_entry};
use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::program::{OPERATION_NAMES, Operation, Placement, Program, Protection, Step};
use ptediff_reference_model::protection_key::{KeyRights, ProtectionKey};
use ptediff_reference_model::rule::{RULES, Rule};

fn entry(name: &str) -> Entry {
    let range = PageRange::new(0, 2).expect("a range");
    let page = PageIndex::new(1).expect("a slot");
    let steps = [
        Operation::Mmap { range, protection: Protection::READ_WRITE, placement: Placement::FixedNoReplace },
        Operation::Write { page },
        Operation::Exit,
    ];
    let program = Program { steps: steps.map(|operation| Step { actor: ActorId::FIRST, operation }).to_vec() };
    Entry {
        name: name.to_owned(),
        description: "A \"quoted\", colon: and\nnewline.".to_owned(),
        origin: Origin::campaign(u64::MAX, 7, "6.12.107+deb13", "bochs"),
        needs: Needs::to_behave_alike(&program),
        program,
    }
}

fn machine(shadow_stack: bool) -> Machine {
    Machine::imagined(KernelVersion::new(6, 12, 107), shadow_stack, true)
}

#[test]
fn an_entry_is_one_step_a_line() {
    let expected = r#"{
  "schema": 2,
  "name": "example",
  "description": "A \"quoted\", colon: and\nnewline.",
  "origin": {"found-by": "campaign", "campaign-seed": 18446744073709551615, "program-index": 7, "kernel": "6.12.107+deb13", "machine": "bochs"},
  "needs": {},
  "program": [
    {"actor": 0, "operation": {"mmap": {"range": {"first": 0, "pages": 2}, "protection": "rw-", "placement": "fixed-no-replace"}}},
    {"actor": 0, "operation": {"write": {"page": 1}}},
    {"actor": 0, "operation": "exit"}
  ]
}
"#;
    assert_eq!(format_entry(&entry("example")), expected);
    assert_eq!(parse_entry(Path::new("example.json"), expected).expect("readable"), entry("example"));
    let empty = Entry { program: Program::default(), ..entry("example") };
    assert_eq!(parse_entry(Path::new("example.json"), &format_entry(&empty)).expect("readable"), empty);
}

#[test]
fn a_corpus_is_sorted_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("README.md"), "no entry").expect("written");
    fs::write(folder.path().join(".hidden.json"), "no entry").expect("written");
    let mut corpus = Corpus::open(folder.path()).expect("opened");
    for name in ["b", "c", "a"] {
        corpus.add(&entry(name)).expect("stored");
    }
    corpus.add(&entry("b")).expect("the same again changes nothing");
    let other = Entry { program: Program::default(), ..entry("b") };
    assert!(matches!(corpus.add(&other), Err(CorpusError::Taken { .. })));
    for corpus in [corpus, Corpus::open(folder.path()).expect("opened")] {
        assert_eq!(corpus.names(), ["a", "b", "c"]);
        let stored: Vec<Entry> = corpus.entries().map(|stored| stored.expect("readable").entry).collect();
        assert_eq!(stored, ["a", "b", "c"].map(entry));
        assert_eq!(corpus.get("b").expect("there").entry, entry("b"));
        assert!(matches!(corpus.get("d"), Err(CorpusError::Unknown { .. })));
    }
    assert!(matches!(Corpus::open(&folder.path().join("absent")), Err(CorpusError::Unreadable { .. })));
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = PageIndex::new(0).expect("a slot");
    let dead = Step { actor: ActorId::new(3).expect("an actor"), operation: Operation::Exit };
    let wrss = Step { actor: ActorId::FIRST, operation: Operation::WriteShadowStack { page } };
    for wrong in [
        Entry { name: "../escape".to_owned(), ..entry("a") },
        Entry { name: String::new(), ..entry("a") },
        Entry { program: Program { steps: vec![dead] }, ..entry("a") },
        Entry { program: Program { steps: vec![wrss] }, ..entry("a") },
    ] {
        let error = write_entry(folder.path(), &wrong).expect_err("unstorable");
        assert!(matches!(error, CorpusError::Unstorable { .. }), "{error:?}");
    }
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
}

#[test]
fn an_entry_that_needs_keys_is_not_run_without() {
    let operation = Operation::WritePkru { key: ProtectionKey::FIRST, rights: KeyRights::Allow };
    let program = Program { steps: vec![Step { actor: ActorId::FIRST, operation }] };
    let needs = Needs::of(&program);
    let keys = Entry { program, needs, ..entry("a") };
    let with_keys = machine(true);
    assert_eq!(keys.missing(&with_keys), Vec::<String>::new());
    assert!(Model::new(&with_keys).is_possible(&keys.program.steps[0]));
    let without_keys = Machine { protection_keys: false, ..with_keys };
    assert_eq!(keys.missing(&without_keys), ["protection keys (PKU)"]);
    assert!(!Model::new(&without_keys).is_possible(&keys.program.steps[0]));
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A folder in the file's place makes the last step, the rename, fail.
    fs::create_dir(folder.path().join("a.json")).expect("created");
    let error = write_entry(folder.path(), &entry("a")).expect_err("unwritable");
    assert!(matches!(error, CorpusError::Unwritable { .. }), "{error:?}");
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    let absent = write_entry(&folder.path().join("absent"), &entry("a")).expect_err("unwritable");
    assert!(matches!(absent, CorpusError::Unwritable { .. }), "{absent:?}");
}

#[test]
fn the_projects_own_corpus_is_in_order() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus");
    let corpus = Corpus::open(&folder).expect("opened");
    let mut performed = [false; OPERATION_NAMES.len()];
    for stored in corpus.entries() {
        let stored = stored.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(stored.text, format_entry(&stored.entry), "{}: not as it would be written", stored.path.display());
        assert!(!stored.entry.program.steps.is_empty(), "{}: no step", stored.entry.name);
        for step in &stored.entry.program.steps {
            performed[step.operation.kind()] = true;
        }
    }
    for (name, performed) in OPERATION_NAMES.iter().zip(performed) {
        assert!(performed, "no entry performs {name}");
    }
}

/// Performs the project's entries on the model: each is possible on a machine that has what it needs, and
/// together they reach nearly every rule. `--nocapture` shows what each gives.
#[test]
fn the_projects_own_corpus_reaches_the_rules() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus");
    let mut fired: BTreeMap<Rule, u32> = BTreeMap::new();
    for stored in Corpus::open(&folder).expect("opened").entries() {
        let entry = stored.unwrap_or_else(|error| panic!("{error}")).entry;
        let machine = Machine::imagined(KernelVersion::LINUX_6_12, entry.needs.shadow_stack, true);
        assert_eq!(entry.missing(&machine), Vec::<String>::new(), "{}", entry.name);
        println!("{}: {}", entry.name, entry.description);
        let mut model = Model::new(&machine);
        for (index, step) in entry.program.steps.iter().enumerate() {
            assert!(model.is_possible(step), "{}, step {index}: {step}", entry.name);
            let expectation = model.step(index, step);
            let outcome = expectation.outcome.expect("the model says what the actor gets");
            println!("    {step}: {outcome} {:?}", expectation.fired);
            for rule in expectation.fired {
                *fired.entry(rule).or_default() += 1;
            }
        }
    }
    let missed: Vec<&str> =
        RULES.iter().filter(|info| !fired.contains_key(&info.rule)).map(|info| info.identifier).collect();
    println!("rules that no entry reaches: {missed:?}");
    assert!(missed.len() * 10 <= RULES.len(), "too many rules that no entry reaches: {missed:?}");
}

#[test]
fn a_folder_that_takes_no_files_is_not_the_users_fault() {
    // /proc takes no new files, whoever asks.
    let error = write_entry(Path::new("/proc/self"), &entry("a")).expect_err("unwritable");
    let refused = matches!(error, CorpusError::ReadOnly { .. } | CorpusError::Unwritable { .. });
    assert!(refused && !error.is_bad_input(), "{error:?}");
    assert!(read_entry(Path::new("/proc/self/a.json")).expect_err("absent").is_bad_input());
}
