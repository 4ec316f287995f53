//! The kernel's memory model for anonymous memory, private and shared, and shadow stacks.
//!
//! The state is what the kernel keeps: VMAs, entries, frames. Each operation follows the kernel function
//! that it names; each thing written is written by a [`Rule`]. Read in 6.1.192, 6.12.95 and 7.2.13.

mod advise;
mod fault;
mod forced;
mod fork;
mod lock;
mod map;
mod merging;
mod pkey;
mod protect;
mod remap;
mod shadow_stack;
mod shared;
mod swap;
mod userfault;
mod vma;

use crate::algebra::Algebra;
use crate::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex, PageRange};
use crate::entry::{A, Entry, NX, P, PKEY, PROTNONE, RW, US};
use crate::expectation::{EntryExpectation, ExpectedFrame, StepExpectation, TransitionExpectation, Vagueness};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::mutation::{self, Mutation, Output};
use crate::observation::Cause;
use crate::program::{Advice, Operation, Protection, Step};
use crate::rule::Rule;
use crate::uffd::{UFFDS, UffdFeatures, UffdId};
use pkey::Keys;
use shadow_stack::{Thread, Words};
use userfault::{Userfault, Waiting};
use vma::{AnonVma, Vma, VmaList};

/// Bits of `vm_flags` that are compared: READ, WRITE, EXEC, SHARED, UFFD_MISSING, UFFD_WP, LOCKED, DONTCOPY, WIPEONFORK,
/// SOFTDIRTY, MERGEABLE, SHADOW_STACK and the four of the protection key.
pub const VM_FLAGS_COMPARED: u64 =
    0x1 | 0x2 | 0x4 | vma::VM_SHARED | vma::VM_SOFTDIRTY | vma::VM_SHADOW_STACK | vma::VM_MARKS;

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
    /// The VMA's protection key.
    pub key: u8,
    /// `VM_SHARED`.
    pub shared: bool,
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

/// A frame of anonymous memory or of a shmem object.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// The first eight bytes.
    content: u64,
    /// Entries that map it. Nothing else holds a reference once per-CPU LRU batches are drained, which
    /// `wp_can_reuse_anon_folio` does before it counts.
    mapcount: u16,
    /// `PageAnonExclusive`.
    exclusive: bool,
    /// `folio_test_dirty`: anonymous pages get it where GUP stores through a writable entry that is clean, those
    /// of shmem objects as [`shared`] says.
    dirty: bool,
    /// It belongs to a shmem object (`!folio_test_anon`).
    of_object: bool,
    /// MADV_FREE gave it up (`!folio_test_swapbacked`).
    lazy_free: bool,
    /// It is no frame but a slot of the swap file; see [`swap`].
    is_swap_slot: bool,
    /// It is a KSM page (`folio_test_ksm`).
    is_merged: bool,
    /// Of a frame the slot in whose place it is in the swap cache, of a slot that frame.
    swap_cache: Option<u32>,
}

impl Frame {
    /// Zeroed, and not mapped.
    const UNMAPPED: Self = Self {
        content: 0,
        mapcount: 0,
        exclusive: false,
        dirty: false,
        of_object: false,
        lazy_free: false,
        is_swap_slot: false,
        is_merged: false,
        swap_cache: None,
    };
}

#[derive(Debug, Clone)]
struct ActorMemory {
    vmas: VmaList,
    slots: [Slot; ARENA_PAGES],
    keys: Keys,
    thread: Thread,
    /// What ksmd found at each page when it last scanned it (`oldchecksum`).
    checksums: [Option<u64>; ARENA_PAGES],
}

impl ActorMemory {
    fn new(keys: Keys, thread: Thread) -> Self {
        let checksums = [None; ARENA_PAGES];
        Self { vmas: VmaList::default(), slots: [Slot::EMPTY; ARENA_PAGES], keys, thread, checksums }
    }
}

