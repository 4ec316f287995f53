//! The kernel's memory model for private anonymous memory and shadow stacks.
//!
//! The state is what the kernel keeps: VMAs, entries, frames. Each operation follows the kernel function
//! that it names; each thing written is written by a [`Rule`]. Read in 6.1.192, 6.12.95 and 7.2.13.

mod advise;
mod fault;
mod fork;
mod lock;
mod map;
mod protect;
mod userfault;
mod vma;

use crate::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex};
use crate::entry::{A, DirtyDesign, Entry, NX, P, PROTNONE, RW, US};
use crate::expectation::{EntryExpectation, ExpectedFrame, StepExpectation, TransitionExpectation, Vagueness};
use crate::machine::{Dialect, Machine};
use crate::mutation::{self, Mutation, Output};
use crate::observation::Cause;
use crate::program::{Advice, Operation, Protection, Step};
use crate::rule::Rule;
use crate::uffd::{UFFDS, UffdFeatures, UffdId};
use userfault::{Userfault, Waiting};
use vma::{AnonVma, Vma, VmaList};

/// Bits of `vm_flags` that are compared: READ, WRITE, EXEC, UFFD_MISSING, UFFD_WP, LOCKED, DONTCOPY, WIPEONFORK,
/// SOFTDIRTY, SHADOW_STACK.
pub const VM_FLAGS_COMPARED: u64 = 0x1 | 0x2 | 0x4 | vma::VM_SOFTDIRTY | vma::VM_SHADOW_STACK | vma::VM_MARKS;

/// What is mapped at a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// Protection of the VMA.
    pub protection: Protection,
    /// Whether it is a shadow-stack VMA.
    pub shadow_stack: bool,
    /// `VM_SOFTDIRTY`.
    pub soft_dirty: bool,
    /// `VM_LOCKED`.
    pub locked: bool,
    /// `VM_UFFD_MISSING`.
    pub uffd_missing: bool,
    /// `VM_UFFD_WP`.
    pub uffd_wp: bool,
}

/// One entry and the rule that last wrote it.
#[derive(Debug, Clone, Copy)]
struct Slot {
    bits: Entry,
    frame: ExpectedFrame,
    rule: Option<Rule>,
}

impl Slot {
    const EMPTY: Self = Self { bits: Entry::NONE, frame: ExpectedFrame::None, rule: None };
}

/// A frame of anonymous memory.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// The first eight bytes.
    content: u64,
    /// Entries that map it. Nothing else holds a reference once per-CPU LRU batches are drained, which
    /// `wp_can_reuse_anon_folio` does before it counts.
    mapcount: u16,
    /// `PageAnonExclusive`.
    exclusive: bool,
    /// `folio_test_dirty`: anonymous pages get it where GUP stores through a writable entry that is clean.
    dirty: bool,
}

#[derive(Debug, Clone)]
struct ActorMemory {
    vmas: VmaList,
    slots: [Slot; ARENA_PAGES],
}

impl ActorMemory {
    fn new() -> Self {
        Self { vmas: VmaList::default(), slots: [Slot::EMPTY; ARENA_PAGES] }
    }
}

/// The state of all actors' memory, as the kernel's rules have it.
#[derive(Debug, Clone)]
pub struct Model {
    dialect: Dialect,
    design: DirtyDesign,
    shadow_stack: bool,
    protection_keys: bool,
    exact_accessed: bool,
    mutation: Option<Mutation>,
    actors: [Option<ActorMemory>; ACTORS],
    frames: Vec<Frame>,
    uffds: [Option<Userfault>; UFFDS],
    /// Accesses that wait for a userfaultfd, or did so and were not asked about since.
    waiting: [Option<Waiting>; ACTORS],
    next_userfault: u32,
    next_anon: u32,
    expectation: StepExpectation,
}

