//! Swap: pages that go out by MADV_PAGEOUT, and come in by faults.
//!
//! A slot of the swap file stands among the [frames](super::Frame): its mapcount is the number of entries that name it
//! (`swap_count`), its content what was written to it. A frame may be in the *swap cache*, that is, its page stand for
//! a slot that other entries name still; both then name each other. The kernel also keeps frames in the cache whose slot
//! nobody names any more; nothing tells them from frames that were taken out of it, which are dirty
//! (`folio_free_swap`), and so the model takes them out at once.
//!
//! The swap file is zram: written and read synchronously (`SWP_SYNCHRONOUS_IO`).

use super::fault::Access;
use super::vma::{VM_UFFD_WP, Vma};
use super::{Frame, Model, Slot, page_protection};
use crate::arena::{ActorId, PageIndex};
use crate::entry::{Entry, SOFT_DIRTY, SWP_EXCLUSIVE, SWP_SOFT_DIRTY, SWP_UFFD_WP, UFFD_WP};
use crate::expectation::ExpectedFrame;
use crate::kernel::Change;
use crate::program::Protection;
use crate::rule::Rule;

fn flag(set: bool, bit: u64) -> u64 {
    if set { bit } else { 0 }
}

impl Model {
    /// `madvise_cold_or_pageout_pte_range` with `pageout`, and `reclaim_pages`; one entry. `folio_test_lru` holds, as
    /// for MADV_COLD.
    pub(super) fn page_out(&mut self, actor: ActorId, page: PageIndex) {
        let Slot { bits, frame, .. } = self.slot(actor, page);
        if !bits.is_present() {
            return;
        }
        let number = match frame {
            ExpectedFrame::Frame(number) if self.frames[number as usize].mapcount == 1 => number,
            _ => {
                self.write(Rule::PageOutKept, actor, page, bits, frame);
                return;
            }
        };
        let folio = self.frames[number as usize];
        if folio.lazy_free {
            self.page_out_lazy(actor, page, number);
            return;
        }
        let slot = folio.swap_cache.unwrap_or_else(|| self.new_swap_slot(number));
        self.frames[slot as usize].mapcount += 1;
        // `__remove_mapping`: the cache gives it up, and with the last mapping it is gone.
        self.frames[slot as usize].swap_cache = None;
        self.frames[number as usize] = Frame { swap_cache: None, mapcount: 0, exclusive: false, ..folio };
        let flags = flag(folio.exclusive, SWP_EXCLUSIVE)
            | flag(bits.has(SOFT_DIRTY), SWP_SOFT_DIRTY)
            | flag(bits.has(UFFD_WP), SWP_UFFD_WP);
        let rule = if bits.has(UFFD_WP) { Rule::PageOutUffdWp } else { Rule::PageOut };
        self.write(rule, actor, page, Entry(Entry::SWAPPED.0 | flags), ExpectedFrame::Frame(slot));
    }

    /// `try_to_unmap_one` of a page that MADV_FREE gave up: it is dropped if it was not written since, and else is as
    /// if it had never been given up, but stays for now.
    fn page_out_lazy(&mut self, actor: ActorId, page: PageIndex, number: u32) {
        let Slot { bits, frame, .. } = self.slot(actor, page);
        if bits.is_dirty() || self.frames[number as usize].dirty {
            let folio = &mut self.frames[number as usize];
            folio.lazy_free = false;
            folio.dirty = true;
            let kept = if self.kernel.has(Change::LazyPagesStayYoung) { bits } else { bits.make_old() };
            self.write(Rule::PageOutLazyKept, actor, page, kept, frame);
        } else {
            self.release(frame);
            self.write(Rule::PageOutLazyDropped, actor, page, Entry::NONE, ExpectedFrame::None);
        }
    }

    /// A slot with the frame's content, which no entry names yet.
    fn new_swap_slot(&mut self, number: u32) -> u32 {
        let content = self.frames[number as usize].content;
        let slot = self.frames.len() as u32;
        self.frames.push(Frame { content, is_swap_slot: true, ..Frame::UNMAPPED });
        self.words.copy(number, slot);
        slot
    }

