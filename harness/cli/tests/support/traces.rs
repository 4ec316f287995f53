//! Traces as a guest would write them, on a kernel that follows the model to the bit; and with faults.

use ptediff_compare::{ideal_records, judge};
use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
use ptediff_reference_model::entry::{Entry, RW};
use ptediff_reference_model::kernel::{CALIBRATED, KernelVersion};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::{Operation, Placement, Program, Protection, Step};
use ptediff_reference_model::verdict::{Inconclusive, Verdict};
use ptediff_trace::{Attempt, Campaign, End, Frame, Hello, StepDone, WorkList, Writer};

/// What the trace tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Story {
    /// Two programs that agree.
    Agrees,
    /// The second one diverges.
    Diverges,
    /// The second one diverges, on a kernel version that no matrix was run on.
    Uncalibrated,
    /// The guest's verdict on the second one is not what its records say.
    GuestDisagrees,
}

/// The trace's bytes.
pub(crate) fn trace(story: Story) -> Vec<u8> {
    let is_6_12 = |version: &KernelVersion| version.is_of_series(KernelVersion::LINUX_6_12);
    let calibrated = CALIBRATED.iter().copied().find(is_6_12).expect("a version of 6.12 is calibrated");
    let other = KernelVersion { patch: 1, ..calibrated };
    let machine = machine(if story == Story::Uncalibrated { other } else { calibrated });
    let program = program();
    let mut writer = Writer::new(Vec::new());
    let mut push = |frame: &Frame| writer.push(frame).expect("a small frame");
    push(&Frame::Hello(Hello { binary: [0; 32], campaign: campaign() }));
    push(&Frame::Machine(machine.clone()));
    let mut end = End::default();
    for index in 0..2 {
        let mut records = ideal_records(&machine, &program);
        let tampered = index == 1 && matches!(story, Story::Diverges | Story::Uncalibrated);
        if tampered {
            // The kernel forgot to take the right to write away.
            let record = records.last_mut().expect("a record for each step");
            let change = record.changes.first_mut().expect("mprotect changes an entry");
            change.entry.bits = Entry(change.entry.bits.0 | RW);
            let transition = record.transitions.last_mut().expect("mprotect has a transition");
            transition.after.bits = change.entry.bits;
        }
        let (mut verdict, _) = judge(&machine, &program, &records);
        assert_eq!(tampered, verdict != Verdict::Agree, "{verdict:?}");
        if index == 1 && story == Story::GuestDisagrees {
            verdict = Verdict::Inconclusive(Inconclusive::EventsLost { step: 0, lost: 1 });
        }
        match &verdict {
            Verdict::Agree => end.verdicts.agree += 1,
            Verdict::Diverge(_) => end.verdicts.diverge += 1,
            Verdict::Inconclusive(_) => end.verdicts.inconclusive += 1,
        }
        push(&Frame::ProgramBegin { index, attempt: Attempt::First, program: program.clone() });
        for (number, record) in records.into_iter().enumerate() {
            end.steps += 1;
            push(&Frame::StepDone(StepDone { index: number as u16, record }));
        }
        push(&Frame::ProgramEnd { index, verdict });
        end.programs += 1;
        end.runs += 1;
    }
    push(&Frame::End(end));
    writer.flush().expect("a vector takes everything");
    writer.into_sink()
}

fn machine(version: KernelVersion) -> Machine {
    Machine {
        release: format!("{version}-made-up"),
        platform: "test".to_owned(),
        ..Machine::imagined(version, true, true)
    }
}

fn campaign() -> Campaign {
    Campaign {
        work: WorkList::Generated { seed: 1, first: 0, programs: 2, min_steps: 3, max_steps: 3, profile: None },
        judged_as: None,
        observer: "none".to_owned(),
        witness_every: 0,
        shrink_budget: 0,
        seconds: 0,
        bare: false,
    }
}

fn program() -> Program {
    let page = PageIndex::FIRST;
    let range = PageRange::single(page);
    let operations = [
        Operation::Mmap { range, protection: Protection::READ_WRITE, placement: Placement::Fixed },
        Operation::Write { page },
        Operation::Mprotect { range, protection: Protection::READ },
    ];
    Program { steps: operations.into_iter().map(|operation| Step { actor: ActorId::FIRST, operation }).collect() }
}
