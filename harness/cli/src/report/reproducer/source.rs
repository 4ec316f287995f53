//! The C text: head, pieces that the program uses, its operations, and `main` with the expectations.

use ptediff_reference_model::arena::{ARENA_BASE, PAGE_SIZE, PageRange, RETURN_SITE};
use ptediff_reference_model::program::{Operation, Program, Protection, store_value};
use ptediff_reference_model::rule::Rule;
use ptediff_reference_model::uffd::{UffdFeatures, UffdId};

use crate::report::wrap::wrap;

use super::expected::{ExpectedStep, pages_of};
use super::{Subject, live, machine_text, pieces};

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
    /// Whether numbers that a call or an instruction gives are noted.
    gives: bool,
    writes_pkru: bool,
    loads_by_system_call: bool,
    stores_by_system_call: bool,
    stores_by_force: bool,
    /// An actor may run on a shadow stack of its program.
    live_stacks: bool,
    /// No function may be called in an actor: it may run there, or without the stack it started with.
    calls_nothing: bool,
    asks_for_status: bool,
    /// The machine must have shadow stacks.
    needs_shadow_stack: bool,
    uffds: bool,
    /// Forks or accesses wait until messages are read.
    fork_events: bool,
    shares: bool,
    /// ksmd is let scan.
    merges: bool,
    /// Pages are put out to swap.
    swaps: bool,
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
        let live_stacks = any(Operation::is_on_live_shadow_stack);
        let uffds = any(Operation::is_on_uffd);
        let controls = any(|operation| matches!(operation, Operation::ControlShadowStack { .. }));
        let asks_for_status = any(|operation| matches!(operation, Operation::ShadowStackStatus));
        Self {
            live_stacks,
            calls_nothing: live_stacks || controls || asks_for_status,
            asks_for_status,
            needs_shadow_stack: any(Operation::needs_shadow_stack),
            accesses: live_stacks || loads || stores || fetches || shadow_stack_stores,
            loads,
            stores,
            fetches,
            shadow_stack_stores,
            calls: uffds
                || any(|operation| {
                    matches!(
                        operation,
                        Operation::Mmap { .. }
                            | Operation::MmapShared { .. }
                            | Operation::Munmap { .. }
                            | Operation::Mprotect { .. }
                            | Operation::MadviseDontneed { .. }
                            | Operation::Madvise { .. }
                            | Operation::Mlock { .. }
                            | Operation::Munlock { .. }
                            | Operation::Mremap { .. }
                            | Operation::MremapResize { .. }
                            | Operation::MapShadowStack { .. }
                            | Operation::PkeyFree { .. }
                            | Operation::PkeyMprotect { .. }
                            | Operation::ReadBySystemCall { .. }
                            | Operation::WriteBySystemCall { .. }
                            | Operation::WriteProcMem { .. }
                    )
                }),
            gives: any(|operation| matches!(operation, Operation::PkeyAlloc { .. } | Operation::WritePkru { .. })),
            writes_pkru: any(|operation| matches!(operation, Operation::WritePkru { .. })),
            loads_by_system_call: any(|operation| matches!(operation, Operation::ReadBySystemCall { .. })),
            stores_by_system_call: any(|operation| matches!(operation, Operation::WriteBySystemCall { .. })),
            stores_by_force: any(|operation| matches!(operation, Operation::WriteProcMem { .. })),
            forks: any(|operation| matches!(operation, Operation::Fork { .. })),
            exits: any(|operation| matches!(operation, Operation::Exit)),
            clears_soft_dirty: any(|operation| matches!(operation, Operation::ClearSoftDirty)),
            shares: any(|operation| matches!(operation, Operation::MmapShared { .. })),
            merges: any(|operation| *operation == Operation::MergePages),
            swaps: any(Operation::swaps),
            batches: live_stacks
                || any(|operation| {
                    matches!(
                        operation,
                        Operation::Madvise { .. } | Operation::Mlock { .. } | Operation::WriteProcMem { .. }
                    )
                }),
            uffds,
            fork_events: any(
                |operation| matches!(operation, Operation::UffdOpen { features, .. } if features.contains(UffdFeatures::EVENT_FORK) || !features.contains(UffdFeatures::SIGBUS)),
            ),
        }
    }
}

