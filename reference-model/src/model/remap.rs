//! mremap: VMAs and entries that move, and mappings that become shorter or longer.
//!
//! Read in `mm/mremap.c` and `mm/vma.c` (6.1: `mm/mmap.c`): `copy_vma`, `move_page_tables`, `vma_merge_extend`.
//! The arena is a sixteenth of a page table, so whole tables are never moved (`move_normal_pmd`).

use super::vma::{VM_LOCKED, VM_UFFD, Vma, VmaList, anon_compatible, anon_mergeable};
use super::{Model, Slot};
use crate::arena::{ActorId, PageIndex, PageRange};
use crate::entry::{Entry, SOFT_DIRTY, SWP_SOFT_DIRTY, SWP_UFFD_WP};
use crate::expectation::ExpectedFrame;
use crate::kernel::{Change, Kernel};
use crate::mutation::Output;
use crate::outcome::Outcome;
use crate::rule::Rule;

const ENOMEM: i32 = 12;
const EFAULT: i32 = 14;
const EINVAL: i32 = 22;

/// What one call is to do to one VMA: `vma_remap_struct`.
#[derive(Debug, Clone, Copy)]
struct Remap {
    /// Slots to move, within one VMA.
    from: PageRange,
    /// Where to, unmapped by now.
    to: PageRange,
    /// `MREMAP_DONTUNMAP`.
    keep: bool,
}

impl Model {
    /// `mremap` with `MREMAP_MAYMOVE | MREMAP_FIXED`, and `MREMAP_DONTUNMAP` where `keep`.
    pub(super) fn mremap(&mut self, actor: ActorId, range: PageRange, to: PageRange, keep: bool) -> (Rule, Outcome) {
        if keep && range.pages() != to.pages() {
            return (Rule::MremapKeepResized, Outcome::Failed(EINVAL));
        }
        let overlap = range.first() < to.end() && to.first() < range.end();
        if self.kernel.has(Change::MremapChecksFirst) && overlap {
            return (Rule::MremapOverlap, Outcome::Failed(EINVAL));
        }
        if self.vma_at(actor, range.first()).is_none() {
            return (Rule::MremapUnmapped, Outcome::Failed(EFAULT));
        }
        if overlap {
            return (Rule::MremapOverlap, Outcome::Failed(EINVAL));
        }
        if self.kernel.has(Change::MremapMovesSeveralVmas) && range.pages() == to.pages() {
            return self.remap_move(actor, range, to, keep);
        }
        // Earlier kernels check only after they have unmapped (`vma_to_resize`).
        let moved = PageRange::new(range.first(), range.pages().min(to.pages())).expect("part of a range");
        let across = self.vma_at(actor, range.first()).is_some_and(|vma| moved.end() > usize::from(vma.end));
        let refused = (Rule::MremapAcross, Outcome::Failed(EFAULT));
        if across && self.kernel.has(Change::MremapChecksFirst) {
            return refused;
        }
        self.unmap_for_remap(Rule::ZapRemapTarget, actor, to);
        if let Ok(tail) = PageRange::new(moved.end(), range.end() - moved.end()) {
            self.unmap_for_remap(Rule::ZapRemapTail, actor, tail);
        }
        if across {
            return refused;
        }
        self.move_vma(actor, Remap { from: moved, to, keep });
        let rule = match keep {
            true => Rule::MremapKept,
            false if range.pages() == to.pages() => Rule::MremapMoved,
            false => Rule::MremapMovedResized,
        };
        (rule, Outcome::Succeeded)
    }

