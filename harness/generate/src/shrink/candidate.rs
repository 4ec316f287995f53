//! Candidates that are simpler than a program, in passes from coarse to fine.

use ptediff_reference_model::arena::{ARENA_PAGES, ActorId, PageIndex, PageRange};
use ptediff_reference_model::program::{
    Advice, FrameCount, Operation, Placement, Program, Protection, ShadowStackFeatures, Step,
};
use ptediff_reference_model::protection_key::{KeyRights, ProtectionKey};
use ptediff_reference_model::uffd::{UffdFeatures, UffdMode};
use ptediff_reference_model::validity::repaired;

use super::remap;

/// Programs of more steps are not searched for pairs to drop: there would be too many.
const PAIRS_UP_TO: usize = 16;

/// One way of making a program simpler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Drop the n-th chunk of a `1 / 2^divisor` part of the steps, from the end.
    DropChunk { divisor: u32 },
    /// Drop one step, from the end.
    DropStep,
    /// Drop two steps that need not be neighbours.
    DropPair,
    /// Make one range shorter.
    NarrowRange,
    /// Move all pages towards slot 0.
    ShiftPages,
    /// Take one slot out of the arena: what lies above moves down.
    DeleteSlot,
    /// Move everything on one page to a lower one.
    MergePages,
    /// Let one actor do what two did.
    UniteActors,
    /// Give two actors each other's numbers.
    SwapActors,
    /// Let a lower actor do one step.
    LowerActor,
    /// Replace one step's operation by a simpler one.
    SimplifyOperation,
}

impl Pass {
    pub(crate) const FIRST: Self = Self::DropChunk { divisor: 1 };

    pub(crate) fn next(self) -> Option<Self> {
        Some(match self {
            Self::DropChunk { divisor: divisor @ 0..3 } => Self::DropChunk { divisor: divisor + 1 },
            Self::DropChunk { .. } => Self::DropStep,
            Self::DropStep => Self::NarrowRange,
            Self::NarrowRange => Self::ShiftPages,
            Self::ShiftPages => Self::DeleteSlot,
            Self::DeleteSlot => Self::MergePages,
            Self::MergePages => Self::UniteActors,
            Self::UniteActors => Self::SwapActors,
            Self::SwapActors => Self::LowerActor,
            Self::LowerActor => Self::SimplifyOperation,
            Self::SimplifyOperation => Self::DropPair,
            Self::DropPair => return None,
        })
    }
}

/// The pass's candidate at this position, or `None` past the last one. A candidate may be the program
/// itself, empty, or no simpler; the caller looks.
pub(crate) fn candidate(program: &Program, pass: Pass, position: usize) -> Option<Program> {
    let steps = &program.steps;
    let length = steps.len();
    match pass {
        Pass::DropChunk { divisor } => {
            let size = length >> divisor;
            let end = length.checked_sub(position.checked_mul(size)?).filter(|&end| size > 1 && end > 0)?;
            Some(without(program, |index| (end.saturating_sub(size)..end).contains(&index)))
        }
        Pass::DropStep => {
            let dropped = length.checked_sub(position + 1)?;
            Some(without(program, |index| index == dropped))
        }
        Pass::DropPair => {
            let (first, second) = pair(position, length.min(PAIRS_UP_TO + 1)).filter(|_| length <= PAIRS_UP_TO)?;
            Some(without(program, |index| index == first || index == second))
        }
        Pass::NarrowRange => {
            let index = position / NARROWER;
            let step = steps.get(index)?;
            let operation = step
                .operation
                .range()
                .and_then(|range| narrower(range, position % NARROWER))
                .map_or(step.operation, |range| with_range(step.operation, range));
            Some(with_operation(program, index, operation))
        }
        Pass::ShiftPages => {
            let lowest = steps.iter().flat_map(|step| extents(&step.operation)).map(|(first, _)| first).min()?;
            let distance = lowest.checked_sub(position).filter(|_| position == 0)?;
            Some(with_slots(program, |slot| slot - distance))
        }
        Pass::DeleteSlot => {
            let deleted = (ARENA_PAGES - 1).checked_sub(position)?;
            Some(with_slots(program, |slot| if slot > deleted { slot - 1 } else { slot }))
        }
        Pass::MergePages => {
            let (low, high) = pair(position, ARENA_PAGES)?;
            Some(merged(program, low, high))
        }
        Pass::UniteActors => {
            let (low, high) = pair(position, ActorId::all().count())?;
            Some(united(program, low, high))
        }
        Pass::SwapActors => {
            let (low, high) = pair(position, ActorId::all().count())?;
            Some(swapped(program, low, high))
        }
        Pass::LowerActor => {
            let actors = ActorId::all().count();
            let index = position / actors;
            let mut step = *steps.get(index)?;
            step.actor = ActorId::new(position % actors).ok()?;
            Some(with_step(program, index, step))
        }
        Pass::SimplifyOperation => {
            let index = position / SIMPLER;
            let step = steps.get(index)?;
            let operation = simpler(&step.operation, position % SIMPLER).unwrap_or(step.operation);
            Some(with_operation(program, index, operation))
        }
    }
}

