//! mprotect and the clearing of soft-dirty bits: entries are write-protected, and sometimes writable again.

use super::shared::{vm_page_prot, wants_writenotify};
use super::{Model, Slot};
use crate::arena::{ActorId, PageIndex, PageRange};
use crate::entry::{D, Entry, EntryKind, RW, SOFT_DIRTY, SWP_SOFT_DIRTY, UFFD_WP};
use crate::expectation::ExpectedFrame;
use crate::kernel::Change;
use crate::mutation::Output;
use crate::observation::Cause;
use crate::outcome::Outcome;
use crate::program::Protection;
use crate::rule::Rule;

use super::vma::{VM_PKEY, VM_UFFD_WP, Vma, key_flags};

const ENOMEM: i32 = 12;

impl Model {
    /// `mm/mprotect.c: do_mprotect_pkey`.
    pub(super) fn mprotect(
        &mut self,
        actor: ActorId,
        range: PageRange,
        protection: Protection,
        key: Option<u8>,
    ) -> (Rule, Outcome) {
        let mut start = range.first() as u8;
        let end = range.end() as u8;
        while start < end {
            let page = PageIndex::new(usize::from(start)).expect("a slot of the range");
            let Some(index) = self.memory(actor).vmas.find(page) else {
                let rule = if start == range.first() as u8 { Rule::MprotectHoleFirst } else { Rule::MprotectHoleLater };
                return (rule, Outcome::Failed(ENOMEM));
            };
            let until = self.memory(actor).vmas.list[index].end.min(end);
            let key = self.mprotect_key(actor, index, protection, key);
            start = self.mprotect_fixup(actor, index, (start, until), protection, key);
        }
        (Rule::MprotectAll, Outcome::Succeeded)
    }

    /// `mprotect_fixup` of slots `start..end` of one VMA. Returns where the next VMA is looked for:
    /// `vma_iter_end`, the end of the VMA that resulted.
    fn mprotect_fixup(
        &mut self,
        actor: ActorId,
        index: usize,
        (start, end): (u8, u8),
        protection: Protection,
        key: u8,
    ) -> u8 {
        let old = self.memory(actor).vmas.list[index];
        let marks = old.marks & !VM_PKEY | key_flags(key);
        if old.protection == protection && old.marks == marks {
            return old.end;
        }
        let account = if old.shared.is_some() {
            old.account
        } else if protection.contains(Protection::WRITE) {
            old.account || !old.protection.contains(Protection::WRITE)
        } else {
            old.account && (old.anon.is_some() || !self.kernel.has(Change::MprotectGivesBackAccount))
        };
        let kernel = self.kernel;
        let (target, merged) =
            self.memory(actor).vmas.modify(kernel, index, start, end, Vma { protection, account, marks, ..old });
        if merged {
            self.vma_rule(Rule::VmaMergeProtect, actor, target);
        }
        let vma = self.memory(actor).vmas.list[target];
        // The VMA has its new flags, but still the vm_page_prot of before: a neighbour's if they merged.
        let inherited = if merged { vma } else { old };
        let try_writable = match vma.shared {
            Some(_) => wants_writenotify(&vma, vm_page_prot(&inherited)),
            None => protection.contains(Protection::WRITE),
        };
        self.set_page_prot(actor, target);
        for slot in start..end {
            let page = PageIndex::new(usize::from(slot)).expect("a slot of a VMA");
            self.change_entry(actor, page, try_writable);
        }
        let becomes_writable = !old.protection.contains(Protection::WRITE) && protection.contains(Protection::WRITE);
        if becomes_writable && old.is_locked() && old.shared.is_none() {
            // What comes of it is nobody's result.
            _ = self.populate_locked(actor, start, end, false);
        }
        self.memory(actor).vmas.list[target].end
    }

    /// Counts a VMA rule and lets a mutant spoil what it left behind.
    pub(super) fn vma_rule(&mut self, rule: Rule, actor: ActorId, index: usize) {
        self.fire(rule);
        let soft_dirty = self.is_mutated(rule, Output::SoftDirtyFlag);
        let account = self.is_mutated(rule, Output::Account);
        let anon = self.is_mutated(rule, Output::AnonVma);
        let page_protection = self.is_mutated(rule, Output::PageProtection);
        let other = anon.then(|| self.new_anon(true));
        let vma = &mut self.memory(actor).vmas.list[index];
        vma.soft_dirty ^= soft_dirty;
        vma.account ^= account;
        if let Some(shared) = &mut vma.shared {
            shared.write_notified ^= page_protection;
        }
        if anon {
            vma.anon = if vma.anon.is_some() { None } else { other };
        }
    }

