//! The C text: head, pieces that the program uses, its operations, and `main` with the expectations.

use ptediff_reference_model::arena::{ARENA_BASE, PAGE_SIZE, PageRange};
use ptediff_reference_model::program::{Operation, Placement, Program, Protection, store_value};
use ptediff_reference_model::rule::Rule;
use ptediff_reference_model::uffd::{UffdFeatures, UffdId};

use crate::report::wrap::wrap;

use super::expected::{ExpectedStep, pages_of};
use super::{Subject, machine_text, pieces};

/// Characters of a line, so that the file can travel in mail.
const WIDTH: usize = 78;
/// Width of a tab, for the lines that begin with one.
const TAB: usize = 8;

/// What the program uses, and so what the file must have.
struct Uses {
    accesses: bool,
    loads: bool,
    stores: bool,
    fetches: bool,
    shadow_stack_stores: bool,
    calls: bool,
    forks: bool,
    exits: bool,
    clears_soft_dirty: bool,
    uffds: bool,
    /// Forks or accesses wait until messages are read.
    fork_events: bool,
    /// Pages may stand in a per-CPU batch, with a reference that decides between reuse and copy.
    batches: bool,
}

impl Uses {
    fn of(program: &Program) -> Self {
        let any = |wanted: fn(&Operation) -> bool| program.steps.iter().any(|step| wanted(&step.operation));
        let loads = any(|operation| matches!(operation, Operation::Read { .. }));
        let stores = any(|operation| matches!(operation, Operation::Write { .. }));
        let fetches = any(|operation| matches!(operation, Operation::Execute { .. }));
        let shadow_stack_stores = any(|operation| matches!(operation, Operation::WriteShadowStack { .. }));
        Self {
            accesses: loads || stores || fetches || shadow_stack_stores,
            loads,
            stores,
            fetches,
            shadow_stack_stores,
            calls: any(|operation| {
                matches!(
                    operation,
                    Operation::Mmap { .. }
                        | Operation::Munmap { .. }
                        | Operation::Mprotect { .. }
                        | Operation::MadviseDontneed { .. }
                        | Operation::Madvise { .. }
                        | Operation::Mlock { .. }
                        | Operation::Munlock { .. }
                        | Operation::MapShadowStack { .. }
                        | Operation::UffdOpen { .. }
                        | Operation::UffdClose { .. }
                        | Operation::UffdRegister { .. }
                        | Operation::UffdUnregister { .. }
                        | Operation::UffdWriteProtect { .. }
                        | Operation::UffdCopy { .. }
                        | Operation::UffdZeropage { .. }
                )
            }),
            forks: any(|operation| matches!(operation, Operation::Fork { .. })),
            exits: any(|operation| matches!(operation, Operation::Exit)),
            clears_soft_dirty: any(|operation| matches!(operation, Operation::ClearSoftDirty)),
            uffds: any(|operation| {
                matches!(
                    operation,
                    Operation::UffdOpen { .. }
                        | Operation::UffdClose { .. }
                        | Operation::UffdRegister { .. }
                        | Operation::UffdUnregister { .. }
                        | Operation::UffdWriteProtect { .. }
                        | Operation::UffdCopy { .. }
                        | Operation::UffdZeropage { .. }
                )
            }),
            fork_events: any(
                |operation| matches!(operation, Operation::UffdOpen { features, .. } if features.contains(UffdFeatures::EVENT_FORK) || !features.contains(UffdFeatures::SIGBUS)),
            ),
            batches: any(|operation| matches!(operation, Operation::Madvise { .. } | Operation::Mlock { .. })),
        }
    }
}

