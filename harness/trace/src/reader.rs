//! Reads a trace from a file.

use std::io::{self, Read};

use thiserror::Error;

use crate::decoder::{Decoder, TraceError};
use crate::frame::Frame;

/// Why reading stopped.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The source failed.
    #[error("reading the trace failed")]
    Io(#[from] io::Error),
    /// The bytes are not a whole trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// The frames of a source, one by one; after an error, nothing more.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    decoder: Decoder,
    chunk: Box<[u8]>,
    done: bool,
}

impl<R: Read> Reader<R> {
    /// A reader at the start of a trace. It reads in large chunks: the source needs no buffer of its own.
    pub fn new(source: R) -> Self {
        Self { source, decoder: Decoder::new(), chunk: vec![0; 1 << 16].into_boxed_slice(), done: false }
    }

    fn read(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            let length = match self.source.read(&mut self.chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                length => length?,
            };
            if length == 0 {
                self.decoder.finish()?;
                return Ok(None);
            }
            self.decoder.push(&self.chunk[..length]);
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Frame, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}
