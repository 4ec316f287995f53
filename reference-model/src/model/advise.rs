//! madvise, apart from MADV_DONTNEED: what `mm/madvise.c` does to VMAs and entries.

use super::fault::{Access, FAULT_LIMIT};
use super::vma::{VM_DONTCOPY, VM_MERGEABLE, VM_WIPEONFORK, Vma};
use super::{Model, Slot};
use crate::arena::{ActorId, PageIndex, PageRange};
use crate::entry::{D, Entry, RW};
use crate::expectation::ExpectedFrame;
use crate::kernel::Change;
use crate::outcome::Outcome;
use crate::program::{Advice, Protection};
use crate::rule::Rule;

const ENOMEM: i32 = 12;
const EFAULT: i32 = 14;
const EINVAL: i32 = 22;

/// The flags above bit 31.
const HIGH_FLAGS: u64 = !0 << 32;

impl Model {
    pub(super) fn madvise(&mut self, actor: ActorId, range: PageRange, advice: Advice) -> (Rule, Outcome) {
        match advice {
            Advice::Cold => self.for_each_part(actor, range, false, Self::cold),
            Advice::PopulateRead => self.populate(actor, range, Access::Read),
            Advice::PopulateWrite => self.populate(actor, range, Access::Write),
            Advice::WipeOnFork => self.mark(actor, range, VM_WIPEONFORK, 0),
            Advice::KeepOnFork => self.mark(actor, range, 0, VM_WIPEONFORK),
            Advice::DontFork => self.mark(actor, range, VM_DONTCOPY, 0),
            Advice::DoFork => self.mark(actor, range, 0, VM_DONTCOPY),
            Advice::Free => self.for_each_part(actor, range, true, Self::free),
            Advice::Mergeable => self.mark(actor, range, VM_MERGEABLE, 0),
            Advice::Unmergeable => self.mark(actor, range, 0, VM_MERGEABLE),
            Advice::PageOut => self.for_each_part(actor, range, false, Self::page_out),
        }
    }

    /// `madvise_walk_vmas` for advice that changes no VMA: `visit` gets each mapped part of the range; a
    /// hole is passed over and gives ENOMEM in the end, a locked VMA ends it with EINVAL, a shared one too where the
    /// advice is for private memory only (MADV_FREE: `vma_is_anonymous`).
    fn for_each_part(
        &mut self,
        actor: ActorId,
        range: PageRange,
        is_private_only: bool,
        visit: fn(&mut Self, ActorId, PageIndex),
    ) -> (Rule, Outcome) {
        let mut holes = false;
        for page in range.slots() {
            match self.memory(actor).vmas.at(page) {
                None => holes = true,
                Some(vma) if vma.shared.is_some() && is_private_only => {
                    return (Rule::AdviceShared, Outcome::Failed(EINVAL));
                }
                Some(vma) if vma.is_locked() => return (Rule::AdviceLocked, Outcome::Failed(EINVAL)),
                Some(_) => visit(self, actor, page),
            }
        }
        if holes { (Rule::AdviceHole, Outcome::Failed(ENOMEM)) } else { (Rule::AdviceTaken, Outcome::Succeeded) }
    }

    /// `madvise_walk_vmas` with `madvise_update_vma`: VMAs split and merge as their flags change.
    fn mark(&mut self, actor: ActorId, range: PageRange, set: u64, clear: u64) -> (Rule, Outcome) {
        let mut holes = false;
        let (mut start, end) = (range.first() as u8, range.end() as u8);
        while start < end {
            let page = PageIndex::new(usize::from(start)).expect("a slot of the range");
            let Some(index) = self.memory(actor).vmas.find(page) else {
                holes = true;
                start += 1;
                continue;
            };
            let old = self.memory(actor).vmas.list[index];
            if old.shared.is_some() && set & VM_WIPEONFORK != 0 {
                return (Rule::AdviceShared, Outcome::Failed(EINVAL));
            }
            if (set | clear) & VM_MERGEABLE != 0 {
                // `ksm_madvise` ignores what it cannot merge, and what is as it is to be.
                if old.shared.is_some() || old.marks & VM_MERGEABLE == set {
                    start = old.end;
                    continue;
                }
                if set == 0 {
                    self.unmerge(actor, start, old.end.min(end));
                } else {
                    self.enter_merging(actor);
                }
            }
            let drops = clear & VM_MERGEABLE != 0 && self.kernel.has(Change::UnmergeableDropsFlags);
            let clear = if drops { clear | HIGH_FLAGS } else { clear };
            if drops && old.marks & HIGH_FLAGS != 0 {
                let lost_key = Some(old.page_key());
                self.memory(actor).vmas.list[index].lost_key = lost_key;
            }
            let marks = (old.marks | set) & !clear;
            start = self.mark_vma(actor, index, start, old.end.min(end), marks, Rule::VmaMergeAdvice);
        }
        if holes { (Rule::AdviceHole, Outcome::Failed(ENOMEM)) } else { (Rule::AdviceTaken, Outcome::Succeeded) }
    }

    /// `vma_modify_flags` of slots `start..end` of one VMA. Returns where the next VMA is looked for: the end
    /// of the VMA that resulted.
    pub(super) fn mark_vma(&mut self, actor: ActorId, index: usize, start: u8, end: u8, marks: u64, rule: Rule) -> u8 {
        let old = self.memory(actor).vmas.list[index];
        if old.marks == marks {
            return old.end;
        }
        let kernel = self.kernel;
        let (target, merged) = self.memory(actor).vmas.modify(kernel, index, start, end, Vma { marks, ..old });
        if merged {
            self.vma_rule(rule, actor, target);
        }
        self.memory(actor).vmas.list[target].end
    }

