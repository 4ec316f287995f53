//! What the model says that a reproducer must print, and which rules say so.

use ptediff_compare::pagemap_word;
use ptediff_reference_model::arena::{ActorId, PageIndex};
use ptediff_reference_model::expectation::{EntryExpectation, ExpectedFrame};
use ptediff_reference_model::kernel::Kernel;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::Program;
use ptediff_reference_model::rule::Rule;

use super::{ImpossibleStep, require_possible};

/// Bits of a pagemap word (`Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 1 << 63;
const EXCLUSIVE: u64 = 1 << 56;
const SOFT_DIRTY: u64 = 1 << 55;

/// What one step must give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedStep {
    /// The result, as the reproducer prints it.
    pub result: String,
    /// The rule that decided the result.
    pub rule: Option<Rule>,
    /// The pages of all living actors after the step, as the reproducer prints them, raw words left out.
    pub pages: Vec<String>,
    /// Entries that the step changed.
    pub changes: Vec<ExpectedChange>,
}

/// An entry that a step changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedChange {
    /// The entry, decoded.
    pub entry: String,
    /// The same page as pagemap shows it.
    pub pagemap: String,
    /// The rule that wrote it.
    pub rule: Option<Rule>,
}

/// What each step of the program gives on this machine when its kernel is this one: the one that the machine is judged
/// by for what is right, [`Machine::kernel_as_released`] for what its version is known to do.
///
/// # Errors
/// [`ImpossibleStep`]: the machine cannot perform the program.
pub fn expected_steps(
    machine: &Machine,
    kernel: Kernel,
    program: &Program,
) -> Result<Vec<ExpectedStep>, ImpossibleStep> {
    let mut model = Model::with_kernel(machine, kernel);
    let mut names = FrameNames::default();
    let pages = pages_of(program);
    let mut steps = Vec::with_capacity(program.steps.len());
    for (index, step) in program.steps.iter().enumerate() {
        require_possible(&model, machine, index, program)?;
        let before = model.clone();
        let expectation = model.step(index, step);
        let mut lines = Vec::new();
        let mut changes = Vec::new();
        for actor in ActorId::all().filter(|&actor| model.is_alive(actor)) {
            for &page in &pages {
                let entry = model.entry(actor, page);
                let seen = pagemap_text(pagemap_word(&model, actor, page), names.of(entry.frame));
                if before.entry(actor, page) != entry {
                    changes.push(ExpectedChange {
                        entry: entry_text(actor, page, &entry),
                        pagemap: seen.clone(),
                        rule: model.entry_rule(actor, page),
                    });
                }
                lines.push(format!("actor {} page {}: {seen}", actor.index(), page.index()));
            }
        }
        names.forget_unmapped(&model, &pages);
        steps.push(ExpectedStep {
            result: expectation.outcome.map_or_else(String::new, |outcome| result_text(&outcome)),
            rule: expectation.outcome_rule,
            pages: lines,
            changes,
        });
    }
    Ok(steps)
}

/// The pages that the program names, in order. One that names none shows the first: an empty array is no C.
pub(super) fn pages_of(program: &Program) -> Vec<PageIndex> {
    let mut pages: Vec<PageIndex> = Vec::new();
    for step in &program.steps {
        let ranges = [step.operation.range(), step.operation.destination()];
        pages.extend(ranges.into_iter().flatten().flat_map(|range| range.slots()));
        pages.extend(step.operation.page());
    }
    if pages.is_empty() {
        pages.push(PageIndex::FIRST);
    }
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// Names of the model's frames in order of appearance, as the reproducer gives them to frame numbers: a frame
/// that no entry holds any more loses its name, also a page of shared memory that waits in its object.
#[derive(Debug, Default)]
struct FrameNames {
    known: Vec<(u32, u32)>,
    given: u32,
}

impl FrameNames {
    fn of(&mut self, frame: ExpectedFrame) -> String {
        match frame {
            ExpectedFrame::None => String::new(),
            ExpectedFrame::Zero => ", the zero page".to_owned(),
            ExpectedFrame::Frame(number) => {
                let known = self.known.iter().find(|(known, _)| *known == number);
                let name = known.map(|(_, name)| *name).unwrap_or_else(|| {
                    self.given += 1;
                    self.known.push((number, self.given));
                    self.given
                });
                format!(", frame {name}")
            }
        }
    }

    fn forget_unmapped(&mut self, model: &Model, pages: &[PageIndex]) {
        let entries = ActorId::all().flat_map(|actor| pages.iter().map(move |&page| (actor, page)));
        let mapped: Vec<ExpectedFrame> = entries.map(|(actor, page)| model.entry(actor, page).frame).collect();
        self.known.retain(|(number, _)| mapped.contains(&ExpectedFrame::Frame(*number)));
    }
}

fn pagemap_text(word: u64, frame: String) -> String {
    let state = if word & PRESENT != 0 { "present" } else { "empty" };
    let flag = |bit: u64, name| if word & bit != 0 { name } else { "" };
    format!("{state}{}{}{frame}", flag(SOFT_DIRTY, ", soft-dirty"), flag(EXCLUSIVE, ", exclusive"))
}

fn entry_text(actor: ActorId, page: PageIndex, entry: &EntryExpectation) -> String {
    format!("actor {} page {}: entry {:#018x} [{}]", actor.index(), page.index(), entry.bits.0, entry.bits)
}

fn result_text(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Succeeded => "ok".to_owned(),
        Outcome::Elsewhere(address) => format!("elsewhere, at {address:#x}"),
        Outcome::Failed(errno) => format!("errno {errno}"),
        Outcome::Loaded(value) => format!("loaded {value:#x}"),
        Outcome::Stored => "stored".to_owned(),
        Outcome::Executed => "executed".to_owned(),
        Outcome::Killed(signal) => format!("killed by signal {signal}"),
        Outcome::Dead => "dead".to_owned(),
        Outcome::Waits(message) => format!("waits, flags {:#x}, address {:#x}", message.flags, message.address),
        Outcome::Faulted(fault) => format!(
            "signal {}, si_code {}, address {:#x}, error code {:#x}{}",
            fault.signal,
            fault.code,
            fault.address,
            fault.error_code,
            if fault.key == 0 { String::new() } else { format!(", key {}", fault.key) }
        ),
        Outcome::Returned(value) => format!("gave {value:#x}"),
    }
}
