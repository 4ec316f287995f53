//! Which defects of the table a kernel has, each decided by a program that tells.
//!
//! The programs are made from the table: generated ones on which a defect makes a difference in the model, and no other
//! defect the same, made smaller as divergences are.

mod decide;
mod search;

pub use decide::{Finding, Told, decide};
pub use search::{Effort, Telling, search};