/// The whole file. `steps` has one element for each step of the program.
pub(super) fn source(subject: &Subject<'_>, steps: &[ExpectedStep]) -> String {
    let uses = Uses::of(subject.program);
    let mut text = head(subject, &uses);
    text.push_str(&includes(&uses));
    text.push_str(&constants(subject.program));
    text.push_str(pieces::SHARED);
    if uses.calls || uses.forks || uses.clears_soft_dirty {
        text.push_str(pieces::CALLED);
    }
    for (wanted, piece) in [
        (uses.accesses, pieces::HANDLER),
        (uses.accesses, pieces::ACCESSED),
        (uses.loads, pieces::LOAD),
        (uses.stores, pieces::STORE),
        (uses.fetches, pieces::EXECUTE),
        (uses.shadow_stack_stores, pieces::SHADOW_STACK_STORE),
        (uses.forks, pieces::FORK),
        (uses.clears_soft_dirty, pieces::CLEAR_SOFT_DIRTY),
        (uses.uffds, pieces::UFFD),
        (any_copy(subject.program), pieces::UFFD_COPY),
        (uses.batches, pieces::DRAIN),
    ] {
        if wanted {
            text.push_str(piece);
        }
    }
    text.push_str(&perform(subject.program, uses.batches));
    text.push_str(&actor(&uses));
    text.push_str(pieces::SHOW);
    if uses.fork_events {
        text.push_str(pieces::UFFD_READ);
    }
    text.push_str(if uses.fork_events { pieces::STEP_WITH_EVENTS } else { pieces::STEP });
    if uses.exits {
        text.push_str(pieces::LEAVE);
    }
    let main = main_function(subject, steps);
    // main() reads events: it must share its descriptors with the actors.
    let shared = "pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);";
    text.push_str(&if uses.fork_events { main.replace("pid = fork();", shared) } else { main });
    text
}

fn any_copy(program: &Program) -> bool {
    program.steps.iter().any(|step| matches!(step.operation, Operation::UffdCopy { .. }))
}

/// Makes any text fit for the inside of a C comment.
fn in_comment(text: &str) -> String {
    let text: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    text.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")
}

