//! The format as its users see it: round trips, cuts, damage, versions, and the bytes themselves.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;
use ptediff_reference_model::arena::{ARENA_BASE, ActorId, PageIndex, PageRange};
use ptediff_reference_model::entry::{self, Entry};
use ptediff_reference_model::kernel::{Change, KernelVersion};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::{
    Cause, EntryChange, FrameName, ObservedEntry, PagemapView, StepRecord, Transition, WitnessField, WitnessMismatch,
    WitnessReport,
};
use ptediff_reference_model::outcome::{Fault, Outcome};
use ptediff_reference_model::program::{Operation, Placement, Program, Protection, Step};
use ptediff_reference_model::rule::RULES;
use ptediff_reference_model::verdict::{Difference, Divergence, Explanation, Inconclusive, Verdict};
use ptediff_trace::{
    Attempt, Campaign, Cut, Decoder, End, Figure, Finding, Frame, Hello, MAX_PAYLOAD, Progress, ReadError, Reader,
    Refused, SCHEMA, Shrunk, StepDone, TraceError, Verdicts, WorkList, Writer,
};

fn page(index: usize) -> PageIndex {
    PageIndex::new(index).expect("a slot")
}

fn actor(index: usize) -> ActorId {
    ActorId::new(index).expect("an actor")
}

fn observed(bits: u64, frame: u16) -> ObservedEntry {
    ObservedEntry { bits: Entry(bits), frame: FrameName(frame) }
}

/// Bits of an ordinary written page.
const WRITTEN: u64 = entry::P | entry::RW | entry::US | entry::A | entry::D | entry::SOFT_DIRTY | entry::NX;

fn write_fault() -> Transition {
    Transition {
        cause: Cause::Fault,
        actor: actor(0),
        page: page(3),
        before: ObservedEntry::NONE,
        after: observed(WRITTEN, 2),
        vm_flags: 0x0810_0073,
        write: true,
        mapcount: 1,
        anon_exclusive: true,
    }
}

fn record() -> StepRecord {
    StepRecord {
        outcome: Outcome::Stored,
        alive: 0b11,
        changes: vec![EntryChange { actor: actor(0), page: page(3), entry: observed(WRITTEN, 2) }],
        transitions: vec![write_fault()],
        lost: 0,
        witness: None,
    }
}

fn witnessed() -> StepRecord {
    StepRecord {
        outcome: Outcome::Faulted(Fault { signal: 11, code: 2, address: ARENA_BASE + 8, error_code: 7, key: 0 }),
        witness: Some(WitnessReport {
            walked: 64,
            mismatches: vec![WitnessMismatch {
                actor: actor(1),
                page: page(31),
                field: WitnessField::Mapcount,
                probe: u64::MAX,
                witness: 1,
            }],
            pagemap: vec![PagemapView {
                actor: actor(1),
                words: vec![0, 1 << 63 | 1 << 56 | 1 << 55, 1 << 55],
                frame_mismatches: vec![page(2)],
            }],
        }),
        ..record()
    }
}

fn program() -> Program {
    let range = PageRange::new(3, 2).expect("a range");
    let step = |operation| Step { actor: actor(0), operation };
    Program {
        steps: vec![
            step(Operation::Mmap { range, protection: Protection::READ_WRITE, placement: Placement::FixedNoReplace }),
            step(Operation::Write { page: page(3) }),
            step(Operation::Fork { child: actor(1) }),
            step(Operation::MapShadowStack { range, token: true }),
        ],
    }
}

fn machine() -> Machine {
    Machine::imagined(KernelVersion::new(6, 12, 107), true, true)
}

fn hello(work: WorkList) -> Frame {
    Frame::Hello(Hello {
        binary: [7; 32],
        campaign: Campaign {
            work,
            judged_as: Some(KernelVersion::LINUX_7_2),
            observer: "libbpf".to_owned(),
            witness_every: 64,
            shrink_budget: 500,
            seconds: 0,
            bare: false,
        },
    })
}

