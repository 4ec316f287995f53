//! One thread writes while another takes the right to write away, over the same pages, on two CPUs.
//!
//! The region is 512 pages, a whole page table, that of the arena. A round begins with every entry writable and
//! clean (`MADV_FREE` clears Dirty in place), so that the writer's stores make the CPU set Dirty while the kernel
//! write-protects: by fork, mprotect, userfaultfd, clearing of soft-dirty, or a planted module. Every store has a value
//! of its own and is recorded once it is done. When the writer rests, contents are compared; the caller looks at the
//! entries.
//!
//! This is no actor and knows no program: the actors of campaigns share one CPU, and this needs two.

mod memory;
mod protector;
mod writer;

use std::fs::File;
use std::hint::spin_loop;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::JoinHandle;

use crate::error::ExecuteError;

use memory::{Region, Shared};
use protector::Userfault;
pub use protector::{Planted, Protector};

/// Pages of the region.
pub const STORM_PAGES: usize = 512;

/// How the writer goes over the pages in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Once, so that what a write left in its entry stays to be looked at.
    OnePass,
    /// Again and again, as fast as it can, until the kernel is done.
    Continuous,
}

/// A page that does not hold what was written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongContents {
    /// Which page.
    pub page: usize,
    /// The value of the last store that was done.
    pub written: u64,
    /// What is there.
    pub found: u64,
}

/// What a round came to. The writer rests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// Pages that were written since their entries were clean: these must be dirty.
    pub written: Vec<bool>,
    /// Stores that were done.
    pub stores: u64,
    /// Pages that do not hold what was written last.
    pub wrong_contents: Vec<WrongContents>,
    /// The child saw a page change that is its own: a store went through the parent's stale translation.
    pub child_saw_a_store: bool,
    /// Pages written after soft-dirty was cleared, without it.
    pub without_soft_dirty: Vec<usize>,
    /// Stores that waited for userfaultfd.
    pub messages: u64,
    /// Stores that a read-only mapping refused, and that were made again.
    pub refused: u64,
    /// Entries that the planted module write-protected.
    pub planted: u64,
}

/// The threads, the region and what they share.
#[derive(Debug)]
pub struct Storm {
    region: Region,
    shared: &'static Shared,
    writer: Option<JoinHandle<()>>,
    userfault: Userfault,
    pagemap: File,
    round: u32,
    /// Ticks that each way of protecting took at least.
    durations: [u64; Protector::KINDS],
}

impl Storm {
    /// Maps the region, registers it for write-protection with userfaultfd, and starts the writer on the second of the
    /// machine's CPUs; the calling thread, and what it forks, stays on the first.
    ///
    /// `begun` is a counter that changes when a protecting function has begun its work on the region: the writer of one
    /// pass waits for that.
    ///
    /// # Errors
    /// A system call failed, or there is one CPU only.
    pub fn start(begun: &'static AtomicU64) -> Result<Self, ExecuteError> {
        memory::stay_on_cpu(0).map_err(failed("staying on the first CPU"))?;
        let region = Region::map().map_err(failed("mapping the region"))?;
        let shared = Shared::map().map_err(failed("mapping what the threads share"))?;
        region.fill();
        let userfault = Userfault::register(&region).map_err(failed("registering the region with userfaultfd"))?;
        writer::handle_refusals().map_err(failed("handling SIGSEGV"))?;
        let pagemap = File::open("/proc/self/pagemap").map_err(failed("opening pagemap"))?;
        let writer = writer::start(region, shared, begun).map_err(failed("starting the writer on the second CPU"))?;
        let durations = [1 << 24; Protector::KINDS];
        Ok(Self { region, shared, writer: Some(writer), userfault, pagemap, round: 0, durations })
    }

