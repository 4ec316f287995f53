//! What the guest writes: messages of words.
//!
//! A message is its tag (one byte), the number of its words (one byte), and the words, little-endian.
//! Compiled into host and guest.

/// The kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// The processor: levels, physical-address bits, 1 GiB pages, features, two words of its vendor's name.
    Hello = b'H',
    /// A block begins: space, block.
    BlockBegin = b'B',
    /// A mismatch: control, five entries, expected outcome, mask, observed outcome.
    Mismatch = b'M',
    /// A block's record.
    BlockEnd = b'E',
    /// A fact: its number, and its words.
    Fact = b'F',
    /// An exception that nobody asked for: vector, error code, CR2, RIP.
    Stray = b'X',
    /// The guest's own code gave up: a line of the source.
    Panic = b'P',
    /// The end.
    End = b'Z',
}

impl Tag {
    /// The tag of this byte.
    #[must_use]
    pub fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Hello,
            Self::BlockBegin,
            Self::Mismatch,
            Self::BlockEnd,
            Self::Fact,
            Self::Stray,
            Self::Panic,
            Self::End,
        ];
        all.into_iter().find(|tag| *tag as u8 == byte)
    }
}

/// The first word of the argument that the host hands over; the rest: processor, five levels or not, a mask of
/// spaces, 0 for all of their
/// cases or the number of those of a block, 1 for facts, and the most mismatches to be sent for each block.
pub const ARGUMENT_MAGIC: u64 = u64::from_le_bytes(*b"barprobe");
/// Words of the argument.
pub const ARGUMENT_WORDS: usize = 7;
