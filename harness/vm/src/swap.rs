//! For the guest: kernel modules, and a swap file in compressed memory (zram).
#![expect(unsafe_code, reason = "system calls that the standard library does not have")]

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{ModuleFile, load_kernel_module};

/// Where a guest's kernel modules lie, named so that they are loaded in the order of their names.
pub const MODULES_DIRECTORY: &str = "/modules";

/// The first zram device, which the driver makes when it is loaded.
const ZRAM: &str = "/sys/block/zram0";

/// Bytes in a page.
const PAGE: usize = 4096;

/// Loads the modules of a directory in the order of their names. One that the kernel has already is passed over.
///
/// # Errors
/// The directory cannot be read, or the kernel refused a module, which is named, with the kernel that it is for.
pub fn load_modules(directory: &Path) -> io::Result<()> {
    let mut modules: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    modules.sort();
    for module in modules {
        load_kernel_module(&module, c"").map_err(|error| {
            let parsed = fs::read(&module).ok().and_then(|content| ModuleFile::parse(&module, &content).ok());
            let built_for = parsed.map_or(String::new(), |parsed| format!(", built for {}", parsed.release()));
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            io::Error::new(error.kind(), format!("{name}{built_for}: {error}"))
        })?;
    }
    Ok(())
}

/// Whether the kernel has a zram device, built in or by a module that was loaded.
#[must_use]
pub fn has_zram() -> bool {
    Path::new(ZRAM).is_dir()
}

/// Gives `/dev/zram0` so many pages. A compressor that the kernel prefers and has not gives way to one that it has.
///
/// # Errors
/// What failed, and the kernel's reason.
pub fn prepare_zram(pages: u32) -> io::Result<()> {
    let size = (u64::from(pages) * PAGE as u64).to_string();
    let set_size = || fs::write(format!("{ZRAM}/disksize"), &size).map_err(in_place("the size of zram0"));
    let Err(first) = set_size() else { return Ok(()) };
    let algorithms = format!("{ZRAM}/comp_algorithm");
    let listed = fs::read_to_string(&algorithms).map_err(in_place("the compressors of zram0"))?;
    for name in other_algorithms(&listed) {
        if fs::write(&algorithms, name).is_ok() && set_size().is_ok() {
            return Ok(());
        }
    }
    Err(io::Error::new(first.kind(), format!("{first}, with each of its compressors ({})", listed.trim())))
}

/// The names of a list such as `lzo [lzo-rle] lz4`, without the one that is chosen.
fn other_algorithms(listed: &str) -> impl Iterator<Item = &str> {
    listed.split_whitespace().filter(|name| !name.starts_with('['))
}

/// Makes `/dev/zram0`, which was prepared, a swap file of so many pages and has the kernel use it. Pages are read one
/// at a time, none ahead of time.
///
/// # Errors
/// What failed, and the kernel's reason.
pub fn swap_on_zram(pages: u32) -> io::Result<()> {
    fs::write("/proc/sys/vm/page-cluster", "0").map_err(in_place("page-cluster"))?;
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

/// For `map_err`: an error with the place where it happened.
fn in_place(place: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{place}: {error}"))
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
    fn the_chosen_compressor_is_not_tried_again() {
        assert_eq!(other_algorithms("lzo [lzo-rle] lz4\n").collect::<Vec<_>>(), ["lzo", "lz4"]);
        assert_eq!(other_algorithms("[none]\n").count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_has_no_modules() {
        assert_eq!(load_modules(Path::new("/nowhere")).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
    }
}
