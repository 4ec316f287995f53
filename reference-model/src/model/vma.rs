//! VMAs of one actor's arena: splitting, merging, and the anon_vma that each has.
//!
//! Two facts about entries hang on this: whether fork copies the entries at all (`vma_needs_copy`: only
//! with an anon_vma), and whether soft-dirty tracking is on (`VM_SOFTDIRTY` clear), which decides what
//! mprotect and pagemap say. So merging is modelled as each kernel does it.

use crate::arena::{PageIndex, PageRange};
use crate::kernel::{Change, Kernel};
use crate::program::Protection;

/// `VM_SOFTDIRTY` in `vm_flags`.
pub(super) const VM_SOFTDIRTY: u64 = 0x0800_0000;
/// `VM_SHADOW_STACK` in `vm_flags` (6.12 and 7.2 agree).
pub(super) const VM_SHADOW_STACK: u64 = 1 << 37;

/// `VM_SHARED` in `vm_flags`.
pub(super) const VM_SHARED: u64 = 1 << 3;

/// `VM_DONTCOPY` in `vm_flags`.
pub(super) const VM_DONTCOPY: u64 = 1 << 17;
/// `VM_WIPEONFORK` in `vm_flags`.
pub(super) const VM_WIPEONFORK: u64 = 1 << 25;
/// `VM_LOCKED` in `vm_flags`.
pub(super) const VM_LOCKED: u64 = 1 << 13;
/// `VM_UFFD_MISSING` in `vm_flags`.
pub(super) const VM_UFFD_MISSING: u64 = 1 << 9;
/// `VM_UFFD_WP` in `vm_flags`.
pub(super) const VM_UFFD_WP: u64 = 1 << 12;
/// `__VM_UFFD_FLAGS`, as far as anonymous memory can have them.
pub(super) const VM_UFFD: u64 = VM_UFFD_MISSING | VM_UFFD_WP;
/// `VM_MERGEABLE` in `vm_flags`.
pub(super) const VM_MERGEABLE: u64 = 1 << 31;
/// First of the four bits of the protection key in `vm_flags` (`VM_PKEY_SHIFT`; the same in all kernels).
const VM_PKEY_SHIFT: u32 = 32;
/// `ARCH_VM_PKEY_FLAGS`.
pub(super) const VM_PKEY: u64 = 0xf << VM_PKEY_SHIFT;
/// What [`Vma::marks`] may hold.
pub(super) const VM_MARKS: u64 = VM_DONTCOPY | VM_WIPEONFORK | VM_LOCKED | VM_PKEY | VM_UFFD | VM_MERGEABLE;

/// The protection key as it stands in `vm_flags`.
pub(super) fn key_flags(key: u8) -> u64 {
    u64::from(key) << VM_PKEY_SHIFT
}

/// A VMA's anon_vma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AnonVma {
    /// Identity within the program.
    pub(super) id: u32,
    /// `list_is_singular(&vma->anon_vma_chain)`: no ancestor's anon_vma is on the chain.
    pub(super) singular: bool,
}

/// What a shared VMA maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shared {
    /// Identity of the shmem object within the program (`vm_file`).
    pub(super) object: u32,
    /// `vm_page_prot` lacks RW although the VMA is writable; see [`super::shared`].
    pub(super) write_notified: bool,
}

/// One VMA. Slots `first..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vma {
    pub(super) first: u8,
    pub(super) end: u8,
    /// `VM_READ`, `VM_WRITE`, `VM_EXEC`.
    pub(super) protection: Protection,
    pub(super) shadow_stack: bool,
    /// `VM_ACCOUNT`.
    pub(super) account: bool,
    pub(super) soft_dirty: bool,
    /// The flags among [`VM_MARKS`] that are set.
    pub(super) marks: u64,
    /// `vm_pgoff`, less the slot that the VMA begins at. Of private memory 0 but for what mremap moved; of shared
    /// memory what makes a slot the index of a page in the object (`linear_page_index`). Slots of one distance
    /// merge, others do not.
    pub(super) displacement: i16,
    /// `vm_userfaultfd_ctx`: the context's identity.
    pub(super) uffd: Option<u32>,
    pub(super) anon: Option<AnonVma>,
    /// The key that `vm_page_prot` still has where the flags lost theirs ([`Change::UnmergeableDropsFlags`]).
    pub(super) lost_key: Option<u8>,
    /// The object that a shared VMA maps; `None` of private memory.
    pub(super) shared: Option<Shared>,
}

