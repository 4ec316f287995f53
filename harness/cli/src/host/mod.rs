//! The host half: start a machine, read its trace, judge it again, keep what it said.

pub mod channel;
pub mod launch;
pub mod opinion;
pub mod programs;
pub mod results;
pub mod session;
