//! userfaultfd: registration of ranges, write-protection of entries, and the filling of empty ones.
//!
//! `fs/userfaultfd.c` in 6.1 and 6.12, `mm/userfaultfd.c` in 7.2.

use super::fault::Access;
use super::vma::{VM_DONTCOPY, VM_UFFD, VM_UFFD_MISSING, VM_UFFD_WP, Vma};
use super::{Model, page_protection};
use crate::arena::{ActorId, PageIndex, PageRange};
use crate::entry::{Entry, EntryKind, RW, SOFT_DIRTY, SPECIAL, SWP_UFFD_WP};
use crate::expectation::ExpectedFrame;
use crate::kernel::Change;
use crate::observation::Cause;
use crate::outcome::{FaultMessage, Outcome};
use crate::program::{Operation, Protection, copy_value};
use crate::rule::Rule;
use crate::uffd::{UffdFeatures, UffdId, UffdMode};

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EBADF: i32 = 9;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;

/// `struct userfaultfd_ctx`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Userfault {
    /// Identity within the program.
    pub(super) context: u32,
    /// Whose memory it acts on; none once that actor has exited.
    pub(super) owner: Option<ActorId>,
    pub(super) features: UffdFeatures,
}

/// An access that waits for a userfaultfd (`struct userfaultfd_wait_queue`), or that did so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub(super) context: u32,
    /// Index of the access's step, which gives the value of a store.
    pub(super) index: usize,
    pub(super) page: PageIndex,
    pub(super) access: Access,
    /// Error code of the fault that waits: the kernel tries again with it.
    pub(super) error_code: u32,
    pub(super) message: FaultMessage,
    /// What the access gave once it had gone on, and by which rule.
    pub(super) done: Option<(Rule, Outcome)>,
}

impl Model {
    /// `new_userfaultfd` and `userfaultfd_api`.
    pub(super) fn uffd_open(&mut self, actor: ActorId, uffd: UffdId, features: UffdFeatures) -> (Rule, Outcome) {
        self.uffd_release(uffd);
        let is_unknown = |feature, change| features.meets(feature) && !self.kernel.has(change);
        if is_unknown(UffdFeatures::WP_UNPOPULATED, Change::UffdWpUnpopulated)
            || is_unknown(UffdFeatures::WP_ASYNC, Change::UffdWpAsync)
        {
            return (Rule::UffdFeatureUnknown, Outcome::Failed(EINVAL));
        }
        self.next_userfault += 1;
        let context = self.next_userfault;
        self.uffds[uffd.index()] = Some(Userfault { context, owner: Some(actor), features });
        (Rule::UffdOpened, Outcome::Succeeded)
    }

    pub(super) fn uffd_close(&mut self, uffd: UffdId) -> (Rule, Outcome) {
        if self.uffds[uffd.index()].is_none() {
            return (Rule::UffdNotOpen, Outcome::Failed(EBADF));
        }
        self.uffd_release(uffd);
        (Rule::UffdClosed, Outcome::Succeeded)
    }

    /// `userfaultfd_release`: every VMA of the context is unregistered.
    fn uffd_release(&mut self, uffd: UffdId) {
        let Some(Userfault { context, owner: Some(owner), .. }) = self.uffds[uffd.index()].take() else { return };
        let mut start = 0;
        while let Some(index) = self.next_vma(owner, start, u8::MAX) {
            let vma = self.memory(owner).vmas.list[index];
            start = if vma.uffd == Some(context) {
                self.userfaultfd_clear_vma(owner, index, vma.first, vma.end, !self.kernel.has(Change::CloseKeepsUffdWp))
            } else {
                vma.end
            };
        }
        self.wake_userfault(context, 0, u8::MAX);
    }

