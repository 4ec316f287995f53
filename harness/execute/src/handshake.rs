//! The harness's side of the mailbox: a command goes in, the answer comes out.
//!
//! On one CPU with actors at real-time priority (see [`crate::nursery`]) a handshake costs two system calls
//! and two switches: `FUTEX_WAKE` lets the actor run at once; it answers, finds that the harness does not
//! sleep, and goes back to its own `FUTEX_WAIT`; when the harness's call returns, the answer is there.
//! Anywhere else the harness announces that it sleeps, and the actor wakes it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ptediff_reference_model::arena::{ARENA_PAGES, PAGE_SIZE};

use crate::area::{COPY_SOURCE_BYTES, MAILBOX_OFFSET, SHARED_BYTES};
use crate::error::{ExecuteError, WaitStatus};
use crate::mailbox::{Answer, Command, MAILBOX_BYTES, Mailbox, Slot, turn};
use crate::process;

/// How long the harness sleeps before it looks whether the actor is still alive.
const SLEEP: Duration = Duration::from_millis(5);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The process ended; it has been reaped.
    Ended(WaitStatus),
    /// It neither answered nor ended.
    TimedOut,
    /// Looking after it failed.
    Failed(io::Error),
}

/// The mailbox, mapped in the harness.
pub(crate) struct SharedMailbox {
    page: NonNull<Mailbox>,
}

impl SharedMailbox {
    /// Makes the shared memory and maps its mailbox page. The file is to be inherited by the nursery.
    pub(crate) fn create() -> Result<(Self, File), ExecuteError> {
        let failed = |doing| ExecuteError::Harness { doing, source: io::Error::last_os_error() };
        // SAFETY: the name is a C string; without MFD_CLOEXEC the nursery inherits the descriptor.
        let descriptor = unsafe { libc::memfd_create(c"ptediff-mailbox".as_ptr(), 0) };
        if descriptor < 0 {
            return Err(failed("memfd_create for the mailbox"));
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(descriptor) };
        file.set_len(SHARED_BYTES).map_err(|source| ExecuteError::Harness { doing: "sizing the mailbox", source })?;
        // SAFETY: a new shared mapping wherever the kernel likes.
        let page = unsafe {
            libc::mmap(
                ptr::null_mut(),
                (MAILBOX_BYTES + COPY_SOURCE_BYTES) as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                file.as_raw_fd(),
                MAILBOX_OFFSET as i64,
            )
        };
        match NonNull::new(page.cast()) {
            Some(mapped) if page != libc::MAP_FAILED => Ok((Self { page: mapped }, file)),
            _ => Err(failed("mapping the mailbox")),
        }
    }

    fn slot(&self, slot: usize) -> *mut Slot {
        // SAFETY: the mapping lives as long as self and a Mailbox fits in it; indexing checks the bound.
        unsafe { &raw mut (*self.page.as_ptr()).slots[slot] }
    }

    /// Where the turn of this slot stands.
    fn turn(&self, slot: usize) -> &AtomicU32 {
        // SAFETY: the slot is valid as long as self, and all sides access the word atomically.
        unsafe { &(*self.slot(slot)).turn }
    }

    /// Writes to the scratch room. No actor may be at work on it.
    pub(crate) fn write_scratch(&self, words: [u64; 8]) {
        // SAFETY: the page is mapped; the only reader is the kernel, on behalf of a later command.
        unsafe { (&raw mut (*self.page.as_ptr()).scratch).write_volatile(words) }
    }

    /// Reads the scratch room. No actor may be at work on it.
    pub(crate) fn read_scratch(&self) -> [u64; 8] {
        // SAFETY: the page is mapped; what a command wrote there was written before its answer was taken.
        unsafe { (&raw const (*self.page.as_ptr()).scratch).read_volatile() }
    }

    /// Whether the slot's answer is there.
    pub(crate) fn is_answered(&self, slot: usize) -> bool {
        self.turn(slot).load(Ordering::Acquire) == turn::ANSWERED
    }

