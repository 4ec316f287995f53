//! State-aware generation of programs, and their shrinking.
//!
//! A program is drawn step by step while the reference model performs it, so that most steps make sense:
//! accesses go where something is mapped, forks come while numbers are free, and a step that takes a
//! permission away is often followed at once by an access that must notice. A share of senseless steps
//! stays, for the kernel's refusals are judged too.
//!
//! proptest gives the traits and the random numbers; its generic strategies are not used inside a
//! program, because a tree of them costs more than a run of the program in the guest.
//! proptest-state-machine is not used: it underflows on empty sizes and knows no stored programs.
//!
//! # What this crate must not know
//!
//! How a program is executed, observed, judged or stored. The model is asked where the memory stands,
//! never whether it is right.
#![forbid(unsafe_code)]

mod coverage;
mod dice;
mod draw;
mod narrowing;
mod profile;
mod seed;
mod shrink;
mod strategy;

pub use coverage::{Reached, reached};
pub use narrowing::{NARROWINGS, Narrowing};
pub use profile::{Profile, UnknownProfile};
pub use seed::program_seed;
pub use shrink::{ProgramValueTree, ShrinkStep, Shrunk, shrink};
pub use strategy::{Options, ProgramStrategy, program, program_of_seed};