    /// `userfaultfd_wake`: nobody asks whether there is anything in the range, or anybody.
    pub(super) fn uffd_wake(&mut self, uffd: UffdId, range: PageRange) -> (Rule, Outcome) {
        let Some(Userfault { context, .. }) = self.uffds[uffd.index()] else {
            return (Rule::UffdNotOpen, Outcome::Failed(EBADF));
        };
        self.wake_userfault(context, range.first() as u8, range.end() as u8);
        (Rule::UffdWoken, Outcome::Succeeded)
    }

    /// What has become of the actor's access.
    pub(super) fn uffd_finish(&mut self, actor: ActorId) -> (Rule, Outcome) {
        match self.waiting[actor.index()] {
            Some(Waiting { done: Some(done), .. }) => {
                self.waiting[actor.index()] = None;
                done
            }
            Some(Waiting { message, .. }) => (Rule::UffdStillWaits, Outcome::Waits(message)),
            None => unreachable!("only an access that waited is asked about"),
        }
    }

    /// `wake_userfault`: who waits for the context in slots `start..end` tries again once the operation is through.
    fn wake_userfault(&mut self, context: u32, start: u8, end: u8) {
        for actor in ActorId::all() {
            let Some(waiting) = self.waiting[actor.index()] else { continue };
            let slot = waiting.page.index() as u8;
            if waiting.done.is_none() && waiting.context == context && (start..end).contains(&slot) {
                self.try_again(actor, waiting);
            }
        }
    }

    /// The fault again, with the error code of the first, and then the access.
    fn try_again(&mut self, actor: ActorId, waiting: Waiting) {
        let Waiting { index, page, access, error_code, .. } = waiting;
        self.waiting[actor.index()] = None;
        let done = match self.page_fault(actor, page, access, error_code) {
            Ok(()) => self.access(index, actor, page, access),
            Err(stopped) => stopped,
        };
        match &mut self.waiting[actor.index()] {
            // It waits anew.
            Some(again) => again.index = index,
            None => self.waiting[actor.index()] = Some(Waiting { done: Some(done), ..waiting }),
        }
    }

    /// Whether a fault in the range might wait for a userfaultfd.
    pub(super) fn may_wait(&self, actor: ActorId, range: PageRange) -> bool {
        range.slots().any(|page| self.waits_at(actor, page, false))
    }

    /// Whether a fault in a locked VMA of the range might wait for a userfaultfd.
    pub(super) fn may_wait_locked(&self, actor: ActorId, range: PageRange) -> bool {
        range.slots().any(|page| self.waits_at(actor, page, true))
    }

    fn waits_at(&self, actor: ActorId, page: PageIndex, only_locked: bool) -> bool {
        let vma = self.actors[actor.index()].as_ref().and_then(|memory| memory.vmas.at(page));
        vma.is_some_and(|vma| vma.uffd.is_some() && !self.is_sigbus(vma) && (vma.is_locked() || !only_locked))
    }

    /// Whether a fault in the VMA raises SIGBUS instead of waiting.
    pub(super) fn is_sigbus(&self, vma: &Vma) -> bool {
        self.userfault_of(vma).is_some_and(|userfault| userfault.features.contains(UffdFeatures::SIGBUS))
    }

    /// The contexts whose owner has exited stay open and act on nothing.
    pub(super) fn orphan_uffds(&mut self, actor: ActorId) {
        for userfault in self.uffds.iter_mut().flatten().filter(|userfault| userfault.owner == Some(actor)) {
            userfault.owner = None;
        }
    }

    /// `dup_userfaultfd`: the context that the child's VMA has, for each of the parent's contexts one, and in the order
    /// in which their events are read the free names from the lowest up. None without EVENT_FORK.
    pub(super) fn dup_userfaultfd(&mut self, vma: &Vma, child: ActorId, made: &mut Vec<(u32, u32)>) -> Option<u32> {
        let original = self.userfault_of(vma)?;
        if !original.features.contains(UffdFeatures::EVENT_FORK) {
            return None;
        }
        if let Some((_, context)) = made.iter().find(|(earlier, _)| *earlier == original.context) {
            return Some(*context);
        }
        self.next_userfault += 1;
        let context = self.next_userfault;
        made.push((original.context, context));
        let free = self.uffds.iter().position(Option::is_none).expect("a fork is possible only with names enough");
        self.uffds[free] = Some(Userfault { context, owner: Some(child), features: original.features });
        Some(context)
    }

