//! The bare probe on both emulators: every block of every space that they can run, a sample of each, against the model
//! and against what was recorded; and the facts.
//!
//! With `PTEDIFF_UPDATE_DOCUMENTS=1` the recordings are written anew.

use std::path::Path;

use ptediff_bare_probe::deviation::Processor;
use ptediff_bare_probe::space::{Part, SPACES};
use ptediff_bare_probe::{Answer, FactVerdict, IMAGE, Recording, Request, Session};
use ptediff_vm::in_place::may_run_in_place;
use ptediff_vm::{Activity, BackendKind, BareSpec, Ending, boot_bare};

const SAMPLE: u32 = 1_500;

fn ask(backend: BackendKind, request: &Request) -> Answer {
    let spec = BareSpec::new(backend, IMAGE.to_vec(), request.argument());
    let mut machine = boot_bare(&spec).expect("the machine starts: `cargo xtask setup` installs it");
    let mut session = Session::new();
    let ending = loop {
        match machine.read(session.buffer()).expect("the channel can be read") {
            Activity::Bytes(_) => session.advance().expect("messages"),
            Activity::Ended(ending) => break ending,
        }
    };
    assert_eq!(ending, Ending::PoweredOff, "{}", machine.emulator_tail(20));
    session.finish().expect("all was said")
}

#[track_caller]
fn check(name: &str, backend: BackendKind, processor: Processor, five_levels: bool, expected_spaces: usize) {
    if may_run_in_place() {
        println!("{name}: not run inside a machine, which has no emulators");
        return;
    }
    let part = Part::Sample(SAMPLE);
    let spaces = (1 << SPACES.len()) - 1;
    let request = Request { processor, five_levels, spaces, part, facts: true, most_mismatches: 2 };
    let answer = ask(backend, &request);
    let mismatches: Vec<String> =
        answer.blocks.iter().flat_map(|block| &block.mismatches).map(ToString::to_string).collect();
    assert!(mismatches.is_empty(), "{name}:\n{}", mismatches.join("\n"));
    assert_eq!(answer.judge(&request, None), [], "{name}: guest and host judge differently");

    let runs = SPACES.iter().filter(|space| space.runs_on(&answer.machine));
    assert_eq!(runs.clone().count(), expected_spaces, "{name}: {:?}", answer.machine);
    let blocks: usize = runs.map(|space| space.blocks() as usize).sum();
    assert_eq!(answer.blocks.len(), blocks, "{name}: a block is missing");

    let facts = answer.judge_facts(processor);
    assert_eq!(facts.len(), 7, "{name}: a fact is missing");
    for (fact, words, verdict) in facts {
        assert_ne!(verdict, FactVerdict::Differs, "{name}: {}: {words:#x?}", fact.name);
    }

    let recording = Recording::of(&request, &answer).expect("a sample");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded").join(name);
    if std::env::var_os("PTEDIFF_UPDATE_DOCUMENTS").is_some() {
        std::fs::write(&path, recording.to_text()).expect("write the recording");
    }
    let kept = std::fs::read_to_string(&path).expect("a recording is kept");
    assert_eq!(Recording::from_text(&kept).as_ref(), Ok(&recording), "{name} answers otherwise than recorded");
}

#[test]
fn bochs_decides_as_the_model_does() {
    check("bochs", BackendKind::Bochs, Processor::Bochs, false, 6);
}

#[test]
fn qemu_decides_as_the_model_does() {
    check("qemu", BackendKind::Qemu, Processor::Qemu, false, 5);
}

#[test]
fn qemu_with_five_levels_decides_as_the_model_does() {
    check("qemu-five-levels", BackendKind::Qemu, Processor::Qemu, true, 1);
}

/// The check can fail: a processor of which no deviation is known is told from the model by QEMU's.
#[test]
fn an_unknown_deviation_is_a_mismatch() {
    if may_run_in_place() {
        return;
    }
    let request = Request {
        processor: Processor::Other,
        five_levels: false,
        spaces: 1,
        part: Part::Sample(200),
        facts: false,
        most_mismatches: 1,
    };
    let answer = ask(BackendKind::Qemu, &request);
    let first = answer.blocks.iter().find_map(|block| block.mismatches.first()).expect("a mismatch");
    let (expected, observed) = (first.expected.fault().expect("a fault"), first.observed.fault().expect("a fault"));
    assert_eq!((expected.0 & 0x9, observed.0 & 0x9), (0x9, 0x8), "{first}");
    assert!(!answer.judge(&request, None).is_empty());
}
