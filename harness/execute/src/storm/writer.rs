//! The thread that writes.

use std::hint::spin_loop;
use std::io;
use std::mem;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use super::STORM_PAGES;
use super::memory::{Region, Shared, answer, stay_on_cpu, ticks};

/// Where the signal handler counts: the address of [`Shared::refused`].
static REFUSED: AtomicU64 = AtomicU64::new(0);

/// Starts the writer on the second CPU.
pub(super) fn start(region: Region, shared: &'static Shared, begun: &'static AtomicU64) -> io::Result<JoinHandle<()>> {
    REFUSED.store(std::ptr::from_ref(&shared.refused) as u64, SeqCst);
    let (tell, told) = mpsc::channel();
    let thread = Builder::new().name("writer".to_owned()).spawn(move || {
        let stays = stay_on_cpu(1);
        let goes_on = stays.is_ok();
        if tell.send(stays).is_ok() && goes_on {
            write(region, shared, begun);
        }
    })?;
    told.recv().map_err(io::Error::other)??;
    Ok(thread)
}

/// Does rounds until the last one.
fn write(region: Region, shared: &Shared, begun: &AtomicU64) {
    let mut last = 0;
    let mut number: u32 = 0;
    loop {
        let before = begun.load(SeqCst);
        let round = shared.round.load(SeqCst);
        if round == last {
            spin_loop();
            continue;
        }
        if round == Shared::END {
            return;
        }
        last = round;
        let pace = shared.pace.load(SeqCst);
        while shared.waits_for_kernel.load(SeqCst) != 0
            && begun.load(SeqCst) == before
            && shared.should_rest.load(SeqCst) == 0
        {
            spin_loop();
        }
        let mut due = ticks() + shared.delay.load(SeqCst);
        loop {
            for page in 0..STORM_PAGES {
                while ticks() < due {
                    spin_loop();
                }
                due += pace;
                number = number.wrapping_add(1);
                let value = u64::from(shared.epoch.load(SeqCst)) << 32 | u64::from(number);
                region.write(page, value);
                shared.written[page].store(value, SeqCst);
                shared.stores.fetch_add(1, SeqCst);
            }
            if shared.is_continuous.load(SeqCst) == 0 || shared.should_rest.load(SeqCst) != 0 {
                break;
            }
        }
        shared.finished.store(round, SeqCst);
    }
}

/// A store that a read-only mapping refuses is made again, until it succeeds. Any other SIGSEGV kills.
pub(super) fn handle_refusals() -> io::Result<()> {
    // SAFETY: all zeroes is a value of the structure.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    action.sa_sigaction = refused as *const () as usize;
    // SAFETY: the handler is one for SA_SIGINFO, and does nothing that a handler may not.
    answer(unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()) })
}

extern "C" fn refused(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid siginfo of a SIGSEGV.
    let address = unsafe { (*info).si_addr() } as usize;
    if (Region::BASE..Region::BASE + Region::BYTES).contains(&address) {
        let counter = REFUSED.load(SeqCst) as *const AtomicU64;
        // SAFETY: the address is null or that of a counter in memory that is never unmapped.
        if let Some(counter) = unsafe { counter.as_ref() } {
            counter.fetch_add(1, SeqCst);
        }
        return;
    }
    // SAFETY: the default action; the instruction faults again and kills.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
