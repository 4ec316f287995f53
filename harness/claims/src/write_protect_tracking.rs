//! userfaultfd write-protect tracking: what was asked, and the checks over the model.

use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
use ptediff_reference_model::kernel::{Change, KernelVersion};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::mutation::{Mutation, Output};
use ptediff_reference_model::program::{Advice, Operation, Placement, Program, Protection, Step};
use ptediff_reference_model::rule::Rule;
use ptediff_reference_model::tracking::{self, imagined, search};
use ptediff_reference_model::uffd::{UffdFeatures, UffdId, UffdMode};

use crate::claim::{Cases, Check, Claim, Effort, Refuted, Seed, System};

/// The claims of this system.
pub(crate) const CLAIMS: &[Claim] = &[
    Claim {
        name: "tracking.message-iff-protected",
        system: System::WriteProtectTracking,
        seed: Seed::UffdWriteProtect2019,
        question: "Does a write-protect message arrive if and only if the user write-protected that page and has not resolved it since, whatever COW, KSM and swap do to RW?",
        answer: "Yes, with one exception that holds in 6.1, 6.12 and 7.2: ksmd drops the protection of a page that it replaces by an equal one, so that the next store to it is missed. No store to a page that was read-only for COW, KSM, swap or as a zero page alone gave a message, and no other message was missed. The judge knows operations and results only.",
        check: Check::Live,
    },
    Claim {
        name: "tracking.every-short-program",
        system: System::WriteProtectTracking,
        seed: Seed::UffdWriteProtect2019,
        question: "Is there any short program on which the mark in the entry gives a false message or misses one?",
        answer: "No: over all programs of a small alphabet (map, register, protect, resolve, load, store, fork, exit, swap out, merge, discard, copy in, unregister), with and without EVENT_FORK, WP_UNPOPULATED and WP_ASYNC, the model of the kernel agrees with the property, which was written without it.",
        check: Check::Model(every_short_program),
    },
    Claim {
        name: "tracking.inference-is-wrong",
        system: System::WriteProtectTracking,
        seed: Seed::UffdWriteProtect2019,
        question: "Could the kernel do without the mark, and infer from VMA flag, map count, KSM flag and page lock why a page is read-only (Jerome Glisse)?",
        answer: "No. On live kernels the inference tells of pages that nobody protected (after swap-in; zero pages; pages whose sharer is gone) and does not tell of pages that the user protected while fork or KSM shared them: Peter Xu's two counter-examples, found among generated programs and shrunk. The shortest false message takes 5 steps (a zero page; with swap 6), the shortest missed one 7 (fork).",
        check: Check::Live,
    },
    Claim {
        name: "tracking.inference-shortest",
        system: System::WriteProtectTracking,
        seed: Seed::UffdWriteProtect2019,
        question: "What are the shortest programs on which the inference is wrong?",
        answer: "False messages: map, open, register, load, store (the zero page, 5 steps); map, open, register, store, swap out, store (6). Missed: map, store, fork, open, register, protect, store (7). All programs of the alphabet with fewer steps were tried.",
        check: Check::Model(inference_shortest),
    },
    Claim {
        name: "tracking.forgotten-marks-are-caught",
        system: System::WriteProtectTracking,
        seed: Seed::UffdWriteProtect2019,
        question: "Would the property notice a kernel that forgets the mark?",
        answer: "Yes: bit 2 forgotten at swap-out, the mark forgotten at swap-in or when a marker is mapped, and a mark that fork sets on a page for COW are each caught by one store.",
        check: Check::Model(forgotten_marks_are_caught),
    },
];

const VERSIONS: [KernelVersion; 3] = [KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2];

fn machine(version: KernelVersion) -> Machine {
    Machine::imagined(version, false, true)
}

/// Features that a kernel knows.
fn features(version: KernelVersion) -> Vec<UffdFeatures> {
    let mut features = vec![UffdFeatures::NONE, UffdFeatures::EVENT_FORK];
    if machine(version).kernel().has(Change::UffdWpAsync) {
        features.extend([UffdFeatures::WP_UNPOPULATED, UffdFeatures::WP_ASYNC]);
    }
    features
}

