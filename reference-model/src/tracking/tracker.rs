//! The property itself: operations and their results in, whether a message was due out.

use std::fmt;

use super::observed::{Circumstance, Observed};
use super::page::{Known, Page, Registration, Volatile};
use crate::arena::{ACTORS, ARENA_PAGES, ActorId, PageIndex, PageRange};
use crate::kernel::{Change, Kernel};
use crate::observation::StepRecord;
use crate::outcome::Outcome;
use crate::program::{Advice, Operation, Step};
use crate::uffd::{UFFDS, UffdFeatures, UffdId, UffdMode};

/// `UFFD_PAGEFAULT_FLAG_WP`.
const FLAG_WRITE_PROTECTED: u64 = 2;
const SIGBUS: u8 = 7;
const EAGAIN: i32 = 11;
const EINVAL: i32 = 22;

/// A descriptor that is open.
#[derive(Debug, Clone, Copy)]
struct Descriptor {
    context: u32,
    owner: Option<ActorId>,
    features: UffdFeatures,
}

/// One store to a page of a range that is registered for write-protection, or a message from any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Case {
    /// A message was due and came.
    Message(Circumstance),
    /// None was due and none came.
    Silence(Circumstance),
    /// The page was protected, and WP_ASYNC let the store resolve it.
    ResolvedByStore,
    /// None came, and one would have been due had ksmd not replaced the page.
    LostToMerging,
    /// The results of the operations do not tell what was due.
    Undetermined,
    /// What was due and what came differ.
    Violated(Box<Violation>),
}

/// A store with which the property fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Index of the step in its program.
    pub step: usize,
    /// Who stored.
    pub actor: ActorId,
    /// Where to.
    pub page: PageIndex,
    /// Whether a message came although none was due; otherwise one was due and did not come.
    pub is_false: bool,
    /// What the store met.
    pub circumstance: Circumstance,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, actor, page, is_false, circumstance } = self;
        let what = if *is_false { "a message that was not due" } else { "no message although one was due" };
        write!(
            formatter,
            "step {step}, actor {}: {what}, for a store to page {} ({circumstance})",
            actor.index(),
            page.index()
        )
    }
}

impl std::error::Error for Violation {}

/// Follows a program.
#[derive(Debug, Clone)]
pub struct Tracker {
    kernel: Kernel,
    actors: [Option<[Page; ARENA_PAGES]>; ACTORS],
    descriptors: [Option<Descriptor>; UFFDS],
    /// Pages that accesses wait for, with whether they store.
    waiting: [Option<(PageIndex, bool)>; ACTORS],
    contexts: u32,
    observed: Observed,
}

