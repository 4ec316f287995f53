//! The distribution's archive: every kernel that it serves, by name, fetched into the cache.
//!
//! Packages come by the ordinary apt clients with a configuration of our own: from whatever suites the recipe
//! (`vm-images/kernels.json`) names, verified by apt's signatures, never installed. What a suite has is asked for at
//! run time: point releases come and go every week.
//!
//! **Must not know**: page-table entries, programs, how a VM is started, the terminal. Of `ptediff-vm` it uses the
//! cache's form and the reading of modules. It names no network host: the machine's own package sources say where the
//! archive is.

pub mod apt;
pub mod archive_sources;
pub mod control_file;
pub mod error;
mod fetch;
mod kernels;
mod lock;
mod offered;
mod progress;
mod recipe;
pub mod tool;
mod unpack;

pub use error::{ArchiveError, ToolFailure};
pub use fetch::origin;
pub use kernels::{Kernels, Listing, SkippedSuite};
pub use lock::SetUpLock;
pub use offered::{OfferedKernel, newest_of_name};
pub use progress::{Progress, Silent, step};
pub use recipe::{KernelsRecipe, NamedSeries};
pub use unpack::extract_file;