/// How complicated a program is: its number of steps, then everything else. Every candidate that is tried
/// costs strictly less than what it is made from.
pub(crate) fn cost(program: &Program) -> (usize, usize) {
    let detail = program.steps.iter().map(|step| {
        let (first, pages) = extent(&step.operation).unwrap_or((0, 1));
        let there = step.operation.destination().map_or(0, |to| to.pages() * 1000 + to.first());
        (pages - 1) * 1000
            + first
            + there
            + step.actor.index() * 100
            + child_cost(&step.operation)
            + rank(&step.operation) * 50
    });
    (program.steps.len(), detail.sum())
}

fn child_cost(operation: &Operation) -> usize {
    match operation {
        Operation::Fork { child } => child.index() * 10,
        _ => 0,
    }
}

/// How unusual an operation's kind, protection and flags are, from 0.
fn rank(operation: &Operation) -> usize {
    let place = |choices: &[Protection], protection: Protection| {
        choices
            .iter()
            .position(|&choice| choice == protection)
            .unwrap_or(choices.len() + usize::from(protection.bits()))
    };
    match *operation {
        Operation::Mmap { protection, placement, .. } => {
            place(&SIMPLE_FOR_MMAP, protection) * 2 + usize::from(placement == Placement::FixedNoReplace)
        }
        Operation::MmapShared { protection, placement, .. } => {
            3 + place(&SIMPLE_FOR_MMAP, protection) * 2 + usize::from(placement == Placement::FixedNoReplace)
        }
        Operation::Mprotect { protection, .. } => place(&SIMPLE_FOR_MPROTECT, protection),
        Operation::Write { .. } => 1,
        Operation::Execute { .. } => 2,
        Operation::WriteShadowStack { .. } => 3,
        Operation::MapShadowStack { token, .. } => usize::from(token),
        Operation::Madvise { advice, .. } => 2 + advice as usize,
        Operation::Mlock { .. } => 12,
        Operation::Munlock { .. } => 13,
        Operation::Mremap { keep, .. } => 14 + usize::from(keep),
        Operation::MremapResize { .. } => 14,
        Operation::PkeyAlloc { rights } => rights.bits() as usize,
        Operation::PkeyFree { key } => usize::from(key.number()) - 1,
        Operation::PkeyMprotect { protection, key, .. } => {
            20 + place(&SIMPLE_FOR_MPROTECT, protection) + usize::from(key.number().unsigned_abs())
        }
        Operation::WritePkru { key, rights } => {
            usize::from(key.number()) - 1 + 16 * usize::from(rights != KeyRights::DisableAccess)
        }
        Operation::ReadBySystemCall { .. } => 4,
        Operation::WriteBySystemCall { .. } => 5,
        Operation::WriteProcMem { .. } => 6,
        Operation::EnterShadowStack { .. } | Operation::LeaveShadowStack => 14,
        Operation::Return { frames } | Operation::DiscardFrames { frames } => 15 + usize::from(frames.get()),
        Operation::Call { frames } => 14 + usize::from(frames.get()),
        Operation::OverwriteReturn => 16,
        Operation::ControlShadowStack { features, .. } => 17 + usize::from(features.bits()),
        Operation::ShadowStackStatus => 17,
        Operation::UffdOpen { uffd, features } => 14 + uffd.index() + features.constants().count() * 4,
        Operation::UffdClose { uffd } | Operation::UffdUnregister { uffd, .. } => 14 + uffd.index(),
        Operation::UffdRegister { uffd, mode, .. } => 15 + uffd.index() + mode as usize,
        Operation::UffdWriteProtect { uffd, protect, .. } => 14 + uffd.index() + usize::from(!protect),
        Operation::UffdCopy { uffd, protect, .. } => 15 + uffd.index() + usize::from(protect),
        Operation::UffdZeropage { uffd, .. } | Operation::UffdWake { uffd, .. } => 14 + uffd.index(),
        _ => 0,
    }
}

