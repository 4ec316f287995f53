//! Stores that the kernel forces: `/proc/pid/mem` with FOLL_FORCE writes where the VMA's own rights forbid it.
//!
//! This is state (b) of the `_PAGE_COW` patch: the page is copied for a writable use by get_user_pages, and its
//! entry stays without RW because the VMA is read-only.

use super::fault::{Access, FAULT_LIMIT};
use super::vma::Vma;
use super::{Model, page_protection};
use crate::arena::{ActorId, PageIndex};
use crate::entry::{D, EntryKind, RW, SOFT_DIRTY};
use crate::expectation::{EntryExpectation, ExpectedFrame};
use crate::kernel::Change;
use crate::observation::Cause;
use crate::outcome::Outcome;
use crate::program::{Protection, store_value};
use crate::rule::Rule;

const EIO: i32 = 5;

impl Model {
    /// `fs/proc/base.c: mem_rw`. PKRU is not asked: the access counts as another process's
    /// (`get_user_pages_remote`, `arch_vma_access_permitted`).
    pub(super) fn write_proc_mem(&mut self, index: usize, actor: ActorId, page: PageIndex) -> (Rule, Outcome) {
        let refused = (Rule::ForcedStoreRefused, Outcome::Failed(EIO));
        let Some(vma) = self.memory(actor).vmas.at(page).copied() else { return refused };
        // check_vma_flags.
        let forces = self.kernel.has(Change::ForcedStores);
        let is_writable = vma.protection.contains(Protection::WRITE) && !vma.shadow_stack;
        if !is_writable && (!forces || vma.shared.is_some()) {
            return refused;
        }
        for _ in 0..FAULT_LIMIT {
            if self.can_follow_write(actor, page, &vma, forces) {
                return self.store_behind(index, actor, page);
            }
            if self.handle_mm_fault(actor, page, Access::Write, vma.shadow_stack).is_err() {
                return refused;
            }
        }
        // Only a mutated model comes here; its own answer is then the one that is judged.
        refused
    }

    /// `mm/gup.c: follow_page_pte, can_follow_write_pte`: whether the page can be written without a fault.
    fn can_follow_write(&mut self, actor: ActorId, page: PageIndex, vma: &Vma, forces: bool) -> bool {
        let slot = self.slot(actor, page);
        if !matches!(slot.bits.kind(), EntryKind::Present | EntryKind::ProtNone) || slot.bits.0 == 0 {
            return false;
        }
        // pte_write: with RW, or as a shadow stack, where the CPU has them.
        if slot.bits.has(RW) || self.has_shadow_stack_entries() && slot.bits.0 & (RW | D) == D {
            return true;
        }
        if !forces || vma.shared.is_some() || vma.protection.contains(Protection::WRITE) {
            return false;
        }
        let ExpectedFrame::Frame(number) = slot.frame else { return false };
        let wants_soft_dirty_fault = !vma.soft_dirty && !slot.bits.has(SOFT_DIRTY);
        self.frames[number as usize].exclusive && !wants_soft_dirty_fault
    }

    fn has_shadow_stack_entries(&self) -> bool {
        self.shadow_stack && self.kernel.has(Change::UserShadowStacks)
    }

    /// The kernel writes through its own mapping of the page; no entry of the actor is used.
    fn store_behind(&mut self, index: usize, actor: ActorId, page: PageIndex) -> (Rule, Outcome) {
        if let ExpectedFrame::Frame(number) = self.slot(actor, page).frame {
            let folio = &mut self.frames[number as usize];
            folio.content = store_value(index);
            // set_page_dirty_lock: the folio, not the entry. MADV_FREE looks at it.
            folio.dirty = true;
        }
        (Rule::ForcedStore, Outcome::Stored)
    }

    /// A write fault in a VMA without VM_WRITE: `do_anonymous_page`, `wp_page_reuse` and `wp_page_copy`, where
    /// `maybe_mkwrite` does nothing.
    pub(super) fn fault_forced(&mut self, actor: ActorId, page: PageIndex, vma: &Vma, before: EntryExpectation) {
        let slot = self.slot(actor, page);
        let fresh = page_protection(vma.protection, vma.page_key());
        let (rule, entry, frame) = match slot.frame {
            _ if slot.bits.kind() == EntryKind::None => {
                self.prepare_anon_vma(actor, page);
                // mkdirty goes with VM_WRITE here.
                (Rule::ForcedNewPage, fresh, ExpectedFrame::Frame(self.new_frame(0)))
            }
            ExpectedFrame::Frame(number)
                if self.frames[number as usize].exclusive || self.is_last_reference(number) =>
            {
                self.frames[number as usize].exclusive = true;
                (Rule::ForcedReuse, self.design.make_dirty(slot.bits.make_young()), slot.frame)
            }
            copied => {
                self.prepare_anon_vma(actor, page);
                let number = self.copy_of(copied);
                (Rule::ForcedCopy, self.design.make_dirty(fresh), ExpectedFrame::Frame(number))
            }
        };
        self.write(rule, actor, page, entry, frame);
        self.transition(Cause::Fault, rule, actor, page, before, true);
    }

    /// A frame with this one's content, which loses a mapping.
    pub(super) fn copy_of(&mut self, copied: ExpectedFrame) -> u32 {
        let content = match copied {
            ExpectedFrame::Frame(number) => self.frames[number as usize].content,
            ExpectedFrame::None | ExpectedFrame::Zero => 0,
        };
        self.release(copied);
        let number = self.new_frame(content);
        if let ExpectedFrame::Frame(copied) = copied {
            self.words.copy(copied, number);
        }
        number
    }
}
