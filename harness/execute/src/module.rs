//! Loading kernel modules of ours.

use std::ffi::c_long;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Loads a module from a file (`finit_module(2)`), without parameters.
///
/// # Errors
/// The file cannot be opened, or the kernel does not take it.
pub fn load_module(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the parameters are an empty C string; the kernel reads the file by its descriptor.
    let answer: c_long = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
