//! For the guest: kernel modules of ours.
#![expect(unsafe_code, reason = "a system call that the standard library does not have")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Loads a kernel module from a file that is not compressed. One that is loaded already counts as loaded.
///
/// # Errors
/// The file cannot be read, or the kernel refuses the module, for reasons that its log tells.
pub fn load_kernel_module(path: &Path, parameters: &CStr) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the parameters end in a zero and live through the call, as the open file does.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        error => Err(error),
    }
}
