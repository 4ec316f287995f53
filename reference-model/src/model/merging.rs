//! KSM: equal pages of mergeable VMAs that ksmd puts together, and MADV_UNMERGEABLE, which parts them.
//!
//! ksmd scans all mergeable pages of all processes, a process after the other in the order in which they came to its
//! list (`__ksm_enter`). A page that is as it was at the scan before enters a tree of such pages; where the tree has an
//! equal page already, the one that is scanned becomes the KSM page of both. One that equals a KSM page is replaced by
//! it. What has come about after three scans no further one changes, while nobody writes.

use super::vma::{VM_MERGEABLE, VM_UFFD_WP};
use super::{Model, Slot, page_protection};
use crate::arena::{ARENA_PAGES, ActorId, PageIndex, PageRange};
use crate::entry::{Entry, RW, SOFT_DIRTY, UFFD_WP};
use crate::expectation::ExpectedFrame;
use crate::kernel::Change;
use crate::observation::Cause;
use crate::outcome::Outcome;
use crate::program::Protection;
use crate::rule::Rule;

/// Scans that one merging waits for.
const SCANS: usize = 3;

impl Model {
    /// Three scans of ksmd.
    pub(super) fn merge_pages(&mut self) -> (Rule, Outcome) {
        for _ in 0..SCANS {
            self.scan();
        }
        (Rule::KsmScanned, Outcome::Succeeded)
    }

    /// `__ksm_enter`, unless the process is on the list.
    pub(super) fn enter_merging(&mut self, actor: ActorId) {
        if !self.mergers.contains(&actor) {
            self.mergers.push(actor);
        }
    }

    /// `scan_get_next_rmap_item` and `cmp_and_merge_page` from one end of the list to the other.
    fn scan(&mut self) {
        let mut unstable: Vec<(ActorId, PageIndex)> = Vec::new();
        for actor in self.mergers.clone() {
            // A process with no mergeable VMA leaves the list, as one that has exited does.
            if !self.has_mergeable_vma(actor) {
                self.mergers.retain(|&other| other != actor);
            }
            for page in (0..ARENA_PAGES).filter_map(|slot| PageIndex::new(slot).ok()) {
                let scanned = self.mergeable_frame(actor, page);
                match scanned {
                    Some(number) => self.compare_and_merge(actor, page, number, &mut unstable),
                    None => self.forget_checksum(actor, page),
                }
            }
        }
    }

    /// Whether ksmd has something to look at.
    fn has_mergeable_vma(&self, actor: ActorId) -> bool {
        let memory = self.actors[actor.index()].as_ref();
        memory.is_some_and(|memory| memory.vmas.list.iter().any(|vma| vma.marks & VM_MERGEABLE != 0))
    }

    /// Whether merging can be asked for: there is something to scan, and nothing that is not modelled with it.
    pub(super) fn may_merge(&self) -> bool {
        let of_mergers = |actor: &ActorId| self.actors[actor.index()].as_ref();
        let mut vmas = self.mergers.iter().filter_map(of_mergers).flat_map(|memory| &memory.vmas.list);
        let is_usual = |vma: &super::Vma| {
            vma.marks & VM_MERGEABLE == 0 || (vma.protection != Protection::NONE && !vma.is_locked())
        };
        self.merging
            && self.mergers.iter().any(|&actor| self.has_mergeable_vma(actor))
            && vmas.all(is_usual)
            && !self.frames.iter().any(|frame| frame.is_swap_slot && frame.mapcount > 0)
    }

    /// The anonymous frame at a page that ksmd finds.
    fn mergeable_frame(&self, actor: ActorId, page: PageIndex) -> Option<u32> {
        let memory = self.actors[actor.index()].as_ref()?;
        let vma = memory.vmas.at(page).filter(|vma| vma.marks & VM_MERGEABLE != 0 && vma.anon.is_some())?;
        let slot = memory.slots[page.index()];
        match slot.frame {
            ExpectedFrame::Frame(number) if slot.bits.is_present() && vma.shared.is_none() => Some(number),
            _ => None,
        }
    }

    fn forget_checksum(&mut self, actor: ActorId, page: PageIndex) {
        if let Some(memory) = &mut self.actors[actor.index()] {
            memory.checksums[page.index()] = None;
        }
    }

    /// Whether the page is as it was at the scan before.
    fn is_settled(&mut self, actor: ActorId, page: PageIndex, content: u64) -> bool {
        self.memory(actor).checksums[page.index()].replace(content) == Some(content)
    }