    /// Whether there is a free name for every context that a fork would make.
    pub(super) fn has_names_for_fork(&self, actor: ActorId) -> bool {
        let Some(memory) = &self.actors[actor.index()] else { return false };
        let copied = memory.vmas.list.iter().filter(|vma| vma.marks & VM_DONTCOPY == 0);
        let mut contexts: Vec<u32> = copied
            .filter_map(|vma| self.userfault_of(vma))
            .filter(|userfault| userfault.features.contains(UffdFeatures::EVENT_FORK))
            .map(|userfault| userfault.context)
            .collect();
        contexts.sort_unstable();
        contexts.dedup();
        contexts.len() <= self.uffds.iter().filter(|uffd| uffd.is_none()).count()
    }

    /// The VMA's context.
    pub(super) fn userfault_of(&self, vma: &Vma) -> Option<Userfault> {
        let context = vma.uffd?;
        self.uffds.iter().flatten().find(|userfault| userfault.context == context).copied()
    }

    /// `for_each_vma_range` from `start`: the index of the first VMA that ends above it, if it begins below `end`.
    fn next_vma(&self, actor: ActorId, start: u8, end: u8) -> Option<usize> {
        let vmas = &self.actors[actor.index()].as_ref()?.vmas.list;
        vmas.iter().position(|vma| vma.end > start).filter(|&index| vmas[index].first < end)
    }

    /// `userfaultfd_register`.
    pub(super) fn uffd_register(&mut self, uffd: UffdId, range: PageRange, mode: UffdMode) -> (Rule, Outcome) {
        let Some(Userfault { context, owner, .. }) = self.uffds[uffd.index()] else {
            return (Rule::UffdNotOpen, Outcome::Failed(EBADF));
        };
        let Some(owner) = owner else { return (Rule::UffdRangeOwnerGone, Outcome::Failed(ENOMEM)) };
        let (first, end) = (range.first() as u8, range.end() as u8);
        let Some(index) = self.next_vma(owner, first, end) else {
            return (Rule::UffdRangeUnmapped, Outcome::Failed(EINVAL));
        };
        let flags = flag(mode.is_missing(), VM_UFFD_MISSING) | flag(mode.is_write_protect(), VM_UFFD_WP);
        let keeps_protection = self.kernel.has(Change::UffdRegisterKeepsWp);
        let refuses_stacks = !self.kernel.has(Change::UffdTakesShadowStacks);
        for vma in &self.memory(owner).vmas.list[index..] {
            if vma.first >= end {
                break;
            }
            // vma_can_userfault comes before the question of the owner.
            if vma.shadow_stack && refuses_stacks {
                return (Rule::UffdShadowStackRefused, Outcome::Failed(EINVAL));
            }
            if vma.uffd.is_some_and(|other| other != context) {
                return (Rule::UffdRangeTaken, Outcome::Failed(EBUSY));
            }
            let drops_protection = vma.uffd == Some(context) && vma.marks & VM_UFFD_WP & !flags != 0;
            if drops_protection && keeps_protection {
                return (Rule::UffdModeKept, Outcome::Failed(EBUSY));
            }
        }
        let mut start = first;
        while let Some(index) = self.next_vma(owner, start, end) {
            let old = self.memory(owner).vmas.list[index];
            if old.uffd == Some(context) && old.marks & flags == flags {
                start = old.end;
                continue;
            }
            let marks = old.marks & !VM_UFFD | flags;
            let changed = Vma { marks, uffd: Some(context), ..old };
            start = self.userfault_vma(owner, index, old.first.max(start), old.end.min(end), changed);
        }
        (Rule::UffdRegistered, Outcome::Succeeded)
    }

