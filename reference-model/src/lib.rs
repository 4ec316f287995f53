//! What every page-table entry must be: the reference model of ptediff, and the plain data that flows
//! between the harness's stages.
//!
//! # What this crate must not know
//!
//! It is pure: no I/O, no clock, no randomness, no `unsafe`, and nothing of the other crates. It never
//! learns how a program is made, run, observed or reported. Everything it says about the kernel carries
//! the name of the kernel function that it describes; see [`rule`].
#![forbid(unsafe_code)]

pub mod algebra;
pub mod arena;
pub mod entry;
pub mod expectation;
pub mod invariant;
pub mod kernel;
pub mod machine;
pub mod model;
pub mod mutation;
pub mod observation;
pub mod outcome;
pub mod pagemap;
pub mod processor;
pub mod program;
pub mod protection_key;
pub mod rule;
pub mod supervisor_keys;
pub mod tracking;
pub mod uffd;
pub mod validity;
pub mod verdict;