    /// `remap_move`: every VMA in the range, each to a place as far on. What lies in the gaps between
    /// those places stays.
    fn remap_move(&mut self, actor: ActorId, range: PageRange, to: PageRange, keep: bool) -> (Rule, Outcome) {
        let mut cursor = range.first();
        let mut moved = 0;
        while cursor < range.end() {
            let vmas = &self.memory(actor).vmas.list;
            let Some(vma) = vmas.iter().find(|vma| usize::from(vma.end) > cursor).copied() else { break };
            let first = usize::from(vma.first).max(range.first());
            if first >= range.end() {
                break;
            }
            // `vma_multi_allowed`: one that is registered is moved alone.
            if vma.marks & VM_UFFD != 0 && (moved > 0 || usize::from(vma.end) < range.end()) {
                return (Rule::MremapAcross, Outcome::Failed(EFAULT));
            }
            cursor = usize::from(vma.end);
            let part = |start: usize| {
                PageRange::new(start, cursor.min(range.end()) - first).expect("as far within its range as the other")
            };
            let (from, to) = (part(first), part(to.first() + first - range.first()));
            self.unmap_for_remap(Rule::ZapRemapTarget, actor, to);
            self.move_vma(actor, Remap { from, to, keep });
            moved += 1;
        }
        let rule = match (moved, keep) {
            (1, false) => Rule::MremapMoved,
            (1, true) => Rule::MremapKept,
            _ => Rule::MremapMovedSeveral,
        };
        (rule, Outcome::Succeeded)
    }

    /// `mremap` without flags.
    pub(super) fn mremap_resize(&mut self, actor: ActorId, range: PageRange, pages: u8) -> (Rule, Outcome) {
        let pages = usize::from(pages);
        if pages == 0 {
            return (Rule::MremapNoLength, Outcome::Failed(EINVAL));
        }
        let Some(vma) = self.vma_at(actor, range.first()) else {
            return (Rule::MremapUnmapped, Outcome::Failed(EFAULT));
        };
        if pages <= range.pages() {
            // Whatever lies there: the tail may belong to other VMAs, or to none.
            let Ok(tail) = PageRange::new(range.first() + pages, range.pages() - pages) else {
                return (Rule::MremapUnchanged, Outcome::Succeeded);
            };
            self.unmap_for_remap(Rule::ZapRemapTail, actor, tail);
            return (Rule::MremapShrunk, Outcome::Succeeded);
        }
        if range.end() > usize::from(vma.end) {
            return (Rule::MremapAcross, Outcome::Failed(EFAULT));
        }
        let growth = PageRange::new(range.end(), pages - range.pages()).expect("within the arena");
        if range.end() != usize::from(vma.end) || self.memory(actor).vmas.overlaps(growth) {
            return (Rule::MremapNoRoom, Outcome::Failed(ENOMEM));
        }
        let kernel = self.kernel;
        let index = self.memory(actor).vmas.extend(kernel, growth);
        self.vma_rule(Rule::VmaGrown, actor, index);
        if vma.is_locked() {
            _ = self.populate_locked(actor, growth.first() as u8, growth.end() as u8, true);
        }
        (Rule::MremapGrown, Outcome::Succeeded)
    }

    fn vma_at(&mut self, actor: ActorId, slot: usize) -> Option<Vma> {
        let page = PageIndex::new(slot).expect("a slot of a range");
        self.memory(actor).vmas.at(page).copied()
    }

    fn unmap_for_remap(&mut self, rule: Rule, actor: ActorId, range: PageRange) {
        self.zap(rule, actor, range);
        self.memory(actor).vmas.unmap(range);
    }

    /// `move_vma`, of a range within one VMA. A userfaultfd without UFFD_FEATURE_EVENT_REMAP, and programs have no
    /// other, loses its registration (`mremap_userfaultfd_prep`), and its write-protection bits in `move_ptes`.
    fn move_vma(&mut self, actor: ActorId, remap: Remap) {
        let Remap { from, to, keep } = remap;
        let kernel = self.kernel;
        let vmas = &mut self.memory(actor).vmas;
        let old = vmas.of_range(from);
        if keep && vmas.list[old].is_locked() && tells_original_apart(kernel) {
            // `needs_pre_split`: only what moves is unlocked.
            vmas.split_at(from.first() as u8);
            vmas.split_at(from.end() as u8);
        }
        let old = vmas.list[vmas.of_range(from)];
        // `copy_vma`. The new VMA has the old one's flags, VM_SOFTDIRTY and VM_LOCKED included. Anonymous memory
        // that was never written forgets where it was mapped first; shared memory does not.
        let displacement = if old.anon.is_some() || old.shared.is_some() {
            old.displacement + from.first() as i16 - to.first() as i16
        } else {
            0
        };
        let new = Vma { first: to.first() as u8, end: to.end() as u8, displacement, ..old };
        let (index, merged) = if old.uffd.is_some() && !kernel.has(Change::MremapMergesRegistered) {
            (vmas.insert_alone(new), false)
        } else {
            vmas.insert_copy(kernel, new, keep.then_some(&old))
        };
        if old.uffd.is_some() {
            // Of the whole VMA, should it have merged with a neighbour that is registered.
            let vma = &mut vmas.list[index];
            (vma.marks, vma.uffd) = (vma.marks & !VM_UFFD, None);
        }
        self.moved_vma_rule(if merged { Rule::VmaMergeMoved } else { Rule::VmaMoved }, actor, index);
        let unmarks = old.uffd.is_some() && !kernel.has(Change::MremapKeepsUffdWp);
        self.move_page_tables(actor, from, to, unmarks);
        if keep {
            self.dontunmap_complete(actor, from, &old);
        } else {
            self.memory(actor).vmas.unmap(from);
        }
        if old.is_locked() && to.pages() > from.pages() {
            _ = self.populate_locked(actor, (to.first() + from.pages()) as u8, to.end() as u8, true);
        }
    }