    /// `userfaultfd_unregister`. Later kernels ask whose the range is.
    pub(super) fn uffd_unregister(&mut self, uffd: UffdId, range: PageRange) -> (Rule, Outcome) {
        let Some(Userfault { context, owner, .. }) = self.uffds[uffd.index()] else {
            return (Rule::UffdNotOpen, Outcome::Failed(EBADF));
        };
        let Some(owner) = owner else { return (Rule::UffdRangeOwnerGone, Outcome::Failed(ENOMEM)) };
        let (first, end) = (range.first() as u8, range.end() as u8);
        let Some(index) = self.next_vma(owner, first, end) else {
            return (Rule::UffdRangeUnmapped, Outcome::Failed(EINVAL));
        };
        let asks_owner = self.kernel.has(Change::UffdUnregisterAsksOwner);
        let refuses_stacks = !self.kernel.has(Change::UffdTakesShadowStacks);
        for vma in &self.memory(owner).vmas.list[index..] {
            if vma.first >= end {
                break;
            }
            if asks_owner && vma.uffd.is_some_and(|other| other != context) {
                return (Rule::UffdUnregisterNotOwner, Outcome::Failed(EINVAL));
            }
            if vma.shadow_stack && refuses_stacks {
                return (Rule::UffdShadowStackRefused, Outcome::Failed(EINVAL));
            }
        }
        let mut start = first;
        let mut woken = Vec::new();
        while let Some(index) = self.next_vma(owner, start, end) {
            let old = self.memory(owner).vmas.list[index];
            start = if let Some(registered) = old.uffd {
                let (from, to) = (old.first.max(start), old.end.min(end));
                if old.marks & VM_UFFD_MISSING != 0 {
                    woken.push((registered, from, to));
                }
                self.userfaultfd_clear_vma(owner, index, from, to, true)
            } else {
                old.end
            };
        }
        // They wake before that, and run after it.
        for (registered, from, to) in woken {
            self.wake_userfault(registered, from, to);
        }
        (Rule::UffdUnregistered, Outcome::Succeeded)
    }

    /// `userfaultfd_clear_vma` for slots `start..end` of one VMA: its write-protection is lifted where
    /// `lift` says so, then it is registered no more. Returns where the next VMA is looked for.
    fn userfaultfd_clear_vma(&mut self, owner: ActorId, index: usize, start: u8, end: u8, lift: bool) -> u8 {
        let old = self.memory(owner).vmas.list[index];
        if lift && old.marks & VM_UFFD_WP != 0 {
            self.uffd_wp_range(owner, start, end, false);
        }
        self.userfault_vma(owner, index, start, end, Vma { marks: old.marks & !VM_UFFD, uffd: None, ..old })
    }

    /// `vma_modify_flags_uffd`.
    fn userfault_vma(&mut self, owner: ActorId, index: usize, start: u8, end: u8, changed: Vma) -> u8 {
        let kernel = self.kernel;
        let vmas = &mut self.memory(owner).vmas;
        // Without the change vma_merge is given the offset of the VMA's start, not the range's: where they differ nothing
        // merges.
        if !kernel.has(Change::UffdMergesParts) && start > vmas.list[index].first {
            vmas.split(index, start, end, changed);
            return end;
        }
        // userfaultfd_set_ctx takes the flags of the VMA that is there after merging; earlier they were computed before.
        let survivor_keeps = kernel.has(Change::UffdSetsContextAfterMerge);
        let (target, merged) = vmas.modify_keeping(kernel, index, start, end, changed, survivor_keeps);
        if merged {
            self.vma_rule(Rule::VmaMergeUserfault, owner, target);
        }
        self.memory(owner).vmas.list[target].end
    }