    /// `madvise_cold_or_pageout_pte_range`, one entry. `folio_test_lru` holds: per-CPU batches are drained
    /// first, and every anonymous page of an arena is on a list then.
    fn cold(&mut self, actor: ActorId, page: PageIndex) {
        let Slot { bits, frame, .. } = self.slot(actor, page);
        if !bits.is_present() {
            return;
        }
        match frame {
            ExpectedFrame::Frame(number) if self.frames[number as usize].mapcount == 1 => {
                self.write(Rule::ColdOld, actor, page, bits.make_old(), frame);
            }
            _ => self.write(Rule::ColdKept, actor, page, bits, frame),
        }
    }

    /// `madvise_free_pte_range`, one entry. A folio that is dirty itself is cleaned only where nobody else
    /// maps it, and its entry with it.
    fn free(&mut self, actor: ActorId, page: PageIndex) {
        let Slot { bits, frame, .. } = self.slot(actor, page);
        if bits.is_swapped() {
            self.release(frame);
            self.write(Rule::FreeSwapped, actor, page, Entry::NONE, ExpectedFrame::None);
            return;
        }
        if !bits.is_present() {
            return;
        }
        let ExpectedFrame::Frame(number) = frame else {
            self.write(Rule::FreeKept, actor, page, bits, frame);
            return;
        };
        let is_locked = self.is_mlocked(number);
        let folio = &mut self.frames[number as usize];
        // One in the swap cache stays there while another entry names its slot.
        if folio.swap_cache.is_some() || (folio.dirty && folio.mapcount != 1) {
            return;
        }
        folio.dirty = false;
        folio.lazy_free |= !is_locked;
        self.write(Rule::FreeClean, actor, page, bits.make_old().make_clean(), frame);
    }

    /// `folio_test_mlocked`: some VMA that maps the frame is locked.
    fn is_mlocked(&self, number: u32) -> bool {
        self.actors.iter().flatten().any(|memory| {
            memory.slots.iter().enumerate().any(|(index, slot)| {
                let is_locked = |page| memory.vmas.at(page).is_some_and(Vma::is_locked);
                slot.frame == ExpectedFrame::Frame(number) && PageIndex::new(index).is_ok_and(is_locked)
            })
        })
    }

    /// `madvise_populate`: `__get_user_pages` page by page, until a VMA refuses or is missing. Earlier it was called
    /// from `madvise_walk_vmas`, VMA by VMA, which passes over holes.
    fn populate(&mut self, actor: ActorId, range: PageRange, access: Access) -> (Rule, Outcome) {
        let in_one_walk = self.kernel.has(Change::PopulateInOneWalk);
        let mut holes = false;
        for page in range.slots() {
            let Some(vma) = self.memory(actor).vmas.at(page).copied() else {
                if !in_one_walk {
                    holes = true;
                    continue;
                }
                return (Rule::PopulateHole, Outcome::Failed(ENOMEM));
            };
            if !may_populate(&vma, access, self.pkru(actor)) {
                return (Rule::PopulateDenied, Outcome::Failed(EINVAL));
            }
            let from = if in_one_walk { 0 } else { usize::from(vma.first) };
            let is_first = page.index() == range.first().max(from);
            if let Err(rule) = self.populate_page(actor, page, access, is_first) {
                let beyond = rule == Rule::FaultBeyondObject;
                let rule = if beyond { Rule::PopulateBeyond } else { Rule::PopulateUserfault };
                return (rule, Outcome::Failed(EFAULT));
            }
        }
        if holes { (Rule::AdviceHole, Outcome::Failed(ENOMEM)) } else { (Rule::Populated, Outcome::Succeeded) }
    }

    /// `follow_page_pte`: what is there and, for a store, writable (`pte_write`) takes no fault. A store
    /// through a clean entry marks the folio dirty, not the entry. Where there is no page GUP gives back the pages so
    /// far, and is called again from there: all but the first page of a call fault twice.
    ///
    /// # Errors
    /// The fault would raise SIGBUS, and by which rule.
    pub(super) fn populate_page(
        &mut self,
        actor: ActorId,
        page: PageIndex,
        access: Access,
        is_first: bool,
    ) -> Result<(), Rule> {
        let shadow_stack = self.memory(actor).vmas.at(page).is_some_and(|vma| vma.shadow_stack);
        for _ in 0..FAULT_LIMIT {
            let bits = self.slot(actor, page).bits;
            let writable = bits.has(RW) || (self.shadow_stack && bits.0 & (RW | D) == D);
            let is_enough = bits.is_present() && (access == Access::Read || writable);
            if is_enough {
                if access == Access::Write
                    && !bits.is_dirty()
                    && let ExpectedFrame::Frame(number) = self.slot(actor, page).frame
                {
                    if self.frames[number as usize].of_object {
                        self.mark_folio_dirty(ExpectedFrame::Frame(number));
                    } else {
                        self.frames[number as usize].dirty = true;
                    }
                }
                break;
            }
            if let Err(rule) = self.handle_mm_fault(actor, page, access, shadow_stack) {
                if !is_first {
                    _ = self.handle_mm_fault(actor, page, access, shadow_stack);
                }
                return Err(rule);
            }
        }
        Ok(())
    }
}

/// `mm/gup.c: check_vma_flags` without FOLL_FORCE. It asks the caller's PKRU.
fn may_populate(vma: &Vma, access: Access, pkru: u32) -> bool {
    if access.is_refused_by_key(pkru, vma.key()) {
        return false;
    }
    match access {
        Access::Write => vma.protection.contains(Protection::WRITE) && !vma.shadow_stack,
        _ => vma.protection.contains(Protection::READ),
    }
}