impl Tracker {
    /// Before the first step. `kernel` decides what a failed call did before it failed.
    #[must_use]
    pub fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            actors: [Some([Page::UNMAPPED; ARENA_PAGES]), None, None, None],
            descriptors: [None; UFFDS],
            waiting: [None; ACTORS],
            contexts: 0,
            observed: Observed::default(),
        }
    }

    /// What was seen of entries so far.
    #[must_use]
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Whether the page lies in a range that is registered for write-protection.
    #[must_use]
    pub fn is_registered(&self, actor: ActorId, page: PageIndex) -> bool {
        self.actors[actor.index()].is_some_and(|pages| pages[page.index()].is_registered_for_protection())
    }

    /// Takes in a step and what came of it; the case that it was, if it was one.
    pub fn step(&mut self, index: usize, step: &Step, record: &StepRecord) -> Option<Case> {
        let case = match step.operation {
            Operation::Write { page } => self.store(index, step.actor, page, &record.outcome),
            _ => None,
        };
        let replaced = self.observed.step(step, record);
        self.follow(step, &record.outcome);
        for (actor, page) in replaced {
            self.page(actor, page, |page| {
                page.lost_to_merging |= page.protected == Known::Yes;
                page.protected = Known::No;
            });
        }
        for actor in ActorId::all() {
            if record.alive & (1 << actor.index()) == 0 && self.actors[actor.index()].is_some() {
                self.bury(actor);
            }
        }
        case
    }

    /// What a store to the page is a case of.
    fn store(&self, index: usize, actor: ActorId, page: PageIndex, outcome: &Outcome) -> Option<Case> {
        let known = self.actors[actor.index()].as_ref()?[page.index()];
        let features = known.registration.and_then(|registration| self.features(registration.context));
        let has = |feature| features.is_some_and(|features: UffdFeatures| features.contains(feature));
        let came = match outcome {
            Outcome::Stored => false,
            Outcome::Waits(message) if message.flags & FLAG_WRITE_PROTECTED != 0 => true,
            // SIGBUS is told for missing pages as well.
            Outcome::Faulted(fault) if fault.signal == SIGBUS && known.is_mapped => match known.registration {
                Some(registration) if registration.missing && known.populated != Known::Yes => return None,
                _ => true,
            },
            _ => return None,
        };
        if known.is_lost {
            return Some(Case::Undetermined);
        }
        let is_registered = known.is_registered_for_protection();
        if !is_registered && !came {
            return None;
        }
        let circumstance = self.observed.circumstance(actor, page);
        let due = match known.protected {
            Known::Unknown => return Some(Case::Undetermined),
            Known::Yes => is_registered,
            Known::No => false,
        };
        let violated =
            |is_false| Some(Case::Violated(Box::new(Violation { step: index, actor, page, is_false, circumstance })));
        match (due, came) {
            (true, _) if has(UffdFeatures::WP_ASYNC) => {
                if came {
                    violated(true)
                } else {
                    Some(Case::ResolvedByStore)
                }
            }
            (true, true) => Some(Case::Message(circumstance)),
            (true, false) => violated(false),
            (false, true) => violated(true),
            (false, false) if known.lost_to_merging => Some(Case::LostToMerging),
            (false, false) => Some(Case::Silence(circumstance)),
        }
    }

    fn features(&self, context: u32) -> Option<UffdFeatures> {
        let of_context = |open: &&Descriptor| open.context == context;
        self.descriptors.iter().flatten().find(of_context).map(|open| open.features)
    }

    fn page(&mut self, actor: ActorId, page: PageIndex, change: impl FnOnce(&mut Page)) {
        if let Some(pages) = &mut self.actors[actor.index()] {
            change(&mut pages[page.index()]);
        }
    }

    fn range(&mut self, actor: ActorId, range: PageRange, change: impl Fn(&mut Page)) {
        for page in range.slots() {
            self.page(actor, page, &change);
        }
    }

    /// What becomes of an actor's memory when it is gone.
    fn bury(&mut self, actor: ActorId) {
        self.actors[actor.index()] = None;
        self.waiting[actor.index()] = None;
        for open in self.descriptors.iter_mut().flatten().filter(|open| open.owner == Some(actor)) {
            open.owner = None;
        }
    }

    /// What a step does to what is known.
    fn follow(&mut self, step: &Step, outcome: &Outcome) {
        let actor = step.actor;
        let succeeded = *outcome == Outcome::Succeeded;
        match step.operation {
            Operation::Execute { page } if matches!(outcome, Outcome::Faulted(fault) if fault.signal != SIGBUS) => {
                // A page is put there before the fetch is refused for NX.
                self.page(actor, page, |page| {
                    if page.populated == Known::No {
                        page.forget();
                    }
                });
            }
            Operation::Read { page } | Operation::Execute { page } | Operation::Write { page } => {
                self.access(actor, page, matches!(step.operation, Operation::Write { .. }), outcome);
            }
            Operation::ReadBySystemCall { page }
            | Operation::WriteBySystemCall { page }
            | Operation::WriteProcMem { page } => {
                let stores = !matches!(step.operation, Operation::ReadBySystemCall { .. });
                self.access(actor, page, stores, outcome);
            }
            Operation::UffdFinish => self.finish(actor, outcome),
            Operation::Mmap { range, .. } if succeeded => self.range(actor, range, |page| *page = Page::FRESH),
            Operation::MmapShared { range, .. }
            | Operation::MapShadowStack { range, .. }
            | Operation::Munmap { range }
                if succeeded =>
            {
                self.range(actor, range, |page| *page = Page::UNMAPPED);
            }
            Operation::Mremap { range, to, keep } => self.remap(actor, range, to, keep, succeeded),
            Operation::MremapResize { range, pages } if succeeded => self.resize(actor, range, usize::from(pages)),
            Operation::MadviseDontneed { range } => {
                // A locked VMA ends it where it begins.
                let is_partial = *outcome == Outcome::Failed(EINVAL);
                self.range(actor, range, |page| if is_partial { page.forget() } else { page.empty() });
            }
            Operation::Madvise { range, advice } => self.advise(actor, range, advice, succeeded),
            Operation::Mlock { range } => {
                self.range(actor, range, |page| page.may_be_locked = true);
                self.populate(actor, range, succeeded, true);
            }
            Operation::Mprotect { range, .. } | Operation::PkeyMprotect { range, .. } => {
                // A locked VMA that becomes writable is faulted in.
                self.range(actor, range, |page| {
                    if page.may_be_locked {
                        page.forget()
                    }
                });
            }
            Operation::Fork { child } if succeeded => self.fork(actor, child),
            Operation::Exit => self.bury(actor),
            operation if operation.is_on_uffd() => self.on_descriptor(actor, operation, outcome),
            _ => {}
        }
    }

    fn access(&mut self, actor: ActorId, page: PageIndex, stores: bool, outcome: &Outcome) {
        match outcome {
            Outcome::Waits(message) => {
                self.waiting[actor.index()] = Some((page, stores));
                if message.flags & FLAG_WRITE_PROTECTED != 0 {
                    self.page(actor, page, |page| page.touch(false));
                }
            }
            Outcome::Faulted(fault) if fault.signal == SIGBUS => {
                // The page came into memory, perhaps, before the store was refused.
                self.page(actor, page, |page| {
                    let is_missing = page.registration.is_some_and(|registration| registration.missing);
                    if page.populated == Known::Yes || !is_missing {
                        page.touch(false);
                    }
                });
            }
            Outcome::Loaded(_) | Outcome::Stored | Outcome::Executed => self.page(actor, page, |page| {
                if !page.is_registered_for_protection() && page.populated != Known::Yes {
                    // A marker that is left of a registration goes with any access.
                    page.protected = Known::No;
                }
                page.touch(stores);
            }),
            _ => {}
        }
    }

    /// An access that waited went through, by something that was done since.
    fn finish(&mut self, actor: ActorId, outcome: &Outcome) {
        if matches!(outcome, Outcome::Waits(_)) {
            return;
        }
        if let Some((page, stores)) = self.waiting[actor.index()].take() {
            self.page(actor, page, |page| {
                page.written |= stores;
                if page.populated == Known::No {
                    page.forget();
                }
            });
        }
    }

    fn advise(&mut self, actor: ActorId, range: PageRange, advice: Advice, succeeded: bool) {
        match advice {
            Advice::PopulateRead => self.populate(actor, range, succeeded, false),
            Advice::PopulateWrite => self.populate(actor, range, succeeded, true),
            Advice::DontFork => self.range(actor, range, |page| page.is_not_forked = true),
            Advice::DoFork => self.range(actor, range, |page| page.is_not_forked = false),
            Advice::WipeOnFork => self.range(actor, range, |page| page.is_wiped = true),
            Advice::KeepOnFork => self.range(actor, range, |page| page.is_wiped = false),
            Advice::Free => self.range(actor, range, |page| match page.volatile {
                Volatile::MayBeOut => page.forget(),
                Volatile::InMemory | Volatile::GivenUp => page.volatile = Volatile::GivenUp,
            }),
            Advice::PageOut => self.range(actor, range, |page| match page.volatile {
                Volatile::GivenUp => page.forget(),
                Volatile::InMemory | Volatile::MayBeOut => page.volatile = Volatile::MayBeOut,
            }),
            Advice::Cold | Advice::Mergeable | Advice::Unmergeable => {}
        }
    }

    /// Faulting in. By stores it gets no further than a protected page, but where those resolve the protection.
    fn populate(&mut self, actor: ActorId, range: PageRange, succeeded: bool, may_store: bool) {
        for slot in range.slots() {
            let Some(known) = self.actors[actor.index()].map(|pages| pages[slot.index()]) else { continue };
            let features = known.registration.and_then(|registration| self.features(registration.context));
            let resolves = features.is_none_or(|features| features.contains(UffdFeatures::WP_ASYNC));
            self.page(actor, slot, |page| {
                if page.protected != Known::No && (resolves && may_store || page.populated != Known::Yes) {
                    page.forget();
                } else if succeeded {
                    page.populated = Known::Yes;
                    page.written |= may_store;
                } else if page.populated != Known::Yes {
                    page.forget();
                    page.protected = Known::No;
                }
                page.volatile = if succeeded { Volatile::InMemory } else { page.volatile };
            });
        }
    }

    fn remap(&mut self, actor: ActorId, range: PageRange, to: PageRange, keep: bool, succeeded: bool) {
        let Some(pages) = self.actors[actor.index()] else { return };
        let is_plain =
            succeeded && range.pages() == to.pages() && range.slots().all(|page| pages[page.index()].is_mapped);
        if !is_plain {
            // What it did before it failed, or over holes, is not followed.
            for range in [range, to] {
                self.range(actor, range, |page| {
                    page.forget();
                    page.is_lost = true;
                });
            }
            return;
        }
        for (from, to) in range.slots().zip(to.slots()) {
            let mut moved = pages[from.index()];
            // Without UFFD_FEATURE_EVENT_REMAP it is registered no more.
            if moved.registration.take().is_some() && !self.kernel.has(Change::MremapKeepsUffdWp) {
                moved.protected = Known::No;
                moved.lost_to_merging = false;
            }
            self.page(actor, to, |page| *page = moved);
            self.page(actor, from, |page| if keep { page.empty() } else { *page = Page::UNMAPPED });
        }
    }

    fn resize(&mut self, actor: ActorId, range: PageRange, pages: usize) {
        let Some(last) = self.actors[actor.index()].map(|known| known[range.end() - 1]) else { return };
        if let Ok(tail) = PageRange::new(range.first() + pages.min(range.pages()), range.pages().saturating_sub(pages))
        {
            self.range(actor, tail, |page| *page = Page::UNMAPPED);
        }
        if let Ok(growth) = PageRange::new(range.end(), pages.saturating_sub(range.pages())) {
            self.range(actor, growth, |page| {
                *page = last;
                page.empty();
                if page.may_be_locked {
                    page.forget();
                }
            });
        }
    }

    fn fork(&mut self, actor: ActorId, child: ActorId) {
        let Some(parent) = self.actors[actor.index()] else { return };
        let mut made: Vec<(u32, u32)> = Vec::new();
        let copy = parent.map(|page| {
            if page.is_not_forked {
                return Page::UNMAPPED;
            }
            let original = page.registration.and_then(|registration| {
                self.features(registration.context)
                    .filter(|features| features.contains(UffdFeatures::EVENT_FORK))
                    .map(|features| (registration, features))
            });
            let registration = original.map(|(registration, features)| {
                let known = made.iter().find(|(from, _)| *from == registration.context).map(|(_, to)| *to);
                let context =
                    known.unwrap_or_else(|| self.fork_context(registration.context, features, child, &mut made));
                Registration { context, ..registration }
            });
            let mut copy = Page { registration, may_be_locked: false, ..page };
            if page.is_wiped {
                copy.empty();
                copy.registration = registration;
                return copy;
            }
            if !copy.is_registered_for_protection() {
                if copy.protected != Known::No && !page.written {
                    // A marker, which is not copied.
                    copy.populated = Known::Unknown;
                }
                copy.protected = Known::No;
                copy.lost_to_merging = false;
                if !page.written && page.populated == Known::Yes {
                    // A zero page, which is copied only where some page of the VMA was written.
                    copy.populated = Known::Unknown;
                }
            }
            copy
        });
        self.actors[child.index()] = Some(copy);
    }

    /// The context of a child's memory; its descriptor takes the lowest free name.
    fn fork_context(&mut self, from: u32, features: UffdFeatures, child: ActorId, made: &mut Vec<(u32, u32)>) -> u32 {
        self.contexts += 1;
        made.push((from, self.contexts));
        if let Some(free) = self.descriptors.iter_mut().find(|place| place.is_none()) {
            *free = Some(Descriptor { context: self.contexts, owner: Some(child), features });
        }
        self.contexts
    }

    fn on_descriptor(&mut self, actor: ActorId, operation: Operation, outcome: &Outcome) {
        let succeeded = *outcome == Outcome::Succeeded;
        match operation {
            Operation::UffdOpen { uffd, features } => {
                self.close(uffd);
                if succeeded {
                    self.contexts += 1;
                    let context = self.contexts;
                    self.descriptors[uffd.index()] = Some(Descriptor { context, owner: Some(actor), features });
                }
            }
            Operation::UffdClose { uffd } => self.close(uffd),
            Operation::UffdRegister { uffd, range, mode } if succeeded => self.register(uffd, range, mode),
            Operation::UffdUnregister { uffd, range } if succeeded => {
                let Some(owner) = self.owner(uffd) else { return };
                self.range(owner, range, |page| {
                    page.unregister(true);
                });
                self.wake(owner, range);
            }
            Operation::UffdWriteProtect { uffd, range, protect } => {
                self.write_protect(uffd, range, protect, succeeded);
            }
            Operation::UffdCopy { uffd, range, protect } => self.fill(uffd, range, protect, outcome, Known::Yes),
            Operation::UffdZeropage { uffd, range } => self.fill(uffd, range, false, outcome, Known::No),
            Operation::UffdWake { uffd, range } if succeeded => {
                if let Some(owner) = self.owner(uffd) {
                    self.wake(owner, range);
                }
            }
            _ => {}
        }
    }

    fn owner(&self, uffd: UffdId) -> Option<ActorId> {
        self.descriptors[uffd.index()].and_then(|open| open.owner)
    }

    /// Who waits for a page of the range tries again, and may find nothing to wait for any more.
    fn wake(&mut self, owner: ActorId, range: PageRange) {
        if let Some((page, stores)) = self.waiting[owner.index()]
            && range.slots().any(|slot| slot == page)
        {
            self.page(owner, page, |page| {
                let waits_on = page.is_registered_for_protection() && page.protected != Known::No;
                if page.populated != Known::Yes {
                    page.forget();
                } else if stores && !waits_on {
                    page.touch(true);
                }
            });
        }
    }

    fn close(&mut self, uffd: UffdId) {
        let Some(Descriptor { context, owner, .. }) = self.descriptors[uffd.index()].take() else { return };
        let Some(owner) = owner else { return };
        let lifts = !self.kernel.has(Change::CloseKeepsUffdWp);
        let whole = PageRange::new(0, ARENA_PAGES).expect("the arena");
        self.range(owner, whole, |page| {
            if page.registration.is_some_and(|registration| registration.context == context) {
                page.unregister(lifts);
            }
        });
        self.wake(owner, whole);
    }

    fn register(&mut self, uffd: UffdId, range: PageRange, mode: UffdMode) {
        let Some(Descriptor { context, owner: Some(owner), .. }) = self.descriptors[uffd.index()] else { return };
        self.range(owner, range, |page| {
            if !page.is_mapped {
                return;
            }
            let new = Registration { context, missing: mode.is_missing(), write_protect: mode.is_write_protect() };
            let has_all = page.registration.is_some_and(|old| {
                old.context == context && old.missing >= new.missing && old.write_protect >= new.write_protect
            });
            if !has_all {
                page.registration = Some(new);
            }
        });
    }

    /// What comes before the first page that is not registered is done even where the call fails, if it walks several VMAs.
    fn write_protect(&mut self, uffd: UffdId, range: PageRange, protect: bool, succeeded: bool) {
        let Some(owner) = self.owner(uffd) else { return };
        let Some(pages) = self.actors[owner.index()] else { return };
        if !succeeded && !self.kernel.has(Change::UffdWpOverSeveralVmas) {
            return;
        }
        let mut is_certain = true;
        for slot in range.slots() {
            let known = pages[slot.index()];
            if !known.is_mapped || known.is_lost {
                // A hole is passed over, memory that cannot be registered ends the call.
                is_certain &= succeeded;
                continue;
            }
            let Some(registration) = known.registration.filter(|registration| registration.write_protect) else {
                break;
            };
            if !is_certain {
                self.page(owner, slot, |page| page.protected = Known::Unknown);
                continue;
            }
            let markers = UffdFeatures::WP_UNPOPULATED.with(UffdFeatures::WP_ASYNC);
            let marks_empty = self.features(registration.context).is_some_and(|features| features.meets(markers));
            self.page(owner, slot, |page| {
                page.lost_to_merging = false;
                page.protected = match (protect, page.populated) {
                    (false, _) => Known::No,
                    (true, Known::Yes) => Known::Yes,
                    (true, _) if marks_empty => Known::Yes,
                    // An empty entry is not marked: nothing is there to be protected.
                    (true, populated) if page.protected != Known::Yes => populated,
                    (true, _) => Known::Yes,
                };
            });
        }
    }

    /// `UFFDIO_COPY` and `UFFDIO_ZEROPAGE`: nothing, all, or what lies before the first page that is there.
    fn fill(&mut self, uffd: UffdId, range: PageRange, protect: bool, outcome: &Outcome, writes: Known) {
        let Some(owner) = self.owner(uffd) else { return };
        let is_partial = *outcome == Outcome::Failed(EAGAIN);
        if *outcome != Outcome::Succeeded && !is_partial {
            return;
        }
        for slot in range.slots() {
            self.page(owner, slot, |page| {
                if is_partial && page.populated != Known::Yes {
                    page.forget();
                } else if !is_partial {
                    page.empty();
                    page.touch(writes == Known::Yes);
                    page.protected = protect.into();
                }
            });
        }
    }
}
