//! The CPU's side of every check: the bare probe on both emulators, its answers against the model.

use std::fmt::Write as _;
use std::time::Instant;

use ptediff_bare_probe::deviation::{KNOWN_EMULATOR_DEVIATIONS, Processor};
use ptediff_bare_probe::space::{Part, SPACES};
use ptediff_bare_probe::{Answer, BlockAnswer, FactVerdict, IMAGE, Request, Session};
use ptediff_claims::{Effort, Evidence};
use ptediff_vm::{Activity, BackendKind, BareSpec, Ending, boot_bare};

use super::{ClaimFailure, LiveCheck, Machines};
use crate::error::Failure;

/// The checks of this system.
pub(super) const LIVE: &[LiveCheck] = &[
    LiveCheck {
        claim: "processor.kvm-unit-tests",
        run: |machines, effort| spaces(machines, effort, &["kvm-unit-tests"], 10_000, &BOTH),
    },
    LiveCheck {
        claim: "processor.supervisor-modes",
        run: |machines, effort| spaces(machines, effort, &["supervisor-modes"], 8_000, &BOTH),
    },
    LiveCheck { claim: "processor.keys", run: |machines, effort| spaces(machines, effort, &["keys"], 2_000, &BOTH) },
    LiveCheck {
        claim: "processor.levels",
        run: |machines, effort| {
            let mut evidence = spaces(machines, effort, &["levels", "reserved-bits"], 20_000, &BOTH)?;
            evidence.extend(spaces(machines, effort, &["five-levels"], 20_000, &[QEMU_FIVE_LEVELS])?);
            Ok(evidence)
        },
    },
    LiveCheck {
        claim: "processor.shadow-stacks",
        run: |machines, effort| spaces(machines, effort, &["shadow-stacks"], 10_000, &[BOCHS]),
    },
    LiveCheck {
        claim: "processor.dirty-without-write",
        run: |machines, _| facts(machines, &|name| name == "write-without-write-protect"),
    },
    LiveCheck { claim: "processor.pkrs", run: |machines, _| facts(machines, &|name| name.starts_with("pkrs-")) },
];

/// Mismatches of a block that the guest sends in full.
const MOST_MISMATCHES: u64 = 4;

/// An emulator as a CPU.
struct Cpu {
    backend: BackendKind,
    processor: Processor,
    name: &'static str,
    five_levels: bool,
}

const BOCHS: Cpu =
    Cpu { backend: BackendKind::Bochs, processor: Processor::Bochs, name: "bochs arrow_lake", five_levels: false };
const QEMU: Cpu = Cpu { backend: BackendKind::Qemu, processor: Processor::Qemu, name: "qemu max", five_levels: false };
const QEMU_FIVE_LEVELS: Cpu = Cpu { name: "qemu max, five levels", five_levels: true, ..QEMU };
const BOTH: [Cpu; 2] = [BOCHS, QEMU];

/// Runs spaces of cases on CPUs: all cases, or a sample of each block.
fn spaces(
    machines: &Machines,
    effort: Effort,
    names: &[&str],
    sample: u32,
    cpus: &[Cpu],
) -> Result<Vec<Evidence>, ClaimFailure> {
    let part = match effort {
        Effort::Representative => Part::Sample(sample),
        Effort::Full => Part::All,
    };
    let mask = SPACES.iter().enumerate().filter(|(_, space)| names.contains(&space.name));
    let mask = mask.fold(0, |mask, (number, _)| mask | 1 << number);
    cpus.iter().map(|cpu| one_cpu(machines, cpu, mask, part)).collect()
}

fn one_cpu(machines: &Machines, cpu: &Cpu, spaces: u64, part: Part) -> Result<Evidence, ClaimFailure> {
    let start = Instant::now();
    let request = Request {
        processor: cpu.processor,
        five_levels: cpu.five_levels,
        spaces,
        part,
        facts: false,
        most_mismatches: MOST_MISMATCHES,
    };
    let answer = ask(machines, cpu, &request)?;
    for (number, space) in SPACES.iter().enumerate().filter(|(number, _)| spaces >> number & 1 != 0) {
        if !space.runs_on(&answer.machine) {
            let missing = format!("{}: the CPU has not what the space `{}` needs", cpu.name, space.name);
            return Err(ClaimFailure::Inconclusive(missing));
        }
        let blocks = answer.blocks.iter().filter(|block| block.space == number).count();
        if blocks != space.blocks() as usize {
            return Err(rig(format!("{}: {blocks} blocks of `{}` came back", cpu.name, space.name)));
        }
    }
    judge(cpu, &request, &answer)?;
    Ok(Evidence {
        kernel: "bare".to_owned(),
        cpu: cpu.name.to_owned(),
        cases: answer.blocks.iter().map(|block| block.record.run).sum(),
        unit: "accesses".to_owned(),
        seconds: start.elapsed().as_secs_f64(),
        note: note(&answer),
    })
}

