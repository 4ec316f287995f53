//! The machine that a program runs on: the kernel's version and dialect, and the CPU's features.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A kernel version, `major.minor.patch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KernelVersion {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number, the stable release.
    pub patch: u16,
}

/// A release string that does not begin with `major.minor`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a kernel release: it does not begin with MAJOR.MINOR")]
pub struct NotAKernelRelease(String);

impl KernelVersion {
    /// The version at the head of a release string such as `6.12.107+deb13-cloud-amd64`.
    ///
    /// # Errors
    /// [`NotAKernelRelease`] when the string does not begin with two numbers.
    pub fn of_release(release: &str) -> Result<Self, NotAKernelRelease> {
        let mut numbers =
            release.split(|character: char| !character.is_ascii_digit()).map_while(|digits| digits.parse::<u16>().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) => Ok(Self { major, minor, patch: numbers.next().unwrap_or(0) }),
            _ => Err(NotAKernelRelease(release.to_owned())),
        }
    }
}

impl KernelVersion {
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
            .filter(|version| (version.major, version.minor) == (named.major, named.minor));
        Ok(of_distribution.unwrap_or(named))
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A family of kernels whose rules are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Dialect {
    /// Linux 6.12.
    #[serde(rename = "6.12")]
    Linux6_12,
    /// Linux 7.2.
    #[serde(rename = "7.2")]
    Linux7_2,
    /// Linux 6.1: before shadow stacks and before SavedDirty.
    #[serde(rename = "6.1")]
    Linux6_1,
}

impl Dialect {
    /// The dialect that a kernel of this version is *expected* to follow, or `None` where no rule was read.
    #[must_use]
    pub fn of_version(version: KernelVersion) -> Option<Self> {
        match (version.major, version.minor) {
            (6, 1) => Some(Self::Linux6_1),
            (6, 12) => Some(Self::Linux6_12),
            (7, 2) => Some(Self::Linux7_2),
            _ => None,
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
            Self::Linux7_2 => "7.2",
        })
    }
}

/// A name that is not a dialect.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a dialect: the model speaks 6.1, 6.12 and 7.2")]
pub struct UnknownDialect(String);

impl FromStr for Dialect {
    type Err = UnknownDialect;
    fn from_str(name: &str) -> Result<Self, UnknownDialect> {
        match name {
            "6.1" => Ok(Self::Linux6_1),
            "6.12" => Ok(Self::Linux6_12),
            "7.2" => Ok(Self::Linux7_2),
            _ => Err(UnknownDialect(name.to_owned())),
        }
    }
}

/// Kernel versions whose campaigns were reviewed: only on these may a difference be called the kernel's.
///
/// "6.12" is not one kernel: distributions ship many stable releases of it.
pub const BLESSED: [KernelVersion; 3] = [
    KernelVersion { major: 6, minor: 1, patch: 176 },
    KernelVersion { major: 6, minor: 12, patch: 95 },
    KernelVersion { major: 7, minor: 2, patch: 13 },
];

/// Everything about a machine that the rules depend on. It stands at the head of every trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r`, whole.
    pub release: String,
    /// The numbers at its head.
    pub version: KernelVersion,
    /// The rules that the kernel is judged by.
    pub dialect: Dialect,
    /// Whether the user asked for the dialect by name, which vouches for an unblessed version.
    pub dialect_forced: bool,
    /// User shadow stacks work: seen in CPUID and /proc/cpuinfo, and a push was carried out.
    pub shadow_stack: bool,
    /// Protection keys for user pages are on.
    pub protection_keys: bool,
    /// There is a swap file that pages can be put out to.
    pub swap: bool,
    /// ksmd can be told to scan.
    pub merging: bool,
    /// The CPU is an emulator that sets Accessed only for translations that an access needs. On hardware
    /// a prefetch may set it early, and a clear Accessed bit cannot be demanded (SDM 3A 4.8).
    pub exact_accessed: bool,
    /// What runs the guest: `bochs`, `qemu`, `native`. Only for reports.
    pub platform: String,
    /// Model name from /proc/cpuinfo. Only for reports.
    pub cpu_model: String,
}

impl Machine {
    /// A machine that nobody has run, with the newest reviewed kernel of a dialect: what expectations are told of
    /// where no machine is asked. `shadow_stack` counts only where the dialect has user shadow stacks.
    #[must_use]
    pub fn imagined(dialect: Dialect, shadow_stack: bool, protection_keys: bool) -> Self {
        let of_dialect = |version: &&KernelVersion| Dialect::of_version(**version) == Some(dialect);
        let version = BLESSED.iter().filter(of_dialect).max().copied().unwrap_or(BLESSED[0]);
        Self {
            release: dialect.to_string(),
            version,
            dialect,
            dialect_forced: true,
            shadow_stack: shadow_stack && dialect != Dialect::Linux6_1,
            protection_keys,
            swap: true,
            merging: true,
            exact_accessed: true,
            platform: "none".to_owned(),
            cpu_model: "none".to_owned(),
        }
    }

    /// Whether a divergence on this kernel may be called one: the version was reviewed, or the user
    /// vouched for it with `--dialect`.
    #[must_use]
    pub fn is_blessed(&self) -> bool {
        self.dialect_forced || BLESSED.contains(&self.version)
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
        for (release, expected) in [
            ("6.12.107+deb13-cloud-amd64", Some((6, 12, 107))),
            ("7.2-rc3", Some((7, 2, 0))),
            ("6.12", Some((6, 12, 0))),
            ("linux-6.12", None),
            ("", None),
        ] {
            let seen = KernelVersion::of_release(release).ok().map(|v| (v.major, v.minor, v.patch));
            assert_eq!(seen, expected, "{release}");
        }
    }
}
