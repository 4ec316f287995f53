//! What is asked of a kernel and of the model: helpers, and the entries they are asked about.

use super::{Helper, Level};
use crate::entry::{A, D, NX, P, PAT, PKEY, PROTNONE, RW, SAVED_DIRTY, SOFT_DIRTY, UFFD_WP, US};

/// A helper with its argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Question {
    /// The level.
    pub level: Level,
    /// The helper.
    pub helper: Helper,
    /// The new protection of `modify`, the kind of VMA of `mkwrite`, otherwise 0.
    pub argument: u64,
}

impl Question {
    /// Argument of `mkwrite`: a VMA without `VM_SHADOW_STACK`, or none where the kernel's takes none.
    pub const ORDINARY_VMA: u64 = 0;
    /// Argument of `mkwrite`: a VMA with `VM_SHADOW_STACK`.
    pub const SHADOW_STACK_VMA: u64 = 1;

    /// A helper without an argument.
    #[must_use]
    pub fn of(level: Level, helper: Helper) -> Self {
        Self { level, helper, argument: 0 }
    }

    /// Every question about a helper: one for each argument.
    pub fn about(level: Level, helper: Helper) -> impl Iterator<Item = Self> {
        let arguments = match helper {
            Helper::Modify => protections(),
            Helper::Mkwrite => vec![Self::ORDINARY_VMA, Self::SHADOW_STACK_VMA],
            _ => vec![0],
        };
        arguments.into_iter().map(move |argument| Self { level, helper, argument })
    }
}

/// The protections that entries are changed to: every combination of P, RW, US, PROTNONE and NX with Accessed, as
/// every user protection has it, without a key and with key 5; and one with every bit set, most of which must not
/// get through.
fn protections() -> Vec<u64> {
    let combinations = Entries::of(Domain { base: A, mask: P | RW | US | PROTNONE | NX });
    let mut protections: Vec<u64> = combinations.flat_map(|plain| [plain, plain | 5 << 59]).collect();
    protections.push(!0);
    protections
}

/// How many entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Every combination of the bits that helpers look at most, for seconds.
    Representative,
    /// Every combination of every bit outside the frame field and 52 to 56.
    Full,
}

/// Entries: `base` with every combination of the bits of `mask`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Domain {
    /// The bits that are the same in all.
    pub base: u64,
    /// The bits that vary.
    pub mask: u64,
}

impl Domain {
    /// Bits 0 to 11, 57, 58, the protection key and NX: 19 bits.
    pub const EVERY_BIT: u64 = 0xfff | 0b11 << 57 | PKEY | NX;
    /// P, RW, Dirty, PSE, PROTNONE, UFFD_WP, SOFT_DIRTY, 57, 58 and NX: 10 bits.
    pub const MAIN_BITS: u64 = P | RW | D | PAT | PROTNONE | UFFD_WP | SOFT_DIRTY | 1 << 57 | SAVED_DIRTY | NX;

    /// What stands in the bits that do not vary: nothing, so that the empty entry is among them; or a frame field with
    /// ones and zeros in the parts that only the lower levels have, and some of bits 52 to 56.
    pub const BASES: [u64; 2] = [0, 0x0025_a5a5_a5a5_b000];

    /// The entries that a helper is asked about.
    #[must_use]
    pub fn of(helper: Helper, reach: Reach) -> Vec<Self> {
        let [without_frame, with_frame] = match (reach, helper) {
            (Reach::Representative, _) => [Self::MAIN_BITS; 2],
            // 65 protections times every entry: once is enough.
            (Reach::Full, Helper::Modify) => [Self::MAIN_BITS, Self::EVERY_BIT],
            (Reach::Full, _) => [Self::EVERY_BIT; 2],
        };
        let [nothing, frame] = Self::BASES;
        vec![Self { base: nothing, mask: without_frame }, Self { base: frame, mask: with_frame }]
    }

    /// How many entries it has.
    #[must_use]
    pub fn count(&self) -> u64 {
        1 << self.mask.count_ones()
    }

    /// Its entries, by the subsets of `mask` in ascending order.
    #[must_use]
    pub fn entries(self) -> Entries {
        Entries::of(self)
    }
}

/// The entries of a [`Domain`].
#[derive(Debug, Clone)]
pub struct Entries {
    domain: Domain,
    next: Option<u64>,
}

impl Entries {
    fn of(domain: Domain) -> Self {
        Self { domain, next: Some(0) }
    }
}

impl Iterator for Entries {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let subset = self.next?;
        let mask = self.domain.mask;
        let following = subset.wrapping_sub(mask) & mask;
        self.next = (following != 0).then_some(following);
        Some(self.domain.base | subset)
    }
}