    /// `mwriteprotect_range`. First it wanted one VMA for the whole range; later kernels walk several, pass over holes
    /// and stop at a VMA that is not registered for write-protection.
    pub(super) fn uffd_write_protect(&mut self, uffd: UffdId, range: PageRange, protect: bool) -> (Rule, Outcome) {
        let Some(Userfault { context, owner, .. }) = self.uffds[uffd.index()] else {
            return (Rule::UffdNotOpen, Outcome::Failed(EBADF));
        };
        let Some(owner) = owner else { return (Rule::UffdOwnerGone, Outcome::Failed(ESRCH)) };
        let (first, end) = (range.first() as u8, range.end() as u8);
        let refused = (Rule::UffdWpNotRegistered, Outcome::Failed(ENOENT));
        let mut start = first;
        let mut found = false;
        while let Some(index) = self.next_vma(owner, start, end) {
            let vma = self.memory(owner).vmas.list[index];
            let covers = vma.first <= first && end <= vma.end;
            if vma.marks & VM_UFFD_WP == 0 || (!covers && !self.kernel.has(Change::UffdWpOverSeveralVmas)) {
                return refused;
            }
            found = true;
            self.uffd_wp_range(owner, vma.first.max(start), vma.end.min(end), protect);
            start = vma.end;
        }
        if !found {
            return refused;
        }
        if !protect {
            self.wake_userfault(context, first, end);
        }
        (Rule::UffdWriteProtected, Outcome::Succeeded)
    }

    fn uffd_wp_range(&mut self, owner: ActorId, start: u8, end: u8, protect: bool) {
        for slot in start..end {
            let page = PageIndex::new(usize::from(slot)).expect("a slot of a VMA");
            self.uffd_wp_entry(owner, page, protect);
        }
    }

    /// `change_pte_range` with MM_CP_UFFD_WP or MM_CP_UFFD_WP_RESOLVE, one entry.
    fn uffd_wp_entry(&mut self, owner: ActorId, page: PageIndex, protect: bool) {
        let slot = self.slot(owner, page);
        let Some(vma) = self.memory(owner).vmas.at(page).copied() else { return };
        let before = self.expect(&slot);
        let (rule, entry) = match (slot.bits.kind(), protect) {
            (EntryKind::None, true) if self.uses_markers(&vma) => (Rule::UffdMarkerSet, Entry::UFFD_WP_MARKER),
            (EntryKind::None, _) => return,
            (EntryKind::NonPresent, true) if slot.bits.is_swapped() => {
                (Rule::UffdWpSwappedSet, Entry(slot.bits.0 | SWP_UFFD_WP))
            }
            (EntryKind::NonPresent, false) if slot.bits.is_swapped() => {
                (Rule::UffdWpSwappedCleared, Entry(slot.bits.0 & !SWP_UFFD_WP))
            }
            (EntryKind::NonPresent, true) => (Rule::UffdMarkerKept, slot.bits),
            (EntryKind::NonPresent, false) => (Rule::UffdMarkerDropped, Entry::NONE),
            (_, true) => {
                // Without the change the protection is that of the VMA's flags without VM_WRITE; of `-w-` nothing is left.
                let protection = if self.kernel.has(Change::UffdWpByPageProtection) {
                    vma.protection
                } else {
                    Protection::from_bits(vma.protection.bits() & !Protection::WRITE.bits())
                        .expect("a protection without write is one")
                };
                let modified = self.design.modify(slot.bits, page_protection(protection, vma.page_key()).0);
                (Rule::UffdWpSet, self.design.make_uffd_wp(modified))
            }
            (_, false) => {
                let modified =
                    self.design.modify(slot.bits, page_protection(vma.protection, vma.page_key()).0).clear_uffd_wp();
                let tracked = !vma.soft_dirty && !modified.has(SOFT_DIRTY);
                // pte_write(): a shadow-stack entry counts. Stacks are registered by mistake alone.
                let already_writable = modified.has(RW) || (self.shadow_stack && modified.is_shadow_stack());
                let upgrade = self.kernel.has(Change::UffdWpByPageProtection)
                    && vma.protection.contains(Protection::WRITE)
                    && !already_writable
                    && !tracked
                    && self.is_exclusive(&slot);
                if upgrade && vma.shadow_stack {
                    (Rule::UffdWpClearedWritable, modified.make_writable_shadow_stack())
                } else if upgrade {
                    (Rule::UffdWpClearedWritable, self.design.make_writable(modified))
                } else {
                    (Rule::UffdWpCleared, modified)
                }
            }
        };
        self.write(rule, owner, page, entry, slot.frame);
        self.transition(Cause::Protect, rule, owner, page, before, false);
    }