/// Goes through all blocks with the host's model.
fn judge(cpu: &Cpu, request: &Request, answer: &Answer) -> Result<(), ClaimFailure> {
    let disagreements = answer.judge(request, None);
    let Some(first) = disagreements.first() else { return Ok(()) };
    let space = SPACES[first.space].name;
    let is_first = |block: &&BlockAnswer| (block.space, block.block) == (first.space, first.block);
    let block = answer.blocks.iter().find(is_first);
    let mismatches: u64 = answer.blocks.iter().map(|block| block.record.mismatches).sum();
    if mismatches == 0 {
        return Err(rig(format!(
            "{}: guest and host judge block {} of `{space}` differently, with the same code",
            cpu.name, first.block
        )));
    }
    let mut text = format!(
        "{}: {mismatches} accesses are not decided as the model has it, in {} blocks; the first in block {} of `{space}`",
        cpu.name,
        disagreements.len(),
        first.block
    );
    for mismatch in block.iter().flat_map(|block| &block.mismatches) {
        let _ = write!(text, "\n  {mismatch}");
    }
    Err(ClaimFailure::Refuted(text))
}

/// What the records say besides agreement.
fn note(answer: &Answer) -> String {
    let records = || answer.blocks.iter().map(|block| &block.record);
    let accesses: u64 = records().map(|record| record.run).sum();
    let seconds: f64 = answer.blocks.iter().map(|block| block.time.as_secs_f64()).sum();
    let faults: u64 = records().map(|record| record.faults).sum();
    let mut note = format!("{:.0} accesses/s, {faults} page faults", accesses as f64 / seconds.max(0.001));
    let sums = |part: fn(&ptediff_bare_probe::block::BlockRecord) -> &[u64]| -> Vec<u64> {
        let length = records().next().map_or(0, |record| part(record).len());
        (0..length).map(|place| records().map(|record| part(record)[place]).sum()).collect()
    };
    let decided = sums(|record| &record.rules).iter().filter(|count| **count != 0).count();
    let _ = write!(note, ", {decided} rules decided");
    for (deviation, count) in KNOWN_EMULATOR_DEVIATIONS.iter().zip(sums(|record| &record.deviations)) {
        if count != 0 {
            let _ = write!(note, ", known deviation {}: {count}", deviation.name);
        }
    }
    let unspecified = sums(|record| &record.unspecified);
    let set = sums(|record| &record.unspecified_set);
    let (accessed, key) = unspecified.split_at(unspecified.len().saturating_sub(1));
    let (accessed_set, key_set) = set.split_at(set.len().saturating_sub(1));
    let total = |counts: &[u64]| counts.iter().sum::<u64>();
    let _ = write!(note, ", Accessed not specified {} times and set in {}", total(accessed), total(accessed_set));
    if total(key) != 0 {
        let _ = write!(note, ", PK not specified {} times and set in {}", total(key), total(key_set));
    }
    note
}

/// Establishes the facts whose names are meant, on both CPUs.
fn facts(machines: &Machines, is_meant: &dyn Fn(&str) -> bool) -> Result<Vec<Evidence>, ClaimFailure> {
    let mut evidence = Vec::new();
    for cpu in &BOTH {
        let start = Instant::now();
        let request = Request {
            processor: cpu.processor,
            five_levels: false,
            spaces: 0,
            part: Part::All,
            facts: true,
            most_mismatches: 0,
        };
        let answer = ask(machines, cpu, &request)?;
        let mut notes = Vec::new();
        let mut cases = 0;
        for (fact, words, verdict) in answer.judge_facts(cpu.processor) {
            if !is_meant(fact.name) {
                continue;
            }
            cases += words.len() as u64;
            match verdict {
                FactVerdict::Agrees => notes.push(fact.name.to_owned()),
                FactVerdict::Deviates(name) => notes.push(format!("known deviation {name}")),
                FactVerdict::Differs => {
                    let text = format!("{}: {}\n  {}: answered {words:#x?}", cpu.name, fact.name, fact.question);
                    return Err(ClaimFailure::Refuted(text));
                }
            }
        }
        if cases == 0 {
            return Err(ClaimFailure::Inconclusive(format!("{}: the CPU has not what the facts need", cpu.name)));
        }
        evidence.push(Evidence {
            kernel: "bare".to_owned(),
            cpu: cpu.name.to_owned(),
            cases,
            unit: "answers".to_owned(),
            seconds: start.elapsed().as_secs_f64(),
            note: notes.join(", "),
        });
    }
    Ok(evidence)
}

/// Boots the bare probe and hears all that it says.
fn ask(machines: &Machines, cpu: &Cpu, request: &Request) -> Result<Answer, ClaimFailure> {
    let mut spec = BareSpec::new(cpu.backend, IMAGE.to_vec(), request.argument());
    spec.silence = machines.silence;
    let mut machine = boot_bare(&spec).map_err(Failure::from)?;
    let mut session = Session::new();
    let ending = loop {
        match machine.read(session.buffer()).map_err(Failure::from)? {
            Activity::Bytes(_) => session.advance().map_err(|error| rig(format!("{}: {error}", cpu.name)))?,
            Activity::Ended(ending) => break ending,
        }
    };
    if ending != Ending::PoweredOff {
        let mut message = format!("{}: {ending}\n{}", cpu.name, machine.emulator_tail(12));
        if cpu.backend == BackendKind::Bochs {
            message += "\nA Bochs that was built before the newest patch of vm-images/bochs may stop here: `cargo xtask setup` \
                        builds it anew.";
        }
        return Err(rig(message));
    }
    session.finish().map_err(|error| rig(format!("{}: {error}", cpu.name)))
}

fn rig(message: String) -> ClaimFailure {
    Failure::Rig { message, help: None }.into()
}
