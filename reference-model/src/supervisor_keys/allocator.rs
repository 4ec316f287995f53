//! Who has which key (`arch/x86/mm/pkeys.c: pks_key_alloc, pks_key_free` of the series).

use thiserror::Error;

use crate::protection_key::KEYS;

/// A key that was allocated: 1 to 15. Key 0 is every mapping's at first, and stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SupervisorKey(u8);

impl SupervisorKey {
    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

/// No key is to be had. Users must be prepared for that, says the cover letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AllocateError {
    /// EOPNOTSUPP: neither this kernel nor this CPU may have PKS.
    #[error("EOPNOTSUPP: there are no supervisor keys here")]
    Unsupported,
    /// ENOSPC: keys 1 to 15 are taken.
    #[error("ENOSPC: all keys are taken")]
    Exhausted,
}

/// The key cannot be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FreeError {
    /// Key 0, or no key at all.
    #[error("{0} is no key that was ever given out")]
    NeverGiven(u8),
    /// Nobody has it.
    #[error("key {0} is not taken")]
    NotTaken(u8),
}

/// The keys of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocator {
    supported: bool,
    /// Bit n: key n is taken. Bit 0 always.
    taken: u16,
}

impl Allocator {
    /// No key is taken but key 0.
    #[must_use]
    pub fn new(supported: bool) -> Self {
        Self { supported, taken: 1 }
    }

    /// Gives out the lowest free key.
    ///
    /// # Errors
    /// There is none.
    pub fn allocate(&mut self) -> Result<SupervisorKey, AllocateError> {
        if !self.supported {
            return Err(AllocateError::Unsupported);
        }
        let key = self.taken.trailing_ones() as u8;
        if key >= KEYS {
            return Err(AllocateError::Exhausted);
        }
        self.taken |= 1 << key;
        Ok(SupervisorKey(key))
    }

    /// Takes a key back.
    ///
    /// # Errors
    /// It was never given out, or was given back already.
    pub fn free(&mut self, key: u8) -> Result<(), FreeError> {
        if key == 0 || key >= KEYS {
            return Err(FreeError::NeverGiven(key));
        }
        if self.taken & 1 << key == 0 {
            return Err(FreeError::NotTaken(key));
        }
        self.taken &= !(1 << key);
        Ok(())
    }
}
