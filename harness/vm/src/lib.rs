//! Virtual machines: bytes in, bytes out.
//!
//! [`boot`] starts a kernel with an initramfs under an emulator and hands back a [`Running`] machine: its data
//! channel (what the guest writes to port 0xE9) is a stream of bytes, its console a text, its end an
//! [`Ending`] that names what happened. The emulator never outlives the value.
//!
//! [`boot_bare`] does the same for a freestanding program in place of a kernel.
//!
//! "The guest failed" and "our rig failed" are different types: the first is an [`Ending`], the second a
//! [`VmError`].
//!
//! The [`guest`] module is the other side: what an init process inside the machine needs.
//! [`swap`] gives that machine a swap file. [`in_place`] is for doing without a machine.
//!
//! **Must not know**: what the bytes mean. Nothing here knows of page-table entries, programs, traces, or of
//! any other crate of the workspace.

mod backend;
mod bare;
mod bochs;
mod bzimage;
mod direct_boot;
mod elf;
mod ending;
mod entry_stub;
mod error;
pub mod guest;
pub mod in_place;
mod initramfs;
mod kernel_module;
mod module_files;
mod qemu;
mod running;
mod spec;
pub mod store;
pub mod swap;

pub use bare::BareSpec;
pub use bzimage::{BzImage, Compression};
pub use elf::{require_static_elf, without_sections};
pub use ending::{Activity, Ending};
pub use error::VmError;
pub use initramfs::Initramfs;
pub use kernel_module::load_kernel_module;
pub use module_files::{ModuleError, ModuleFile, ModuleFiles};
pub use running::{Running, boot, boot_bare};
pub use spec::{BackendKind, VmSpec, default_command_line};
