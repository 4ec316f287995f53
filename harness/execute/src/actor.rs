//! The way into an actor process: from a fresh `exec` of the harness's executable to the page of code.

use std::arch::asm;
use std::ptr;

use ptediff_reference_model::arena::PAGE_SIZE;

use crate::area::{CODE_BASE, MAILBOX_BASE, SHARED_BASE, SHARED_BYTES, stack_top};
use crate::code::code;
use crate::mailbox::{NURSERY_SLOT, slot_offset};

/// First argument of a process that is to become the nursery. The executable's `main` must look for it
/// before anything else and call [`actor_main`].
pub const ACTOR_ARGUMENT: &str = "ptediff-actor";

/// Exit status of a nursery that could not prepare itself; why stands on standard error.
pub(crate) const NOT_PREPARED: i32 = 121;

/// Becomes the nursery. Call this first thing in `main` when the first argument is [`ACTOR_ARGUMENT`];
/// the second is the descriptor of the mailbox's memory.
///
/// Never returns: it either serves commands until it is killed, or exits with a message on standard error
/// because it was not started by an [`Executor`](crate::Executor) or could not map its pages.
pub fn actor_main() -> ! {
    match prepare() {
        Ok(()) => enter(),
        Err(reason) => {
            eprintln!("ptediff actor: {reason}");
            std::process::exit(NOT_PREPARED);
        }
    }
}

fn prepare() -> Result<(), String> {
    let descriptor = std::env::args().nth(2).ok_or("started without the mailbox's descriptor")?;
    let descriptor: i32 = descriptor.parse().map_err(|_| format!("`{descriptor}` is not a descriptor"))?;
    // SAFETY: prctl with integer arguments touches no memory of ours.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(failed("prctl(PR_SET_PDEATHSIG)"));
    }
    map(SHARED_BASE, SHARED_BYTES, libc::MAP_SHARED, descriptor).ok_or_else(|| failed("mapping the mailbox"))?;
    let page = map(CODE_BASE, PAGE_SIZE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
        .ok_or_else(|| failed("mapping the code page"))?;
    // SAFETY: `page` is a fresh writable mapping of one page, and the code fits in one page (unit test).
    unsafe { ptr::copy_nonoverlapping(code().as_ptr(), page.cast(), code().len()) };
    // SAFETY: the page is ours and nothing but the copy above uses it.
    if unsafe { libc::mprotect(page, PAGE_SIZE as usize, libc::PROT_READ | libc::PROT_EXEC) } != 0 {
        return Err(failed("mprotect of the code page"));
    }
    Ok(())
}

fn failed(call: &str) -> String {
    format!("{call} failed: {}", std::io::Error::last_os_error())
}

/// Maps memory, readable and writable, exactly there, where nothing may lie yet.
fn map(address: u64, length: u64, flags: i32, descriptor: i32) -> Option<*mut libc::c_void> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = flags | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: MAP_FIXED_NOREPLACE replaces no mapping that anything else relies on.
    let mapped = unsafe { libc::mmap(address as *mut _, length as usize, protection, flags, descriptor, 0) };
    (mapped as u64 == address).then_some(mapped)
}

fn enter() -> ! {
    // SAFETY: the code page and the shared memory were mapped by `prepare`; the code takes the slot in r15,
    // needs nothing else and never comes back, so that nothing of this process is used any more.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "mov r15, {slot}",
            "xor r14d, r14d",
            "jmp {code}",
            stack = in(reg) stack_top(NURSERY_SLOT),
            slot = in(reg) MAILBOX_BASE + slot_offset(NURSERY_SLOT),
            code = in(reg) CODE_BASE,
            options(noreturn),
        )
    }
}