    /// Writes the first word of the page at this place among those that UFFDIO_COPY copies from. No actor may be
    /// at work on it.
    pub(crate) fn write_copy_source(&self, place: usize, word: u64) {
        assert!(place < ARENA_PAGES, "there are as many pages to copy from as the arena has");
        // SAFETY: the pages behind the mailbox's are mapped with it, and `place` is one of them; the only reader is
        // the kernel, on behalf of a later command.
        unsafe {
            let page = self.page.as_ptr().cast::<u8>().add(MAILBOX_BYTES as usize + place * PAGE_SIZE as usize);
            page.cast::<u64>().write_volatile(word);
        }
    }

    /// Empties a slot for a process that is about to start; its first answer says that it runs.
    pub(crate) fn expect_process(&self, slot: usize) {
        // SAFETY: no process uses the slot now, so that nothing races with this write.
        unsafe { (&raw mut (*self.slot(slot)).answer).write_volatile(Answer::default()) };
        self.turn(slot).store(turn::COMMANDED, Ordering::Release);
    }

    /// Hands over a command and lets the actor run.
    pub(crate) fn send(&self, slot: usize, command: Command) -> Result<(), ExecuteError> {
        let place = self.slot(slot);
        // SAFETY: it is the harness's turn, so the actor neither reads nor writes these fields.
        unsafe {
            (&raw mut (*place).command).write_volatile(command);
            (&raw mut (*place).answer).write_volatile(Answer::default());
        }
        self.turn(slot).store(turn::COMMANDED, Ordering::Release);
        // SAFETY: FUTEX_WAKE reads no memory but the word's address.
        let woken = unsafe { libc::syscall(libc::SYS_futex, self.turn(slot).as_ptr(), libc::FUTEX_WAKE, 1) };
        if woken < 0 {
            return Err(ExecuteError::Harness { doing: "waking an actor", source: io::Error::last_os_error() });
        }
        Ok(())
    }

    /// Empties this CPU's batches of pages that wait for their LRU list, with the references that they hold:
    /// `faultin_page_range` ends with `lru_add_drain`, whatever it faults in.
    pub(crate) fn drain_page_batches(&self) -> io::Result<()> {
        let (page, bytes) = (self.page.as_ptr().cast(), MAILBOX_BYTES as usize);
        // SAFETY: the mailbox's page is mapped readable; populating it changes no memory.
        let failed = unsafe { libc::madvise(page, bytes, libc::MADV_POPULATE_READ) } != 0;
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for the answer of the process `pid` in this slot.
    pub(crate) fn receive(&self, slot: usize, pid: u32, timeout: Duration) -> Result<Answer, NoAnswer> {
        if self.turn(slot).load(Ordering::Acquire) != turn::ANSWERED {
            self.sleep_until_answered(slot, pid, timeout)?;
        }
        // SAFETY: the acquired ANSWERED says that the actor wrote its answer and will not touch it again.
        Ok(unsafe { (&raw const (*self.slot(slot)).answer).read_volatile() })
    }

    fn sleep_until_answered(&self, slot: usize, pid: u32, timeout: Duration) -> Result<(), NoAnswer> {
        let deadline = Instant::now() + timeout;
        let word = self.turn(slot);
        // On one CPU, where actors go before the harness, an actor that has not answered has died.
        if let Some(status) = process::reap_if_ended(pid).map_err(NoAnswer::Failed)? {
            return Err(NoAnswer::Ended(status));
        }
        let sleep = libc::timespec { tv_sec: 0, tv_nsec: SLEEP.as_nanos() as i64 };
        loop {
            let before = word.compare_exchange(turn::COMMANDED, turn::AWAITED, Ordering::AcqRel, Ordering::Acquire);
            if before == Err(turn::ANSWERED) {
                return Ok(());
            }
            // SAFETY: the word and the timeout outlive the call.
            unsafe {
                libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, turn::AWAITED, &raw const sleep);
            }
            if word.load(Ordering::Acquire) == turn::ANSWERED {
                return Ok(());
            }
            if let Some(status) = process::reap_if_ended(pid).map_err(NoAnswer::Failed)? {
                return Err(NoAnswer::Ended(status));
            }
            if Instant::now() >= deadline {
                return Err(NoAnswer::TimedOut);
            }
        }
    }
}

impl Drop for SharedMailbox {
    fn drop(&mut self) {
        // SAFETY: the page was mapped by `create` and no reference into it outlives self.
        unsafe { libc::munmap(self.page.as_ptr().cast(), MAILBOX_BYTES as usize) };
    }
}
