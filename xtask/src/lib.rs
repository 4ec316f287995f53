//! Set-up of a fresh machine, then run, test and ci: the engine behind `cargo xtask`.
//!
//! `cargo xtask run` and `cargo xtask test` need root, cargo and gcc on a Debian 12 machine, and make
//! the rest themselves: system packages, kernels, emulators. What is in place already is used again
//! without a look at the network.
//!
//! **Must not know**: page-table entries, programs, how a VM is started. It needs of the workspace only the
//! cache's form (`ptediff_vm::store`) and the archive (`ptediff_archive`), builds with Rust-only dependencies, and
//! names no network host: the machine's own package sources say where packages come from.

pub mod bochs;
pub mod cargo;
pub mod cli;
pub mod error;
pub mod lint;
pub mod loaders;
pub mod modules;
pub mod progress;
pub mod recipes;
pub mod selftests;
pub mod setup;
pub mod system_packages;
pub mod tidy;
