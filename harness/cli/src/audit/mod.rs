//! Which defects of the table a kernel has, each decided by a program that tells.
//!
//! The programs are made from the table: generated ones on which a defect makes a difference in the model, and no other
//! defect the same, made smaller as divergences are.

mod decide;
mod finding;
mod plan;
mod run;
mod search;

pub use decide::decide;
pub use finding::{Finding, Told, combined};
pub use plan::{Plan, plan};
pub use run::{ending_of, told_by};
pub use search::{Telling, search};
