//! The guest half: init, then the campaign loop. The same loop runs natively, behind the flag.

pub mod bench;
pub mod claims;
mod facts;
pub mod init;
pub mod machine;
mod pagemap_audit;
pub mod plant;
pub mod program;
pub mod quiet;
pub mod request;
pub mod session;
pub mod swap;
pub mod trust;
pub mod watch;

pub use request::{GuestRequest, REQUEST_PATH};
