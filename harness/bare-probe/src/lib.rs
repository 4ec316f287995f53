//! The bare probe: a freestanding guest that asks a processor for its access decisions, and the host's side of it.

use ptediff_reference_model::processor;

pub mod block;
pub mod case;
pub mod deviation;
pub mod fact;
pub mod message;
mod recording;
mod session;
pub mod space;

pub use recording::{RecordedBlock, Recording, RecordingError};
pub use session::{Answer, BlockAnswer, Disagreement, FactVerdict, Request, Session, SessionError};

/// The guest, a static ELF file for `ptediff_vm::boot_bare`.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bare-probe.elf"));
