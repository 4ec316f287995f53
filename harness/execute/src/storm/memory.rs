//! The region that is written, what the threads share, and the CPUs they run on.

use std::io;
use std::mem;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use ptediff_reference_model::arena::ARENA_BASE;

use super::STORM_PAGES;

/// Bytes of a page.
const PAGE: usize = 4096;

/// The pages that are written: a private anonymous mapping at a fixed address. A copy of it is another name for the
/// same pages; they are unmapped with the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region;

impl Region {
    /// Its address, at which a page table begins.
    pub(super) const BASE: usize = ARENA_BASE as usize;
    /// Its size.
    pub(super) const BYTES: usize = STORM_PAGES * PAGE;

    /// Maps it, where nothing else may be.
    pub(super) fn map() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: a new mapping at an address where, by MAP_FIXED_NOREPLACE, nothing is.
        let mapped =
            unsafe { libc::mmap(Self::BASE as *mut _, Self::BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self) }
    }

    fn word(page: usize) -> *mut u64 {
        assert!(page < STORM_PAGES);
        (Self::BASE + page * PAGE) as *mut u64
    }

    /// The first word of a page.
    pub(super) fn read(self, page: usize) -> u64 {
        // SAFETY: the page is mapped readable as long as the process lives; a word of it is read whole.
        unsafe { Self::word(page).read_volatile() }
    }

    /// Stores to the first word of a page. Where the mapping is read-only just now, the signal handler makes the
    /// store wait.
    pub(super) fn write(self, page: usize, value: u64) {
        // SAFETY: the page is mapped as long as the process lives, and nobody takes a reference to it.
        unsafe { Self::word(page).write_volatile(value) };
    }

    /// Gives every page a frame.
    pub(super) fn fill(self) {
        for page in 0..STORM_PAGES {
            self.write(page, 0);
        }
    }

    /// Stores to every page what is there, so that every entry is writable and dirty.
    pub(super) fn touch(self) {
        for page in 0..STORM_PAGES {
            self.write(page, self.read(page));
        }
    }

    /// `madvise` on all of it.
    pub(super) fn advise(self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the advice given here gives up no contents that were written since.
        answer(unsafe { libc::madvise(Self::BASE as *mut _, Self::BYTES, advice) })
    }

    /// `mprotect` of all of it.
    pub(super) fn protect(self, protection: libc::c_int) -> io::Result<()> {
        // SAFETY: the region stays mapped and readable; stores that are refused are made again.
        answer(unsafe { libc::mprotect(Self::BASE as *mut _, Self::BYTES, protection) })
    }
}

/// What the threads, and a child, share. Shared memory, so that a fork copies nothing of it. Zero is a value of all.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Shared {
    /// The round that the writer is to do, or [`Shared::END`].
    pub(super) round: AtomicU32,
    /// The round that it has done.
    pub(super) finished: AtomicU32,
    /// Counted up when entries were made clean, and when the kernel is done with them.
    pub(super) epoch: AtomicU32,
    /// Not 0: the writer goes over the pages until it should rest.
    pub(super) is_continuous: AtomicU32,
    /// Not 0: it begins when the kernel has begun, or is done.
    pub(super) waits_for_kernel: AtomicU32,
    /// Not 0: it may rest after this pass.
    pub(super) should_rest: AtomicU32,
    /// Ticks before its first store.
    pub(super) delay: AtomicU64,
    /// Ticks from store to store.
    pub(super) pace: AtomicU64,
    /// Stores that were done.
    pub(super) stores: AtomicU64,
    /// Stores that a read-only mapping refused.
    pub(super) refused: AtomicU64,
    /// By page: the value of the last store that was done, with the epoch before it in the upper half.
    pub(super) written: [AtomicU64; STORM_PAGES],
}

impl Shared {
    /// The round that ends the writer.
    pub(super) const END: u32 = u32::MAX;

    /// Maps it, for as long as the process lives.
    pub(super) fn map() -> io::Result<&'static Self> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>().next_multiple_of(PAGE),
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        match NonNull::new(mapped.cast::<Self>()) {
            // SAFETY: the mapping is zeroed, large enough, aligned to a page and never unmapped; it is all atomics.
            Some(shared) if mapped != libc::MAP_FAILED => Ok(unsafe { shared.as_ref() }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The time-stamp counter.
pub(super) fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction, and Linux lets user space use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Keeps the calling thread on one CPU.
pub(super) fn stay_on_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: the set is plain bits, for which all zeroes is a value, and the number is below the number of bits.
    let set = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: the set lives through the call and has that size.
    answer(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) })
}

/// The error that a system call left, if it says that there is one.
pub(super) fn answer(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