/// One frame of each kind, in an order that a guest might send them in.
fn every_frame() -> Vec<Frame> {
    // The last rule, because a rule that is added before it gives it another number.
    let last_rule = RULES[RULES.len() - 1].rule;
    let divergence = Divergence {
        step: 1,
        difference: Difference::Alive { expected: 1, seen: 3 },
        rule: Some(last_rule),
        explanation: Explanation::ChangeMoved(vec![Change::SavedDirty]),
        met: vec![Change::MergeLosesSoftDirty],
    };
    let generated = WorkList::Generated {
        seed: u64::MAX,
        first: 0,
        programs: 5000,
        min_steps: 6,
        max_steps: 20,
        profile: Some("fork-heavy".to_owned()),
    };
    vec![
        hello(generated),
        Frame::Machine(machine()),
        Frame::Log("a line".to_owned()),
        Frame::ProgramBegin { index: 0, attempt: Attempt::First, program: program() },
        Frame::StepDone(StepDone { index: 0, record: record() }),
        Frame::StepDone(StepDone { index: 1, record: witnessed() }),
        Frame::ProgramEnd { index: 0, verdict: Verdict::Diverge(Box::new(divergence)) },
        Frame::Shrunk(Shrunk {
            index: 0,
            program: program(),
            verdict: Verdict::Inconclusive(Inconclusive::EventsLost { step: 2, lost: 3 }),
            executions: 77,
            exhausted: false,
            stable_reruns: 3,
            reruns: 3,
        }),
        Frame::Progress(Progress { done: 1, total: 5000, steps: 2 }),
        Frame::Figures(vec![Figure { name: "observation us/step".to_owned(), value: 312.5 }]),
        Frame::Refused(Refused { missing: vec!["user_shstk".to_owned()], seen: vec!["xsaves".to_owned()] }),
        Frame::RigFailure { message: "a map could not be read".to_owned() },
        Frame::Finding(Finding { name: "mismatches".to_owned(), value: "[]".to_owned() }),
        Frame::End(End {
            programs: 1,
            runs: 2,
            steps: 3,
            verdicts: Verdicts { agree: 0, diverge: 1, inconclusive: 0 },
            out_of_time: false,
        }),
    ]
}

fn written(frames: &[Frame]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for frame in frames {
        writer.push(frame).expect("the frame fits");
    }
    writer.flush().expect("a vector takes everything");
    writer.into_sink()
}

fn read(bytes: &[u8]) -> (Vec<Frame>, Option<TraceError>) {
    let mut frames = Vec::new();
    for frame in Reader::new(bytes) {
        match frame {
            Ok(frame) => frames.push(frame),
            Err(ReadError::Trace(error)) => return (frames, Some(error)),
            Err(ReadError::Io(error)) => panic!("a slice cannot fail: {error}"),
        }
    }
    (frames, None)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.chunks(40).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n").collect()
}

#[test]
fn the_bytes_of_the_schema_are_fixed() {
    assert_eq!(SCHEMA, 3, "a new schema needs golden bytes of its own");
    let seen = hexadecimal(&written(&every_frame()));
    if seen != include_str!("schema-3.hex") {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schema-3.hex");
        std::fs::write(&path, seen).expect("the bytes are kept");
        panic!("the format changed: raise SCHEMA and record the bytes of the new one, {}", path.display());
    }
}

#[test]
fn every_frame_survives_the_wire() {
    let frames = every_frame();
    assert_eq!(read(&written(&frames)), (frames, None));
}

#[test]
fn a_cut_at_any_byte_is_a_cut_and_gives_the_frames_before_it() {
    let frames = every_frame();
    let bytes = written(&frames);
    for length in 0..bytes.len() {
        let (seen, error) = read(&bytes[..length]);
        assert_eq!(seen, frames[..seen.len()]);
        let whole = written(&frames[..seen.len()]).len();
        let place = match length {
            0..16 => Cut::Head,
            _ if length == whole => Cut::BetweenFrames,
            _ => Cut::WithinFrame,
        };
        assert_eq!(error, Some(TraceError::Truncated { offset: length as u64, place }), "cut at {length}");
    }
}