impl Vma {
    /// The flags, and the displacement, that may not differ between VMAs that merge.
    pub(super) fn merges_with_flags_of(&self, other: &Self) -> bool {
        self.protection == other.protection && self.uffd == other.uffd && self.differs_by_access_only(other)
    }

    /// Nothing but `VM_ACCESS_FLAGS` and `VM_SOFTDIRTY` differs, and the offsets fit (`mm/vma.c: anon_vma_compatible`).
    fn differs_by_access_only(&self, other: &Self) -> bool {
        self.shadow_stack == other.shadow_stack
            && self.account == other.account
            && self.marks == other.marks
            && self.displacement == other.displacement
            && self.object() == other.object()
    }

    /// `vm_file`, where there is one. `vm_page_prot` does not hinder a merge.
    fn object(&self) -> Option<u32> {
        self.shared.map(|shared| shared.object)
    }

    /// `VM_LOCKED`.
    pub(super) fn is_locked(&self) -> bool {
        self.marks & VM_LOCKED != 0
    }

    /// `vma_pkey`.
    pub(super) fn key(&self) -> u8 {
        ((self.marks & VM_PKEY) >> VM_PKEY_SHIFT) as u8
    }

    /// The key of `vm_page_prot`, which entries get.
    pub(super) fn page_key(&self) -> u8 {
        self.lost_key.unwrap_or_else(|| self.key())
    }

    /// `vm_flags` under the compared mask.
    pub(super) fn vm_flags(&self) -> u64 {
        u64::from(self.protection.bits())
            | if self.soft_dirty { VM_SOFTDIRTY } else { 0 }
            | if self.shadow_stack { VM_SHADOW_STACK } else { 0 }
            | if self.shared.is_some() { VM_SHARED } else { 0 }
            | self.marks
    }

    fn anon_id(&self) -> Option<u32> {
        self.anon.map(|anon| anon.id)
    }

    /// `vma_is_fork_child`.
    fn is_fork_child(&self) -> bool {
        self.anon.is_some_and(|anon| !anon.singular)
    }
}

/// `mm/vma.c: is_mergeable_anon_vma` for a changed part `source` and a neighbour `target` that takes it.
pub(super) fn anon_mergeable(kernel: Kernel, source: Option<&Vma>, target: &Vma) -> bool {
    let source_anon = source.and_then(|vma| vma.anon);
    if !kernel.has(Change::MergesFaultedWithUnfaulted) {
        // The target's chain alone is looked at, and an empty chain is not singular: a target without anon_vma refuses a
        // source that has one.
        let either_missing = source_anon.is_none() || target.anon.is_none();
        return (either_missing && target.anon.is_some_and(|anon| anon.singular))
            || source_anon.map(|anon| anon.id) == target.anon_id();
    }
    match (target.anon, source_anon) {
        (None, Some(_)) => !source.is_some_and(Vma::is_fork_child),
        (Some(_), None) => !target.is_fork_child(),
        _ => source_anon.map(|anon| anon.id) == target.anon_id(),
    }
}

pub(super) fn anon_compatible(left: &Vma, right: &Vma) -> bool {
    left.anon.is_none() || right.anon.is_none() || left.anon_id() == right.anon_id()
}

/// The VMAs of one arena, sorted, not overlapping.
#[derive(Debug, Clone, Default)]
pub(super) struct VmaList {
    pub(super) list: Vec<Vma>,
}

