//! Protection keys of user pages, and the rights that a thread has to pages of a key.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Keys that a CPU has (SDM volume 3A, 4.6.2).
pub const KEYS: u8 = 16;

/// PKRU of a new program (`arch/x86/mm/pkeys.c: init_pkru_value`): no access by any key but 0.
pub const INITIAL_PKRU: u32 = 0x5555_5554;

/// A number that no operation takes as a protection key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0} is not a protection key here: keys are 1..=15 (pkey-mprotect also takes 0, and -1 for none)")]
pub struct NotAKey(i64);

/// A key that a program may free and whose rights it may change: 1 to 15. The actors' own pages have key 0.
///
/// Programs name keys by their numbers. That is no less portable than a name: the kernel gives out the lowest
/// free one (`arch/x86/include/asm/pkeys.h: mm_pkey_alloc`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct ProtectionKey(u8);

impl ProtectionKey {
    /// The lowest.
    pub const FIRST: Self = Self(1);

    /// The key of this number.
    ///
    /// # Errors
    /// [`NotAKey`] outside 1 to 15.
    pub fn new(number: u8) -> Result<Self, NotAKey> {
        if (1..KEYS).contains(&number) { Ok(Self(number)) } else { Err(NotAKey(number.into())) }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for ProtectionKey {
    type Error = NotAKey;
    fn try_from(number: u8) -> Result<Self, NotAKey> {
        Self::new(number)
    }
}

impl From<ProtectionKey> for u8 {
    fn from(key: ProtectionKey) -> Self {
        key.0
    }
}

/// What `pkey_mprotect` takes as its key: -1 for none, or 0 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i8", into = "i8")]
pub struct KeyArgument(i8);

impl KeyArgument {
    /// -1: as `mprotect`.
    pub const NONE: Self = Self(-1);
    /// The key that every mapping has at first.
    pub const DEFAULT: Self = Self(0);

    /// The argument of this number.
    ///
    /// # Errors
    /// [`NotAKey`] outside -1 to 15.
    pub fn new(number: i8) -> Result<Self, NotAKey> {
        if (-1..KEYS as i8).contains(&number) { Ok(Self(number)) } else { Err(NotAKey(number.into())) }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i8 {
        self.0
    }

    /// The key, if one is named.
    #[must_use]
    pub fn key(self) -> Option<u8> {
        u8::try_from(self.0).ok()
    }
}

impl TryFrom<i8> for KeyArgument {
    type Error = NotAKey;
    fn try_from(number: i8) -> Result<Self, NotAKey> {
        Self::new(number)
    }
}

impl From<KeyArgument> for i8 {
    fn from(key: KeyArgument) -> Self {
        key.0
    }
}

/// A key's two bits in PKRU, which are also `pkey_alloc`'s initial rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyRights {
    /// 0: loads and stores.
    Allow,
    /// `PKEY_DISABLE_ACCESS`: neither.
    DisableAccess,
    /// `PKEY_DISABLE_WRITE`: loads only.
    DisableWrite,
    /// Both: neither loads nor stores.
    DisableBoth,
}

impl KeyRights {
    /// All of them, by their bits.
    pub const ALL: [Self; 4] = [Self::Allow, Self::DisableAccess, Self::DisableWrite, Self::DisableBoth];

    /// Bit 0: access disabled; bit 1: write disabled. In PKRU, and as `PKEY_DISABLE_*` of `pkey_alloc`.
    #[must_use]
    pub fn bits(self) -> u32 {
        self as u32
    }

    /// The rights to pages of this key in PKRU.
    #[must_use]
    pub fn of(pkru: u32, key: u8) -> Self {
        Self::ALL[(pkru >> (2 * u32::from(key)) & 3) as usize]
    }

    /// PKRU with these rights to pages of the key.
    #[must_use]
    pub fn put(self, pkru: u32, key: u8) -> u32 {
        let shift = 2 * u32::from(key);
        pkru & !(3 << shift) | self.bits() << shift
    }

    /// Whether a data access is refused (SDM volume 3A, 4.6.2; `arch/x86/include/asm/pkru.h:
    /// __pkru_allows_read, __pkru_allows_write`).
    #[must_use]
    pub fn refuse(self, store: bool) -> bool {
        self.bits() & 1 != 0 || store && self == Self::DisableWrite
    }
}

impl fmt::Display for KeyRights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Allow => "allowing all",
            Self::DisableAccess => "PKEY_DISABLE_ACCESS",
            Self::DisableWrite => "PKEY_DISABLE_WRITE",
            Self::DisableBoth => "PKEY_DISABLE_ACCESS|WRITE",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_two_bits_of_pkru() {
        for (rights, load, store) in [
            (KeyRights::Allow, false, false),
            (KeyRights::DisableAccess, true, true),
            (KeyRights::DisableWrite, false, true),
            (KeyRights::DisableBoth, true, true),
        ] {
            let pkru = rights.put(INITIAL_PKRU, 15);
            assert_eq!(pkru, 0x1555_5554 | rights.bits() << 30);
            assert_eq!(KeyRights::of(pkru, 15), rights);
            assert_eq!((rights.refuse(false), rights.refuse(true)), (load, store), "{rights}");
        }
        assert_eq!(KeyRights::of(INITIAL_PKRU, 0), KeyRights::Allow);
        assert_eq!(KeyRights::of(INITIAL_PKRU, 1), KeyRights::DisableAccess);
    }

    #[test]
    fn key_0_is_only_an_argument_of_pkey_mprotect() {
        assert!(ProtectionKey::new(0).is_err() && ProtectionKey::new(16).is_err() && ProtectionKey::new(15).is_ok());
        assert!(KeyArgument::new(-2).is_err() && KeyArgument::new(16).is_err());
        assert_eq!(KeyArgument::NONE.key(), None);
        assert_eq!(KeyArgument::DEFAULT.key(), Some(0));
    }
}
