//! The CPU's side of every check, and PKS: what was asked, and the checks over the model.

use std::collections::BTreeSet;

use ptediff_reference_model::protection_key::KEYS;
use ptediff_reference_model::supervisor_keys::{
    AllocateError, Allocator, Event, Exception, Exploration, FreeError, Preservation, Threads, Violation, Writes,
    explore,
};

use crate::claim::{Cases, Check, Claim, Effort, Refuted, Seed, System};

const fn about_pks(name: &'static str, question: &'static str, answer: &'static str, check: Check) -> Claim {
    Claim { name, system: System::ProcessorAccess, seed: Seed::ProtectionKeysSupervisor2020, question, answer, check }
}

/// The claims of this system.
pub(crate) const CLAIMS: &[Claim] = &[
    about_pks(
        "processor.kvm-unit-tests",
        "Does the CPU decide every access that the `access` test of kvm-unit-tests makes as the SDM has it?",
        "Yes, in all 19,169,280 legal combinations: outcome, error code, CR2, Accessed and Dirty of every entry, and what \
         memory holds. QEMU 10.0 reports reserved bits without P (0x08 for 0x09), in each such fault, counted by name.",
        Check::Live,
    ),
    about_pks(
        "processor.supervisor-modes",
        "Do SMEP and SMAP with EFLAGS.AC decide as the SDM has it, with CR0.WP and XD in every combination?",
        "Yes, on both emulators.",
        Check::Live,
    ),
    about_pks(
        "processor.keys",
        "Do PKRU and IA32_PKRS obey each its own pages, and key 0 neither?",
        "Yes: PKRU is asked for user-mode addresses in any mode, IA32_PKRS for supervisor-mode ones, the key of the entry \
         that maps the page counts, and fetches are not asked. Bochs 3.0 needs our patch for it.",
        Check::Live,
    ),
    about_pks(
        "processor.levels",
        "Do P, R/W, U/S, XD and reserved bits count at every level, for pages of 4 KiB, 2 MiB and 1 GiB?",
        "Yes, with four levels on both emulators and with five on QEMU.",
        Check::Live,
    ),
    Claim {
        name: "processor.shadow-stacks",
        system: System::ProcessorAccess,
        seed: Seed::CowPatchReview2021,
        question: "Is a page a shadow stack to the CPU if and only if its entry has Write=0, Dirty=1 and every entry above \
                   it Write=1?",
        answer: "Yes: user shadow-stack reads, WRSS in both modes and WRUSS are allowed on such pages of their own mode \
                 alone, ordinary writes never, ordinary reads as ever; SS is set in each error code; keys hold.",
        check: Check::Live,
    },
    Claim {
        name: "processor.dirty-without-write",
        system: System::ProcessorAccess,
        seed: Seed::CowPatch2022,
        question: "State (e): can the CPU itself make an entry Write=0, Dirty=1?",
        answer: "A supervisor-mode write while CR0.WP is clear goes through an entry with Write=0, and a CPU without shadow \
                 stacks (QEMU) then sets Dirty. One that supports them never does (SDM 3A, 4.8): Bochs 3.0 stopped with a \
                 panic there, and with our patch leaves the entry clean.",
        check: Check::Live,
    },
    about_pks(
        "processor.pkrs",
        "Does a write to IA32_PKRS take effect without a TLB flush, and does an exception leave the register alone?",
        "Yes. Translations that the TLB holds obey the new rights at once, fetches ignore them, and the handlers of a page \
         fault and of a breakpoint begin with the value of the interrupted code: preserving it is the kernel's work. \
         Bits 63:32 are #GP on QEMU; Bochs drops them, counted by name.",
        Check::Live,
    ),
    about_pks(
        "processor.pks-allocator",
        "What must users of supervisor keys be prepared for when they allocate one?",
        "Fifteen keys are there, 1 to 15, the lowest free one first; key 0 is never given out nor taken back. The sixteenth \
         request is ENOSPC, and any on a CPU without PKS is EOPNOTSUPP.",
        Check::Model(allocator),
    ),
    about_pks(
        "processor.pks-context-switch-only",
        "Is it enough to save and restore the register across context switches, as the cover letter's compromise has it?",
        "No. A handler runs with the interrupted thread's rights (enable, interrupt), which the letter concedes. It also \
         loses rights: a handler that opens and closes a key which the thread had open, and which has no reference count, \
         returns with it closed (five events).",
        Check::Model(context_switch_only),
    ),
    about_pks(
        "processor.pks-as-posted",
        "Why did the author of `Preserve PKRS MSR through exceptions` see spotty crashes?",
        "The function that saves gets its state by value, so the return restores zeroes: every key open and a reference \
         count of 0. Then a nested enable and disable closes the key under the thread that still uses it (enable, \
         interrupt, return, enable, disable), the next access faults, and nested exceptions fire the warning.",
        Check::Model(as_posted),
    ),
    about_pks(
        "processor.pks-corrected",
        "Is the patch right once the state is passed by reference?",
        "Not yet. #MC and NMI come another way and run with the thread's rights; a page fault that sleeps is switched back \
         to with them; and a handler that enables and disables leaves the thread's saved value closed, so that the thread \
         loses its access at the next context switch (enable, interrupt, enable, disable, return, and two switches).",
        Check::Model(corrected),
    ),
    about_pks(
        "processor.pks-later-versions",
        "Do RFC V3 and V9 close what is open?",
        "In part. V3 loses no rights any more. V9's frame beside pt_regs leaves the reference count alone, so that a handler \
         that enables the key the thread has enabled gets no access (enable, interrupt, enable). Both leak through \
         the thread's value, which stays open during the exception: by any other key's change, and by sleeping.",
        Check::Model(later_versions),
    ),
    about_pks(
        "processor.pks-whole",
        "What must an exception save so that nothing leaks and nothing is lost?",
        "Register, thread's value and reference count, all three saved in its frame, reset at the entry and restored at the \
         return, and every kind of exception, NMI and #MC too. No trace of events breaks it.",
        Check::Model(whole),
    ),
    about_pks(
        "processor.pks-wrmsr",
        "What does the register cost, written only if its value changes?",
        "A switch between threads that hold the same rights executes no WRMSR, an exception in a thread without rights none, \
         one in a thread with rights two. Written always it is one for each switch and two for each exception.",
        Check::Model(wrmsr),
    ),
];

