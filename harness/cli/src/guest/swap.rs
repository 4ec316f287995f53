//! The swap file: off until a program asks for it, then on until the session ends.
//!
//! Nothing but MADV_PAGEOUT puts pages into it: there is memory enough, and `vm.swappiness` is 0. So for programs that
//! do not ask it makes no difference whether it is on.

use std::io;
use std::path::Path;

use ptediff_vm::swap::{MODULES_DIRECTORY, has_zram, load_modules, prepare_zram, swap_on_zram};

/// 16 MiB: far more than programs can fill by half, above which the kernel would free slots early (`vm_swap_full`).
const PAGES: u32 = 4096;

/// Head of the line by which the guest says that it has none.
pub const NO_SWAP: &str = "no swap: ";

/// Makes all ready for a swap file but the file itself; the error says why there is none. `without_modules` is why the
/// machine was given no modules.
pub(super) fn prepare(platform: &str, without_modules: Option<&str>) -> Result<(), String> {
    if platform == "native" {
        return Err("a session in place leaves the machine's own alone".to_owned());
    }
    if !Path::new("/proc/swaps").exists() {
        return Err("the kernel was built without (CONFIG_SWAP)".to_owned());
    }
    let modules = Path::new(MODULES_DIRECTORY);
    if !has_zram() && modules.is_dir() {
        load_modules(modules).map_err(|error| format!("the kernel refuses a module: {error}"))?;
    }
    if !has_zram() {
        let why = without_modules.unwrap_or("its modules make no device");
        return Err(format!("zram is not built into the kernel; {why}"));
    }
    prepare_zram(PAGES).map_err(|error| format!("zram cannot be used: {error}"))
}

/// The machine's swap file.
#[derive(Debug, Default)]
pub struct SwapFile {
    is_on: bool,
}

impl SwapFile {
    /// Turns it on, if it is not yet. It was prepared before.
    ///
    /// # Errors
    /// The kernel does not take the file.
    pub(super) fn turn_on(&mut self) -> io::Result<()> {
        if !self.is_on {
            swap_on_zram(PAGES)?;
            self.is_on = true;
        }
        Ok(())
    }
}