impl Model {
    /// Actor 0 alive, its arena unmapped.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        Self {
            dialect: machine.dialect,
            design: match machine.dialect {
                Dialect::Linux6_1 => DirtyDesign::InPlace,
                Dialect::Linux6_12 | Dialect::Linux7_2 => DirtyDesign::Saved,
            },
            shadow_stack: machine.shadow_stack,
            protection_keys: machine.protection_keys,
            exact_accessed: machine.exact_accessed,
            mutation: None,
            actors: [Some(ActorMemory::new()), None, None, None],
            frames: Vec::with_capacity(64),
            uffds: [None; UFFDS],
            waiting: [None; ACTORS],
            next_userfault: 0,
            next_anon: 0,
            expectation: StepExpectation::default(),
        }
    }

    /// A model with one output of one rule wrong.
    #[must_use]
    pub fn with_mutation(machine: &Machine, mutation: Mutation) -> Self {
        Self { mutation: Some(mutation), ..Self::new(machine) }
    }

    /// Performs one step and says what it must give. `index` is the step's index in its program.
    ///
    /// # Panics
    /// When the step is not [possible](Self::is_possible).
    pub fn step(&mut self, index: usize, step: &Step) -> StepExpectation {
        assert!(self.is_possible(step), "impossible step {step}");
        let actor = step.actor;
        self.expectation = StepExpectation::default();
        let (rule, outcome) = match step.operation {
            Operation::Mmap { range, protection, placement } => self.mmap(actor, range, protection, placement),
            Operation::Munmap { range } => self.munmap(actor, range),
            Operation::Read { page } => self.access(index, actor, page, fault::Access::Read),
            Operation::Write { page } => self.access(index, actor, page, fault::Access::Write),
            Operation::Execute { page } => self.access(index, actor, page, fault::Access::Execute),
            Operation::Mprotect { range, protection } => self.mprotect(actor, range, protection),
            Operation::Fork { child } => self.fork(actor, child),
            Operation::Exit => self.exit(actor),
            Operation::MadviseDontneed { range } => self.dontneed(actor, range),
            Operation::ClearSoftDirty => self.clear_soft_dirty(actor),
            Operation::MapShadowStack { range, token } => self.map_shadow_stack(actor, range, token),
            Operation::WriteShadowStack { page } => self.access(index, actor, page, fault::Access::ShadowStackWrite),
            Operation::Madvise { range, advice } => self.madvise(actor, range, advice),
            Operation::Mlock { range } => self.mlock(actor, range),
            Operation::Munlock { range } => self.munlock(actor, range),
            Operation::UffdOpen { uffd, features } => self.uffd_open(actor, uffd, features),
            Operation::UffdClose { uffd } => self.uffd_close(uffd),
            Operation::UffdRegister { uffd, range, mode } => self.uffd_register(uffd, range, mode),
            Operation::UffdUnregister { uffd, range } => self.uffd_unregister(uffd, range),
            Operation::UffdWriteProtect { uffd, range, protect } => self.uffd_write_protect(uffd, range, protect),
            Operation::UffdCopy { uffd, range, protect } => self.uffd_copy(index, uffd, range, protect),
            Operation::UffdZeropage { uffd, range } => self.uffd_zeropage(uffd, range),
            Operation::UffdWake { uffd, range } => self.uffd_wake(uffd, range),
            Operation::UffdFinish => self.uffd_finish(actor),
        };
        self.fire(rule);
        let outcome = self.mutation.map_or(outcome, |mutation| mutation.outcome(rule, outcome));
        self.expectation.outcome = Some(outcome);
        self.expectation.outcome_rule = Some(rule);
        std::mem::take(&mut self.expectation)
    }

    /// Whether the step can be performed at all: its actor is alive, a forked child's number is free, the
    /// machine has what the operation needs, and the model knows the operation on this machine.
    ///
    /// Execute-only protection on a CPU with protection keys takes a key of its own
    /// (`arch/x86/mm/pkeys.c: __execute_only_pkey`), which this model does not have yet.
    #[must_use]
    pub fn is_possible(&self, step: &Step) -> bool {
        if !self.is_alive(step.actor) {
            return false;
        }
        if self.waiting[step.actor.index()].is_some() != (step.operation == Operation::UffdFinish) {
            return false;
        }
        match step.operation {
            Operation::Fork { child } => !self.is_alive(child) && self.has_names_for_fork(step.actor),
            Operation::WriteShadowStack { .. } => self.shadow_stack,
            // System calls that wait for an answer to a fault are not modelled.
            Operation::Mlock { range } => !self.may_wait(step.actor, range),
            Operation::Madvise { range, advice: Advice::PopulateRead | Advice::PopulateWrite } => {
                !self.may_wait(step.actor, range)
            }
            Operation::Mmap { protection, .. } | Operation::Mprotect { protection, .. } => {
                let waits = match step.operation {
                    Operation::Mprotect { range, .. } => self.may_wait_locked(step.actor, range),
                    _ => false,
                };
                let takes_key = self.protection_keys && protection == Protection::EXECUTE;
                !waits && !takes_key
            }
            _ => true,
        }
    }

    /// Whether the actor is alive.
    #[must_use]
    pub fn is_alive(&self, actor: ActorId) -> bool {
        self.actors[actor.index()].is_some()
    }

    /// Living actors, bit `n` for actor `n`.
    #[must_use]
    pub fn alive(&self) -> u8 {
        ActorId::all().filter(|&actor| self.is_alive(actor)).fold(0, |mask, actor| mask | 1 << actor.index())
    }

    /// What is mapped at a page of a living actor.
    #[must_use]
    pub fn mapping(&self, actor: ActorId, page: PageIndex) -> Option<Mapping> {
        let vma = self.actors[actor.index()].as_ref()?.vmas.at(page)?;
        Some(Mapping {
            protection: vma.protection,
            shadow_stack: vma.shadow_stack,
            soft_dirty: vma.soft_dirty,
            locked: vma.is_locked(),
            uffd_missing: vma.marks & vma::VM_UFFD_MISSING != 0,
            uffd_wp: vma.marks & vma::VM_UFFD_WP != 0,
        })
    }

    /// Whose memory an open descriptor acts on; `None` where it is not open or that actor has exited.
    #[must_use]
    pub fn uffd_owner(&self, uffd: UffdId) -> Option<ActorId> {
        self.uffds[uffd.index()].and_then(|userfault| userfault.owner)
    }

    /// Whether the actor's access waits for a userfaultfd, or did so and was not asked about since.
    #[must_use]
    pub fn is_waiting(&self, actor: ActorId) -> bool {
        self.waiting[actor.index()].is_some()
    }

    /// Whether faults wait for an answer from this descriptor.
    #[must_use]
    pub fn is_waited_for(&self, uffd: UffdId) -> bool {
        self.uffds[uffd.index()]
            .is_some_and(|open| open.owner.is_some() && !open.features.contains(UffdFeatures::SIGBUS))
    }

    /// The descriptor that the actor's access waits for, and the page.
    #[must_use]
    pub fn waits_for(&self, actor: ActorId) -> Option<(UffdId, PageIndex)> {
        let waiting = self.waiting[actor.index()].filter(|waiting| waiting.done.is_none())?;
        let is_its = |uffd: &UffdId| self.uffds[uffd.index()].is_some_and(|open| open.context == waiting.context);
        UffdId::all().find(is_its).map(|uffd| (uffd, waiting.page))
    }

    /// Whether the access that waited has ended.
    #[must_use]
    pub fn has_finished(&self, actor: ActorId) -> bool {
        self.waiting[actor.index()].is_some_and(|waiting| waiting.done.is_some())
    }

    /// Whether the descriptor is open.
    #[must_use]
    pub fn is_uffd_open(&self, uffd: UffdId) -> bool {
        self.uffds[uffd.index()].is_some()
    }

    /// What the entry of a page of a living actor must be now; all-zero for an actor that is not alive.
    #[must_use]
    pub fn entry(&self, actor: ActorId, page: PageIndex) -> EntryExpectation {
        match &self.actors[actor.index()] {
            Some(memory) => self.expect(&memory.slots[page.index()]),
            None => EntryExpectation::NONE,
        }
    }

    /// The rule that last wrote the entry.
    #[must_use]
    pub fn entry_rule(&self, actor: ActorId, page: PageIndex) -> Option<Rule> {
        self.actors[actor.index()].as_ref()?.slots[page.index()].rule
    }

    /// Mappings of the frame of this number in the model. A frame with none is gone.
    #[must_use]
    pub fn mapcount(&self, frame: u32) -> u16 {
        self.frames.get(frame as usize).map_or(0, |frame| frame.mapcount)
    }

    fn expect(&self, slot: &Slot) -> EntryExpectation {
        let vague = !self.exact_accessed && slot.bits.has(P) && !slot.bits.has(A);
        EntryExpectation {
            bits: slot.bits,
            unspecified: if vague { A } else { 0 },
            reason: vague.then_some(Vagueness::EarlyAccessed),
            frame: slot.frame,
        }
    }

    fn memory(&mut self, actor: ActorId) -> &mut ActorMemory {
        self.actors[actor.index()].as_mut().expect("a living actor")
    }

    fn slot(&self, actor: ActorId, page: PageIndex) -> Slot {
        self.actors[actor.index()].as_ref().map_or(Slot::EMPTY, |memory| memory.slots[page.index()])
    }

    fn fire(&mut self, rule: Rule) {
        self.expectation.fired.push(rule);
    }

    fn is_mutated(&self, rule: Rule, output: Output) -> bool {
        self.mutation.is_some_and(|mutation| mutation.is(rule, output))
    }

    /// Writes an entry by a rule. Mapcounts are the caller's business.
    fn write(&mut self, rule: Rule, actor: ActorId, page: PageIndex, bits: Entry, frame: ExpectedFrame) {
        self.fire(rule);
        let flip = self.mutation.map_or(0, |mutation| mutation.entry_flip(rule));
        let frame = if self.is_mutated(rule, Output::Frame) {
            match frame {
                ExpectedFrame::Frame(_) => ExpectedFrame::Zero,
                ExpectedFrame::None | ExpectedFrame::Zero => ExpectedFrame::Frame(self.new_frame(0)),
            }
        } else {
            frame
        };
        if self.is_mutated(rule, Output::Exclusive)
            && let ExpectedFrame::Frame(number) = frame
        {
            let frame = &mut self.frames[number as usize];
            frame.exclusive = !frame.exclusive;
        }
        self.memory(actor).slots[page.index()] = Slot { bits: Entry(bits.0 ^ flip), frame, rule: Some(rule) };
    }

    fn new_frame(&mut self, content: u64) -> u32 {
        self.frames.push(Frame { content, mapcount: 1, exclusive: true, dirty: false });
        (self.frames.len() - 1) as u32
    }

    fn new_anon(&mut self, singular: bool) -> AnonVma {
        self.next_anon += 1;
        AnonVma { id: self.next_anon, singular }
    }

    /// One mapping of the frame goes.
    fn release(&mut self, frame: ExpectedFrame) {
        if let ExpectedFrame::Frame(number) = frame {
            let frame = &mut self.frames[number as usize];
            frame.mapcount = frame.mapcount.saturating_sub(1);
        }
    }

    /// Records the transition of an entry from `before` to what it is now.
    fn transition(
        &mut self,
        cause: Cause,
        rule: Rule,
        actor: ActorId,
        page: PageIndex,
        before: EntryExpectation,
        write: bool,
    ) {
        if self.is_mutated(rule, Output::Transition) {
            return;
        }
        let Some(memory) = &self.actors[actor.index()] else { return };
        let after = self.expect(&memory.slots[page.index()]);
        let mut vm_flags = memory.vmas.at(page).map_or(0, Vma::vm_flags);
        for bit in mutation::VM_FLAG_BITS {
            if self.is_mutated(rule, Output::VmFlag(bit)) {
                vm_flags ^= 1 << bit;
            }
        }
        let (mapcount, anon_exclusive) = match after.frame {
            ExpectedFrame::Frame(number) => {
                let frame = self.frames[number as usize];
                (frame.mapcount, frame.exclusive)
            }
            ExpectedFrame::None | ExpectedFrame::Zero => (0, false),
        };
        self.expectation.transitions.push(TransitionExpectation {
            cause,
            actor,
            page,
            before,
            after,
            vm_flags,
            write: write ^ self.is_mutated(rule, Output::WriteFlag),
            mapcount: mapcount ^ u16::from(self.is_mutated(rule, Output::Mapcount)),
            anon_exclusive,
            rule,
        });
    }
}

/// `vm_page_prot` of a private VMA with this protection: `arch/x86/mm/pgprot.c: protection_map`. Write is
/// withheld for COW, so a shadow-stack VMA has the same.
fn page_protection(protection: Protection) -> Entry {
    if protection == Protection::NONE {
        return Entry(PROTNONE | A);
    }
    let no_execute = if protection.contains(Protection::EXECUTE) { 0 } else { NX };
    Entry(P | US | A | no_execute)
}

const _: () = assert!(RW == 2, "the masks of entry.rs are the hardware's");

#[cfg(test)]
mod tests;