impl VmaList {
    /// Index of the VMA that covers the slot.
    pub(super) fn find(&self, page: PageIndex) -> Option<usize> {
        let slot = page.index() as u8;
        self.list.iter().position(|vma| vma.first <= slot && slot < vma.end)
    }

    /// The VMA that covers the slot.
    pub(super) fn at(&self, page: PageIndex) -> Option<&Vma> {
        self.find(page).map(|index| &self.list[index])
    }

    /// Whether any VMA overlaps the range.
    pub(super) fn overlaps(&self, range: PageRange) -> bool {
        self.list.iter().any(|vma| usize::from(vma.first) < range.end() && range.first() < usize::from(vma.end))
    }

    /// Removes the range, splitting VMAs at its ends (`__split_vma`: both halves keep everything).
    pub(super) fn unmap(&mut self, range: PageRange) {
        let (start, end) = (range.first() as u8, range.end() as u8);
        let mut kept = Vec::with_capacity(self.list.len() + 1);
        for vma in &self.list {
            if vma.end <= start || end <= vma.first {
                kept.push(*vma);
                continue;
            }
            if vma.first < start {
                kept.push(Vma { end: start, ..*vma });
            }
            if end < vma.end {
                kept.push(Vma { first: end, ..*vma });
            }
        }
        self.list = kept;
    }

    /// `vma_merge_new_range`, or a VMA of its own. Returns the VMA's index and whether it merged.
    /// `VM_SOFTDIRTY` is set on the whole result (`__mmap_region`).
    pub(super) fn insert(&mut self, kernel: Kernel, new: Vma) -> (usize, bool) {
        let at = self.list.partition_point(|vma| vma.first < new.first);
        let left = at.checked_sub(1).filter(|&index| {
            let prev = &self.list[index];
            prev.end == new.first && prev.merges_with_flags_of(&new) && anon_mergeable(kernel, None, prev)
        });
        let right = Some(at).filter(|&index| {
            self.list.get(index).is_some_and(|next| {
                next.first == new.end && next.merges_with_flags_of(&new) && anon_mergeable(kernel, None, next)
            })
        });
        let (left, right) = if kernel.has(Change::MmapAsksPreviousFirst) {
            let joins = |left: usize, right: usize| anon_compatible(&self.list[left], &self.list[right]);
            (left, right.filter(|&right| left.is_none_or(|left| joins(left, right))))
        } else {
            // The next neighbour is asked first, and the previous one joins only if it could take over the next one's
            // anon_vma.
            let next = right.map(|right| self.list[right]);
            (left.filter(|&left| anon_mergeable(kernel, next.as_ref(), &self.list[left])), right)
        };
        match (left, right) {
            (Some(left), Some(right)) => {
                let next = self.list.remove(right);
                let prev = &mut self.list[left];
                prev.end = next.end;
                prev.anon = prev.anon.or(next.anon);
                prev.soft_dirty = true;
                (left, true)
            }
            (Some(left), None) => {
                self.list[left].end = new.end;
                self.list[left].soft_dirty = true;
                (left, true)
            }
            (None, Some(right)) => {
                self.list[right].first = new.first;
                self.list[right].soft_dirty = true;
                (right, true)
            }
            (None, None) => {
                self.list.insert(at, new);
                (at, false)
            }
        }
    }

    /// `vma_modify_flags` on slots `start..end` of the VMA at `index`: merge with neighbours or split, then
    /// give the result the flags of `flags`, a changed copy of that VMA. Returns the index of the VMA that covers
    /// `start`, and whether it merged.
    pub(super) fn modify(&mut self, kernel: Kernel, index: usize, start: u8, end: u8, flags: Vma) -> (usize, bool) {
        self.modify_keeping(kernel, index, start, end, flags, false)
    }