/// Events in the longest traces.
fn length(effort: Effort) -> usize {
    match effort {
        Effort::Representative => 8,
        Effort::Full => 12,
    }
}

fn traced(explorations: &[&Exploration]) -> Cases {
    Cases { count: explorations.iter().map(|exploration| exploration.steps).sum(), unit: "events on distinct states" }
}

fn refuted<T>(what: impl Into<String>) -> Result<T, Refuted> {
    Err(Refuted { what: what.into() })
}

fn text(trace: &[Event]) -> String {
    trace.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Explores a design and demands that exactly these violations are there, with these shortest traces.
fn demand(preservation: Preservation, effort: Effort, expected: &[(Violation, &str)]) -> Result<Exploration, Refuted> {
    let exploration = explore(preservation, length(effort));
    let found: BTreeSet<(Violation, String)> =
        exploration.found.iter().map(|found| (found.violation, text(&found.trace))).collect();
    let wanted = expected.iter().map(|(violation, trace)| (*violation, (*trace).to_owned())).collect();
    if found == wanted { Ok(exploration) } else { refuted(format!("{}: {found:?}", preservation.name())) }
}

/// Demands that a trace, event by event, is possible and ends in a violation.
fn demand_trace(preservation: Preservation, trace: &[Event], violation: Violation) -> Result<(), Refuted> {
    let mut threads = Threads::new();
    for event in trace {
        if !threads.permits(*event) {
            return refuted(format!("{}: {event} cannot come in {}", preservation.name(), text(trace)));
        }
        threads.apply(*event, preservation, Writes::IfChanged);
    }
    if threads.violations().contains(&violation) {
        Ok(())
    } else {
        refuted(format!("{}: no {violation:?} after {}", preservation.name(), text(trace)))
    }
}

fn allocator(_: Effort) -> Result<Cases, Refuted> {
    let mut keys = Allocator::new(true);
    let given: Vec<_> = std::iter::from_fn(|| keys.allocate().ok()).map(|key| key.number()).collect();
    if given != (1..KEYS).collect::<Vec<_>>() || keys.allocate() != Err(AllocateError::Exhausted) {
        return refuted(format!("given out: {given:?}, then {:?}", keys.allocate()));
    }
    if Allocator::new(false).allocate() != Err(AllocateError::Unsupported) {
        return refuted("a CPU without PKS gives out a key");
    }
    if keys.free(0) != Err(FreeError::NeverGiven(0)) || keys.free(16) != Err(FreeError::NeverGiven(16)) {
        return refuted("key 0 is taken back");
    }
    // Each key in turn, and the same again.
    for key in 1..KEYS {
        let freed = keys.free(key);
        let again = keys.free(key);
        let given = keys.allocate().map(|key| key.number());
        if (freed, again, given) != (Ok(()), Err(FreeError::NotTaken(key)), Ok(key)) {
            return refuted(format!("key {key}: {freed:?}, {again:?}, {given:?}"));
        }
    }
    Ok(Cases { count: 15 + 1 + 1 + 2 + 3 * 15, unit: "requests" })
}

fn context_switch_only(effort: Effort) -> Result<Cases, Refuted> {
    let found = demand(
        Preservation::None,
        effort,
        &[
            (Violation::Leak, "enable, interrupt"),
            (Violation::Loss, "enable another key, interrupt, enable another key, disable another key, return"),
        ],
    )?;
    Ok(traced(&[&found]))
}

fn as_posted(effort: Effort) -> Result<Cases, Refuted> {
    // A thread that enabled nothing has every key open after any interrupt.
    demand_trace(Preservation::ByValue, &[Event::Enter(Exception::Interrupt), Event::Return], Violation::Leak)?;
    let found = demand(
        Preservation::ByValue,
        effort,
        &[
            (Violation::Leak, "enable, machine check"),
            (Violation::Loss, "enable, interrupt, return, enable, disable"),
            (Violation::Warning, "interrupt, enable, interrupt, return, disable, return"),
        ],
    )?;
    Ok(traced(&[&found]))
}

fn corrected(effort: Effort) -> Result<Cases, Refuted> {
    use Event::{Disable, Enable, Enter, Return, Switch};
    let design = Preservation::ByReference;
    demand_trace(design, &[Enable, Enter(Exception::PageFault), Switch, Switch], Violation::Leak)?;
    demand_trace(
        design,
        &[Enable, Enter(Exception::Interrupt), Enable, Disable, Return, Switch, Switch],
        Violation::Loss,
    )?;
    let found = demand(
        design,
        effort,
        &[
            (Violation::Leak, "enable, machine check"),
            (Violation::Loss, "enable another key, machine check, enable another key, disable another key, return"),
        ],
    )?;
    Ok(traced(&[&found]))
}

fn later_versions(effort: Effort) -> Result<Cases, Refuted> {
    const SLEEPS: [Event; 4] = [Event::Enable, Event::Enter(Exception::PageFault), Event::Switch, Event::Switch];
    let leak = (Violation::Leak, "enable, interrupt, enable another key");
    demand_trace(Preservation::WithThreadValue, &SLEEPS, Violation::Leak)?;
    demand_trace(Preservation::RegistersFrame, &SLEEPS, Violation::Leak)?;
    let third = demand(Preservation::WithThreadValue, effort, &[leak])?;
    let ninth = demand(Preservation::RegistersFrame, effort, &[leak, (Violation::Loss, "enable, interrupt, enable")])?;
    Ok(traced(&[&third, &ninth]))
}

fn whole(effort: Effort) -> Result<Cases, Refuted> {
    Ok(traced(&[&demand(Preservation::Whole, effort, &[])?]))
}

fn wrmsr(_: Effort) -> Result<Cases, Refuted> {
    use Event::{Disable, Enable, Enter, Return, Switch};
    const INTERRUPT: Event = Enter(Exception::Interrupt);
    // What happens before the count begins, what is counted, and how often WRMSR is executed: if the value changes, always.
    let table: [(&[Event], &[Event], u32, u32); 7] = [
        (&[], &[Switch], 0, 1),
        (&[Enable, Switch, Enable], &[Switch], 0, 1),
        (&[Enable], &[Switch], 1, 1),
        (&[], &[INTERRUPT, Return], 0, 2),
        (&[Enable], &[INTERRUPT, Return], 2, 2),
        (&[Enable], &[INTERRUPT, INTERRUPT, Return, Return], 2, 4),
        (&[], &[Enable, Enable, Disable, Disable], 2, 2),
    ];
    for (before, counted, if_changed, always) in table {
        for (writes, expected) in [(Writes::IfChanged, if_changed), (Writes::Always, always)] {
            let mut threads = Threads::new();
            for event in before {
                threads.apply(*event, Preservation::Whole, writes);
            }
            let count: u32 = counted.iter().map(|event| threads.apply(*event, Preservation::Whole, writes).0).sum();
            if count != expected {
                return refuted(format!("{} after {}: {count}, {writes:?}", text(counted), text(before)));
            }
        }
    }
    Ok(Cases { count: 2 * table.len() as u64, unit: "event sequences" })
}