#[test]
fn a_changed_byte_anywhere_is_damage_at_the_frame_that_holds_it() {
    let frames = every_frame();
    let bytes = written(&frames);
    let starts: Vec<usize> = (0..=frames.len()).map(|count| written(&frames[..count]).len()).collect();
    for position in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[position] ^= change;
            let (seen, error) = read(&damaged);
            let whole = starts.iter().filter(|&&start| start <= position).count().saturating_sub(1);
            assert_eq!(seen, frames[..whole], "byte {position}");
            match error {
                Some(TraceError::NotATrace) => assert!(position < 8),
                Some(TraceError::Corrupt { offset, .. }) => {
                    let expected = if position < 16 { 0 } else { starts[whole] };
                    assert_eq!(offset, expected as u64, "byte {position}");
                }
                other => panic!("byte {position} ^ {change:#x} gave {other:?}"),
            }
        }
    }
}

#[test]
fn other_schemas_are_named() {
    for (schema, expected) in
        [(4, TraceError::NewerSchema { found: 4 }), (u32::MAX, TraceError::NewerSchema { found: u32::MAX })]
            .into_iter()
            .chain([0, 1, 2].map(|found| (found, TraceError::OlderSchema { found })))
    {
        let mut bytes = written(&every_frame());
        bytes[8..12].copy_from_slice(&u32::to_le_bytes(schema));
        let checksum = crc32fast::hash(&bytes[..12]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(read(&bytes), (vec![], Some(expected)));
    }
}

#[test]
fn a_file_of_another_kind_is_no_trace() {
    assert_eq!(read(b"{\"schema\":1}").1, Some(TraceError::NotATrace));
    assert_eq!(read(b"").1, Some(TraceError::Truncated { offset: 0, place: Cut::Head }));
}

#[test]
fn bytes_after_the_end_are_damage() {
    let mut bytes = written(&every_frame());
    let offset = bytes.len() as u64;
    bytes.push(0);
    let (seen, error) = read(&bytes);
    assert_eq!(seen.len(), every_frame().len());
    assert_eq!(error, Some(TraceError::Corrupt { offset, reason: "bytes follow the end frame".to_owned() }));
}

#[test]
fn hostile_lengths_cost_no_memory() {
    let head = written(&[]);
    // A frame longer than allowed is refused before any of it is kept.
    let mut long = head.clone();
    long.extend_from_slice(&[0xff, 0xff, 0xff, 0x00]);
    assert!(matches!(read(&long).1, Some(TraceError::Corrupt { offset: 16, .. })));
    // A sequence that announces 2^63 items inside a valid frame runs out of bytes, not of memory.
    let mut payload = vec![8];
    payload.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    let mut bytes = head;
    bytes.extend_from_slice(&[payload.len() as u8, 0, 0, !(payload.len() as u8)]);
    bytes.extend_from_slice(&payload);
    bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
    assert!(matches!(read(&bytes).1, Some(TraceError::Corrupt { offset: 16, .. })));
}

#[test]
fn a_frame_that_is_too_long_is_not_written() {
    let mut writer = Writer::new(Vec::new());
    let before = writer.pending();
    let error = writer.push(&Frame::Log("x".repeat(MAX_PAYLOAD))).expect_err("too long");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert_eq!(writer.pending(), before);
    writer.send(&Frame::End(End::default())).expect("the writer still works");
    assert_eq!(read(&writer.into_sink()), (vec![Frame::End(End::default())], None));
}

#[test]
fn a_program_of_twenty_steps_stays_small() {
    // A busy program: every step faults and changes an entry; two forks copy eight pages each.
    let fork = StepRecord {
        outcome: Outcome::Succeeded,
        changes: vec![record().changes[0]; 16],
        transitions: vec![Transition { cause: Cause::ForkChild, ..write_fault() }; 16],
        ..record()
    };
    let mut steps = vec![record(); 18];
    steps.extend([fork.clone(), fork]);
    let mut frames = vec![Frame::ProgramBegin {
        index: 4999,
        attempt: Attempt::First,
        program: Program { steps: vec![program().steps[0]; 20] },
    }];
    frames.extend((0u16..).zip(steps).map(|(index, record)| Frame::StepDone(StepDone { index, record })));
    frames.push(Frame::ProgramEnd { index: 4999, verdict: Verdict::Agree });
    let bytes = written(&frames).len();
    println!("{bytes} bytes for a busy program of 20 steps");
    assert!(bytes <= 2560, "{bytes} bytes");
}

fn any_entry() -> impl Strategy<Value = ObservedEntry> {
    (prop_oneof![any::<u64>(), Just(WRITTEN), Just(0)], any::<u16>()).prop_map(|(bits, frame)| observed(bits, frame))
}

fn any_place() -> impl Strategy<Value = (ActorId, PageIndex)> {
    (0usize..4, 0usize..32).prop_map(|(number, slot)| (actor(number), page(slot)))
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Succeeded),
        Just(Outcome::Stored),
        Just(Outcome::Executed),
        any::<u64>().prop_map(Outcome::Loaded),
        any::<u64>().prop_map(Outcome::Elsewhere),
        any::<i32>().prop_map(Outcome::Failed),
        any::<u64>().prop_map(Outcome::Returned),
        (any::<u8>(), any::<i32>(), any::<u64>(), any::<u32>(), any::<u32>()).prop_map(
            |(signal, code, address, error_code, key)| {
                Outcome::Faulted(Fault { signal, code, address, error_code, key })
            }
        ),
    ]
}

