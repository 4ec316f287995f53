//! Writes a trace.

use std::io::{self, Write};

use crate::frame::Frame;
use crate::{HEAD_BYTES, MAGIC, MAX_PAYLOAD, SCHEMA, length_check};

/// Writes frames to a sink, several of them in one write call where the caller likes.
///
/// Nothing is flushed on drop: a cut stream is for the reader to notice.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// A writer whose first bytes to `sink` will be the stream's head.
    pub fn new(sink: W) -> Self {
        let mut buffer = Vec::with_capacity(4096);
        buffer.extend_from_slice(&MAGIC);
        buffer.extend_from_slice(&SCHEMA.to_le_bytes());
        let checksum = crc32fast::hash(&buffer);
        buffer.extend_from_slice(&checksum.to_le_bytes());
        debug_assert_eq!(buffer.len(), HEAD_BYTES);
        Self { sink, buffer }
    }

    /// A writer that goes on with a stream whose head another writer has flushed to the same sink.
    pub fn resume(sink: W) -> Self {
        Self { sink, buffer: Vec::with_capacity(4096) }
    }

    /// Adds a frame to what the next [`Self::flush`] writes.
    ///
    /// # Errors
    /// `InvalidData` for a frame whose payload exceeds [`MAX_PAYLOAD`]; what was added before stays.
    pub fn push(&mut self, frame: &Frame) -> io::Result<()> {
        let start = self.buffer.len();
        let payload_start = start + 4;
        self.buffer.extend_from_slice(&[0; 4]);
        let buffer = std::mem::take(&mut self.buffer);
        self.buffer = postcard::to_extend(frame, buffer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("frame {}: {error}", frame.name())))?;
        let payload = &self.buffer[payload_start..];
        if payload.len() > MAX_PAYLOAD {
            let message = format!("frame {} has {} bytes; at most {MAX_PAYLOAD}", frame.name(), payload.len());
            self.buffer.truncate(start);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let checksum = crc32fast::hash(payload);
        let length = payload.len() as u32;
        let [low, middle, high, _] = length.to_le_bytes();
        self.buffer[start..payload_start].copy_from_slice(&[low, middle, high, length_check([low, middle, high])]);
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        Ok(())
    }

    /// Writes what was added, in one call where the sink takes it whole.
    ///
    /// # Errors
    /// The sink's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.sink.write_all(&self.buffer)?;
        self.buffer.clear();
        self.sink.flush()
    }

    /// Adds a frame and writes everything.
    ///
    /// # Errors
    /// Those of [`Self::push`] and [`Self::flush`].
    pub fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.push(frame)?;
        self.flush()
    }

    /// Bytes that wait for [`Self::flush`].
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// The sink; what was not flushed is lost.
    pub fn into_sink(self) -> W {
        self.sink
    }
}
