//! mlock and munlock: the flag, and what faulting in does to entries.

use super::Model;
use super::fault::Access;
use super::vma::{VM_LOCKED, Vma};
use crate::arena::{ActorId, PageIndex, PageRange};
use crate::outcome::Outcome;
use crate::program::Protection;
use crate::rule::Rule;

const ENOMEM: i32 = 12;

impl Model {
    /// `do_mlock`. Actors have CAP_IPC_LOCK: RLIMIT_MEMLOCK does not bind them.
    pub(super) fn mlock(&mut self, actor: ActorId, range: PageRange) -> (Rule, Outcome) {
        if !self.apply_vma_lock_flags(actor, range, VM_LOCKED) {
            return (Rule::MlockHole, Outcome::Failed(ENOMEM));
        }
        match self.populate_locked(actor, range.first() as u8, range.end() as u8, true) {
            Ok(()) => (Rule::Mlock, Outcome::Succeeded),
            Err(rule) => (rule, Outcome::Failed(ENOMEM)),
        }
    }

    pub(super) fn munlock(&mut self, actor: ActorId, range: PageRange) -> (Rule, Outcome) {
        if self.apply_vma_lock_flags(actor, range, 0) {
            (Rule::Munlock, Outcome::Succeeded)
        } else {
            (Rule::MlockHole, Outcome::Failed(ENOMEM))
        }
    }

    /// `apply_vma_lock_flags`: every VMA of the range up to a hole. Says whether there was none.
    fn apply_vma_lock_flags(&mut self, actor: ActorId, range: PageRange, locked: u64) -> bool {
        let (mut start, end) = (range.first() as u8, range.end() as u8);
        while start < end {
            let page = PageIndex::new(usize::from(start)).expect("a slot of the range");
            let Some(index) = self.memory(actor).vmas.find(page) else { return false };
            let old = self.memory(actor).vmas.list[index];
            let marks = old.marks & !VM_LOCKED | locked;
            start = self.mark_vma(actor, index, start, old.end.min(end), marks, Rule::VmaMergeLock);
        }
        true
    }

    /// `populate_vma_page_range`, VMA by VMA, until one refuses or a fault fails: the rule by which it does.
    pub(super) fn populate_locked(&mut self, actor: ActorId, start: u8, end: u8, again: bool) -> Result<(), Rule> {
        for slot in start..end {
            let page = PageIndex::new(usize::from(slot)).expect("a slot of the range");
            let Some(vma) = self.memory(actor).vmas.at(page).copied() else { continue };
            let pkru = self.pkru(actor);
            let access = populates_by(&vma).filter(|access| !access.is_refused_by_key(pkru, vma.key()));
            let Some(access) = access else { return Err(Rule::MlockNotPopulated) };
            // __mm_populate calls again from here where pages of the VMA before it were passed.
            let is_first = !again || slot == start.max(vma.first);
            if let Err(rule) = self.populate_page(actor, page, access, is_first) {
                let beyond = rule == Rule::FaultBeyondObject;
                return Err(if beyond { Rule::MlockNotPopulated } else { Rule::MlockUserfault });
            }
        }
        Ok(())
    }
}

/// How a VMA is faulted in: by a store where it is writable and private, to break COW beforehand; otherwise by a
/// load, with FOLL_FORCE. A store into a shadow stack would need FOLL_FORCE too (`mm/gup.c: check_vma_flags`).
/// A key that PKRU refuses is refused to FOLL_FORCE as well.
fn populates_by(vma: &Vma) -> Option<Access> {
    match (vma.protection.contains(Protection::WRITE), vma.shadow_stack) {
        _ if vma.protection == Protection::NONE => None,
        _ if vma.shared.is_some() => Some(Access::Read),
        (true, true) => None,
        (true, false) => Some(Access::Write),
        (false, _) => Some(Access::Read),
    }
}
