//! userfaultfd in programs: names of descriptors, features, and modes of registration.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// Descriptors that a program may have open at once. They are named `0..4`.
pub const UFFDS: usize = 4;

/// A number that names no descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("userfaultfd {0} does not exist: a program has at most {UFFDS} (0..={last})", last = UFFDS - 1)]
pub struct UnknownUffd(u8);

/// Name of a userfaultfd within a program. Every actor can use every descriptor (actors share the table of
/// open files); it acts on the memory of the actor that opened it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct UffdId(u8);

impl UffdId {
    /// The first name.
    pub const FIRST: Self = Self(0);

    /// The descriptor of this name.
    ///
    /// # Errors
    /// [`UnknownUffd`] for a number of [`UFFDS`] or more.
    pub fn new(index: usize) -> Result<Self, UnknownUffd> {
        u8::try_from(index).map_err(|_| UnknownUffd(u8::MAX)).and_then(Self::try_from)
    }

    /// The name's number, `0..4`.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All names, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..UFFDS as u8).map(Self)
    }
}

impl TryFrom<u8> for UffdId {
    type Error = UnknownUffd;
    fn try_from(index: u8) -> Result<Self, UnknownUffd> {
        if usize::from(index) < UFFDS { Ok(Self(index)) } else { Err(UnknownUffd(index)) }
    }
}

impl From<UffdId> for u8 {
    fn from(uffd: UffdId) -> Self {
        uffd.0
    }
}

/// Features that `UFFDIO_API` is asked for: any set of those named below.
///
/// In stored programs a list of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct UffdFeatures(u8);

/// Each feature's bit here, its name, its bit for `UFFDIO_API` and its constant behind `UFFD_FEATURE_`
/// (include/uapi/linux/userfaultfd.h).
const FEATURES: [(UffdFeatures, &str, u64, &str); 5] = [
    (UffdFeatures::SIGBUS, "sigbus", 1 << 7, "SIGBUS"),
    (UffdFeatures::WP_UNPOPULATED, "wp-unpopulated", 1 << 13, "WP_UNPOPULATED"),
    (UffdFeatures::WP_ASYNC, "wp-async", 1 << 15, "WP_ASYNC"),
    (UffdFeatures::EVENT_FORK, "event-fork", 1 << 1, "EVENT_FORK"),
    (UffdFeatures::PAGEFAULT_FLAG_WP, "pagefault-flag-wp", 1 << 0, "PAGEFAULT_FLAG_WP"),
];

impl UffdFeatures {
    /// None.
    pub const NONE: Self = Self(0);
    /// `UFFD_FEATURE_SIGBUS`: a fault raises SIGBUS where it would wait for a message to be answered.
    pub const SIGBUS: Self = Self(1 << 0);
    /// `UFFD_FEATURE_WP_UNPOPULATED` (6.4 and later): empty entries of anonymous memory are write-protected by markers.
    pub const WP_UNPOPULATED: Self = Self(1 << 1);
    /// `UFFD_FEATURE_WP_ASYNC` (6.7 and later): a write fault lifts the protection itself. Implies
    /// `WP_UNPOPULATED`.
    pub const WP_ASYNC: Self = Self(1 << 2);
    /// `UFFD_FEATURE_EVENT_FORK`: a forked child's memory is registered too, with a descriptor of its own.
    pub const EVENT_FORK: Self = Self(1 << 3);
    /// `UFFD_FEATURE_PAGEFAULT_FLAG_WP`: changes nothing; asks whether write-protection is known.
    pub const PAGEFAULT_FLAG_WP: Self = Self(1 << 4);

    /// The features of both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in `self`.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in `self`.
    #[must_use]
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits that `UFFDIO_API` takes.
    #[must_use]
    pub fn api_bits(self) -> u64 {
        self.members().map(|(_, _, bits, _)| bits).sum()
    }

    /// The names of the constants behind `UFFD_FEATURE_`.
    pub fn constants(self) -> impl Iterator<Item = &'static str> {
        self.members().map(|(_, _, _, constant)| constant)
    }

    fn members(self) -> impl Iterator<Item = (Self, &'static str, u64, &'static str)> {
        FEATURES.into_iter().filter(move |(feature, ..)| self.contains(*feature))
    }
}

impl fmt::Display for UffdFeatures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.members().map(|(_, name, ..)| name).collect();
        formatter.write_str(&if names.is_empty() { "no features".to_owned() } else { names.join(" ") })
    }
}

impl Serialize for UffdFeatures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_seq(self.members().map(|(_, name, ..)| name))
        } else {
            serializer.serialize_u8(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for UffdFeatures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            let bits = u8::deserialize(deserializer)?;
            return if bits < 1 << FEATURES.len() {
                Ok(Self(bits))
            } else {
                Err(de::Error::custom(format!("userfaultfd features {bits:#x} out of range")))
            };
        }
        Vec::<String>::deserialize(deserializer)?.iter().try_fold(Self::NONE, |features, text| {
            let known = FEATURES.iter().find(|(_, name, ..)| name == text);
            let known = known.ok_or_else(|| de::Error::custom(format!("`{text}` is no userfaultfd feature")))?;
            Ok(features.with(known.0))
        })
    }
}

/// What a range is registered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UffdMode {
    /// `UFFDIO_REGISTER_MODE_MISSING`: faults on empty entries.
    Missing,
    /// `UFFDIO_REGISTER_MODE_WP`: stores to write-protected entries.
    WriteProtect,
    /// Both.
    Both,
}

impl UffdMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Missing, Self::WriteProtect, Self::Both];

    /// Whether faults on empty entries are asked for.
    #[must_use]
    pub fn is_missing(self) -> bool {
        self != Self::WriteProtect
    }

    /// Whether write-protection is asked for.
    #[must_use]
    pub fn is_write_protect(self) -> bool {
        self != Self::Missing
    }

    /// The bits that `UFFDIO_REGISTER` takes.
    #[must_use]
    pub fn api_bits(self) -> u64 {
        u64::from(self.is_missing()) | u64::from(self.is_write_protect()) << 1
    }
}

impl fmt::Display for UffdMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Missing => "MISSING",
            Self::WriteProtect => "WP",
            Self::Both => "MISSING|WP",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_have_the_kernels_bits() {
        for (features, bits, text) in [
            (UffdFeatures::NONE, 0, "no features"),
            (UffdFeatures::SIGBUS, 0x80, "sigbus"),
            (UffdFeatures::SIGBUS.with(UffdFeatures::WP_ASYNC), 0x8080, "sigbus wp-async"),
            (UffdFeatures(31), 0xa083, "sigbus wp-unpopulated wp-async event-fork pagefault-flag-wp"),
        ] {
            assert_eq!((features.api_bits(), features.to_string().as_str()), (bits, text));
        }
    }

    #[test]
    fn modes_have_the_kernels_bits() {
        assert_eq!(UffdMode::ALL.map(UffdMode::api_bits), [1, 2, 3]);
    }

    #[test]
    fn names_are_bounded() {
        assert_eq!(UffdId::all().map(UffdId::index).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(UffdId::new(UFFDS), Err(UnknownUffd(4)));
    }
}
