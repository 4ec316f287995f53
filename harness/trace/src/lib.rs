//! The wire and file format of a campaign's trace: what the guest streams and the host judges again.
//!
//! A stream is a head (magic, [`SCHEMA`], checksum) and frames (length with its check byte, payload,
//! CRC-32). Numbers are little-endian. The last frame is [`Frame::End`]; a stream without it was cut.
//! There is no resynchronisation: after a damaged frame nothing is believed. A cut and a damage are
//! different errors, each with its byte offset.
//!
//! | bytes | head |
//! | --- | --- |
//! | 8 | [`MAGIC`] |
//! | 4 | [`SCHEMA`] |
//! | 4 | CRC-32 of the 12 bytes before |
//!
//! | bytes | frame |
//! | --- | --- |
//! | 3 | length of the payload, at most [`MAX_PAYLOAD`] |
//! | 1 | check byte: complement of the exclusive or of the three before |
//! | length | payload: [`Frame`] in postcard form; its first byte is the frame's kind |
//! | 4 | CRC-32 of the payload |
//!
//! # What this crate must not know
//!
//! Where the bytes come from or go to, how a program is made, run or observed, and what is right: it
//! imports the data types of `reference-model` and decides nothing about them.
#![forbid(unsafe_code)]

mod compact;
mod decoder;
mod frame;
mod reader;
mod writer;

pub use decoder::{Cut, Decoder, TraceError};
pub use frame::{
    Attempt, Campaign, End, Figure, Finding, Frame, Hello, Progress, Refused, Shrunk, StepDone, Verdicts, WorkList,
};
pub use reader::{ReadError, Reader};
pub use writer::Writer;

/// First bytes of every trace.
pub const MAGIC: [u8; 8] = *b"PTEDIFF\n";

/// Version of the format. Any change of [`Frame`], of a type of `reference-model` that a frame holds, or
/// of the framing raises it; the test `the_bytes_of_the_schema_are_fixed` notices.
pub const SCHEMA: u32 = 3;

/// Bytes that a frame's payload may have at most. It bounds what a hostile stream can make a reader keep.
pub const MAX_PAYLOAD: usize = 1 << 20;

const HEAD_BYTES: usize = 16;
const FRAME_HEAD_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 4;

/// The check byte of a frame's length.
fn length_check(length: [u8; 3]) -> u8 {
    !(length[0] ^ length[1] ^ length[2])
}
