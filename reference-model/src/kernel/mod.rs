//! Kernels as data: a kernel is a set of [changes](Change), not a name.
//!
//! The model asks [`Kernel::has`] and never for a version; versions are compared nowhere else. A *defect* is a change
//! of the wrong kind: the kernel that the model judges by, [`Kernel::intended`], never has one.

mod change;
mod defects;
mod designs;
mod fact;
mod text;
mod unmodelled;
mod version;

pub use change::{Arrival, Change, ChangeInfo, ChangeKind, Versions};
pub use defects::DEFECTS;
pub use designs::DESIGNS;
pub use fact::{Fact, Facts};
pub use text::UnknownChange;
pub use unmodelled::{UNMODELLED, UnmodelledDefect};
pub use version::{KernelVersion, NotAKernelRelease};

/// The newest series whose changes the table knows. A newer kernel is judged as this one.
pub const NEWEST_KNOWN: KernelVersion = KernelVersion::LINUX_7_3;

/// The oldest kernel that can be judged.
pub const OLDEST_KNOWN: KernelVersion = KernelVersion::new(6, 1, 0);

/// Versions on which a matrix was run to its end without anything unexplained: `ptediff matrix`, docs/matrix.md.
pub const CALIBRATED: &[KernelVersion] =
    &[KernelVersion::new(6, 1, 176), KernelVersion::new(6, 12, 95), KernelVersion::new(7, 2, 13)];

/// Every change: designs, then defects.
pub fn changes() -> impl Iterator<Item = &'static ChangeInfo> {
    DESIGNS.iter().chain(DEFECTS)
}

impl Change {
    /// Its row of the table.
    #[must_use]
    pub fn info(self) -> &'static ChangeInfo {
        changes().find(|info| info.change == self).expect("a test asks for a row of every change")
    }

    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// A kernel, as far as the model can tell kernels apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    changes: u64,
}

impl Kernel {
    /// What a kernel of this version, with these facts, is meant to do: every design that it has, and no defect.
    #[must_use]
    pub fn intended(version: KernelVersion, facts: Facts) -> Self {
        Self::of(DESIGNS.iter().filter(|info| info.is_in(version, facts)))
    }

    /// What the table says that it does, its defects included: what a kernel is expected to be seen doing.
    #[must_use]
    pub fn as_released(version: KernelVersion, facts: Facts) -> Self {
        Self::of(changes().filter(|info| info.is_in(version, facts)))
    }

    fn of(infos: impl Iterator<Item = &'static ChangeInfo>) -> Self {
        Self { changes: infos.fold(0, |set, info| set | info.change.bit()) }
    }

    /// Whether it has the change.
    #[must_use]
    pub const fn has(self, change: Change) -> bool {
        self.changes & change.bit() != 0
    }

    /// The same kernel with the change.
    #[must_use]
    pub const fn with(self, change: Change) -> Self {
        Self { changes: self.changes | change.bit() }
    }

    /// The same kernel without the change.
    #[must_use]
    pub const fn without(self, change: Change) -> Self {
        Self { changes: self.changes & !change.bit() }
    }

    /// The same kernel with the change where it was absent, without it where it was present.
    #[must_use]
    pub const fn moved(self, change: Change) -> Self {
        Self { changes: self.changes ^ change.bit() }
    }

    /// Its changes.
    pub fn iter(self) -> impl Iterator<Item = Change> {
        changes().map(|info| info.change).filter(move |&change| self.has(change))
    }
}

/// A condition on a kernel: what a rule, an entry of the corpus or a snapshot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// The kernel has the change.
    With(Change),
    /// It has not.
    Without(Change),
}

impl Need {
    /// Whether a kernel is so.
    #[must_use]
    pub const fn is_met_by(self, kernel: Kernel) -> bool {
        match self {
            Self::With(change) => kernel.has(change),
            Self::Without(change) => !kernel.has(change),
        }
    }
}

#[cfg(test)]
mod tests;
