//! The guest's side: what an init process needs inside a machine of ours. But for [`is_init`], nothing here may
//! be called on the host: it mounts, takes I/O ports and powers the machine off.

#![expect(
    unsafe_code,
    reason = "port I/O, mount and reboot are system calls and instructions without a safe interface"
)]

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::path::Path;

/// The data channel.
const DATA_PORT: u16 = 0xe9;
/// Bochs powers off when the word below arrives here; QEMU has nothing at this port and ignores it.
const BOCHS_POWER_PORT: u16 = 0x8900;
const BOCHS_POWER_WORD: &[u8] = b"Shutdown";
/// Stands on the command line of every machine's kernel.
pub(crate) const MACHINE_WORD: &str = "ptediff.vm=1";
/// All I/O ports for the calling thread, see `iopl(2)`.
const ALL_PORTS: libc::c_int = 3;

/// The data channel: what is written here comes out of [`crate::Running::read`] on the host. Bound to the
/// thread that opened it (and the processes that this thread forks), as the permission for the port is.
#[derive(Debug)]
pub struct E9Port {
    not_send: PhantomData<*const ()>,
}

impl E9Port {
    /// Gets the permission for the port.
    ///
    /// # Errors
    /// The kernel refuses: not root, or built without `CONFIG_X86_IOPL_IOPERM`.
    pub fn open() -> io::Result<Self> {
        allow_ports()?;
        Ok(Self { not_send: PhantomData })
    }
}

impl io::Write for E9Port {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_port(DATA_PORT, bytes);
        Ok(bytes.len())
    }

    /// The port has no buffer.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Powers the machine off; works in Bochs, and where the kernel knows ACPI.
///
/// # Errors
/// Only if it did not work.
pub fn power_off() -> io::Result<std::convert::Infallible> {
    allow_ports()?;
    write_port(BOCHS_POWER_PORT, BOCHS_POWER_WORD);
    reboot(libc::RB_POWER_OFF)
}

/// Makes the CPU take a triple fault, by the kernel's emergency restart (`drivers/tty/sysrq.c: sysrq_handle_reboot`),
/// which under `reboot=t` says nothing and does just that. /proc must be mounted.
///
/// # Errors
/// Only if it did not work.
pub fn triple_fault() -> io::Result<std::convert::Infallible> {
    std::fs::write("/proc/sysrq-trigger", "b")?;
    Err(io::Error::other("the kernel did not restart"))
}

/// Resets the machine in an orderly way, which ends it: the kernel says on the console that it restarts.
///
/// # Errors
/// Only if it did not work.
pub fn reset() -> io::Result<std::convert::Infallible> {
    reboot(libc::RB_AUTOBOOT)
}

/// Whether this process is the init of a machine of ours: process 1 of a system that has no /proc yet, or one
/// whose kernel was given the word `ptediff.vm=1`. (Process 1 of a container is neither.)
#[must_use]
pub fn is_init() -> bool {
    std::process::id() == 1 && kernel_command_line().map_or(true, |words| words.iter().any(|word| word == MACHINE_WORD))
}

/// The words of the kernel's command line; /proc must be mounted.
///
/// # Errors
/// /proc/cmdline cannot be read.
pub fn kernel_command_line() -> io::Result<Vec<String>> {
    let line = std::fs::read_to_string("/proc/cmdline")?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

/// Mounts what programs expect: /proc, /sys, /sys/kernel/debug, /sys/kernel/tracing, /sys/fs/bpf, /dev, /tmp.
/// What is mounted already stays; a file system that this kernel does not have is left out if it is one of
/// debugfs, tracefs and bpf, which are returned by name.
///
/// # Errors
/// The path and the kernel's reason.
pub fn mount_file_systems() -> io::Result<Vec<&'static str>> {
    const REQUIRED: bool = true;
    let table = [
        ("proc", "/proc", REQUIRED),
        ("sysfs", "/sys", REQUIRED),
        ("devtmpfs", "/dev", REQUIRED),
        ("tmpfs", "/tmp", REQUIRED),
        ("debugfs", "/sys/kernel/debug", !REQUIRED),
        ("tracefs", "/sys/kernel/tracing", !REQUIRED),
        ("bpf", "/sys/fs/bpf", !REQUIRED),
    ];
    let mut left_out = Vec::new();
    for (kind, place, required) in table {
        if required {
            std::fs::create_dir_all(place).map_err(|error| in_place(place, &error))?;
        } else if !Path::new(place).is_dir() {
            left_out.push(kind);
            continue;
        }
        // What the initramfs brought to /tmp is not to be hidden; the root file system is a tmpfs, too.
        if kind == "tmpfs" && std::fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_some()) {
            continue;
        }
        match mount(kind, place) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) if !required && error.raw_os_error() == Some(libc::ENODEV) => left_out.push(kind),
            Err(error) => return Err(in_place(place, &error)),
        }
    }
    Ok(left_out)
}

fn in_place(place: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("mount {place}: {error}"))
}

fn mount(kind: &str, place: &str) -> io::Result<()> {
    let kind = CString::new(kind)?;
    let place = CString::new(place)?;
    // SAFETY: the three strings end in a zero and live through the call; no data are passed.
    let result = unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn reboot(command: libc::c_int) -> io::Result<std::convert::Infallible> {
    // SAFETY: neither call touches this process's memory; what is unwritten is written first.
    unsafe {
        libc::sync();
        libc::reboot(command);
    }
    Err(io::Error::last_os_error())
}

fn allow_ports() -> io::Result<()> {
    // SAFETY: the call changes only which instructions this thread may execute.
    if unsafe { libc::iopl(ALL_PORTS) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes bytes to a port, one after the other. The caller has got the permission by [`allow_ports`]; without
/// it the processor refuses the instruction and the process dies.
fn write_port(port: u16, bytes: &[u8]) {
    // SAFETY: the instruction reads `bytes.len()` bytes upwards from `bytes` (the direction flag is clear on
    // entry to asm, by the ABI) and writes no memory.
    unsafe {
        std::arch::asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(nostack, preserves_flags, readonly),
        );
    }
}
