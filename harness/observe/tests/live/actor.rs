//! Actors of the test: forked processes that carry out one operation on their arena when told to.

use std::io;
use std::os::fd::RawFd;
use std::ptr;

use ptediff_reference_model::arena::{ACTORS, ARENA_BASE, PAGE_SIZE};

/// What an actor can be told. Two more bytes follow: first page and number of pages, or for
/// [`Order::Fork`] the number of the new actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Order {
    Map,
    Unmap,
    Write,
    Read,
    ProtectNone,
    ProtectRead,
    ProtectReadWrite,
    MapShadowStack,
    Fork,
    Exit,
}

const ORDERS: [Order; 10] = [
    Order::Map,
    Order::Unmap,
    Order::Write,
    Order::Read,
    Order::ProtectNone,
    Order::ProtectRead,
    Order::ProtectReadWrite,
    Order::MapShadowStack,
    Order::Fork,
    Order::Exit,
];

/// Reading and writing end of a pipe.
type Pipe = [RawFd; 2];

/// The pipes of all possible actors; made before the first fork, so that every actor has them.
pub(crate) struct Channels {
    orders: [Pipe; ACTORS],
    answers: [Pipe; ACTORS],
}

impl Channels {
    pub(crate) fn make() -> io::Result<Self> {
        let mut channels = Self { orders: [[0; 2]; ACTORS], answers: [[0; 2]; ACTORS] };
        for pipe in channels.orders.iter_mut().chain(&mut channels.answers) {
            // SAFETY: `pipe` has room for two descriptors.
            if unsafe { libc::pipe(pipe.as_mut_ptr()) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(channels)
    }

    /// Forks the first actor.
    pub(crate) fn fork_first(&self) -> io::Result<()> {
        // SAFETY: the test's init has one thread; the child runs `obey` and never returns.
        match unsafe { libc::fork() } {
            0 => self.obey(0),
            -1 => Err(io::Error::last_os_error()),
            _ => self.answer(0).map(drop),
        }
    }

    /// Has an actor carry out an order and waits until it sleeps again. Returns 0, or the errno.
    pub(crate) fn tell(&self, actor: usize, order: Order, first: u8, pages: u8) -> io::Result<u8> {
        let bytes = [order as u8, first, pages];
        // SAFETY: the descriptor is open and the buffer has that length.
        let written = unsafe { libc::write(self.orders[actor][1], bytes.as_ptr().cast(), bytes.len()) };
        if written != bytes.len() as isize {
            return Err(io::Error::last_os_error());
        }
        if order == Order::Exit {
            return Ok(0);
        }
        if order == Order::Fork {
            // The child reports first that it sleeps, or the parent at once that it failed.
            let answer = self.answer(actor)?;
            if answer == 0 {
                self.answer(usize::from(first))?;
            }
            return Ok(answer);
        }
        self.answer(actor)
    }

    fn answer(&self, actor: usize) -> io::Result<u8> {
        let mut byte = [0u8];
        // SAFETY: the descriptor is open and the buffer has that length.
        match unsafe { libc::read(self.answers[actor][0], byte.as_mut_ptr().cast(), 1) } {
            1 => Ok(byte[0]),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// An actor's life.
    fn obey(&self, actor: usize) -> ! {
        // Only a machine that is powered off ends them otherwise.
        // SAFETY: the call touches no memory.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        self.report(actor, 0);
        loop {
            let mut bytes = [0u8; 3];
            // SAFETY: the descriptor is open and the buffer has that length.
            let read = unsafe { libc::read(self.orders[actor][0], bytes.as_mut_ptr().cast(), bytes.len()) };
            let order = ORDERS.get(usize::from(bytes[0]));
            let (3, Some(&order)) = (read, order) else {
                // SAFETY: ends this process.
                unsafe { libc::_exit(99) }
            };
            if order == Order::Fork {
                // SAFETY: as in `fork_first`; the child goes on obeying, as another actor.
                match unsafe { libc::fork() } {
                    0 => self.obey(usize::from(bytes[1])),
                    -1 => self.report(actor, 255),
                    _ => self.report(actor, 0),
                }
            } else {
                let answer = carry_out(order, usize::from(bytes[1]), usize::from(bytes[2]));
                self.report(actor, answer);
            }
        }
    }

    fn report(&self, actor: usize, answer: u8) {
        // SAFETY: the descriptor is open and the buffer has that length.
        unsafe { libc::write(self.answers[actor][1], [answer].as_ptr().cast(), 1) };
    }
}

/// Carries out an order on this process's arena. Returns 0, or the errno.
fn carry_out(order: Order, first: usize, pages: usize) -> u8 {
    let page = |index: usize| ptr::with_exposed_provenance_mut::<u8>(ARENA_BASE as usize + index * PAGE_SIZE as usize);
    let bytes = pages * PAGE_SIZE as usize;
    // SAFETY: the arena belongs to this test alone: nothing else is mapped there, and the orders touch only
    // pages that an earlier order mapped.
    let answer: i64 = unsafe {
        match order {
            Order::Map => {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                let mapped = libc::mmap(page(first).cast(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
                if mapped == libc::MAP_FAILED { -1 } else { 0 }
            }
            Order::Unmap => libc::munmap(page(first).cast(), bytes).into(),
            Order::Write => {
                (first..first + pages).for_each(|index| page(index).write_volatile(7));
                0
            }
            Order::Read => {
                (first..first + pages).for_each(|index| {
                    page(index).read_volatile();
                });
                0
            }
            Order::ProtectNone => libc::mprotect(page(first).cast(), bytes, libc::PROT_NONE).into(),
            Order::ProtectRead => libc::mprotect(page(first).cast(), bytes, libc::PROT_READ).into(),
            Order::ProtectReadWrite => {
                libc::mprotect(page(first).cast(), bytes, libc::PROT_READ | libc::PROT_WRITE).into()
            }
            Order::MapShadowStack => {
                const MAP_SHADOW_STACK: i64 = 453;
                const SET_TOKEN: i64 = 1;
                libc::syscall(MAP_SHADOW_STACK, page(first), bytes, SET_TOKEN).min(0)
            }
            Order::Fork => 0,
            Order::Exit => libc::_exit(0),
        }
    };
    if answer == 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap_or(255) as u8 }
}
