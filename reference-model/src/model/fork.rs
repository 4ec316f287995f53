//! fork and exit.

use super::{ActorMemory, Model, Slot};
use crate::arena::ActorId;
use crate::entry::{D, Entry, RW, SWP_EXCLUSIVE, SWP_SOFT_DIRTY, SWP_UFFD_WP, UFFD_WP};
use crate::expectation::ExpectedFrame;
use crate::mutation::Output;
use crate::observation::Cause;
use crate::outcome::Outcome;
use crate::rule::Rule;

use super::vma::{Shared, VM_DONTCOPY, VM_LOCKED, VM_UFFD, VM_UFFD_WP, VM_WIPEONFORK, Vma};
use crate::arena::PageIndex;

impl Model {
    /// `dup_mmap`: every VMA in order, and its entries where `vma_needs_copy`.
    pub(super) fn fork(&mut self, actor: ActorId, child: ActorId) -> (Rule, Outcome) {
        let keys = self.fork_keys(actor);
        // Features, locks and SSP are inherited (`copy_thread`); fork is not CLONE_VM, so that
        // `shstk_alloc_thread_stack` gives the child no shadow stack of its own.
        let thread = *self.thread(actor);
        self.actors[child.index()] = Some(ActorMemory::new(keys, thread));
        if self.mergers.contains(&actor) {
            // `ksm_fork`.
            self.enter_merging(child);
        }
        let vmas = self.memory(actor).vmas.list.clone();
        let mut userfaults = Vec::new();
        for vma in vmas {
            if vma.marks & VM_DONTCOPY != 0 {
                self.leave_empty(Rule::ForkChildAbsent, actor, child, &vma);
                continue;
            }
            let userfault = self.dup_userfaultfd(&vma, child, &mut userfaults);
            let child_vma = self.fork_vma(&vma, userfault);
            self.memory(child).vmas.list.push(child_vma);
            if userfault.is_some() {
                let index = self.memory(child).vmas.list.len() - 1;
                self.vma_rule(Rule::VmaForkUserfault, child, index);
            }
            if vma.marks & VM_WIPEONFORK != 0 {
                self.leave_empty(Rule::ForkChildWiped, actor, child, &vma);
                continue;
            }
            self.copy_page_range(actor, child, &vma, child_vma.marks & VM_UFFD_WP != 0);
        }
        (Rule::Fork, Outcome::Succeeded)
    }

    /// Says that the child has nothing where the parent has something. No hook sees it.
    fn leave_empty(&mut self, rule: Rule, actor: ActorId, child: ActorId, vma: &Vma) {
        for slot in vma.first..vma.end {
            let page = PageIndex::new(usize::from(slot)).expect("a slot of a VMA");
            if self.slot(actor, page).bits != Entry::NONE {
                self.write(rule, child, page, Entry::NONE, ExpectedFrame::None);
            }
        }
    }

    /// `vm_area_dup` and `anon_vma_fork`.
    fn fork_vma(&mut self, vma: &Vma, userfault: Option<u32>) -> Vma {
        let rule = Rule::VmaFork;
        self.fire(rule);
        let inherits = vma.anon.is_some() && vma.marks & VM_WIPEONFORK == 0;
        let has_anon = inherits ^ self.is_mutated(rule, Output::AnonVma);
        let singular = self.is_mutated(rule, Output::Singular);
        let anon = has_anon.then(|| self.new_anon(singular));
        Vma {
            anon,
            soft_dirty: vma.soft_dirty ^ self.is_mutated(rule, Output::SoftDirtyFlag),
            account: vma.account ^ self.is_mutated(rule, Output::Account),
            shared: vma.shared.map(|shared| Shared {
                write_notified: shared.write_notified ^ self.is_mutated(rule, Output::PageProtection),
                ..shared
            }),
            marks: vma.marks & !(VM_LOCKED | if userfault.is_some() { 0 } else { VM_UFFD }),
            uffd: userfault,
            ..*vma
        }
    }