    /// `move_ptes`: whatever is there moves as it is; what is present becomes soft-dirty (`move_soft_dirty_pte`).
    fn move_page_tables(&mut self, actor: ActorId, from: PageRange, to: PageRange, unmarks: bool) {
        for (source, target) in from.slots().zip(to.slots()) {
            let Slot { bits, frame, .. } = self.slot(actor, source);
            if bits == Entry::NONE && frame == ExpectedFrame::None {
                continue;
            }
            if unmarks && bits.marker().is_some() {
                self.write(Rule::MovedMarkerDropped, actor, source, Entry::NONE, ExpectedFrame::None);
                continue;
            }
            let is_unmarked = unmarks && bits.is_uffd_wp();
            let moved = match bits {
                bits if bits.is_present() => Entry(bits.0 | SOFT_DIRTY),
                // move_soft_dirty_pte takes a marker for a swap entry.
                bits => Entry(bits.0 | SWP_SOFT_DIRTY),
            };
            let moved = match is_unmarked {
                true if moved.is_swapped() => Entry(moved.0 & !SWP_UFFD_WP),
                true => moved.clear_uffd_wp(),
                false => moved,
            };
            let rule = match frame {
                _ if is_unmarked => Rule::MovedUffdWp,
                _ if !bits.is_present() => Rule::MovedSwapped,
                ExpectedFrame::Frame(_) => Rule::MovedEntry,
                ExpectedFrame::None | ExpectedFrame::Zero => Rule::MovedZeroPage,
            };
            self.write(rule, actor, target, moved, frame);
            self.write(Rule::MovedAway, actor, source, Entry::NONE, ExpectedFrame::None);
        }
    }

    /// The VMA that MREMAP_DONTUNMAP leaves is not locked; where all of it moved it has no anon_vma.
    fn dontunmap_complete(&mut self, actor: ActorId, from: PageRange, old: &Vma) {
        let forgets = !self.kernel.has(Change::DontunmapKeepsOffset);
        let index = self.memory(actor).vmas.of_range(from);
        let vma = &mut self.memory(actor).vmas.list[index];
        vma.marks &= !VM_LOCKED;
        if (vma.first, vma.end) == (old.first, old.end) && (old.first, old.end) == slots_of(from) {
            vma.anon = None;
            if forgets && vma.shared.is_none() {
                vma.displacement = 0;
            }
        }
        self.moved_vma_rule(Rule::VmaKept, actor, index);
    }

    fn moved_vma_rule(&mut self, rule: Rule, actor: ActorId, index: usize) {
        self.vma_rule(rule, actor, index);
        if self.is_mutated(rule, Output::Displacement) {
            self.memory(actor).vmas.list[index].displacement ^= 1;
        }
    }
}

/// Whether `MREMAP_DONTUNMAP` takes care to tell the VMA that stays from its copy: they do not merge, and of a locked VMA
/// only what moves is unlocked (`needs_pre_split`).
fn tells_original_apart(kernel: Kernel) -> bool {
    !kernel.has(Change::DontunmapTakesOriginalAlong)
}

