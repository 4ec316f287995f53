//! The `ptediff` command: differential testing of Linux x86-64 page-table entries.
//!
//! The same static file is the command on the host, the init and the campaign loop in the guest, and the
//! nursery of the actors. The guest half ([`guest`]) generates, executes, observes, compares and shrinks;
//! the host half ([`host`]) boots the machine, reads the trace, judges it again and reports.
//!
//! # What this crate must not know
//!
//! Rules of the kernel (they are the model's), layouts of probes and of emulators. It wires stages
//! together and speaks to people.

pub mod arguments;
pub mod audit;
pub mod claims;
pub mod commands;
pub mod error;
pub mod exit_code;
pub mod guest;
pub mod host;
pub mod pair;
pub mod report;
pub mod watch;
