//! Decodes a trace from chunks of bytes, as they come.

use thiserror::Error;

use crate::frame::Frame;
use crate::{CHECKSUM_BYTES, FRAME_HEAD_BYTES, HEAD_BYTES, MAGIC, MAX_PAYLOAD, SCHEMA, length_check};

/// Why a trace cannot be read on. Offsets are bytes from the start of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TraceError {
    /// The stream does not begin with [`MAGIC`].
    #[error("not a ptediff trace: it does not begin with the magic bytes")]
    NotATrace,
    /// Written by a newer ptediff.
    #[error(
        "the trace has schema {found}, newer than {SCHEMA}, the newest that this ptediff reads: use a newer ptediff"
    )]
    NewerSchema {
        /// Schema of the trace.
        found: u32,
    },
    /// Written by an older ptediff, whose format is not read any more.
    #[error("the trace has schema {found}; this ptediff reads only {SCHEMA}: judge it with the ptediff that wrote it")]
    OlderSchema {
        /// Schema of the trace.
        found: u32,
    },
    /// The stream ends before [`Frame::End`].
    #[error("the trace is cut short: it ends at byte {offset}, {place}, before its end frame")]
    Truncated {
        /// Length of the stream.
        offset: u64,
        /// Where the cut lies.
        place: Cut,
    },
    /// Bytes were changed on their way.
    #[error("the trace is damaged: the frame at byte {offset}: {reason}")]
    Corrupt {
        /// First byte of the damaged frame.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
}

/// Where a stream was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// In the head.
    Head,
    /// Within a frame.
    WithinFrame,
    /// Between two frames.
    BetweenFrames,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Head => "in its head",
            Self::WithinFrame => "within a frame",
            Self::BetweenFrames => "between two frames",
        })
    }
}

/// Turns chunks of bytes into frames.
///
/// It keeps at most one frame's bytes and the chunk pushed last. After an error every further call gives
/// the same error.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are decoded.
    used: usize,
    /// Offset in the stream of the first byte that is not decoded.
    offset: u64,
    head_seen: bool,
    ended: bool,
    failed: Option<TraceError>,
}

impl Decoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Offset in the stream of the first byte that is not decoded.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the end frame has been given.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Adds bytes from the stream. Call [`Self::next_frame`] until it gives `None` before adding more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.used);
        self.used = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, or `None` where more bytes are needed.
    ///
    /// # Errors
    /// Any [`TraceError`] but `Truncated`.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, TraceError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let decoded = self.decode();
        if let Err(error) = &decoded {
            self.failed = Some(error.clone());
        }
        decoded
    }

    /// Says that no more bytes will come.
    ///
    /// # Errors
    /// [`TraceError::Truncated`] where the end frame has not come; an error met before.
    pub fn finish(&self) -> Result<(), TraceError> {
        let rest = (self.buffer.len() - self.used) as u64;
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.ended => Ok(()),
            None => {
                let place = match (self.head_seen, rest) {
                    (false, _) => Cut::Head,
                    (true, 0) => Cut::BetweenFrames,
                    (true, _) => Cut::WithinFrame,
                };
                Err(TraceError::Truncated { offset: self.offset + rest, place })
            }
        }
    }

    fn decode(&mut self) -> Result<Option<Frame>, TraceError> {
        if !self.head_seen {
            let rest = &self.buffer[self.used..];
            let magic = &rest[..rest.len().min(MAGIC.len())];
            if !MAGIC.starts_with(magic) {
                return Err(TraceError::NotATrace);
            }
            let Some(head) = rest.first_chunk::<HEAD_BYTES>() else {
                return Ok(None);
            };
            check_head(head)?;
            self.head_seen = true;
            self.consume(HEAD_BYTES);
        }
        let rest = &self.buffer[self.used..];
        let corrupt = |reason: String| TraceError::Corrupt { offset: self.offset, reason };
        if self.ended && !rest.is_empty() {
            return Err(corrupt("bytes follow the end frame".to_owned()));
        }
        let Some(&[low, middle, high, check]) = rest.first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(None);
        };
        if check != length_check([low, middle, high]) {
            return Err(corrupt("its length does not match the length's check byte".to_owned()));
        }
        let length = u32::from_le_bytes([low, middle, high, 0]) as usize;
        if length > MAX_PAYLOAD {
            return Err(corrupt(format!("it announces {length} bytes, more than the {MAX_PAYLOAD} allowed")));
        }
        let total = FRAME_HEAD_BYTES + length + CHECKSUM_BYTES;
        let Some(bytes) = rest.get(..total) else {
            return Ok(None);
        };
        let (payload, checksum) = bytes[FRAME_HEAD_BYTES..].split_at(length);
        if crc32fast::hash(payload).to_le_bytes() != checksum {
            return Err(corrupt("its checksum does not match".to_owned()));
        }
        let (frame, left) = postcard::take_from_bytes::<Frame>(payload)
            .map_err(|error| corrupt(format!("its checksum matches but it is no frame: {error}")))?;
        if !left.is_empty() {
            return Err(corrupt(format!("{} bytes follow its payload", left.len())));
        }
        self.ended = matches!(frame, Frame::End(_));
        self.consume(total);
        Ok(Some(frame))
    }

    fn consume(&mut self, bytes: usize) {
        self.used += bytes;
        self.offset += bytes as u64;
    }
}

fn check_head(head: &[u8; HEAD_BYTES]) -> Result<(), TraceError> {
    let (body, checksum) = head.split_at(HEAD_BYTES - CHECKSUM_BYTES);
    if crc32fast::hash(body).to_le_bytes() != checksum {
        return Err(TraceError::Corrupt { offset: 0, reason: "the checksum of the head does not match".to_owned() });
    }
    let mut schema = [0; 4];
    schema.copy_from_slice(&body[MAGIC.len()..]);
    match u32::from_le_bytes(schema) {
        SCHEMA => Ok(()),
        found if found > SCHEMA => Err(TraceError::NewerSchema { found }),
        found => Err(TraceError::OlderSchema { found }),
    }
}