    /// `userfaultfd_wp_use_markers` for anonymous memory.
    fn uses_markers(&self, vma: &Vma) -> bool {
        let markers = UffdFeatures::WP_UNPOPULATED.with(UffdFeatures::WP_ASYNC);
        self.userfault_of(vma).is_some_and(|userfault| userfault.features.meets(markers))
    }

    /// `mfill_atomic` of pages to be copied.
    pub(super) fn uffd_copy(&mut self, index: usize, uffd: UffdId, range: PageRange, protect: bool) -> (Rule, Outcome) {
        let (context, owner) = match self.mfill_target(uffd, range, protect) {
            Ok(target) => target,
            Err(refused) => return refused,
        };
        for (place, page) in range.slots().enumerate() {
            let slot = self.slot(owner, page);
            if slot.bits.is_present() || slot.bits.is_swapped() {
                self.wake_userfault(context, range.first() as u8, page.index() as u8);
                return filled(place);
            }
            let vma = self.memory(owner).vmas.at(page).copied().expect("one VMA holds the range");
            let dirty = self.design.make_dirty(page_protection(vma.protection, vma.page_key()));
            // What is protected is either not made writable, or made so and taken back, which leaves its dirtiness where
            // it belongs.
            let makes_writable = !protect || self.kernel.has(Change::UffdCopyWritableFirst);
            let writable = vma.protection.contains(Protection::WRITE) && makes_writable;
            let entry = if writable { self.design.make_writable(dirty) } else { dirty };
            let frame = ExpectedFrame::Frame(self.new_frame(copy_value(index, place)));
            if protect {
                self.write(Rule::UffdCopyProtected, owner, page, self.design.make_uffd_wp(entry), frame);
            } else {
                self.write(Rule::UffdCopyPlaced, owner, page, entry, frame);
            }
        }
        self.wake_userfault(context, range.first() as u8, range.end() as u8);
        (Rule::UffdFilled, Outcome::Succeeded)
    }

    /// `mfill_atomic` of zero pages: over nothing but an empty entry, not even a marker.
    pub(super) fn uffd_zeropage(&mut self, uffd: UffdId, range: PageRange) -> (Rule, Outcome) {
        let (context, owner) = match self.mfill_target(uffd, range, false) {
            Ok(target) => target,
            Err(refused) => return refused,
        };
        for (place, page) in range.slots().enumerate() {
            if self.slot(owner, page).bits.kind() != EntryKind::None {
                self.wake_userfault(context, range.first() as u8, page.index() as u8);
                return filled(place);
            }
            let vma = self.memory(owner).vmas.at(page).copied().expect("one VMA holds the range");
            let entry = Entry(page_protection(vma.protection, vma.page_key()).0 | SPECIAL);
            self.write(Rule::UffdZeropagePlaced, owner, page, entry, ExpectedFrame::Zero);
        }
        self.wake_userfault(context, range.first() as u8, range.end() as u8);
        (Rule::UffdFilled, Outcome::Succeeded)
    }