    /// `mm/memory.c: copy_page_range`, for one VMA. Transitions come page by page, parent before child,
    /// for every page whose entry is not empty in the parent.
    fn copy_page_range(&mut self, actor: ActorId, child: ActorId, vma: &Vma, child_wp: bool) {
        let mut transitions = Vec::new();
        for slot in vma.first..vma.end {
            let page = PageIndex::new(usize::from(slot)).expect("a slot of a VMA");
            let parent = self.slot(actor, page);
            if parent.bits == Entry::NONE && parent.frame == ExpectedFrame::None {
                continue;
            }
            let before = self.expect(&parent);
            if vma.anon.is_none() && !child_wp {
                let (kept, empty) = match vma.shared {
                    Some(_) => (Rule::ForkParentShared, Rule::ForkChildShared),
                    None => (Rule::ForkParentSkipped, Rule::ForkChildSkipped),
                };
                // The probe reports only entries that are or were something: nothing comes of the child.
                self.write(kept, actor, page, parent.bits, parent.frame);
                self.write(empty, child, page, Entry::NONE, ExpectedFrame::None);
                transitions.push((Cause::ForkParent, kept, actor, page, before));
                continue;
            }
            if parent.bits.is_swapped() {
                let (parent_rule, child_rule) = self.copy_swapped(actor, child, page, &parent, child_wp);
                transitions.push((Cause::ForkParent, parent_rule, actor, page, before));
                transitions.push((Cause::ForkChild, child_rule, child, page, self.expect(&Slot::EMPTY)));
                continue;
            }
            if !parent.bits.is_present() {
                // A marker: where the child's entry is empty before and after nothing comes of it either.
                self.write(Rule::ForkParentMarker, actor, page, parent.bits, parent.frame);
                transitions.push((Cause::ForkParent, Rule::ForkParentMarker, actor, page, before));
                if child_wp {
                    // make_pte_marker: without what mremap may have left in the parent's.
                    let fresh = Entry(parent.bits.0 & !SWP_SOFT_DIRTY);
                    self.write(Rule::ForkChildMarker, child, page, fresh, parent.frame);
                    let empty = self.expect(&Slot::EMPTY);
                    transitions.push((Cause::ForkChild, Rule::ForkChildMarker, child, page, empty));
                } else {
                    self.write(Rule::ForkChildUnmarked, child, page, Entry::NONE, ExpectedFrame::None);
                }
                continue;
            }
            let (parent_rule, child_rule) = self.copy_entry(actor, child, page, &parent, child_wp);
            transitions.push((Cause::ForkParent, parent_rule, actor, page, before));
            transitions.push((Cause::ForkChild, child_rule, child, page, self.expect(&Slot::EMPTY)));
        }
        for (cause, rule, actor, page, before) in transitions {
            self.transition(cause, rule, actor, page, before, false);
        }
    }

    /// `mm/memory.c: copy_nonpresent_pte` of a swap entry: now two name the slot, and neither alone.
    fn copy_swapped(
        &mut self,
        actor: ActorId,
        child: ActorId,
        page: PageIndex,
        parent: &Slot,
        child_wp: bool,
    ) -> (Rule, Rule) {
        let shared = Entry(parent.bits.0 & !SWP_EXCLUSIVE);
        if let ExpectedFrame::Frame(slot) = parent.frame {
            self.frames[slot as usize].mapcount += 1;
        }
        self.write(Rule::ForkParentSwapped, actor, page, shared, parent.frame);
        let rule = match (shared.is_uffd_wp(), child_wp) {
            (true, true) => Rule::ForkChildSwappedUffdWpKept,
            (true, false) => Rule::ForkChildSwappedUffdWp,
            (false, _) => Rule::ForkChildSwapped,
        };
        let copied = if child_wp { shared } else { Entry(shared.0 & !SWP_UFFD_WP) };
        self.write(rule, child, page, copied, parent.frame);
        (Rule::ForkParentSwapped, rule)
    }

    /// `mm/memory.c: copy_present_ptes`.
    fn copy_entry(
        &mut self,
        actor: ActorId,
        child: ActorId,
        page: PageIndex,
        parent: &Slot,
        child_wp: bool,
    ) -> (Rule, Rule) {
        // pte_write() counts a shadow-stack entry as writable, PROT_NONE form or not.
        let parent_rule = match parent.bits.0 & (RW | D) {
            bits if bits & RW != 0 => Rule::ForkParentProtected,
            D if self.shadow_stack => Rule::ForkParentShadowStack,
            _ => Rule::ForkParentKept,
        };
        let entry = match parent_rule {
            Rule::ForkParentKept => parent.bits,
            _ => self.design.write_protect(parent.bits),
        };
        if let ExpectedFrame::Frame(number) = parent.frame {
            let frame = &mut self.frames[number as usize];
            frame.mapcount += 1;
            frame.exclusive = false;
        }
        self.write(parent_rule, actor, page, entry, parent.frame);
        let child_rule = match parent.frame {
            _ if entry.has(UFFD_WP) && child_wp => Rule::ForkChildUffdWpKept,
            _ if entry.has(UFFD_WP) => Rule::ForkChildUffdWp,
            ExpectedFrame::Frame(_) => Rule::ForkChild,
            ExpectedFrame::None | ExpectedFrame::Zero => Rule::ForkChildZeroPage,
        };
        // The child's entry is made from the value read, not from what a mutant wrote to the parent. Where its VMA is
        // not registered for write-protection it loses the mark.
        let copied = if child_wp { entry.make_old() } else { entry.make_old().clear_uffd_wp() };
        self.write(child_rule, child, page, copied, parent.frame);
        (parent_rule, child_rule)
    }

    /// The actor is reaped: nothing of its memory is left.
    pub(super) fn exit(&mut self, actor: ActorId) -> (Rule, Outcome) {
        self.orphan_uffds(actor);
        self.mergers.retain(|&other| other != actor);
        if let Some(memory) = self.actors[actor.index()].take() {
            for slot in memory.slots {
                self.dirty_behind(slot.bits, slot.frame);
                self.release(slot.frame);
            }
        }
        (Rule::Exit, Outcome::Succeeded)
    }
}
