//! The arena: 32 pages at a fixed address in every actor, and the names of its pages and of the actors.
//!
//! Programs speak of slots only. Addresses, frame numbers and process identifiers never reach a stored
//! program, so that an entry means the same on every machine.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// Pages in the arena.
pub const ARENA_PAGES: usize = 32;

/// Actors (processes) that a program may have.
pub const ACTORS: usize = 4;

/// Address of the arena's first byte, in every actor.
///
/// It is 2 MiB aligned, so that the whole arena lies within one page table; above 4 GiB, as
/// `map_shadow_stack` demands; and far from anything that the kernel or the C library maps, so that no
/// neighbouring VMA merges with the arena's.
pub const ARENA_BASE: u64 = 0x1000_0000_0000;

/// Address just past the arena.
pub const ARENA_END: u64 = ARENA_BASE + ARENA_PAGES as u64 * PAGE_SIZE;

/// Address of the page of code in every actor: 512 MiB from the arena.
pub const CODE_BASE: u64 = ARENA_BASE + (512 << 20);

/// Where a `Return` goes to: the address that every `Call` pushes.
///
/// As instructions its bytes, and those of [`RESTORER_SITE`], store to where `rax` points: an `Execute` of a
/// page that begins with them faults at address 0, as one of a page of zeroes does.
pub const RETURN_SITE: u64 = CODE_BASE + 0x800;

/// Where a signal handler returns to (`sa_restorer`), which the kernel pushes on the shadow stack.
pub const RESTORER_SITE: u64 = CODE_BASE + 0x880;

/// A number that is not a slot of the arena, not an actor, or not a range of slots.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ArenaError {
    /// A page index of [`ARENA_PAGES`] or more.
    #[error("slot {0} lies outside the arena of {ARENA_PAGES} pages (0..={last})", last = ARENA_PAGES - 1)]
    Page(u64),
    /// An actor number of [`ACTORS`] or more.
    #[error("actor {0} does not exist: a program has at most {ACTORS} actors (0..={last})", last = ACTORS - 1)]
    Actor(u64),
    /// A range that is empty or that ends outside the arena.
    #[error("range of {pages} pages from slot {first} is empty or leaves the arena of {ARENA_PAGES} pages")]
    Range {
        /// First slot of the refused range.
        first: u64,
        /// Length of the refused range in pages.
        pages: u64,
    },
}

/// One page slot of the arena, `0..32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct PageIndex(u8);

impl PageIndex {
    /// The first slot.
    pub const FIRST: Self = Self(0);

    /// The slot with this number.
    ///
    /// # Errors
    /// [`ArenaError::Page`] outside the arena.
    pub fn new(index: usize) -> Result<Self, ArenaError> {
        match u8::try_from(index) {
            Ok(small) if index < ARENA_PAGES => Ok(Self(small)),
            _ => Err(ArenaError::Page(index as u64)),
        }
    }

    /// The slot's number, `0..32`.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Address of the slot's first byte.
    #[must_use]
    pub fn address(self) -> u64 {
        ARENA_BASE + u64::from(self.0) * PAGE_SIZE
    }

    /// The slot that holds `address`, if it lies in the arena.
    #[must_use]
    pub fn of_address(address: u64) -> Option<Self> {
        let offset = address.checked_sub(ARENA_BASE)? / PAGE_SIZE;
        u8::try_from(offset).ok().filter(|&index| usize::from(index) < ARENA_PAGES).map(Self)
    }
}

impl TryFrom<u8> for PageIndex {
    type Error = ArenaError;
    fn try_from(index: u8) -> Result<Self, ArenaError> {
        Self::new(usize::from(index))
    }
}

impl From<PageIndex> for u8 {
    fn from(page: PageIndex) -> Self {
        page.0
    }
}

/// A run of at least one slot, all within the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RangeForm", into = "RangeForm")]
pub struct PageRange {
    first: u8,
    pages: u8,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeForm {
    first: u8,
    pages: u8,
}

impl PageRange {
    /// The first slot alone.
    pub const FIRST_PAGE: Self = Self { first: 0, pages: 1 };

    /// The `pages` slots from `first`.
    ///
    /// # Errors
    /// [`ArenaError::Range`] when the range is empty or leaves the arena.
    pub fn new(first: usize, pages: usize) -> Result<Self, ArenaError> {
        if pages == 0 || first >= ARENA_PAGES || pages > ARENA_PAGES - first {
            return Err(ArenaError::Range { first: first as u64, pages: pages as u64 });
        }
        Ok(Self { first: first as u8, pages: pages as u8 })
    }

    /// The range of one slot.
    #[must_use]
    pub fn single(page: PageIndex) -> Self {
        Self { first: page.0, pages: 1 }
    }

    /// Number of the first slot.
    #[must_use]
    pub fn first(self) -> usize {
        usize::from(self.first)
    }

    /// Length in pages, at least 1.
    #[must_use]
    pub fn pages(self) -> usize {
        usize::from(self.pages)
    }

    /// One past the last slot's number.
    #[must_use]
    pub fn end(self) -> usize {
        self.first() + self.pages()
    }

    /// Address of the first byte.
    #[must_use]
    pub fn address(self) -> u64 {
        ARENA_BASE + u64::from(self.first) * PAGE_SIZE
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.pages) * PAGE_SIZE
    }

    /// The slots, in order.
    pub fn slots(self) -> impl Iterator<Item = PageIndex> {
        (self.first..self.first + self.pages).map(PageIndex)
    }
}

impl TryFrom<RangeForm> for PageRange {
    type Error = ArenaError;
    fn try_from(form: RangeForm) -> Result<Self, ArenaError> {
        Self::new(usize::from(form.first), usize::from(form.pages))
    }
}

impl From<PageRange> for RangeForm {
    fn from(range: PageRange) -> Self {
        Self { first: range.first, pages: range.pages }
    }
}

/// One process of a program, `0..4`. Actor 0 is there from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct ActorId(u8);

impl ActorId {
    /// The actor that every program starts with.
    pub const FIRST: Self = Self(0);
    /// The first actor's first child, by convention.
    pub const SECOND: Self = Self(1);

    /// The actor with this number.
    ///
    /// # Errors
    /// [`ArenaError::Actor`] for a number of [`ACTORS`] or more.
    pub fn new(index: usize) -> Result<Self, ArenaError> {
        match u8::try_from(index) {
            Ok(small) if index < ACTORS => Ok(Self(small)),
            _ => Err(ArenaError::Actor(index as u64)),
        }
    }

    /// The actor's number, `0..4`.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// All possible actors, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..ACTORS as u8).map(Self)
    }
}

impl TryFrom<u8> for ActorId {
    type Error = ArenaError;
    fn try_from(index: u8) -> Result<Self, ArenaError> {
        Self::new(usize::from(index))
    }
}

impl From<ActorId> for u8 {
    fn from(actor: ActorId) -> Self {
        actor.0
    }
}