/// The whole file. `steps` has one element for each step of the program.
pub(super) fn source(subject: &Subject<'_>, steps: &[ExpectedStep]) -> String {
    let uses = Uses::of(subject.program);
    let mut text = head(subject, &uses);
    text.push_str(&includes(&uses));
    text.push_str(&constants(subject.program));
    if uses.calls_nothing {
        put_calling_nothing(&mut text, subject, &uses, steps);
        return text;
    }
    text.push_str(pieces::SHARED);
    if uses.calls || uses.forks || uses.clears_soft_dirty {
        text.push_str(pieces::CALLED);
    }
    for (wanted, piece) in [
        (uses.gives, pieces::GAVE),
        (uses.writes_pkru, pieces::WRITE_PKRU),
        (uses.loads_by_system_call, pieces::LOAD_BY_SYSTEM_CALL),
        (uses.stores_by_system_call, pieces::STORE_BY_SYSTEM_CALL),
        (uses.stores_by_force, pieces::STORE_BY_FORCE),
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
        (uses.shares, pieces::FAULT_AROUND),
    ] {
        if wanted {
            text.push_str(piece);
        }
    }
    text.push_str(&perform(subject.program, uses.batches));
    text.push_str(&actor(&uses));
    text.push_str(pieces::SHOW);
    if uses.merges {
        text.push_str(pieces::MERGE_PAGES);
    }
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

/// The rest of the file where the actors may call no function.
fn put_calling_nothing(text: &mut String, subject: &Subject<'_>, uses: &Uses, steps: &[ExpectedStep]) {
    let inlined = |piece: &str| piece.replace("static void ", "INLINE void ");
    if uses.loads {
        text.push_str(&format!(
            "\n/* As the comments name the address that every call leaves. */\n#define RETURN_SITE {RETURN_SITE:#x}UL\n"
        ));
    }
    text.push_str(live::SHARED);
    for (wanted, piece) in [
        (uses.accesses, pieces::HANDLER.to_owned()),
        (uses.accesses, live::ACCESSED.to_owned()),
        (uses.loads || uses.live_stacks, live::LIVE.to_owned()),
        (uses.loads, live::LOAD.to_owned()),
        (uses.stores, inlined(pieces::STORE)),
        (uses.fetches, inlined(pieces::EXECUTE)),
        (uses.shadow_stack_stores, inlined(pieces::SHADOW_STACK_STORE)),
        (uses.forks, live::FORK.to_owned()),
        (uses.clears_soft_dirty, live::CLEAR_SOFT_DIRTY.to_owned()),
        (uses.asks_for_status, live::STATUS.to_owned()),
        (uses.batches, live::DRAIN.to_owned()),
        (true, live::NAMES.to_owned()),
        (true, inlined(&perform(subject.program, uses.batches)).replace("_exit(0);", LEAVE_AT_ONCE)),
        (true, live::END_OF_NAMES.to_owned()),
        (true, "\nstatic void __attribute__((noreturn, noinline)) actor(void)\n{\n".to_owned()),
        (uses.accesses, pieces::INSTALL_HANDLER.to_owned()),
        (true, "\tprctl(PR_SET_PDEATHSIG, SIGKILL);\n".to_owned()),
        (uses.needs_shadow_stack, live::ENABLE.to_owned()),
        (!uses.needs_shadow_stack, live::ENABLE_IF_THERE.to_owned()),
        (true, live::LOOP.to_owned()),
        (true, pieces::SHOW.to_owned()),
        (uses.merges, pieces::MERGE_PAGES.to_owned()),
        (true, live::STEP.to_owned()),
        (true, main_function(subject, steps).replace(live::SEMAPHORES, "").replace("\tleave(", "\tstep(")),
    ] {
        if wanted {
            text.push_str(&piece);
        }
    }
}

/// Exit where no function may be called. The break is never reached.
const LEAVE_AT_ONCE: &str = "raw(SYS_exit_group, 0, 0, 0, 0, 0, 0);\n\t\tbreak;";

/// The first step that has no form without function calls, in a program whose actors may call none.
pub(super) fn beside_live_stack(program: &Program) -> Option<usize> {
    if !Uses::of(program).calls_nothing {
        return None;
    }
    program.steps.iter().position(|step| {
        step.operation.is_on_uffd()
            || matches!(
                step.operation,
                Operation::PkeyAlloc { .. }
                    | Operation::PkeyFree { .. }
                    | Operation::PkeyMprotect { .. }
                    | Operation::WritePkru { .. }
                    | Operation::ReadBySystemCall { .. }
                    | Operation::WriteBySystemCall { .. }
                    | Operation::WriteProcMem { .. }
            )
    })
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
        "Needs x86-64 with CONFIG_MEM_SOFT_DIRTY{}; root, or the frames stay hidden{}. To compile and run:",
        match (uses.needs_shadow_stack, uses.writes_pkru) {
            (true, true) => ", user shadow stacks and protection keys in CPU and kernel",
            (true, false) => ", user shadow stacks in CPU and kernel",
            (false, true) => ", protection keys in CPU and kernel",
            (false, false) => "",
        },
        if uses.shares { "; debugfs at /sys/kernel/debug" } else { "" }
    ));
    if uses.swaps {
        paragraphs.push("Swap must be on, on a zram device; vm.page-cluster is to be 0.".to_owned());
    }
    paragraphs.push("    gcc -Wall -O1 -o repro repro.c && ./repro".to_owned());
    let mut text = String::new();
    put_comment(&mut text, &paragraphs);
    text
}