fn slots_of(range: PageRange) -> (u8, u8) {
    (range.first() as u8, range.end() as u8)
}

impl VmaList {
    /// Index of the VMA that the range begins in.
    fn of_range(&self, range: PageRange) -> usize {
        let first = range.first() as u8;
        self.list.iter().position(|vma| vma.first <= first && first < vma.end).expect("a mapped range")
    }

    /// `split_vma`, without merging.
    fn split_at(&mut self, slot: u8) {
        if let Some(index) = self.list.iter().position(|vma| vma.first < slot && slot < vma.end) {
            let upper = Vma { first: slot, ..self.list[index] };
            self.list[index].end = slot;
            self.list.insert(index + 1, upper);
        }
    }

    /// A VMA of its own, whatever its neighbours are. Returns its index.
    fn insert_alone(&mut self, new: Vma) -> usize {
        let at = self.list.partition_point(|vma| vma.first < new.first);
        self.list.insert(at, new);
        at
    }

    /// `vma_merge_copied_range` (6.1: `vma_merge`, 6.12: `vma_merge_new_range`) of a copy of a VMA, or a VMA of
    /// its own. `kept` is the original where it is to stay. Returns the VMA's index and whether it merged.
    fn insert_copy(&mut self, kernel: Kernel, new: Vma, kept: Option<&Vma>) -> (usize, bool) {
        let at = self.list.partition_point(|vma| vma.first < new.first);
        // An unwritten VMA could merge with its own copy.
        let original = kept.filter(|old| old.anon.is_none() && old.shared.is_none() && tells_original_apart(kernel));
        let is_beside = original.is_some_and(|old| old.first == new.end || old.end == new.first);
        if is_beside && !kernel.has(Change::CopyMergesOnOtherSide) {
            return (self.insert_alone(new), false);
        }
        let may = |other: &Vma| {
            original.is_none_or(|old| old.first != other.first)
                && other.merges_with_flags_of(&new)
                && anon_mergeable(kernel, Some(&new), other)
        };
        self.merge(kernel, at, new, may)
    }

    /// `vma_merge_extend`: the VMA that ends where the growth begins takes it, and the next one where it can.
    fn extend(&mut self, kernel: Kernel, growth: PageRange) -> usize {
        let (first, end) = slots_of(growth);
        let at = self.list.partition_point(|vma| vma.first < first);
        let new = Vma { first, end, ..self.list[at - 1] };
        // Nothing is copied from another VMA, so nobody asks whether that one was forked.
        let source = Vma { anon: new.anon.map(|anon| super::AnonVma { singular: true, ..anon }), ..new };
        let may = |other: &Vma| other.merges_with_flags_of(&new) && anon_mergeable(kernel, Some(&source), other);
        self.merge(kernel, at, new, may).0
    }

    /// `vma_merge_new_range` at place `at` of the list, with whichever neighbour `may` merge.
    fn merge(&mut self, kernel: Kernel, at: usize, new: Vma, may: impl Fn(&Vma) -> bool) -> (usize, bool) {
        let left = at.checked_sub(1).filter(|&prev| self.list[prev].end == new.first && may(&self.list[prev]));
        let right = Some(at).filter(|&next| {
            self.list.get(next).is_some_and(|next| {
                next.first == new.end && may(next) && left.is_none_or(|left| anon_compatible(&self.list[left], next))
            })
        });
        let next = right.map(|right| self.list[right]);
        let Some(target) = left.or(right) else {
            self.list.insert(at, new);
            return (at, false);
        };
        let vma = &mut self.list[target];
        vma.first = vma.first.min(new.first);
        vma.end = next.map_or(new.end, |next| next.end);
        let own = if kernel.has(Change::CopyMergeLosesAnonVma) { None } else { new.anon };
        vma.anon = vma.anon.or(next.and_then(|next| next.anon)).or(own);
        if !kernel.has(Change::MergeLosesSoftDirty) {
            vma.soft_dirty |= new.soft_dirty || next.is_some_and(|next| next.soft_dirty);
        }
        if left.is_some() && next.is_some() {
            self.list.remove(at);
        }
        (target, true)
    }
}

#[cfg(test)]
mod tests;
