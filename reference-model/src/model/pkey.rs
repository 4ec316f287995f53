//! Protection keys: which are allocated, which the thread may use, which a mapping gets.

use super::Model;
use crate::arena::{ActorId, PageRange};
use crate::kernel::Change;
use crate::mutation::Output;
use crate::outcome::Outcome;
use crate::program::Protection;
use crate::protection_key::{INITIAL_PKRU, KEYS, KeyArgument, KeyRights, ProtectionKey};
use crate::rule::Rule;

const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;

/// What an mm and its one thread know of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// `mm->context.pkey_allocation_map`, bit `n` for key `n`.
    pub allocated: u16,
    /// `mm->context.execute_only_pkey`.
    pub execute_only: Option<u8>,
    /// The thread's PKRU.
    pub pkru: u32,
}

impl Keys {
    /// Those of a new program (`arch/x86/include/asm/mmu_context.h: init_new_context`). Without protection keys
    /// the fields stay zero, so that the execute-only key is 0.
    pub(super) fn new(protection_keys: bool) -> Self {
        if protection_keys {
            Self { allocated: 1, execute_only: None, pkru: INITIAL_PKRU }
        } else {
            Self { allocated: 0, execute_only: Some(0), pkru: 0 }
        }
    }

    /// `mm_pkey_is_allocated`: the execute-only key is not there for system calls.
    #[must_use]
    pub fn is_allocated(&self, key: u8) -> bool {
        self.execute_only != Some(key) && key < KEYS && self.allocated & 1 << key != 0
    }

    /// `mm_pkey_alloc`: the lowest free key.
    fn allocate(&mut self) -> Option<u8> {
        let key = self.allocated.trailing_ones() as u8;
        (key < KEYS).then(|| {
            self.allocated |= 1 << key;
            key
        })
    }

    /// `arch_set_user_pkey_access`.
    fn set_rights(&mut self, key: u8, bits: u32) {
        self.pkru = KeyRights::ALL[(bits & 3) as usize].put(self.pkru, key);
    }
}

impl Model {
    /// What a living actor knows of keys.
    ///
    /// # Panics
    /// When the actor is not alive.
    #[must_use]
    pub fn keys(&self, actor: ActorId) -> Keys {
        self.actors[actor.index()].as_ref().expect("a living actor").keys
    }

    pub(super) fn pkru(&self, actor: ActorId) -> u32 {
        self.keys(actor).pkru
    }

    /// `mm/mprotect.c: pkey_alloc`.
    pub(super) fn pkey_alloc(&mut self, actor: ActorId, rights: KeyRights) -> (Rule, Outcome) {
        if !self.protection_keys {
            return self.pkey_alloc_unsupported(actor);
        }
        let bits = rights.bits() ^ self.rights_flip(Rule::PkeyAlloc);
        let keys = &mut self.memory(actor).keys;
        let Some(key) = keys.allocate() else { return (Rule::PkeyAllocExhausted, Outcome::Failed(ENOSPC)) };
        keys.set_rights(key, bits);
        (Rule::PkeyAlloc, Outcome::Returned(key.into()))
    }

    /// Without protection keys there is one key. 7.2 looks for the feature first, as later stable releases of the
    /// others do (6.1.192: `mm_pkey_alloc`). 6.1.176 and 6.12.95 take key 0 from the empty map, fail to set its
    /// rights, and cannot give it back, as it equals the execute-only key of the zeroed mm. (Seen in QEMU, without
    /// `pku`, on all three.)
    fn pkey_alloc_unsupported(&mut self, actor: ActorId) -> (Rule, Outcome) {
        let keys = &mut self.memory(actor).keys;
        let is_first = std::mem::replace(&mut keys.allocated, 1) == 0;
        let errno = if is_first && self.kernel.has(Change::PkeyAllocWithoutKeys) { EINVAL } else { ENOSPC };
        (Rule::PkeyAllocUnsupported, Outcome::Failed(errno))
    }

    /// `mm/mprotect.c: pkey_free`. Neither entries, VMAs nor PKRU change.
    pub(super) fn pkey_free(&mut self, actor: ActorId, key: ProtectionKey) -> (Rule, Outcome) {
        let keys = &mut self.memory(actor).keys;
        if !keys.is_allocated(key.number()) {
            return (Rule::PkeyFreeRefused, Outcome::Failed(EINVAL));
        }
        keys.allocated &= !(1 << key.number());
        (Rule::PkeyFree, Outcome::Succeeded)
    }