fn includes(uses: &Uses) -> String {
    let mut names = vec!["signal.h", "stdio.h", "stdlib.h", "sys/mman.h", "sys/prctl.h"];
    names.extend(["sys/utsname.h", "time.h", "unistd.h", "fcntl.h"]);
    if uses.calls_nothing {
        names.push("linux/futex.h");
    } else {
        names.push("semaphore.h");
    }
    if !uses.calls_nothing && (uses.calls || uses.forks || uses.clears_soft_dirty || uses.gives) {
        names.push("errno.h");
    }
    if uses.loads_by_system_call || uses.stores_by_system_call {
        names.push("sys/eventfd.h");
    }
    if uses.shadow_stack_stores || uses.forks || uses.calls || uses.calls_nothing || uses.gives {
        names.push("sys/syscall.h");
    }
    if uses.uffds {
        names.extend(["linux/userfaultfd.h", "sys/ioctl.h"]);
    }
    if uses.forks || uses.fork_events {
        names.push("sched.h");
    }
    if uses.exits || uses.calls_nothing {
        names.push("sys/wait.h");
    }
    if uses.accesses {
        names.push("ucontext.h");
    }
    if uses.merges {
        names.push("string.h");
    }
    names.sort_unstable();
    names.dedup();
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
        Operation::Mmap { range, protection, placement } | Operation::MmapShared { range, protection, placement } => {
            let kind = if matches!(operation, Operation::Mmap { .. }) { "MAP_PRIVATE" } else { "MAP_SHARED" };
            vec![
                format!("called((long)mmap({},", place(range)),
                format!("\t{},", protection_text(*protection)),
                format!("\t{kind} | MAP_ANONYMOUS | {placement},"),
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
        Operation::Mremap { range, to, keep } => {
            let flag = if *keep { " | MREMAP_DONTUNMAP" } else { "" };
            vec![
                format!("called((long)mremap({},", place(range)),
                format!("\t{} * PAGE_SIZE,", to.pages()),
                format!("\tMREMAP_MAYMOVE | MREMAP_FIXED{flag},"),
                format!("\t(void *)PAGE({})), PAGE({}));", to.first(), to.first()),
            ]
        }
        Operation::MremapResize { range, pages } => vec![
            format!("called((long)mremap({},", place(range)),
            format!("\t{pages} * PAGE_SIZE, 0), PAGE({}));", range.first()),
        ],
        Operation::PkeyAlloc { rights } => line(format!("gave(syscall(SYS_pkey_alloc, 0, {}));", rights.bits())),
        Operation::PkeyFree { key } => line(format!("called(syscall(SYS_pkey_free, {}), 0);", key.number())),
        Operation::PkeyMprotect { range, protection, key } => vec![
            "called(syscall(SYS_pkey_mprotect,".to_owned(),
            format!("\t{},", place(range)),
            format!("\t{}, {}), 0);", protection_text(*protection), key.number()),
        ],
        Operation::WritePkru { key, rights } => line(format!("write_pkru({}, {});", key.number(), rights.bits())),
        Operation::ReadBySystemCall { page } => line(format!("load_by_system_call(PAGE({}));", page.index())),
        Operation::WriteBySystemCall { page } => {
            line(format!("store_by_system_call(PAGE({}), {:#x});", page.index(), store_value(index)))
        }
        Operation::WriteProcMem { page } => {
            line(format!("store_by_force(PAGE({}), {:#x});", page.index(), store_value(index)))
        }
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
        Operation::MergePages => line("/* main() has had ksmd do it */".to_owned()),
        Operation::Fork { child } => line(format!("fork_actor({});", child.index())),
        Operation::Exit => line("_exit(0);".to_owned()),
        Operation::ClearSoftDirty => line("clear_soft_dirty();".to_owned()),
        Operation::EnterShadowStack { page } => line(format!("enter_stack(PAGE({}) + PAGE_SIZE - 8);", page.index())),
        Operation::LeaveShadowStack => line("leave_stack();".to_owned()),
        Operation::Call { frames } => line(format!("call({});", frames.get())),
        Operation::Return { frames } => line(format!("return_from({});", frames.get())),
        Operation::DiscardFrames { frames } => line(format!("discard({});", frames.get())),
        Operation::OverwriteReturn => line(format!("overwrite_return({:#x});", store_value(index))),
        Operation::ControlShadowStack { control, features } => {
            let (number, features) = (control.number(), features.bits());
            line(format!("called(raw(SYS_arch_prctl, {number:#x}, {features}, 0, 0, 0, 0), 0);"))
        }
        Operation::ShadowStackStatus => line("shadow_stack_status();".to_owned()),
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
        if step.operation == Operation::MergePages {
            text.push_str("\tmerge_pages();\n");
        }
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
