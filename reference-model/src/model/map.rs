//! mmap, munmap, madvise(DONTNEED) and map_shadow_stack.

use super::fault::Access;
use super::vma::Vma;
use super::{Model, Slot};
use crate::arena::{ActorId, PageIndex, PageRange};
use crate::entry::Entry;
use crate::expectation::ExpectedFrame;
use crate::machine::Dialect;
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
        let rule = match placement {
            Placement::FixedNoReplace if self.memory(actor).vmas.overlaps(range) => {
                return (Rule::MmapOccupied, Outcome::Failed(EEXIST));
            }
            Placement::FixedNoReplace => Rule::MmapFree,
            Placement::Fixed => {
                self.zap(Rule::ZapReplaced, actor, range);
                self.memory(actor).vmas.unmap(range);
                Rule::MmapFixed
            }
        };
        self.insert_vma(actor, range, protection, false);
        (rule, Outcome::Succeeded)
    }

    /// `__mmap_region`: VM_ACCOUNT for what is writable (`accountable_mapping`), then merge or a new VMA.
    fn insert_vma(&mut self, actor: ActorId, range: PageRange, protection: Protection, shadow_stack: bool) {
        let dialect = self.dialect;
        let vma = Vma {
            first: range.first() as u8,
            end: range.end() as u8,
            protection,
            shadow_stack,
            account: protection.contains(Protection::WRITE),
            soft_dirty: true,
            marks: 0,
            uffd: None,
            anon: None,
        };
        let (index, merged) = self.memory(actor).vmas.insert(dialect, vma);
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

    fn zap(&mut self, rule: Rule, actor: ActorId, range: PageRange) {
        for page in range.slots() {
            let Slot { bits, frame, .. } = self.slot(actor, page);
            if bits != Entry::NONE || frame != ExpectedFrame::None {
                self.release(frame);
                self.write(rule, actor, page, Entry::NONE, ExpectedFrame::None);
            }
        }
    }

    /// `map_shadow_stack`: VM_READ, VM_WRITE, VM_SHADOW_STACK at an address that must be free; the token is
    /// written with WRUSS to the last eight bytes, which faults the last page in.
    pub(super) fn map_shadow_stack(&mut self, actor: ActorId, range: PageRange, token: bool) -> (Rule, Outcome) {
        if !self.shadow_stack {
            // 6.1 has no such system call.
            let errno = if self.dialect == Dialect::Linux6_1 { ENOSYS } else { EOPNOTSUPP };
            return (Rule::ShadowStackUnsupported, Outcome::Failed(errno));
        }
        if self.memory(actor).vmas.overlaps(range) {
            return (Rule::ShadowStackOccupied, Outcome::Failed(EEXIST));
        }
        self.insert_vma(actor, range, Protection::READ_WRITE, true);
        if token {
            let last = PageIndex::new(range.end() - 1).expect("the last slot of a range");
            // The token is at the page's end; the first eight bytes, which are compared, stay zero.
            let _ = self.translate(actor, last, Access::ShadowStackWrite);
        }
        (Rule::ShadowStackMapped, Outcome::Succeeded)
    }
}
