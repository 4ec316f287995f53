//! The corpus: programs kept as versioned JSON entries that people can read and edit.
//!
//! An entry says what it is, where it came from, which machine it needs, and its program, one step a
//! line. See [`Entry`] for the fields and [`CorpusError`] for what is refused, always with its place.
//!
//! # What this crate must not know
//!
//! How programs are made, run, observed or judged, and what the terminal looks like: an error carries
//! its place as bytes of the text, and whoever reports it draws the picture.
#![forbid(unsafe_code)]

mod entry;
mod error;
mod needs;
mod read;
mod store;
mod write;

pub use entry::{Entry, FoundBy, MAX_ENTRY_BYTES, Origin, SCHEMA, is_valid_name};
pub use error::{CorpusError, Span};
pub use needs::Needs;
pub use read::{StoredEntry, parse_entry, read_entry};
pub use store::Corpus;
pub use write::{format_entry, write_entry};