/// The state of all actors' memory, as the kernel's rules have it.
#[derive(Debug, Clone)]
pub struct Model {
    kernel: Kernel,
    design: Algebra,
    shadow_stack: bool,
    protection_keys: bool,
    swap: bool,
    merging: bool,
    exact_accessed: bool,
    mutation: Option<Mutation>,
    actors: [Option<ActorMemory>; ACTORS],
    /// Actors whose number is taken and who are dead, bit `n` for actor `n`.
    killed: u8,
    frames: Vec<Frame>,
    words: Words,
    objects: Vec<shared::Object>,
    uffds: [Option<Userfault>; UFFDS],
    /// Accesses that wait for a userfaultfd, or did so and were not asked about since.
    waiting: [Option<Waiting>; ACTORS],
    /// Processes that ksmd scans, in its order.
    mergers: Vec<ActorId>,
    next_userfault: u32,
    next_anon: u32,
    expectation: StepExpectation,
}

impl Model {
    /// Actor 0 alive, its arena unmapped.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        Self::with_kernel(machine, machine.kernel())
    }

    /// The same for another kernel on this machine: one with a defect, or with a change moved.
    #[must_use]
    pub fn with_kernel(machine: &Machine, kernel: Kernel) -> Self {
        Self {
            kernel,
            design: Algebra::of_kernel(kernel, machine.shadow_stack),
            shadow_stack: machine.shadow_stack,
            protection_keys: machine.protection_keys,
            swap: machine.swap,
            merging: machine.merging,
            exact_accessed: machine.exact_accessed,
            mutation: None,
            actors: [
                Some(ActorMemory::new(Keys::new(machine.protection_keys), Thread::prepared(machine.shadow_stack))),
                None,
                None,
                None,
            ],
            killed: 0,
            frames: Vec::with_capacity(64),
            words: Words::default(),
            objects: Vec::new(),
            uffds: [None; UFFDS],
            waiting: [None; ACTORS],
            mergers: Vec::new(),
            next_userfault: 0,
            next_anon: 0,
            expectation: StepExpectation::default(),
        }
    }

    /// The same for the kernel as it was released, with the defects that the table gives its version.
    #[must_use]
    pub fn as_released(machine: &Machine) -> Self {
        Self::with_kernel(machine, machine.kernel_as_released())
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
            _ if self.is_killed(actor) => self.act_dead(step),
            Operation::Mmap { range, protection, placement } => self.mmap(actor, range, protection, placement),
            Operation::Munmap { range } => self.munmap(actor, range),
            Operation::Read { page } => self.access(index, actor, page, fault::Access::Read),
            Operation::Write { page } => self.access(index, actor, page, fault::Access::Write),
            Operation::Execute { page } => self.access(index, actor, page, fault::Access::Execute),
            Operation::Mprotect { range, protection } => self.mprotect(actor, range, protection, None),
            Operation::Fork { child } => self.fork(actor, child),
            Operation::Exit => self.exit(actor),
            Operation::MadviseDontneed { range } => self.dontneed(actor, range),
            Operation::ClearSoftDirty => self.clear_soft_dirty(actor),
            Operation::MapShadowStack { range, token } => self.map_shadow_stack(actor, range, token),
            Operation::WriteShadowStack { page } => self.access(index, actor, page, fault::Access::ShadowStackWrite),
            Operation::Madvise { range, advice } => self.madvise(actor, range, advice),
            Operation::Mlock { range } => self.mlock(actor, range),
            Operation::Munlock { range } => self.munlock(actor, range),
            Operation::Mremap { range, to, keep } => self.mremap(actor, range, to, keep),
            Operation::MremapResize { range, pages } => self.mremap_resize(actor, range, pages),
            Operation::PkeyAlloc { rights } => self.pkey_alloc(actor, rights),
            Operation::PkeyFree { key } => self.pkey_free(actor, key),
            Operation::PkeyMprotect { range, protection, key } => self.pkey_mprotect(actor, range, protection, key),
            Operation::WritePkru { key, rights } => self.write_pkru(actor, key, rights),
            Operation::ReadBySystemCall { page } => self.access_by_kernel(index, actor, page, fault::Access::Read),
            Operation::WriteBySystemCall { page } => self.access_by_kernel(index, actor, page, fault::Access::Write),
            Operation::EnterShadowStack { page } => self.enter_shadow_stack(actor, page),
            Operation::LeaveShadowStack => self.leave_shadow_stack(actor),
            Operation::Call { frames } => self.call(actor, frames),
            Operation::Return { frames } => self.return_from(actor, frames),
            Operation::DiscardFrames { frames } => self.discard(actor, frames),
            Operation::OverwriteReturn => self.overwrite_return(index, actor),
            Operation::ControlShadowStack { control, features } => self.control_shadow_stack(actor, control, features),
            Operation::ShadowStackStatus => self.shadow_stack_status(actor),
            Operation::MmapShared { range, protection, placement } => {
                self.mmap_shared(actor, range, protection, placement)
            }
            Operation::UffdOpen { uffd, features } => self.uffd_open(actor, uffd, features),
            Operation::UffdClose { uffd } => self.uffd_close(uffd),
            Operation::UffdRegister { uffd, range, mode } => self.uffd_register(uffd, range, mode),
            Operation::UffdUnregister { uffd, range } => self.uffd_unregister(uffd, range),
            Operation::UffdWriteProtect { uffd, range, protect } => self.uffd_write_protect(uffd, range, protect),
            Operation::UffdCopy { uffd, range, protect } => self.uffd_copy(index, uffd, range, protect),
            Operation::UffdZeropage { uffd, range } => self.uffd_zeropage(uffd, range),
            Operation::UffdWake { uffd, range } => self.uffd_wake(uffd, range),
            Operation::UffdFinish => self.uffd_finish(actor),
            Operation::WriteProcMem { page } => self.write_proc_mem(index, actor, page),
            Operation::MergePages => self.merge_pages(),
        };
        self.fire(rule);
        let outcome = self.mutation.map_or(outcome, |mutation| mutation.outcome(rule, outcome));
        self.expectation.outcome = Some(outcome);
        self.expectation.outcome_rule = Some(rule);
        std::mem::take(&mut self.expectation)
    }

    /// Whether the step can be performed at all: its actor is alive, a forked child's number is free, the
    /// machine has what the operation needs.
    #[must_use]
    pub fn is_possible(&self, step: &Step) -> bool {
        if !self.is_taken(step.actor) {
            return false;
        }
        if self.waiting[step.actor.index()].is_some() != (step.operation == Operation::UffdFinish) {
            return false;
        }
        match step.operation {
            Operation::Fork { child } => !self.is_taken(child) && self.has_names_for_fork(step.actor),
            operation if operation.needs_shadow_stack() && !self.shadow_stack => false,
            operation if self.closes_live_stack(step.actor, &operation) => false,
            operation if self.meets_userfaultfd(step.actor, &operation) => false,
            Operation::MremapResize { range, pages } => range.first() + usize::from(pages) <= ARENA_PAGES,
            Operation::WritePkru { .. } => self.protection_keys,
            // Swapped-out pages of shmem objects are not modelled, nor swap and KSM together.
            Operation::Madvise { range, advice: Advice::PageOut } => {
                let is_shared = |page| self.mapping(step.actor, page).is_some_and(|vma| vma.shared);
                self.swap && !range.slots().any(is_shared) && !self.has_merged(step.actor, range)
            }
            Operation::Madvise { range, advice: Advice::Free } => !self.has_merged(step.actor, range),
            Operation::Madvise { range, advice: Advice::Mergeable } => {
                let is_stack = |page| self.mapping(step.actor, page).is_some_and(|vma| vma.shadow_stack);
                self.merging && !range.slots().any(is_stack)
            }
            Operation::MergePages => self.may_merge(),
            // mremap parts KSM pages before it moves them.
            Operation::Mremap { range, .. } => !range.slots().any(|page| self.is_mergeable(step.actor, page)),
            // System calls that wait for an answer to a fault are not modelled.
            Operation::Mlock { range } => !self.may_wait(step.actor, range),
            Operation::Madvise { range, advice: Advice::PopulateRead | Advice::PopulateWrite } => {
                !self.may_wait(step.actor, range)
            }
            Operation::Mprotect { range, .. } | Operation::PkeyMprotect { range, .. } => {
                !self.may_wait_locked(step.actor, range)
            }
            _ => true,
        }
    }

    /// Whether the actor is alive.
    #[must_use]
    pub fn is_alive(&self, actor: ActorId) -> bool {
        self.actors[actor.index()].is_some()
    }

    /// Whether the actor's number is not free: it is alive, or it was killed.
    #[must_use]
    pub fn is_taken(&self, actor: ActorId) -> bool {
        self.is_alive(actor) || self.is_killed(actor)
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
            key: vma.key(),
            shared: vma.shared.is_some(),
            uffd_missing: vma.marks & vma::VM_UFFD_MISSING != 0,
            uffd_wp: vma.marks & vma::VM_UFFD_WP != 0,
        })
    }

    /// `VM_MERGEABLE` of the VMA that covers a page of a living actor.
    #[must_use]
    pub fn is_mergeable(&self, actor: ActorId, page: PageIndex) -> bool {
        let vma = self.actors[actor.index()].as_ref().and_then(|memory| memory.vmas.at(page));
        vma.is_some_and(|vma| vma.marks & vma::VM_MERGEABLE != 0)
    }

    /// Whether the frame of this number in the model is a KSM page.
    #[must_use]
    pub fn is_merged(&self, frame: u32) -> bool {
        self.frames.get(frame as usize).is_some_and(|frame| frame.is_merged)
    }

    /// The slots of the VMA that covers a page of a living actor.
    #[must_use]
    pub fn vma_range(&self, actor: ActorId, page: PageIndex) -> Option<PageRange> {
        let vma = self.actors[actor.index()].as_ref()?.vmas.at(page)?;
        PageRange::new(usize::from(vma.first), usize::from(vma.end - vma.first)).ok()
    }

    /// The slot at which a page of a living actor was first written, as its VMA's `vm_pgoff` remembers it:
    /// another one than the page's own where mremap moved it since.
    #[must_use]
    pub fn home(&self, actor: ActorId, page: PageIndex) -> Option<PageIndex> {
        let vma = self.actors[actor.index()].as_ref()?.vmas.at(page)?;
        PageIndex::new(page.index().checked_add_signed(isize::from(vma.displacement))?).ok()
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

    /// Whether a load of the page would find a page of a shmem object that no entry of the actor maps yet.
    #[must_use]
    pub fn waits_in_object(&self, actor: ActorId, page: PageIndex) -> bool {
        let Some(memory) = &self.actors[actor.index()] else { return false };
        let held = memory.vmas.at(page).and_then(|vma| self.held(page, vma));
        memory.slots[page.index()].bits == Entry::NONE && held.is_some()
    }

    /// Whether the page is mapped behind the end of its shmem object.
    #[must_use]
    pub fn is_beyond_object(&self, actor: ActorId, page: PageIndex) -> bool {
        let Some(memory) = &self.actors[actor.index()] else { return false };
        memory.vmas.at(page).is_some_and(|vma| vma.shared.is_some() && !self.is_in_object(page, vma))
    }

    /// Whether the frame of this number in the model belongs to a shmem object.
    #[must_use]
    pub fn is_of_object(&self, frame: u32) -> bool {
        self.frames.get(frame as usize).is_some_and(|frame| frame.of_object)
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
        self.frames.push(Frame { content, mapcount: 1, exclusive: true, ..Frame::UNMAPPED });
        (self.frames.len() - 1) as u32
    }

    fn new_anon(&mut self, singular: bool) -> AnonVma {
        self.next_anon += 1;
        AnonVma { id: self.next_anon, singular }
    }

    /// One mapping of the frame goes, or one entry that names the swap slot.
    fn release(&mut self, frame: ExpectedFrame) {
        if let ExpectedFrame::Frame(number) = frame {
            if self.frames[number as usize].is_swap_slot {
                self.put_swap_slot(number);
                return;
            }
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
            ExpectedFrame::Frame(number) if !self.frames[number as usize].is_swap_slot => {
                let frame = self.frames[number as usize];
                (frame.mapcount, frame.exclusive)
            }
            ExpectedFrame::Frame(_) | ExpectedFrame::None | ExpectedFrame::Zero => (0, false),
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

/// `vm_page_prot` of a private VMA with this protection and key: `arch/x86/mm/pgprot.c: protection_map,
/// vm_get_page_prot`. Write is withheld for COW, so a shadow-stack VMA has the same. The key stands in the
/// entry of a PROT_NONE VMA too.
fn page_protection(protection: Protection, key: u8) -> Entry {
    let key = u64::from(key) << PKEY.trailing_zeros();
    if protection == Protection::NONE {
        return Entry(PROTNONE | A | key);
    }
    let no_execute = if protection.contains(Protection::EXECUTE) { 0 } else { NX };
    Entry(P | US | A | no_execute | key)
}

const _: () = assert!(RW == 2, "the masks of entry.rs are the hardware's");

#[cfg(test)]
mod tests;
