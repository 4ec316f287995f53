//! Weight profiles: which operations a program favours.

use std::fmt;
use std::str::FromStr;

/// What a program favours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Everything.
    Balanced,
    /// Forks, exits and writes: sharing, copying and reuse of pages.
    ForkHeavy,
    /// Shadow stacks, their stores and their forks.
    ShadowStack,
    /// mprotect, and accesses after it.
    Protection,
    /// Soft-dirty clearing, and writes after it.
    SoftDirty,
    /// Mapping and unmapping over what is there.
    Layout,
    /// Protection keys and accesses under them.
    Keys,
    /// userfaultfd: registered ranges, and accesses to them.
    Userfault,
    /// Swap: pages that are put out, and everything that meets their entries.
    Swap,
    /// KSM: equal pages that are merged and parted.
    Merging,
    /// Pages write-protected by userfaultfd, and everything else that takes RW away: fork, swap, KSM.
    Tracking,
}

/// A name that is no profile's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownProfile(String);

impl fmt::Display for UnknownProfile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name()).collect();
        write!(formatter, "`{}` is not a weight profile; there are {}", self.0, known.join(", "))
    }
}

impl std::error::Error for UnknownProfile {}

/// Weights of the operations, in the order of `OPERATION_NAMES`; one for all of `madvise`, one for all of
/// `mremap`, one for both accesses by system calls, one for all controls of shadow-stack features, and one for all on a
/// userfaultfd.
pub(crate) type Weights = [u32; 32];

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 11] = [
        Self::Balanced,
        Self::ForkHeavy,
        Self::ShadowStack,
        Self::Protection,
        Self::SoftDirty,
        Self::Layout,
        Self::Keys,
        Self::Userfault,
        Self::Swap,
        Self::Merging,
        Self::Tracking,
    ];

    /// How often each profile is picked, in the order of [`Self::ALL`].
    pub(crate) const FREQUENCIES: [u32; 11] = [28, 18, 29, 12, 8, 12, 18, 60, 24, 14, 12];

    /// The profile's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Balanced => "balanced",
            Self::ForkHeavy => "fork-heavy",
            Self::ShadowStack => "shadow-stack",
            Self::Protection => "protection",
            Self::SoftDirty => "soft-dirty",
            Self::Layout => "layout",
            Self::Keys => "keys",
            Self::Userfault => "userfault",
            Self::Swap => "swap",
            Self::Merging => "merging",
            Self::Tracking => "tracking",
        }
    }

    /// The operations' weights. A fork costs the guest as much as fifty other steps, so programs that
    /// favour other things fork rarely.
    pub(crate) fn weights(self) -> Weights {
        match self {
            //                mmap unmap read write exec prot fork exit dont clear sstk wrss madv lock unlk remp pkal pkfr pkmp pkru kern entr leav call ret disc over ctrl stat shrd uffd forc
            Self::Balanced => [
                12, 5, 9, 20, 10, 13, 5, 14, 7, 5, 6, 10, 32, 5, 5, 26, 1, 4, 2, 2, 5, 13, 13, 11, 13, 7, 7, 11, 2, 5,
                12, 7,
            ],
            Self::ForkHeavy => {
                [9, 3, 7, 28, 4, 7, 14, 22, 5, 4, 3, 6, 17, 4, 3, 15, 1, 1, 1, 0, 4, 11, 8, 11, 12, 6, 6, 5, 1, 5, 8, 4]
            }
            Self::ShadowStack => [
                4, 4, 6, 8, 4, 9, 8, 16, 5, 6, 14, 30, 21, 4, 3, 14, 1, 1, 2, 2, 4, 30, 18, 22, 26, 14, 14, 12, 4, 1,
                3, 4,
            ],
            Self::Protection => {
                [9, 3, 9, 20, 14, 30, 4, 8, 4, 3, 3, 4, 20, 6, 4, 12, 1, 4, 3, 2, 5, 10, 6, 8, 8, 5, 5, 6, 1, 6, 12, 9]
            }
            Self::SoftDirty => [
                9, 3, 8, 25, 5, 10, 4, 10, 6, 20, 3, 6, 21, 4, 4, 14, 0, 0, 0, 0, 4, 10, 6, 10, 8, 5, 5, 5, 1, 7, 12, 6,
            ],
            Self::Layout => {
                [22, 12, 9, 20, 6, 8, 4, 8, 12, 3, 8, 5, 34, 6, 5, 39, 1, 3, 2, 1, 4, 10, 7, 8, 8, 5, 5, 6, 1, 6, 12, 3]
            }
            Self::Keys => {
                [8, 3, 8, 13, 5, 9, 4, 6, 3, 3, 5, 6, 14, 5, 2, 5, 10, 17, 22, 21, 8, 5, 3, 4, 4, 2, 2, 3, 0, 3, 6, 5]
            }
            Self::Userfault => {
                [12, 4, 14, 26, 4, 12, 4, 8, 8, 4, 1, 1, 28, 10, 3, 8, 1, 2, 2, 2, 2, 0, 0, 0, 0, 0, 0, 2, 0, 1, 90, 1]
            }
            Self::Swap => {
                [10, 3, 18, 30, 4, 10, 8, 10, 6, 5, 4, 10, 60, 3, 3, 8, 0, 1, 1, 1, 4, 4, 2, 3, 3, 2, 2, 1, 0, 1, 14, 4]
            }
            Self::Tracking => {
                [10, 2, 12, 44, 2, 5, 12, 14, 5, 3, 0, 0, 60, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 1]
            }
            Self::Merging => {
                [14, 3, 12, 16, 4, 8, 8, 6, 5, 4, 1, 2, 90, 1, 3, 4, 0, 1, 1, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 14, 2]
            }
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;
    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        Self::ALL.into_iter().find(|profile| profile.name() == name).ok_or_else(|| UnknownProfile(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        for profile in Profile::ALL {
            assert_eq!(profile.name().parse(), Ok(profile));
        }
        let error = "dense".parse::<Profile>().expect_err("no such profile");
        assert!(error.to_string().contains("`dense` is not a weight profile; there are balanced, fork-heavy"));
    }
}