    /// The context, and the owner of the memory to be filled: the range must lie in one VMA that is registered with any context.
    /// Later kernels give the VMA at the range's start an anon_vma before they ask anything more of it
    /// (`find_vma_and_prepare_anon`), earlier ones after all else.
    fn mfill_target(
        &mut self,
        uffd: UffdId,
        range: PageRange,
        protect: bool,
    ) -> Result<(u32, ActorId), (Rule, Outcome)> {
        let Some(Userfault { context, owner, .. }) = self.uffds[uffd.index()] else {
            return Err((Rule::UffdNotOpen, Outcome::Failed(EBADF)));
        };
        let Some(owner) = owner else { return Err((Rule::UffdOwnerGone, Outcome::Failed(ESRCH))) };
        let unregistered = Err((Rule::UffdFillNotRegistered, Outcome::Failed(ENOENT)));
        let page = range.slots().next().expect("a range has a slot");
        if self.memory(owner).vmas.at(page).is_none() {
            return unregistered;
        }
        let is_shared = self.memory(owner).vmas.at(page).is_some_and(|vma| vma.shared.is_some());
        if self.kernel.has(Change::UffdFillPreparesFirst) && !is_shared {
            self.prepare_anon_vma(owner, page);
        }
        let vma = self.memory(owner).vmas.at(page).copied().expect("found above");
        if range.end() > usize::from(vma.end) || vma.uffd.is_none() {
            return unregistered;
        }
        if protect && vma.marks & VM_UFFD_WP == 0 {
            return Err((Rule::UffdFillNotProtectable, Outcome::Failed(EINVAL)));
        }
        self.prepare_anon_vma(owner, page);
        Ok((context, owner))
    }

    /// `userfaultfd_wp_async`.
    pub(super) fn is_wp_async(&self, vma: &Vma) -> bool {
        self.userfault_of(vma).is_some_and(|userfault| userfault.features.contains(UffdFeatures::WP_ASYNC))
    }
}

impl Model {
    /// Whether the operation would bring userfaultfd together with what is not modelled with it: shared memory, copies by the kernel, which would wait or fail, and live shadow stacks, on which a waiting access or
    /// the signal of a refused one would push.
    pub(super) fn meets_userfaultfd(&self, actor: ActorId, operation: &Operation) -> bool {
        let vma_at = |actor: ActorId, page: PageIndex| {
            self.actors[actor.index()].as_ref().and_then(|memory| memory.vmas.at(page))
        };
        let registered = |range: PageRange| {
            range
                .slots()
                .any(|page| vma_at(actor, page).is_some_and(|vma| vma.uffd.is_some() || vma.marks & VM_UFFD != 0))
        };
        match *operation {
            Operation::UffdRegister { uffd, range, .. } => self.uffd_owner(uffd).is_some_and(|owner| {
                range.slots().any(|page| vma_at(owner, page).is_some_and(|vma| vma.shared.is_some()))
            }),
            // A locked mapping that becomes longer is faulted in, and would wait.
            Operation::MremapResize { range, .. } => {
                registered(range) && range.slots().any(|page| vma_at(actor, page).is_some_and(Vma::is_locked))
            }
            Operation::ReadBySystemCall { page }
            | Operation::WriteBySystemCall { page }
            | Operation::WriteProcMem { page } => registered(PageRange::single(page)),
            Operation::EnterShadowStack { .. } => self.uffds.iter().any(Option::is_some),
            Operation::UffdOpen { .. } => ActorId::all().any(|actor| self.live_shadow_stack(actor).is_some()),
            _ => false,
        }
    }
}

fn flag(set: bool, bits: u64) -> u64 {
    if set { bits } else { 0 }
}

/// What a fill that met an entry at the `place`-th slot of its range gives.
fn filled(place: usize) -> (Rule, Outcome) {
    if place == 0 {
        (Rule::UffdFillOccupied, Outcome::Failed(EEXIST))
    } else {
        (Rule::UffdFillPartial, Outcome::Failed(EAGAIN))
    }
}
