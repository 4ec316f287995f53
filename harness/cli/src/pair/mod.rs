//! Two kernels on the same programs: where they part, in clusters, each with a small program.

mod machines;
mod search;

pub use machines::{Machines, Side};
pub use search::{PairCluster, Paired, pair};