fn put_comment(text: &mut String, paragraphs: &[String]) {
    text.push_str("/*\n");
    for (index, paragraph) in paragraphs.iter().enumerate() {
        if index > 0 {
            text.push_str(" *\n");
        }
        // What is indented is meant as it stands: a command.
        let lines = if paragraph.starts_with(' ') {
            vec![format!(" * {}", in_comment(paragraph))]
        } else {
            wrap(&in_comment(paragraph), " * ", " * ", WIDTH)
        };
        for line in lines {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text.push_str(" */\n");
}

fn head(subject: &Subject<'_>, uses: &Uses) -> String {
    let mut paragraphs = vec![
        format!("{}: a reproducer made by ptediff. {}", subject.name, subject.description),
        "Processes (\"actors\") perform the steps of main() one after the other on pages at fixed addresses. \
         After each step the file prints what the actor got back and what /proc/PID/pagemap says of the pages \
         of every actor. The comments in main() are what is expected there: the result, the entries that change \
         (decoded, frame number masked out, names as in arch/x86/include/asm/pgtable_types.h), and the kernel \
         function that each expectation was read in."
            .to_owned(),
        format!("Expected of: {}.", machine_text(subject.machine)),
    ];
    paragraphs.extend(subject.finding.iter().cloned());
    paragraphs.push(format!(
        "Needs x86-64 with CONFIG_MEM_SOFT_DIRTY{}; root, or the frames stay hidden. To compile and run:",
        if uses.shadow_stack_stores { ", user shadow stacks in CPU and kernel" } else { "" }
    ));
    paragraphs.push("    gcc -Wall -O1 -o repro repro.c && ./repro".to_owned());
    let mut text = String::new();
    put_comment(&mut text, &paragraphs);
    text
}

fn includes(uses: &Uses) -> String {
    let mut names = vec!["semaphore.h", "signal.h", "stdio.h", "stdlib.h", "sys/mman.h", "sys/prctl.h"];
    names.extend(["sys/utsname.h", "time.h", "unistd.h", "fcntl.h"]);
    if uses.calls || uses.forks || uses.clears_soft_dirty {
        names.push("errno.h");
    }
    if uses.shadow_stack_stores || uses.forks || uses.calls {
        names.push("sys/syscall.h");
    }
    if uses.uffds {
        names.extend(["linux/userfaultfd.h", "sys/ioctl.h"]);
    }
    if uses.forks || uses.fork_events {
        names.push("sched.h");
    }
    if uses.exits {
        names.push("sys/wait.h");
    }
    if uses.accesses {
        names.push("ucontext.h");
    }
    names.sort_unstable();
    let mut text = "#define _GNU_SOURCE\n".to_owned();
    for name in names {
        text.push_str(&format!("#include <{name}>\n"));
    }
    text
}

fn constants(program: &Program) -> String {
    let actors = program.steps.iter().map(|step| match step.operation {
        Operation::Fork { child } => child.index().max(step.actor.index()),
        _ => step.actor.index(),
    });
    let pages: Vec<String> = pages_of(program).iter().map(|page| page.index().to_string()).collect();
    // A program that maps nothing has no pages; an empty array is no C.
    let pages = if pages.is_empty() { vec!["0".to_owned()] } else { pages };
    let mut text = format!(
        "\n#define PAGE_SIZE {PAGE_SIZE}\n/* Address of a page: all lie in one page table, far from anything else. */\n\
         #define PAGE(n) ({ARENA_BASE:#x}UL + (n) * {PAGE_SIZE}UL)\n#define ACTORS {}\n\n\
         /* The pages that are shown. */\nstatic const int pages[] = {{\n",
        actors.max().unwrap_or(0) + 1
    );
    for line in wrap(&pages.join(", "), "", "", WIDTH - TAB) {
        text.push_str(&format!("\t{line}\n"));
    }
    text.push_str("};\n#define PAGES ((int)(sizeof(pages) / sizeof(pages[0])))\n");
    text
}

/// The operations, one case a step.
fn perform(program: &Program, batches: bool) -> String {
    let drain = if batches { "\tdrain();\n" } else { "" };
    let mut text = format!(
        "\n/* Performs one step, in the actor whose step it is. */\nstatic void perform(int number)\n{{\n{drain}\
         \tswitch (number) {{\n"
    );
    for (index, step) in program.steps.iter().enumerate() {
        text.push_str(&format!("\tcase {index}: /* {} */\n", step.operation));
        for line in statement(index, &step.operation) {
            text.push_str(&format!("\t\t{line}\n"));
        }
        if step.operation != Operation::Exit {
            text.push_str("\t\tbreak;\n");
        }
    }
    text.push_str(&format!("\t}}\n{drain}}}\n"));
    text
}

fn protection_text(protection: Protection) -> String {
    let names: Vec<&str> =
        [(Protection::READ, "PROT_READ"), (Protection::WRITE, "PROT_WRITE"), (Protection::EXECUTE, "PROT_EXEC")]
            .into_iter()
            .filter(|(one, _)| protection.contains(*one))
            .map(|(_, name)| name)
            .collect();
    if names.is_empty() { "PROT_NONE".to_owned() } else { names.join(" | ") }
}

fn statement(index: usize, operation: &Operation) -> Vec<String> {
    let place = |range: &PageRange| format!("(void *)PAGE({}), {} * PAGE_SIZE", range.first(), range.pages());
    let ioctl = |uffd: &UffdId, name: &str, range: &PageRange, mode: u64| {
        vec![format!("uffd_call({}, {name}, {}, {}, {mode});", uffd.index(), range.first(), range.pages())]
    };
    let line = |text: String| vec![text];
    match operation {
        Operation::Mmap { range, protection, placement } => {
            let flag = match placement {
                Placement::Fixed => "MAP_FIXED",
                Placement::FixedNoReplace => "MAP_FIXED_NOREPLACE",
            };
            vec![
                format!("called((long)mmap({},", place(range)),
                format!("\t{},", protection_text(*protection)),
                format!("\tMAP_PRIVATE | MAP_ANONYMOUS | {flag},"),
                format!("\t-1, 0), PAGE({}));", range.first()),
            ]
        }
        Operation::Munmap { range } => line(format!("called(munmap({}), 0);", place(range))),
        Operation::Mprotect { range, protection } => {
            vec![format!("called(mprotect({},", place(range)), format!("\t{}), 0);", protection_text(*protection))]
        }
        Operation::MadviseDontneed { range } => {
            vec![format!("called(madvise({},", place(range)), "\tMADV_DONTNEED), 0);".to_owned()]
        }
        Operation::Madvise { range, advice } => {
            vec![format!("called(madvise({},", place(range)), format!("\tMADV_{}), 0);", advice.constant())]
        }
        Operation::Mlock { range } => line(format!("called(mlock({}), 0);", place(range))),
        Operation::Munlock { range } => line(format!("called(munlock({}), 0);", place(range))),
        Operation::MapShadowStack { range, token } => vec![
            "/* 453: map_shadow_stack; flag 1: SHADOW_STACK_SET_TOKEN */".to_owned(),
            format!("called(syscall(453, {}, {}),", place(range), u8::from(*token)),
            format!("\tPAGE({}));", range.first()),
        ],
        Operation::Read { page } => line(format!("load(PAGE({}));", page.index())),
        Operation::Write { page } => line(format!("store(PAGE({}), {:#x});", page.index(), store_value(index))),
        Operation::Execute { page } => line(format!("execute(PAGE({}));", page.index())),
        Operation::WriteShadowStack { page } => {
            line(format!("shadow_stack_store(PAGE({}), {:#x});", page.index(), store_value(index)))
        }
        Operation::UffdOpen { uffd, features } => {
            let constants: Vec<&str> = features.constants().collect();
            vec![
                format!("/* UFFD_FEATURE_: {} */", constants.join(", ")),
                format!("uffd_open({}, {:#x});", uffd.index(), features.api_bits()),
            ]
        }
        Operation::UffdClose { uffd } => line(format!("uffd_close({});", uffd.index())),
        Operation::UffdRegister { uffd, range, mode } => ioctl(uffd, "UFFDIO_REGISTER", range, mode.api_bits()),
        Operation::UffdUnregister { uffd, range } => ioctl(uffd, "UFFDIO_UNREGISTER", range, 0),
        Operation::UffdWriteProtect { uffd, range, protect } => {
            ioctl(uffd, "UFFDIO_WRITEPROTECT", range, u64::from(*protect))
        }
        Operation::UffdCopy { uffd, range, protect } => line(format!(
            "uffd_copy({}, {}, {}, {}, {:#x});",
            uffd.index(),
            range.first(),
            range.pages(),
            if *protect { 2 } else { 0 },
            store_value(index)
        )),
        Operation::UffdZeropage { uffd, range } => ioctl(uffd, "UFFDIO_ZEROPAGE", range, 0),
        Operation::UffdWake { uffd, range } => ioctl(uffd, "UFFDIO_WAKE", range, 0),
        Operation::UffdFinish => line("/* main() looks */".to_owned()),
        Operation::Fork { child } => line(format!("fork_actor({});", child.index())),
        Operation::Exit => line("_exit(0);".to_owned()),
        Operation::ClearSoftDirty => line("clear_soft_dirty();".to_owned()),
    }
}

/// The actor's loop.
fn actor(uses: &Uses) -> String {
    let mut text = String::new();
    if uses.shadow_stack_stores {
        text.push_str(pieces::ENABLE);
    }
    text.push_str("\nstatic void __attribute__((noreturn)) actor(void)\n{\n");
    if uses.accesses {
        text.push_str(pieces::INSTALL_HANDLER);
    }
    text.push_str("\tprctl(PR_SET_PDEATHSIG, SIGKILL);\n");
    if uses.shadow_stack_stores {
        text.push_str(pieces::CALL_ENABLE);
    }
    text.push_str(if uses.forks { pieces::LOOP_WITH_FORK } else { pieces::LOOP });
    text
}

fn rule_lines(rule: Option<Rule>) -> String {
    rule.map_or_else(String::new, |rule| {
        let info = rule.info();
        format!(" (rule {}; {})", info.identifier, info.source)
    })
}

fn main_function(subject: &Subject<'_>, steps: &[ExpectedStep]) -> String {
    let mut text = pieces::MAIN.to_owned();
    for (index, (step, expected)) in subject.program.steps.iter().zip(steps).enumerate() {
        text.push_str("\n\t/*\n");
        let mut put = |paragraph: &str, first: &str, rest: &str| {
            for line in wrap(&in_comment(paragraph), first, rest, WIDTH - TAB) {
                text.push_str(&format!("\t{line}\n"));
            }
        };
        put(&format!("Expected: {}{}", expected.result, rule_lines(expected.rule)), " * ", " *   ");
        for change in &expected.changes {
            put(&change.entry, " * ", " *     ");
            put(&format!("shown as: {}{}", change.pagemap, rule_lines(change.rule)), " *   ", " *     ");
        }
        if expected.changes.is_empty() {
            put("no entry changes", " * ", " *   ");
        }
        text.push_str("\t */\n");
        let function = match step.operation {
            Operation::Exit => "leave",
            Operation::UffdFinish => "finish",
            _ => "step",
        };
        text.push_str(&format!("\t{function}({index}, {}, \"{}\");\n", step.actor.index(), step.operation));
    }
    text.push_str(pieces::END_OF_MAIN);
    text
}