    /// The same. VM_SOFTDIRTY of any part is the whole's. Where a kernel loses it, `survivor_keeps` says which is left:
    /// that of the VMA that takes the others in, or that of the part that changes.
    pub(super) fn modify_keeping(
        &mut self,
        kernel: Kernel,
        index: usize,
        start: u8,
        end: u8,
        flags: Vma,
        survivor_keeps: bool,
    ) -> (usize, bool) {
        let middle = self.list[index];
        let changed = Vma { first: start, end, ..flags };
        let left_side = start == middle.first;
        let right_side = end == middle.end;
        let left = index.checked_sub(1).filter(|&prev| {
            let prev = &self.list[prev];
            left_side
                && prev.end == start
                && prev.merges_with_flags_of(&changed)
                && anon_mergeable(kernel, Some(&middle), prev)
        });
        let right = Some(index + 1).filter(|&next| {
            right_side
                && self.list.get(next).is_some_and(|next| {
                    next.first == end
                        && next.merges_with_flags_of(&changed)
                        && anon_mergeable(kernel, Some(&middle), next)
                        && left.is_none_or(|left| anon_compatible(&self.list[left], next))
                })
        });
        let loses = kernel.has(Change::MergeLosesSoftDirty);
        let sticky = |neighbours: &[&Vma]| match (loses, survivor_keeps) {
            (true, true) => neighbours[0].soft_dirty,
            (true, false) => middle.soft_dirty,
            (false, _) => middle.soft_dirty || neighbours.iter().any(|vma| vma.soft_dirty),
        };
        match (left, right) {
            (Some(left), Some(right)) => {
                let next = self.list[right];
                let soft_dirty = sticky(&[&self.list[left], &next]);
                let prev = &mut self.list[left];
                prev.end = next.end;
                prev.anon = prev.anon.or(next.anon).or(middle.anon);
                prev.soft_dirty = soft_dirty;
                self.list.drain(index..=right);
                (left, true)
            }
            (Some(left), None) => {
                let soft_dirty = sticky(&[&self.list[left]]);
                let prev = &mut self.list[left];
                prev.end = end;
                prev.anon = prev.anon.or(middle.anon);
                prev.soft_dirty = soft_dirty;
                if right_side {
                    self.list.remove(index);
                } else {
                    self.list[index].first = end;
                }
                (left, true)
            }
            (None, Some(right)) => {
                let soft_dirty = sticky(&[&self.list[right]]);
                let next = &mut self.list[right];
                next.first = start;
                next.anon = next.anon.or(middle.anon);
                next.soft_dirty = soft_dirty;
                if left_side {
                    self.list.remove(index);
                    (index, true)
                } else {
                    self.list[index].end = start;
                    (right, true)
                }
            }
            (None, None) => {
                let mut target = index;
                if !left_side {
                    self.list.insert(index, Vma { end: start, ..middle });
                    target += 1;
                }
                if !right_side {
                    self.list.insert(target + 1, Vma { first: end, ..middle });
                }
                self.list[target] = changed;
                (target, false)
            }
        }
    }

    /// Gives slots `start..end` of the VMA at `index` the flags of `flags`, as a VMA of their own.
    pub(super) fn split(&mut self, index: usize, start: u8, end: u8, flags: Vma) {
        let middle = self.list[index];
        let parts = [Vma { end: start, ..middle }, Vma { first: start, end, ..flags }, Vma { first: end, ..middle }];
        self.list.splice(index..=index, parts.into_iter().filter(|part| part.first < part.end));
    }

    /// `find_mergeable_anon_vma`: the next neighbour first, then the previous one.
    pub(super) fn reusable_anon(&self, index: usize) -> Option<AnonVma> {
        let vma = &self.list[index];
        let reusable = |other: &Vma| other.anon.filter(|anon| vma.differs_by_access_only(other) && anon.singular);
        let next = self.list.get(index + 1).filter(|next| next.first == vma.end);
        let prev = index.checked_sub(1).map(|prev| &self.list[prev]).filter(|prev| prev.end == vma.first);
        next.and_then(reusable).or_else(|| prev.and_then(reusable))
    }
}