fn every_short_program(effort: Effort) -> Result<Cases, Refuted> {
    let longest = if effort == Effort::Full { 8 } else { 6 };
    let mut count = 0;
    for version in VERSIONS {
        for features in features(version) {
            count += search::every_program(&machine(version), features, longest).map_err(|(program, violation)| {
                Refuted { what: format!("{version}, {features}: {violation}\n{}", listed(&program)) }
            })?;
        }
    }
    Ok(Cases { count, unit: "programs" })
}

fn inference_shortest(effort: Effort) -> Result<Cases, Refuted> {
    let mut count = 0;
    for version in VERSIONS {
        let longest = if effort == Effort::Full { 8 } else { 7 };
        let (found, programs) = search::shortest(&machine(version), longest);
        count += programs;
        let lengths: Vec<(bool, &str, usize)> = found
            .iter()
            .map(|(program, wrong)| (wrong.is_false, wrong.circumstance.name(), program.steps.len()))
            .collect();
        // 6.1 leaves a page read-only whose protection was resolved.
        let read_only = if machine(version).kernel().has(Change::UffdWpByPageProtection) { 7 } else { 6 };
        for expected in [(true, "zero page", 5), (true, "swap", 6), (true, "read-only", read_only), (false, "COW", 7)] {
            if !lengths.contains(&expected) {
                return Err(Refuted { what: format!("{version}: {expected:?} is not among {lengths:?}") });
            }
        }
    }
    Ok(Cases { count, unit: "programs" })
}

fn forgotten_marks_are_caught(_: Effort) -> Result<Cases, Refuted> {
    let (uffd, page) = (UffdId::FIRST, PageRange::FIRST_PAGE);
    let map = Operation::Mmap { range: page, protection: Protection::READ_WRITE, placement: Placement::Fixed };
    let open = |features: UffdFeatures| Operation::UffdOpen { uffd, features: features.with(UffdFeatures::SIGBUS) };
    let register = Operation::UffdRegister { uffd, range: page, mode: UffdMode::WriteProtect };
    let protect = Operation::UffdWriteProtect { uffd, range: page, protect: true };
    let out = Operation::Madvise { range: page, advice: Advice::PageOut };
    let (read, write) = (Operation::Read { page: PageIndex::FIRST }, Operation::Write { page: PageIndex::FIRST });
    let fork = Operation::Fork { child: ActorId::SECOND };
    let usual = open(UffdFeatures::NONE);
    let marked = open(UffdFeatures::WP_UNPOPULATED);
    let wrong = |rule, bit| Mutation { rule, output: Output::EntryBit(bit) };
    let cases = [
        (wrong(Rule::PageOutUffdWp, 2), vec![map, usual, register, write, protect, out, write]),
        (wrong(Rule::SwapInUffdWp, 10), vec![map, usual, register, write, protect, out, read, write]),
        (wrong(Rule::ZeroPageUffdWp, 10), vec![map, marked, register, protect, read, write]),
        (wrong(Rule::ForkParentProtected, 10), vec![map, write, usual, register, fork, write]),
    ];
    let mut count = 0;
    for version in VERSIONS {
        for (mutation, operations) in &cases {
            if !mutation.rule.info().holds_on(machine(version).kernel()) {
                continue;
            }
            let actor = ActorId::FIRST;
            let program = Program { steps: operations.iter().map(|&operation| Step { actor, operation }).collect() };
            let machine = machine(version);
            let judged = |model| {
                let records = imagined::records(model, &program);
                records.map(|records| tracking::judge(machine.kernel(), &program, &records))
            };
            let is_right = judged(Model::new(&machine)).is_some_and(|judged| judged.is_ok());
            let is_caught = judged(Model::with_mutation(&machine, *mutation)).is_some_and(|judged| judged.is_err());
            if !is_right || !is_caught {
                return Err(Refuted { what: format!("{version}: {mutation} is not caught by\n{}", listed(&program)) });
            }
            count += 1;
        }
    }
    Ok(Cases { count, unit: "wrong kernels" })
}

fn listed(program: &Program) -> String {
    program.steps.iter().enumerate().map(|(index, step)| format!("  {index}  {step}\n")).collect()
}