    /// `change_pte_range` for one entry, under the VMA's new flags. `try_writable`: MM_CP_TRY_CHANGE_WRITABLE.
    fn change_entry(&mut self, actor: ActorId, page: PageIndex, try_writable: bool) {
        let slot = self.slot(actor, page);
        if slot.bits.kind() == EntryKind::None {
            return;
        }
        let Some(vma) = self.memory(actor).vmas.at(page).copied() else { return };
        let before = self.expect(&slot);
        if !slot.bits.is_present() {
            let rule = if slot.bits.is_swapped() { Rule::ProtectSwapped } else { Rule::ProtectMarker };
            self.write(rule, actor, page, slot.bits, slot.frame);
            self.transition(Cause::Protect, rule, actor, page, before, false);
            return;
        }
        let modified = self.design.modify(slot.bits, vm_page_prot(&vma).0);
        // pte_write(): a shadow-stack entry counts, on a CPU that has them.
        let already_writable = modified.has(RW) || (self.shadow_stack && modified.is_shadow_stack());
        let upgrade = try_writable && !already_writable;
        let tracked = !vma.soft_dirty && !modified.has(SOFT_DIRTY);
        let exclusive = self.is_exclusive(&slot);
        let (entry, rule) = if vma.shadow_stack {
            let restore = upgrade && !tracked && exclusive && modified.kind() != EntryKind::ProtNone;
            (if restore { modified.make_writable_shadow_stack() } else { modified }, Rule::ProtectShadowStack)
        } else if vma.protection == Protection::NONE {
            (modified, Rule::ProtectNone)
        } else if vma.shared.is_some() && vma.protection.contains(Protection::WRITE) {
            self.change_shared(modified, try_writable, tracked)
        } else if !upgrade {
            (modified, Rule::ProtectReadOnly)
        } else if tracked {
            (modified, Rule::ProtectSoftDirty)
        } else if vma.marks & VM_UFFD_WP != 0 && modified.has(UFFD_WP) {
            (modified, Rule::ProtectUffdWp)
        } else if exclusive && (modified.is_dirty() || self.kernel.has(Change::CleanPagesBecomeWritable)) {
            (self.design.make_writable(modified), Rule::ProtectWritable)
        } else {
            (modified, Rule::ProtectNotExclusive)
        };
        self.write(rule, actor, page, entry, slot.frame);
        self.transition(Cause::Protect, rule, actor, page, before, false);
    }

    pub(super) fn is_exclusive(&self, slot: &Slot) -> bool {
        match slot.frame {
            ExpectedFrame::Frame(number) => self.frames[number as usize].exclusive,
            ExpectedFrame::None | ExpectedFrame::Zero => false,
        }
    }

    /// `fs/proc/task_mmu.c: clear_refs_write` with CLEAR_REFS_SOFT_DIRTY.
    pub(super) fn clear_soft_dirty(&mut self, actor: ActorId) -> (Rule, Outcome) {
        for index in 0..self.memory(actor).vmas.list.len() {
            if self.memory(actor).vmas.list[index].soft_dirty {
                self.memory(actor).vmas.list[index].soft_dirty = false;
                self.set_page_prot(actor, index);
                self.vma_rule(Rule::VmaClearSoftDirty, actor, index);
            }
        }
        let vmas: Vec<Vma> = self.memory(actor).vmas.list.clone();
        for vma in vmas {
            for slot in vma.first..vma.end {
                let page = PageIndex::new(usize::from(slot)).expect("a slot of a VMA");
                let slot = self.slot(actor, page);
                if slot.bits.kind() == EntryKind::None {
                    continue;
                }
                let before = self.expect(&slot);
                if slot.bits.is_swapped() {
                    let cleared = Entry(slot.bits.0 & !SWP_SOFT_DIRTY);
                    self.write(Rule::ClearRefsSwapped, actor, page, cleared, slot.frame);
                    self.transition(Cause::ClearRefs, Rule::ClearRefsSwapped, actor, page, before, false);
                    continue;
                }
                if !slot.bits.is_present() {
                    let cleared = Entry(slot.bits.0 & !SWP_SOFT_DIRTY);
                    self.write(Rule::ClearRefsMarker, actor, page, cleared, slot.frame);
                    self.transition(Cause::ClearRefs, Rule::ClearRefsMarker, actor, page, before, false);
                    continue;
                }
                let rule = if slot.bits.0 & (RW | D) == D && vma.shadow_stack {
                    Rule::ClearRefsShadowStack
                } else {
                    Rule::ClearRefsProtected
                };
                self.write(rule, actor, page, self.design.write_protect(slot.bits).clear_soft_dirty(), slot.frame);
                self.transition(Cause::ClearRefs, rule, actor, page, before, false);
            }
        }
        (Rule::ClearRefs, Outcome::Succeeded)
    }
}
