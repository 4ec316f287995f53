//! The swap file: off until a program asks for it, then on until the session ends.
//!
//! Nothing but MADV_PAGEOUT puts pages into it: there is memory enough, and `vm.swappiness` is 0. So for programs that
//! do not ask it makes no difference whether it is on.

use std::io;
use std::path::Path;

use ptediff_vm::swap::{MODULES_DIRECTORY, load_modules, swap_on_zram};

/// 16 MiB: far more than programs can fill by half, above which the kernel would free slots early (`vm_swap_full`).
const PAGES: u32 = 4096;

/// Whether a swap file can be had: this is a machine of ours, with the modules that it takes.
pub(super) fn is_possible() -> bool {
    Path::new(MODULES_DIRECTORY).is_dir()
}

/// The machine's swap file.
#[derive(Debug, Default)]
pub struct SwapFile {
    is_on: bool,
}

impl SwapFile {
    /// Turns it on, if it is not yet.
    ///
    /// # Errors
    /// A module cannot be loaded, or the kernel does not take the file.
    pub(super) fn turn_on(&mut self) -> io::Result<()> {
        if !self.is_on && is_possible() {
            load_modules(Path::new(MODULES_DIRECTORY))?;
            swap_on_zram(PAGES)?;
            self.is_on = true;
        }
        Ok(())
    }
}
