//! Shrinking: from a program that diverges to a small one that still does.

mod candidate;
mod drive;
mod remap;
mod tree;

pub use drive::{ShrinkStep, Shrunk, shrink};
pub use tree::ProgramValueTree;
