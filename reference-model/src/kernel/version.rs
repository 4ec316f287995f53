//! Kernel versions, as kernels and people write them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A kernel version: `6.12.95`, `7.3.0-rc4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KernelVersion {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number, the stable release. [`Self::NEWEST_POINT`] stands for the newest of a series.
    pub patch: u16,
    /// Number of the release candidate; `None` of a release.
    pub candidate: Option<u16>,
}

/// A release string that does not begin with `major.minor`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a kernel release: it does not begin with MAJOR.MINOR")]
pub struct NotAKernelRelease(String);

impl KernelVersion {
    /// A stable release that is not named: whatever the series has come to.
    pub const NEWEST_POINT: u16 = u16::MAX;
    /// The 6.1 series, as of its newest point release.
    pub const LINUX_6_1: Self = Self::series(6, 1);
    /// The 6.12 series, as of its newest point release.
    pub const LINUX_6_12: Self = Self::series(6, 12);
    /// The 7.2 series, as of its newest point release.
    pub const LINUX_7_2: Self = Self::series(7, 2);
    /// The 7.3 series, as of its newest point release.
    pub const LINUX_7_3: Self = Self::series(7, 3);

    /// A point release; 0 is mainline's.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch, candidate: None }
    }

    /// A series, as of its newest point release.
    #[must_use]
    pub const fn series(major: u16, minor: u16) -> Self {
        Self::new(major, minor, Self::NEWEST_POINT)
    }

    /// A release candidate of mainline.
    #[must_use]
    pub const fn release_candidate(major: u16, minor: u16, candidate: u16) -> Self {
        Self { major, minor, patch: 0, candidate: Some(candidate) }
    }

    /// Whether both are of one stable series.
    #[must_use]
    pub const fn is_of_series(self, other: Self) -> bool {
        self.major == other.major && self.minor == other.minor
    }

    /// The version at the head of a release string, such as `6.12.107+deb13-cloud-amd64`, `7.3.0-rc4-next-20261102` or
    /// `7.3-rc2`. What a distribution or a builder appends says nothing.
    ///
    /// # Errors
    /// [`NotAKernelRelease`] when the string does not begin with two numbers.
    pub fn of_release(release: &str) -> Result<Self, NotAKernelRelease> {
        let error = || NotAKernelRelease(release.to_owned());
        let mut numbers = [0; 3];
        let mut rest = release;
        let mut count = 0;
        for number in &mut numbers {
            let digits = rest.len() - rest.trim_start_matches(|character: char| character.is_ascii_digit()).len();
            let Ok(value) = rest[..digits].parse() else { break };
            *number = value;
            count += 1;
            rest = &rest[digits..];
            match rest.strip_prefix('.') {
                Some(after) if after.starts_with(|character: char| character.is_ascii_digit()) => rest = after,
                _ => break,
            }
        }
        if count < 2 {
            return Err(error());
        }
        let candidate = rest.strip_prefix("-rc").and_then(|rest| {
            let digits = rest.split(|character: char| !character.is_ascii_digit()).next()?;
            digits.parse().ok()
        });
        let [major, minor, patch] = numbers;
        Ok(Self { major, minor, patch, candidate })
    }

    /// The version of a running kernel, from `uname -r` and `uname -v`.
    ///
    /// Debian's 6.1 says `6.1.0-50-cloud-amd64` in the first and `Debian 6.1.176-1` in the second: where the
    /// second names a version of the same series, that is the kernel's.
    ///
    /// # Errors
    /// [`NotAKernelRelease`] when the release does not begin with two numbers.
    pub fn of_uname(release: &str, build: &str) -> Result<Self, NotAKernelRelease> {
        let named = Self::of_release(release)?;
        let of_distribution = build
            .split_whitespace()
            .skip_while(|word| *word != "Debian")
            .nth(1)
            .and_then(|word| Self::of_release(word).ok())
            .filter(|version| version.is_of_series(named));
        Ok(of_distribution.unwrap_or(named))
    }
}

impl FromStr for KernelVersion {
    type Err = NotAKernelRelease;

    /// What a person names: a series (`6.12`) as of its newest point release, or a release.
    fn from_str(name: &str) -> Result<Self, NotAKernelRelease> {
        let version = Self::of_release(name)?;
        let is_series = name.split('.').count() == 2 && name.split('.').all(|number| number.parse::<u16>().is_ok());
        Ok(if is_series { Self::series(version.major, version.minor) } else { version })
    }
}

impl PartialOrd for KernelVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KernelVersion {
    /// A release candidate comes before its release.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |version: &Self| {
            (version.major, version.minor, version.patch, version.candidate.map_or(u32::MAX, u32::from))
        };
        key(self).cmp(&key(other))
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch, candidate } = self;
        match (*patch, candidate) {
            (_, Some(candidate)) => write!(formatter, "{major}.{minor}-rc{candidate}"),
            (Self::NEWEST_POINT, None) => write!(formatter, "{major}.{minor}"),
            (patch, None) => write!(formatter, "{major}.{minor}.{patch}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_knows_the_point_release() {
        for (release, build, patch) in [
            ("6.1.0-50-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-10-01)", 176),
            ("6.12.95+deb12-cloud-amd64", "#1 SMP Debian 6.12.95-1~bpo12+1 (2026-09-01)", 95),
            ("6.12.3", "#2 SMP my own", 3),
            ("6.12.3", "#2 Debian 5.10.1-1", 3),
            ("6.12.3", "#2 Debian", 3),
        ] {
            assert_eq!(KernelVersion::of_uname(release, build).unwrap().patch, patch, "{release} {build}");
        }
    }

    #[test]
    fn release_strings_are_read_from_the_head() {
        let candidate = KernelVersion::release_candidate;
        for (release, expected) in [
            ("6.12.107+deb13-cloud-amd64", Some(KernelVersion::new(6, 12, 107))),
            ("7.2-rc3", Some(candidate(7, 2, 3))),
            ("7.3.0-rc4-next-20261102", Some(candidate(7, 3, 4))),
            ("7.3.0-rc2-mm-unstable-g0123abc+", Some(candidate(7, 3, 2))),
            ("7.3.0-mm-unstable", Some(KernelVersion::new(7, 3, 0))),
            ("6.12.0-rcu", Some(KernelVersion::new(6, 12, 0))),
            ("6.12", Some(KernelVersion::new(6, 12, 0))),
            ("6.18.15-200.fc43.x86_64", Some(KernelVersion::new(6, 18, 15))),
            ("6.99999", None),
            ("linux-6.12", None),
            ("", None),
        ] {
            assert_eq!(KernelVersion::of_release(release).ok(), expected, "{release}");
        }
    }

    #[test]
    fn candidates_come_before_their_release_and_a_series_is_its_newest() {
        let ordered = ["7.2.13", "7.2", "7.3-rc1", "7.3-rc4", "7.3.0", "7.3.4", "7.3", "7.4-rc1"];
        let versions = ordered.map(|name| name.parse::<KernelVersion>().unwrap());
        assert!(versions.is_sorted(), "{versions:?}");
        assert_eq!(versions[1], KernelVersion::LINUX_7_2);
        assert_eq!(versions.map(|version| version.to_string()), ordered);
    }
}