    /// The page of a slot: that in the swap cache, or a new one that is read. Says whether it is in the cache.
    fn page_of_slot(&mut self, slot: u32) -> (u32, bool) {
        let Frame { content, mapcount, swap_cache, .. } = self.frames[slot as usize];
        if let Some(number) = swap_cache {
            return (number, true);
        }
        let number = self.frames.len() as u32;
        // Earlier kernels read a page that one entry names past the cache.
        let is_cached = self.kernel.has(Change::SwapInThroughCache) || mapcount != 1;
        self.frames.push(Frame { content, swap_cache: is_cached.then_some(slot), ..Frame::UNMAPPED });
        self.words.copy(slot, number);
        if is_cached {
            self.frames[slot as usize].swap_cache = Some(number);
        }
        (number, is_cached)
    }

    /// One entry names the slot no more (`swap_free`).
    pub(super) fn put_swap_slot(&mut self, slot: u32) {
        let record = &mut self.frames[slot as usize];
        record.mapcount = record.mapcount.saturating_sub(1);
        if record.mapcount == 0
            && let Some(cached) = record.swap_cache.take()
        {
            let folio = &mut self.frames[cached as usize];
            folio.swap_cache = None;
            folio.dirty = true;
        }
    }

    /// `mm/memory.c: do_swap_page`. Says whether `do_wp_page` follows: the access is a store that what was installed
    /// does not let through.
    pub(super) fn swap_in(&mut self, actor: ActorId, page: PageIndex, access: Access, vma: &Vma) -> Option<Rule> {
        let Slot { bits: swapped, frame: ExpectedFrame::Frame(slot), .. } = self.slot(actor, page) else {
            // A mutated model may have lost the slot.
            self.write(Rule::SwapIn, actor, page, Entry::NONE, ExpectedFrame::None);
            return Some(Rule::SwapIn);
        };
        let (number, is_cached) = self.page_of_slot(slot);
        self.put_swap_slot(slot);
        let is_only_reference = {
            // `should_try_to_free_swap` before the page is mapped, which later kernels ask after it.
            let tries = access.is_store() || vma.is_locked();
            let is_free = self.frames[number as usize].swap_cache.is_none();
            let unmapped = self.frames[number as usize].mapcount == 0;
            !self.kernel.has(Change::SwapInThroughCache) && tries && is_free && unmapped
        };
        let is_exclusive = swapped.has(SWP_EXCLUSIVE) || !is_cached || is_only_reference;
        let folio = &mut self.frames[number as usize];
        folio.mapcount += 1;
        folio.exclusive = is_exclusive;
        let is_uffd_wp = swapped.has(SWP_UFFD_WP);
        let fresh = Entry(page_protection(vma.protection, vma.page_key()).0);
        let restored = Entry(fresh.0 | flag(swapped.has(SWP_SOFT_DIRTY), SOFT_DIRTY) | flag(is_uffd_wp, UFFD_WP));
        let (entry, is_through, is_writable) = if self.kernel.has(Change::SwapInMakesWritable) {
            let wants_fault = is_uffd_wp && vma.marks & VM_UFFD_WP != 0;
            let tracked = !vma.soft_dirty && !restored.has(SOFT_DIRTY);
            let is_writable = is_exclusive && vma.protection.contains(Protection::WRITE) && !wants_fault && !tracked;
            let is_through = is_writable && access.is_store();
            let entry = match (is_writable, vma.shadow_stack) {
                (true, true) => restored.make_writable_shadow_stack(),
                (true, false) => self.design.make_writable(restored),
                (false, _) => restored,
            };
            (if is_through { self.design.make_dirty(entry) } else { entry }, is_through, is_writable)
        } else {
            let is_through = is_exclusive && access.is_store();
            let is_writable = is_through && vma.protection.contains(Protection::WRITE) && !is_uffd_wp;
            let entry = if is_through { self.design.make_dirty(restored) } else { restored };
            (if is_writable { self.design.make_writable(entry) } else { entry }, is_through, is_writable)
        };
        let rule = match (is_through, is_writable) {
            _ if is_uffd_wp => Rule::SwapInUffdWp,
            _ if vma.shadow_stack && is_through => Rule::SwapInShadowStackStored,
            _ if vma.shadow_stack && is_writable => Rule::SwapInShadowStack,
            (true, _) => Rule::SwapInWritten,
            (false, true) => Rule::SwapInWritable,
            (false, false) => Rule::SwapIn,
        };
        self.write(rule, actor, page, entry, ExpectedFrame::Frame(number));
        (is_through || !access.is_store()).then_some(rule)
    }
}