/// Protections from the plainest up.
const SIMPLE_FOR_MMAP: [Protection; 3] = [Protection::READ_WRITE, Protection::READ, Protection::NONE];
const SIMPLE_FOR_MPROTECT: [Protection; 3] = [Protection::READ, Protection::NONE, Protection::READ_WRITE];

/// Alternatives of one operation in [`simpler`].
const SIMPLER: usize = 4;

fn simpler(operation: &Operation, choice: usize) -> Option<Operation> {
    match *operation {
        Operation::Mmap { range, protection, placement } => match SIMPLE_FOR_MMAP.get(choice) {
            Some(&protection) => Some(Operation::Mmap { range, protection, placement }),
            None if placement == Placement::FixedNoReplace => {
                Some(Operation::Mmap { range, protection, placement: Placement::Fixed })
            }
            None => None,
        },
        Operation::MmapShared { range, protection, placement } => match SIMPLE_FOR_MMAP.get(choice) {
            Some(&protection) => Some(Operation::MmapShared { range, protection, placement }),
            None if placement == Placement::FixedNoReplace => {
                Some(Operation::MmapShared { range, protection, placement: Placement::Fixed })
            }
            None => Some(Operation::Mmap { range, protection, placement }),
        },
        Operation::Mprotect { range, .. } => {
            SIMPLE_FOR_MPROTECT.get(choice).map(|&protection| Operation::Mprotect { range, protection })
        }
        Operation::PkeyMprotect { range, protection, key } => match choice.checked_sub(1) {
            None => Some(Operation::Mprotect { range, protection }),
            Some(choice) => {
                SIMPLE_FOR_MPROTECT.get(choice).map(|&protection| Operation::PkeyMprotect { range, protection, key })
            }
        },
        Operation::PkeyAlloc { .. } if choice == 0 => Some(Operation::PkeyAlloc { rights: KeyRights::Allow }),
        Operation::PkeyFree { .. } if choice == 0 => Some(Operation::PkeyFree { key: ProtectionKey::FIRST }),
        Operation::WritePkru { key, rights } => match choice {
            0 => Some(Operation::WritePkru { key, rights: KeyRights::DisableAccess }),
            1 => Some(Operation::WritePkru { key: ProtectionKey::FIRST, rights }),
            _ => None,
        },
        Operation::ReadBySystemCall { page } if choice == 0 => Some(Operation::Read { page }),
        Operation::WriteBySystemCall { page } => match choice {
            0 => Some(Operation::Read { page }),
            1 => Some(Operation::Write { page }),
            2 => Some(Operation::ReadBySystemCall { page }),
            _ => None,
        },
        Operation::WriteProcMem { page } => match choice {
            0 => Some(Operation::Read { page }),
            1 => Some(Operation::Write { page }),
            _ => None,
        },
        Operation::MapShadowStack { range, token: true } if choice == 0 => {
            Some(Operation::MapShadowStack { range, token: false })
        }
        Operation::UffdOpen { uffd, .. } if choice == 0 => {
            Some(Operation::UffdOpen { uffd, features: UffdFeatures::SIGBUS })
        }
        Operation::UffdOpen { uffd, .. } => match choice {
            1 => Some(UffdFeatures::WP_UNPOPULATED),
            2 => Some(UffdFeatures::WP_ASYNC),
            _ => None,
        }
        .map(|feature| Operation::UffdOpen { uffd, features: UffdFeatures::SIGBUS.with(feature) }),
        Operation::UffdRegister { uffd, range, .. } => {
            UffdMode::ALL.get(choice).map(|&mode| Operation::UffdRegister { uffd, range, mode })
        }
        Operation::UffdWriteProtect { uffd, range, protect: false } if choice == 0 => {
            Some(Operation::UffdWriteProtect { uffd, range, protect: true })
        }
        Operation::UffdCopy { uffd, range, protect: true } if choice == 0 => {
            Some(Operation::UffdCopy { uffd, range, protect: false })
        }
        Operation::UffdCopy { uffd, range, protect: false } if choice == 0 => {
            Some(Operation::UffdZeropage { uffd, range })
        }
        Operation::Madvise { range, .. } | Operation::Mlock { range } | Operation::Munlock { range } => {
            let page = range.slots().next().filter(|_| range.pages() == 1);
            match (choice, page) {
                (0, Some(page)) => Some(Operation::Read { page }),
                (1, Some(page)) => Some(Operation::Write { page }),
                (2, _) => Some(Operation::MadviseDontneed { range }),
                (3, _) => Some(Operation::Madvise { range, advice: Advice::Cold }),
                _ => None,
            }
        }
        Operation::Mremap { .. } | Operation::MremapResize { .. } => remap::simpler(operation, choice),
        Operation::Call { frames } => fewer(frames, choice).map(|frames| Operation::Call { frames }),
        Operation::Return { frames } => fewer(frames, choice).map(|frames| Operation::Return { frames }),
        Operation::DiscardFrames { frames } => match fewer(frames, choice) {
            Some(frames) => Some(Operation::DiscardFrames { frames }),
            None => (choice == 3).then_some(Operation::Return { frames }),
        },
        Operation::ControlShadowStack { control, .. } => {
            let simple = [ShadowStackFeatures::SHADOW_STACK, ShadowStackFeatures::WRSS];
            simple.get(choice).map(|&features| Operation::ControlShadowStack { control, features })
        }
        // Without having entered: pages have moved to slot 0 by then.
        Operation::OverwriteReturn => (choice == 0).then_some(Operation::WriteShadowStack { page: PageIndex::FIRST }),
        Operation::EnterShadowStack { page } => (choice == 0).then_some(Operation::WriteShadowStack { page }),
        Operation::Write { page } | Operation::Execute { page } | Operation::WriteShadowStack { page } => {
            match choice {
                0 => Some(Operation::Read { page }),
                1 => Some(Operation::Write { page }),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Less deep: one frame, half of them, one less.
fn fewer(frames: FrameCount, choice: usize) -> Option<FrameCount> {
    let count = frames.get();
    let count = [1, count / 2, count - 1].get(choice).copied().filter(|&fewer| fewer < count)?;
    FrameCount::try_from(count).ok()
}

/// Alternatives of one range in [`narrower`].
const NARROWER: usize = 6;

fn narrower(range: PageRange, choice: usize) -> Option<PageRange> {
    let (first, pages) = (range.first(), range.pages());
    let (first, pages) = match choice {
        0 => (first, 1),
        1 => (range.end() - 1, 1),
        2 => (first, pages / 2),
        3 => (first + pages / 2, pages - pages / 2),
        4 => (first, pages - 1),
        _ => (first + 1, pages - 1),
    };
    PageRange::new(first, pages).ok()
}

/// The n-th pair `low < high` below `bound`.
fn pair(position: usize, bound: usize) -> Option<(usize, usize)> {
    let mut rest = position;
    for high in 1..bound {
        if rest < high {
            return Some((rest, high));
        }
        rest -= high;
    }
    None
}

fn without(program: &Program, dropped: impl Fn(usize) -> bool) -> Program {
    let steps = program.steps.iter().enumerate().filter(|&(index, _)| !dropped(index)).map(|(_, step)| *step);
    repaired(&Program { steps: steps.collect() })
}

fn with_step(program: &Program, index: usize, step: Step) -> Program {
    let mut changed = program.clone();
    changed.steps[index] = step;
    repaired(&changed)
}

fn with_operation(program: &Program, index: usize, operation: Operation) -> Program {
    with_step(program, index, Step { operation, ..program.steps[index] })
}

/// First slot and number of slots that the operation names.
fn extent(operation: &Operation) -> Option<(usize, usize)> {
    match (operation.range(), operation.page()) {
        (Some(range), _) => Some((range.first(), range.pages())),
        (None, page) => page.map(|page| (page.index(), 1)),
    }
}

/// Those of [`extent`] and of the operation's destination.
fn extents(operation: &Operation) -> impl Iterator<Item = (usize, usize)> {
    extent(operation).into_iter().chain(operation.destination().map(|to| (to.first(), to.pages())))
}

fn with_range(operation: Operation, new: PageRange) -> Operation {
    match operation {
        Operation::Mmap { protection, placement, .. } => Operation::Mmap { range: new, protection, placement },
        Operation::MmapShared { protection, placement, .. } => {
            Operation::MmapShared { range: new, protection, placement }
        }
        Operation::Munmap { .. } => Operation::Munmap { range: new },
        Operation::Mprotect { protection, .. } => Operation::Mprotect { range: new, protection },
        Operation::MadviseDontneed { .. } => Operation::MadviseDontneed { range: new },
        Operation::Madvise { advice, .. } => Operation::Madvise { range: new, advice },
        Operation::Mlock { .. } => Operation::Mlock { range: new },
        Operation::Munlock { .. } => Operation::Munlock { range: new },
        Operation::PkeyMprotect { protection, key, .. } => Operation::PkeyMprotect { range: new, protection, key },
        Operation::MapShadowStack { token, .. } => Operation::MapShadowStack { range: new, token },
        Operation::Mremap { .. } | Operation::MremapResize { .. } => remap::with_range(operation, new),
        Operation::UffdRegister { .. }
        | Operation::UffdUnregister { .. }
        | Operation::UffdWriteProtect { .. }
        | Operation::UffdCopy { .. }
        | Operation::UffdZeropage { .. }
        | Operation::UffdWake { .. } => operation.with_uffd_range(new),
        other => other,
    }
}

fn with_page(operation: Operation, new: PageIndex) -> Operation {
    match operation {
        Operation::Read { .. } => Operation::Read { page: new },
        Operation::Write { .. } => Operation::Write { page: new },
        Operation::Execute { .. } => Operation::Execute { page: new },
        Operation::WriteShadowStack { .. } => Operation::WriteShadowStack { page: new },
        Operation::ReadBySystemCall { .. } => Operation::ReadBySystemCall { page: new },
        Operation::WriteBySystemCall { .. } => Operation::WriteBySystemCall { page: new },
        Operation::WriteProcMem { .. } => Operation::WriteProcMem { page: new },
        Operation::EnterShadowStack { .. } => Operation::EnterShadowStack { page: new },
        other => other,
    }
}

/// The program with every slot moved by `to`, which must keep the order of slots and not raise any.
fn with_slots(program: &Program, to: impl Fn(usize) -> usize) -> Program {
    let renamed = |range: PageRange| {
        let (first, end) = (to(range.first()), to(range.end() - 1) + 1);
        PageRange::new(first, end - first).ok()
    };
    let moved = |operation: Operation| match (operation.range(), operation.page()) {
        (Some(range), _) => match (renamed(range), operation.destination().map(renamed)) {
            (Some(range), Some(Some(to))) => remap::with_ranges(operation, range, to),
            (Some(range), _) => with_range(operation, range),
            (None, _) => operation,
        },
        (None, Some(page)) => PageIndex::new(to(page.index())).map_or(operation, |page| with_page(operation, page)),
        (None, None) => operation,
    };
    let steps = program.steps.iter().map(|step| Step { operation: moved(step.operation), ..*step });
    Program { steps: steps.collect() }
}

/// The program with every access and one-page range of page `high` on page `low` instead.
fn merged(program: &Program, low: usize, high: usize) -> Program {
    let moved = |operation: Operation| match (extent(&operation), PageIndex::new(low)) {
        (Some((first, 1)), Ok(low)) if first == high => with_range(with_page(operation, low), PageRange::single(low)),
        _ => operation,
    };
    let steps = program.steps.iter().map(|step| Step { operation: moved(step.operation), ..*step });
    Program { steps: steps.collect() }
}

/// The program in which actor `low` does what `high` did, who is not born.
fn united(program: &Program, low: usize, high: usize) -> Program {
    let (low, high) = (ActorId::new(low).expect("an actor"), ActorId::new(high).expect("an actor"));
    let steps = program.steps.iter().filter(|step| step.operation != Operation::Fork { child: high });
    let steps = steps.map(|step| Step { actor: if step.actor == high { low } else { step.actor }, ..*step });
    repaired(&Program { steps: steps.collect() })
}

/// The program in which two actors have each other's numbers. Actor 0 is there from the start, so its
/// number is another matter: the repair drops what cannot be performed then.
fn swapped(program: &Program, low: usize, high: usize) -> Program {
    let swap = |actor: ActorId| {
        let index = match actor.index() {
            index if index == low => high,
            index if index == high => low,
            index => index,
        };
        ActorId::new(index).expect("both are actors")
    };
    let steps = program.steps.iter().map(|step| Step {
        actor: swap(step.actor),
        operation: match step.operation {
            Operation::Fork { child } => Operation::Fork { child: swap(child) },
            other => other,
        },
    });
    repaired(&Program { steps: steps.collect() })
}