    /// `mm/mprotect.c: pkey_mprotect`. The key is looked at before the range.
    pub(super) fn pkey_mprotect(
        &mut self,
        actor: ActorId,
        range: PageRange,
        protection: Protection,
        key: KeyArgument,
    ) -> (Rule, Outcome) {
        if key.key().is_some_and(|key| !self.keys(actor).is_allocated(key)) {
            return (Rule::PkeyMprotectRefused, Outcome::Failed(EINVAL));
        }
        self.mprotect(actor, range, protection, key.key())
    }

    /// RDPKRU and WRPKRU (SDM volume 2). They ask nobody whether the key is allocated.
    pub(super) fn write_pkru(&mut self, actor: ActorId, key: ProtectionKey, rights: KeyRights) -> (Rule, Outcome) {
        let bits = rights.bits() ^ self.rights_flip(Rule::PkruWritten);
        let keys = &mut self.memory(actor).keys;
        let before = keys.pkru;
        keys.set_rights(key.number(), bits);
        (Rule::PkruWritten, Outcome::Returned(before.into()))
    }

    /// The key of a VMA under mprotect: the one named, or `__arch_override_mprotect_pkey`.
    pub(super) fn mprotect_key(
        &mut self,
        actor: ActorId,
        index: usize,
        protection: Protection,
        named: Option<u8>,
    ) -> u8 {
        if !self.protection_keys {
            return 0;
        }
        if let Some(key) = named {
            return self.chosen_key(Rule::MprotectKeyNamed, key);
        }
        let vma = self.memory(actor).vmas.list[index];
        if protection == Protection::EXECUTE {
            if let Some(key) = self.execute_only_key(actor) {
                return key;
            }
        } else if vma.protection == Protection::EXECUTE && self.keys(actor).execute_only == Some(vma.key()) {
            return self.chosen_key(Rule::MprotectKeyDropped, 0);
        }
        self.chosen_key(Rule::MprotectKeyKept, vma.key())
    }

    /// The key of a new mapping (`do_mmap`).
    pub(super) fn mmap_key(&mut self, actor: ActorId, protection: Protection) -> u8 {
        if self.protection_keys && protection == Protection::EXECUTE {
            self.execute_only_key(actor).unwrap_or(0)
        } else {
            0
        }
    }

    /// `__execute_only_pkey`: the mm's key for such mappings, allocated by the first of them; none where all keys
    /// are taken. The calling thread loses its access to it, unless it has none.
    fn execute_only_key(&mut self, actor: ActorId) -> Option<u8> {
        let (key, rule) = match self.keys(actor).execute_only {
            Some(key) if KeyRights::of(self.pkru(actor), key).refuse(false) => {
                return Some(self.chosen_key(Rule::ExecuteOnlyKeyUsed, key));
            }
            Some(key) => (key, Rule::ExecuteOnlyKeyClosed),
            None => match self.memory(actor).keys.allocate() {
                Some(key) => (key, Rule::ExecuteOnlyKeyTaken),
                None => {
                    self.fire(Rule::ExecuteOnlyKeyMissing);
                    return None;
                }
            },
        };
        let bits = KeyRights::DisableAccess.bits() ^ self.rights_flip(rule);
        let keys = &mut self.memory(actor).keys;
        keys.execute_only = Some(key);
        keys.set_rights(key, bits);
        Some(self.chosen_key(rule, key))
    }

    /// `arch_dup_pkeys`, and PKRU with the thread's registers.
    pub(super) fn fork_keys(&mut self, actor: ActorId) -> Keys {
        let keys = self.keys(actor);
        if keys == Keys::new(self.protection_keys) {
            return keys;
        }
        let rule = Rule::ForkKeys;
        self.fire(rule);
        let flip = (0..4).find(|&bit| self.is_mutated(rule, Output::KeyBit(bit))).map_or(0, |bit| 2 << bit);
        Keys { allocated: keys.allocated ^ flip, pkru: keys.pkru ^ self.rights_flip(rule) << 2, ..keys }
    }

    /// The key that a rule chose, or what a mutant makes of it.
    fn chosen_key(&mut self, rule: Rule, key: u8) -> u8 {
        self.fire(rule);
        (0..4).filter(|&bit| self.is_mutated(rule, Output::KeyBit(bit))).fold(key, |key, bit| key ^ 1 << bit)
    }

    /// The bits of a key's rights that a mutant of this rule flips.
    fn rights_flip(&self, rule: Rule) -> u32 {
        (0..2).filter(|&bit| self.is_mutated(rule, Output::RightsBit(bit))).fold(0, |flip, bit| flip | 1 << bit)
    }
}

#[cfg(test)]
mod tests;