    /// One round. `dice` is any number: it moves the writer's stores against the kernel's work.
    ///
    /// # Errors
    /// A system call failed.
    pub fn round(&mut self, protector: Protector, manner: Manner, dice: u64) -> Result<Round, ExecuteError> {
        // Every entry writable and dirty, then clean.
        self.region.touch();
        self.region.advise(libc::MADV_FREE).map_err(failed("MADV_FREE"))?;
        let refused_before = self.shared.refused.load(SeqCst);
        let stores_before = self.shared.stores.load(SeqCst);
        let begun = self.shared.epoch.fetch_add(1, SeqCst) + 1;

        // The kernel's loop over the entries is a small part of a system call; of the planted module's work it is all.
        let is_planted = matches!(protector, Protector::Planted(_));
        let ticks = self.durations[protector.kind()] / if is_planted { 1 } else { 16 };
        let pass = ticks / 8 + (dice >> 16) % (ticks + 1);
        let is_one_pass = manner == Manner::OnePass;
        self.shared.waits_for_kernel.store(u32::from(is_one_pass && !is_planted), SeqCst);
        self.shared.delay.store(if is_one_pass { ((dice & 0xffff) * ticks) >> 16 } else { 0 }, SeqCst);
        self.shared.pace.store(if is_one_pass { pass / STORM_PAGES as u64 } else { 0 }, SeqCst);
        self.shared.is_continuous.store(u32::from(manner == Manner::Continuous), SeqCst);
        self.shared.should_rest.store(0, SeqCst);
        self.round += 1;
        let start = memory::ticks();
        self.shared.round.store(self.round, SeqCst);

        let done = protector.protect(&self.region, self.shared, &self.userfault, self.round);
        let after = self.shared.epoch.fetch_add(1, SeqCst) + 1;
        // The shortest: where the host has other things to do, longer ones say nothing of the kernel's work.
        let shortest = &mut self.durations[protector.kind()];
        *shortest = (*shortest).min(memory::ticks() - start);
        self.shared.should_rest.store(1, SeqCst);
        let messages = self.wait_for_the_writer().map_err(failed("waking the writer"))?;
        let done = done.map_err(failed(protector.name()))?;

        let values: Vec<u64> = self.shared.written.iter().map(|written| written.load(SeqCst)).collect();
        let epoch_of = |value: u64| (value >> 32) as u32;
        let without_soft_dirty = match protector {
            Protector::ClearSoftDirty => {
                let flags = self.pagemap_entries().map_err(failed("reading pagemap"))?;
                (0..STORM_PAGES).filter(|&page| epoch_of(values[page]) >= after && flags[page] >> 55 & 1 == 0).collect()
            }
            _ => Vec::new(),
        };
        Ok(Round {
            written: values.iter().map(|&value| epoch_of(value) >= begun).collect(),
            stores: self.shared.stores.load(SeqCst) - stores_before,
            wrong_contents: self.wrong_contents(),
            child_saw_a_store: done.child_saw_a_store,
            without_soft_dirty,
            messages: messages + done.messages,
            refused: self.shared.refused.load(SeqCst) - refused_before,
            planted: done.planted,
        })
    }

    /// Asks the kernel to reclaim the region (`MADV_PAGEOUT`), as it may at any time: what is clean in a page that
    /// was given up is dropped, the rest is swapped out or stays. Returns how many pages went, and what the
    /// contents are when they are read again.
    ///
    /// # Errors
    /// A system call failed.
    pub fn reclaim(&mut self) -> Result<(usize, Vec<WrongContents>), ExecuteError> {
        // The first time a page that was given up is found to be dirty, and taken back; the second time it is swapped.
        for _ in 0..2 {
            self.region.advise(libc::MADV_PAGEOUT).map_err(failed("MADV_PAGEOUT"))?;
        }
        let flags = self.pagemap_entries().map_err(failed("reading pagemap"))?;
        let gone = flags.iter().filter(|&flags| flags >> 63 == 0).count();
        Ok((gone, self.wrong_contents()))
    }

    fn wrong_contents(&self) -> Vec<WrongContents> {
        (0..STORM_PAGES)
            .map(|page| WrongContents {
                page,
                written: self.shared.written[page].load(SeqCst),
                found: self.region.read(page),
            })
            .filter(|contents| contents.written != contents.found)
            .collect()
    }

    /// Waits until the writer has ended its round. A store may still wait for userfaultfd: one that met the
    /// protection and went to sleep after it was taken back (`fs/userfaultfd.c: userfaultfd_must_wait` sleeps on any
    /// entry without Write). Whoever sends a message is woken.
    fn wait_for_the_writer(&self) -> io::Result<u64> {
        let mut messages = 0;
        while self.shared.finished.load(SeqCst) != self.round {
            let new = self.userfault.read_messages();
            if new > 0 {
                messages += new;
                self.userfault.wake()?;
            }
            spin_loop();
        }
        Ok(messages + self.userfault.read_messages())
    }

    fn pagemap_entries(&self) -> io::Result<Vec<u64>> {
        let mut bytes = [0; 8 * STORM_PAGES];
        self.pagemap.read_exact_at(&mut bytes, Region::BASE as u64 / 4096 * 8)?;
        let words = bytes.as_chunks::<8>().0;
        Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.shared.round.store(Shared::END, SeqCst);
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            eprintln!("the writer panicked");
        }
    }
}

/// For `map_err` of system calls.
fn failed(doing: &'static str) -> impl FnOnce(io::Error) -> ExecuteError {
    move |source| ExecuteError::Harness { doing, source }
}
