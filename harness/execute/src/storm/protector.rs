//! The ways in which the kernel takes the right to write away.

use std::fs::OpenOptions;
use std::hint::spin_loop;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering::SeqCst;

use super::STORM_PAGES;
use super::memory::{Region, Shared, answer, ticks};

/// A way to write-protect the whole region, and to give the right back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protector {
    /// A fork; the child looks at its pages, twice, and exits.
    Fork,
    /// mprotect to read-only and back.
    Protect,
    /// `UFFDIO_WRITEPROTECT`, and resolved.
    Userfault,
    /// Soft-dirty bits are cleared.
    ClearSoftDirty,
    /// The planted module.
    Planted(Planted),
}

/// What the planted module is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planted {
    /// It moves Dirty to SavedDirty, as the kernel does; else Dirty stays where it is.
    pub moves_dirty: bool,
    /// Loops that it waits between reading an entry and storing it.
    pub delay: u32,
}

/// The file through which the planted module is asked.
const PLANTED_FILE: &str = "/proc/ptediff-nonatomic-wrprotect";

/// Ticks for which a protection stands before it is taken back.
const STANDS: u64 = 20_000;

/// What came of it besides.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) child_saw_a_store: bool,
    pub(super) messages: u64,
    pub(super) planted: u64,
}

impl Protector {
    /// Kinds that there are.
    pub(super) const KINDS: usize = 5;

    /// The kinds that every kernel has.
    pub const OF_THE_KERNEL: [Self; 4] = [Self::Fork, Self::Protect, Self::Userfault, Self::ClearSoftDirty];

    /// Number of its kind.
    #[must_use]
    pub fn kind(self) -> usize {
        match self {
            Self::Fork => 0,
            Self::Protect => 1,
            Self::Userfault => 2,
            Self::ClearSoftDirty => 3,
            Self::Planted(_) => 4,
        }
    }

    /// What it does, for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Protect => "mprotect",
            Self::Userfault => "userfaultfd write-protection",
            Self::ClearSoftDirty => "clearing soft-dirty",
            Self::Planted(_) => "the planted module",
        }
    }

    pub(super) fn protect(
        self,
        region: &Region,
        shared: &Shared,
        userfault: &Userfault,
        round: u32,
    ) -> io::Result<Done> {
        let mut done = Done::default();
        match self {
            Self::Fork => done.child_saw_a_store = fork(*region, shared, round)?,
            Self::Protect => {
                region.protect(libc::PROT_READ)?;
                stand();
                region.protect(libc::PROT_READ | libc::PROT_WRITE)?;
            }
            Self::Userfault => {
                userfault.write_protect(true)?;
                stand();
                done.messages = userfault.read_messages();
                userfault.write_protect(false)?;
            }
            Self::ClearSoftDirty => std::fs::write("/proc/self/clear_refs", "4")?,
            Self::Planted(planted) => {
                let text = format!(
                    "{:#x} {} {} {}\n",
                    Region::BASE,
                    STORM_PAGES,
                    u32::from(planted.moves_dirty),
                    planted.delay
                );
                OpenOptions::new().write(true).open(PLANTED_FILE)?.write_all(text.as_bytes())?;
                done.planted = STORM_PAGES as u64;
            }
        }
        Ok(done)
    }
}

fn stand() {
    let until = ticks() + STANDS;
    while ticks() < until {
        spin_loop();
    }
}

/// Exit status of a child that saw one of its pages change.
const CHANGED: libc::c_int = 3;

/// Forks. The child adds up its pages when it begins to run and again when the writer is done, or a while later.
/// Returns whether it saw a page change.
fn fork(region: Region, shared: &Shared, round: u32) -> io::Result<bool> {
    // SAFETY: the child makes no call but `_exit`, and touches the region and shared memory only.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let sum = || (0..STORM_PAGES).fold(0u64, |sum, page| sum.rotate_left(7) ^ region.read(page));
            let first = sum();
            let until = ticks() + 64 * STANDS;
            while shared.finished.load(SeqCst) != round && ticks() < until {
                spin_loop();
            }
            let status = if sum() == first { 0 } else { CHANGED };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) }
        }
        child => {
            let mut status = 0;
            // SAFETY: the status is a plain integer that lives through the call.
            let reaped = unsafe { libc::waitpid(child, &raw mut status, 0) };
            if reaped != child {
                return Err(io::Error::last_os_error());
            }
            match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
                (true, 0) => Ok(false),
                (true, CHANGED) => Ok(true),
                _ => Err(io::Error::other(format!("the child ended with wait status {status:#x}"))),
            }
        }
    }
}

/// The region's registration for write-protection.
#[derive(Debug)]
pub(super) struct Userfault {
    descriptor: OwnedFd,
}

const UFFD_API: u64 = 0xaa;
/// `UFFD_FEATURE_PAGEFAULT_FLAG_WP`.
const FEATURE_WRITE_PROTECT: u64 = 1;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_WAKE: libc::c_ulong = 0x8010_aa02;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;
/// `UFFDIO_REGISTER_MODE_WP`.
const MODE_WRITE_PROTECT: u64 = 2;
const MESSAGE_BYTES: usize = 32;

impl Userfault {
    /// Opens a userfaultfd and registers the region.
    pub(super) fn register(_region: &Region) -> io::Result<Self> {
        // SAFETY: makes a new descriptor.
        let number = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let descriptor = unsafe { OwnedFd::from_raw_fd(number as libc::c_int) };
        let userfault = Self { descriptor };
        userfault.ioctl(UFFDIO_API, &mut [UFFD_API, FEATURE_WRITE_PROTECT, 0])?;
        let (base, bytes) = (Region::BASE as u64, Region::BYTES as u64);
        userfault.ioctl(UFFDIO_REGISTER, &mut [base, bytes, MODE_WRITE_PROTECT, 0])?;
        Ok(userfault)
    }

    /// Write-protects the region, or takes that back and wakes who waits.
    fn write_protect(&self, protect: bool) -> io::Result<()> {
        self.ioctl(UFFDIO_WRITEPROTECT, &mut [Region::BASE as u64, Region::BYTES as u64, u64::from(protect)])
    }

    /// Wakes who waits.
    pub(super) fn wake(&self) -> io::Result<()> {
        self.ioctl(UFFDIO_WAKE, &mut [Region::BASE as u64, Region::BYTES as u64])
    }

    /// Reads what messages there are.
    pub(super) fn read_messages(&self) -> u64 {
        let mut buffer = [0u8; 16 * MESSAGE_BYTES];
        // SAFETY: the buffer is plain bytes of that length; the descriptor does not block.
        let read = unsafe { libc::read(self.descriptor.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        u64::try_from(read).unwrap_or(0) / MESSAGE_BYTES as u64
    }

    fn ioctl<const WORDS: usize>(&self, request: libc::c_ulong, words: &mut [u64; WORDS]) -> io::Result<()> {
        // SAFETY: the request's number says the size of its structure, which is that of `words`.
        answer(unsafe { libc::ioctl(self.descriptor.as_raw_fd(), request, words.as_mut_ptr()) })
    }
}
