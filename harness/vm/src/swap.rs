//! For the guest: kernel modules, and a swap file in compressed memory (zram).
#![expect(unsafe_code, reason = "system calls that the standard library does not have")]

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::load_kernel_module;

/// Where a guest's kernel modules lie, named so that they are loaded in the order of their names.
pub const MODULES_DIRECTORY: &str = "/modules";

/// Bytes in a page.
const PAGE: usize = 4096;

/// Loads the modules of a directory in the order of their names. One that the kernel has already is passed over.
///
/// # Errors
/// The directory cannot be read, or the kernel refused a module, which is named.
pub fn load_modules(directory: &Path) -> io::Result<()> {
    let mut modules: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    modules.sort();
    for module in modules {
        load_kernel_module(&module, c"")
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", module.display())))?;
    }
    Ok(())
}

/// Makes `/dev/zram0` a swap file of so many pages and has the kernel use it. Pages are read one at a time, none ahead
/// of time. The module must be loaded.
///
/// # Errors
/// What failed, and the kernel's reason.
pub fn swap_on_zram(pages: u32) -> io::Result<()> {
    let in_place =
        |place: &'static str| move |error: io::Error| io::Error::new(error.kind(), format!("{place}: {error}"));
    fs::write("/proc/sys/vm/page-cluster", "0").map_err(in_place("page-cluster"))?;
    fs::write("/sys/block/zram0/disksize", (u64::from(pages) * PAGE as u64).to_string())
        .map_err(in_place("the size of zram0"))?;
    let device = Path::new("/dev/zram0");
    let file = OpenOptions::new().write(true).open(device).map_err(in_place("/dev/zram0"))?;
    file.write_all_at(&swap_header(pages), 0).map_err(in_place("the head of /dev/zram0"))?;
    file.sync_all().map_err(in_place("the head of /dev/zram0"))?;
    drop(file);
    let path = CString::new(device.as_os_str().as_bytes())?;
    // SAFETY: the path is a string that ends in a zero and lives through the call.
    let result = unsafe { libc::swapon(path.as_ptr(), 0) };
    if result == 0 { Ok(()) } else { Err(in_place("swapon")(io::Error::last_os_error())) }
}

/// The first page of a swap file (`include/linux/swap.h: union swap_header`): version 1 and the last page behind
/// 1,024 bytes for a boot loader, the magic word at the end.
fn swap_header(pages: u32) -> [u8; PAGE] {
    const BOOT_BITS: usize = 1024;
    const MAGIC: &[u8; 10] = b"SWAPSPACE2";
    let mut header = [0; PAGE];
    header[BOOT_BITS..BOOT_BITS + 4].copy_from_slice(&1u32.to_le_bytes());
    header[BOOT_BITS + 4..BOOT_BITS + 8].copy_from_slice(&(pages - 1).to_le_bytes());
    header[PAGE - MAGIC.len()..].copy_from_slice(MAGIC);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_mkswap() {
        let header = swap_header(0x1234);
        assert_eq!(header[1024..1032], [1, 0, 0, 0, 0x33, 0x12, 0, 0]);
        assert_eq!(&header[4086..], b"SWAPSPACE2");
        let rest = header.iter().enumerate().filter(|(at, _)| !(1024..1032).contains(at) && *at < 4086);
        assert!(rest.map(|(_, byte)| byte).all(|&byte| byte == 0));
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_modules() {
        assert_eq!(load_modules(Path::new("/nowhere")).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
    }
}