fn any_transition() -> impl Strategy<Value = Transition> {
    let causes = [Cause::Fault, Cause::ForkParent, Cause::ForkChild, Cause::Protect, Cause::ClearRefs];
    ((select(causes.to_vec()), any_place()), any_entry(), any_entry(), any::<(u64, bool, u16, bool)>()).prop_map(
        |((cause, (actor, page)), before, after, (vm_flags, write, mapcount, anon_exclusive))| Transition {
            cause,
            actor,
            page,
            before,
            after,
            vm_flags,
            write,
            mapcount,
            anon_exclusive,
        },
    )
}

fn any_witness() -> impl Strategy<Value = WitnessReport> {
    let mismatch = (any_place(), any::<u64>(), any::<u64>()).prop_map(|((actor, page), probe, witness)| {
        WitnessMismatch { actor, page, field: WitnessField::Entry, probe, witness }
    });
    let view = (0usize..4, prop::collection::vec(any::<u64>(), 0..33), prop::collection::vec(0usize..32, 0..4))
        .prop_map(|(number, words, slots)| PagemapView {
            actor: actor(number),
            words,
            frame_mismatches: slots.into_iter().map(page).collect(),
        });
    (any::<u32>(), prop::collection::vec(mismatch, 0..3), prop::collection::vec(view, 0..3))
        .prop_map(|(walked, mismatches, pagemap)| WitnessReport { walked, mismatches, pagemap })
}

fn any_record() -> impl Strategy<Value = StepRecord> {
    let change = (any_place(), any_entry()).prop_map(|((actor, page), entry)| EntryChange { actor, page, entry });
    (
        any_outcome(),
        any::<u8>(),
        prop::collection::vec(change, 0..40),
        prop::collection::vec(any_transition(), 0..40),
        any::<u32>(),
        prop::option::of(any_witness()),
    )
        .prop_map(|(outcome, alive, changes, transitions, lost, witness)| StepRecord {
            outcome,
            alive,
            changes,
            transitions,
            lost,
            witness,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_record_survives_the_wire_in_any_chunks(
        records in prop::collection::vec(any_record(), 0..6),
        chunk in 1usize..97,
    ) {
        let mut frames: Vec<Frame> =
            (0u16..).zip(records).map(|(index, record)| Frame::StepDone(StepDone { index, record })).collect();
        frames.push(Frame::End(End::default()));
        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        for bytes in written(&frames).chunks(chunk) {
            decoder.push(bytes);
            while let Some(frame) = decoder.next_frame().expect("undamaged") {
                seen.push(frame);
            }
        }
        prop_assert_eq!(decoder.finish(), Ok(()));
        prop_assert_eq!(seen, frames);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300), keep_head in any::<bool>()) {
        let mut bytes = if keep_head { written(&[]) } else { Vec::new() };
        bytes.extend_from_slice(&noise);
        let (_, error) = read(&bytes);
        prop_assert!(error.is_some());
    }
}