    /// `cmp_and_merge_page`.
    fn compare_and_merge(
        &mut self,
        actor: ActorId,
        page: PageIndex,
        number: u32,
        unstable: &mut Vec<(ActorId, PageIndex)>,
    ) {
        let content = self.frames[number as usize].content;
        let is_merged = self.frames[number as usize].is_merged;
        // Earlier kernels look for a KSM page before they ask whether this one has changed.
        let asks_first = self.kernel.has(Change::KsmComparesChecksumFirst);
        if asks_first && !is_merged && !self.is_settled(actor, page, content) {
            return;
        }
        if is_merged {
            return;
        }
        let stable =
            self.frames.iter().position(|frame| frame.is_merged && frame.mapcount > 0 && frame.content == content);
        if let Some(stable) = stable {
            self.protect_for_merging(actor, page, None);
            self.replace_page(actor, page, stable as u32);
            return;
        }
        if !asks_first && !self.is_settled(actor, page, content) {
            return;
        }
        let equal = unstable.iter().copied().find_map(|(other, place)| {
            let tree = self.mergeable_frame(other, place)?;
            (self.frames[tree as usize].content == content).then_some((other, place, tree))
        });
        match equal {
            None => unstable.push((actor, page)),
            // A page that fork shares.
            Some((_, _, tree)) if tree == number => {}
            Some((other, place, _)) => {
                self.protect_for_merging(actor, page, Some(Rule::KsmStable));
                self.frames[number as usize].is_merged = true;
                self.frames[number as usize].dirty = true;
                self.protect_for_merging(other, place, None);
                self.replace_page(other, place, number);
            }
        }
    }

    /// `write_protect_page`. `rule` is that of a page that stays; of one that is replaced at once nobody sees it.
    fn protect_for_merging(&mut self, actor: ActorId, page: PageIndex, rule: Option<Rule>) {
        let Slot { bits, frame, .. } = self.slot(actor, page);
        let ExpectedFrame::Frame(number) = frame else { return };
        let folio = &mut self.frames[number as usize];
        let changes = bits.has(RW) || bits.is_dirty() || folio.exclusive;
        folio.exclusive = false;
        folio.dirty |= bits.is_dirty();
        let clean = if changes { self.design.write_protect(bits.make_clean()) } else { bits };
        if let Some(rule) = rule {
            self.write(rule, actor, page, clean, frame);
        }
    }

    /// `replace_page`: a new entry with nothing of the old one but SoftDirty.
    fn replace_page(&mut self, actor: ActorId, page: PageIndex, stable: u32) {
        let Slot { bits, frame, .. } = self.slot(actor, page);
        let kept = if self.kernel.has(Change::KsmReplaceDropsSoftDirty) { 0 } else { bits.0 & SOFT_DIRTY };
        let vma = self.memory(actor).vmas.at(page).map(|vma| (vma.protection, vma.page_key()));
        let (protection, key) = vma.unwrap_or((Protection::NONE, 0));
        self.release(frame);
        self.frames[stable as usize].mapcount += 1;
        let frame = ExpectedFrame::Frame(stable);
        let entry = Entry(page_protection(protection, key).0 | kept);
        self.write(Rule::KsmReplaced, actor, page, entry, frame);
    }

    /// `unmerge_ksm_pages` of slots `start..end` of one VMA.
    pub(super) fn unmerge(&mut self, actor: ActorId, start: u8, end: u8) {
        for slot in start..end {
            let page = PageIndex::new(usize::from(slot)).expect("a slot of a VMA");
            let Slot { bits, frame: ExpectedFrame::Frame(number), .. } = self.slot(actor, page) else { continue };
            if bits.is_present() && self.frames[number as usize].is_merged {
                self.break_merged(actor, page, number);
            }
        }
    }

    /// `break_ksm`: the page gets a frame of its own. A write fault does it, which a userfaultfd refuses; later
    /// kernels ask for an unshared page, which nobody is told of.
    fn break_merged(&mut self, actor: ActorId, page: PageIndex, number: u32) {
        let slot = self.slot(actor, page);
        let before = self.expect(&slot);
        let Some(vma) = self.memory(actor).vmas.at(page).copied() else { return };
        let by_store = !self.kernel.has(Change::KsmUnsharesByRead);
        if by_store && vma.marks & VM_UFFD_WP != 0 && slot.bits.has(UFFD_WP) {
            self.write(Rule::KsmUnmergeRefused, actor, page, slot.bits, slot.frame);
            self.transition(Cause::Fault, Rule::KsmUnmergeRefused, actor, page, before, true);
            return;
        }
        let fresh = page_protection(vma.protection, vma.page_key());
        let content = self.frames[number as usize].content;
        self.release(slot.frame);
        let frame = ExpectedFrame::Frame(self.new_frame(content));
        let (rule, entry) = if by_store {
            let dirty = self.design.make_dirty(fresh);
            let writable = vma.protection.contains(Protection::WRITE);
            (Rule::KsmUnmergedWritten, if writable { self.design.make_writable(dirty) } else { dirty })
        } else {
            (Rule::KsmUnshared, Entry(fresh.0 | slot.bits.0 & (SOFT_DIRTY | UFFD_WP)))
        };
        self.write(rule, actor, page, entry, frame);
        self.transition(Cause::Fault, rule, actor, page, before, by_store);
    }

    /// Whether the actor has a KSM page in the range.
    pub(super) fn has_merged(&self, actor: ActorId, range: PageRange) -> bool {
        range.slots().any(|page| match self.slot(actor, page).frame {
            ExpectedFrame::Frame(number) => self.frames[number as usize].is_merged,
            ExpectedFrame::None | ExpectedFrame::Zero => false,
        })
    }
}
