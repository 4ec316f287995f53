//! mmap, munmap, madvise(DONTNEED) and map_shadow_stack.

use super::fault::Access;
use super::vma::{Vma, key_flags};
use super::{Model, Slot};
use crate::arena::{ActorId, PAGE_SIZE, PageIndex, PageRange};
use crate::entry::Entry;
use crate::expectation::ExpectedFrame;
use crate::kernel::Change;
use crate::outcome::Outcome;
use crate::program::{Placement, Protection};
use crate::rule::Rule;

const ENOMEM: i32 = 12;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;

impl Model {
    /// `do_mmap` of private anonymous memory at a fixed address.
    pub(super) fn mmap(
        &mut self,
        actor: ActorId,
        range: PageRange,
        protection: Protection,
        placement: Placement,
    ) -> (Rule, Outcome) {
        let (ended, key) = self.make_room(actor, range, protection, placement);
        if ended.1 == Outcome::Succeeded {
            self.insert_vma(actor, range, protection, false, key);
        }
        ended
    }

    /// What `do_mmap` does about what is mapped in the range, and the key that the new mapping gets. 6.1 looks whether
    /// the range is free before it takes an execute-only key; later kernels after it.
    pub(super) fn make_room(
        &mut self,
        actor: ActorId,
        range: PageRange,
        protection: Protection,
        placement: Placement,
    ) -> ((Rule, Outcome), u8) {
        let early = self.kernel.has(Change::MmapTakesKeyFirst);
        let key = if early { self.mmap_key(actor, protection) } else { 0 };
        let ended = self.clear_range(actor, range, placement);
        let is_late = !early && ended.1 == Outcome::Succeeded;
        (ended, if is_late { self.mmap_key(actor, protection) } else { key })
    }

    fn clear_range(&mut self, actor: ActorId, range: PageRange, placement: Placement) -> (Rule, Outcome) {
        match placement {
            Placement::FixedNoReplace if self.memory(actor).vmas.overlaps(range) => {
                (Rule::MmapOccupied, Outcome::Failed(EEXIST))
            }
            Placement::FixedNoReplace => (Rule::MmapFree, Outcome::Succeeded),
            Placement::Fixed => {
                self.zap(Rule::ZapReplaced, actor, range);
                self.memory(actor).vmas.unmap(range);
                (Rule::MmapFixed, Outcome::Succeeded)
            }
        }
    }

    /// `__mmap_region`: VM_ACCOUNT for what is writable (`accountable_mapping`), then merge or a new VMA.
    fn insert_vma(&mut self, actor: ActorId, range: PageRange, protection: Protection, shadow_stack: bool, key: u8) {
        let kernel = self.kernel;
        let vma = Vma {
            first: range.first() as u8,
            end: range.end() as u8,
            protection,
            shadow_stack,
            account: protection.contains(Protection::WRITE),
            soft_dirty: true,
            marks: key_flags(key),
            displacement: 0,
            uffd: None,
            anon: None,
            lost_key: None,
            shared: None,
        };
        let (index, merged) = self.memory(actor).vmas.insert(kernel, vma);
        self.vma_rule(if merged { Rule::VmaMergeNew } else { Rule::VmaNew }, actor, index);
    }

    pub(super) fn munmap(&mut self, actor: ActorId, range: PageRange) -> (Rule, Outcome) {
        self.zap(Rule::ZapMunmap, actor, range);
        self.memory(actor).vmas.unmap(range);
        (Rule::Munmap, Outcome::Succeeded)
    }

    /// `madvise_dontneed_free`: what is mapped is discarded, a hole gives ENOMEM all the same; a locked VMA
    /// ends it with EINVAL.
    pub(super) fn dontneed(&mut self, actor: ActorId, range: PageRange) -> (Rule, Outcome) {
        let mut ended = (Rule::DontneedAll, Outcome::Succeeded);
        for page in range.slots() {
            match self.memory(actor).vmas.at(page) {
                None => ended = (Rule::DontneedHole, Outcome::Failed(ENOMEM)),
                Some(vma) if vma.is_locked() => return (Rule::AdviceLocked, Outcome::Failed(EINVAL)),
                Some(_) => self.zap(Rule::ZapDontneed, actor, PageRange::single(page)),
            }
        }
        ended
    }

    pub(super) fn zap(&mut self, rule: Rule, actor: ActorId, range: PageRange) {
        for page in range.slots() {
            let Slot { bits, frame, .. } = self.slot(actor, page);
            if bits != Entry::NONE || frame != ExpectedFrame::None {
                self.dirty_behind(bits, frame);
                self.release(frame);
                self.write(rule, actor, page, Entry::NONE, ExpectedFrame::None);
            }
        }
    }

    /// `map_shadow_stack`: VM_READ, VM_WRITE, VM_SHADOW_STACK at an address that must be free; the token is
    /// written with WRUSS to the last eight bytes, which faults the last page in.
    pub(super) fn map_shadow_stack(&mut self, actor: ActorId, range: PageRange, token: bool) -> (Rule, Outcome) {
        if !self.shadow_stack {
            let errno = if self.kernel.has(Change::UserShadowStacks) { EOPNOTSUPP } else { ENOSYS };
            return (Rule::ShadowStackUnsupported, Outcome::Failed(errno));
        }
        if self.memory(actor).vmas.overlaps(range) {
            return (Rule::ShadowStackOccupied, Outcome::Failed(EEXIST));
        }
        self.insert_vma(actor, range, Protection::READ_WRITE, true, 0);
        if token {
            let last = PageIndex::new(range.end() - 1).expect("the last slot of a range");
            let _ = self.translate(actor, last, Access::ShadowStackWrite);
            let end = last.address() + PAGE_SIZE;
            self.set_word(actor, end - 8, end | 1);
        }
        (Rule::ShadowStackMapped, Outcome::Succeeded)
    }
}
