//! Running on this machine itself, without another one.

#![expect(unsafe_code, reason = "the CPUs of a thread are system calls without a safe interface in std")]

use std::io;
use std::mem;

use crate::guest::{MACHINE_WORD, kernel_command_line};

/// With the value 1 it says the same as [`MACHINE_WORD`], where nobody can change the kernel's command line.
const LEAVE_VARIABLE: &str = "PTEDIFF_NATIVE";

/// Whether programs may be run on this machine itself: the kernel was given the word `ptediff.vm=1`, or
/// `PTEDIFF_NATIVE` is 1 in the environment.
#[must_use]
pub fn may_run_in_place() -> bool {
    let told_by_kernel = kernel_command_line().is_ok_and(|words| words.iter().any(|word| word == MACHINE_WORD));
    told_by_kernel || std::env::var_os(LEAVE_VARIABLE).is_some_and(|value| value == "1")
}

/// Binds the calling thread, and the processes that it starts from now on, to the first of the CPUs that it may
/// use. Says so if there were several.
///
/// A machine of ours has one CPU. On several, what a step finds would depend on the scheduler: the per-CPU batches of
/// pages hold references, which decide whether a write fault copies (`mm/memory.c: wp_can_reuse_anon_folio`), and are
/// emptied on the CPU of the process that asks (`mm/swap.c: lru_add_drain`). It must be the one that filled them.
///
/// # Errors
/// The kernel's reason (`sched_setaffinity(2)`).
pub fn pin_to_one_cpu() -> io::Result<Option<String>> {
    let cpus = allowed_cpus()?;
    let [first, _, ..] = cpus.as_slice() else { return Ok(None) };
    // SAFETY: the set is plain bits, for which all zeroes is a value; the index is one that the kernel gave for it.
    let one = unsafe {
        let mut one: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(*first, &mut one);
        one
    };
    // SAFETY: the set lives through the call and has that size.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&one), &raw const one) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Some(format!("of {} CPUs, CPU {first} alone is used", cpus.len())))
}

/// The CPUs that the calling thread may use, in ascending order.
fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: the set is plain bits, for which all zeroes is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set has that size, and the kernel writes no more.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the index stays below the number of bits.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_what_it_starts_have_one_cpu_from_then_on() {
        // A thread of its own: the other tests keep their CPUs.
        let thread = std::thread::spawn(|| {
            let before = allowed_cpus().expect("the CPUs of this thread");
            let said = pin_to_one_cpu().expect("the thread can be pinned");
            assert_eq!(said.is_some(), before.len() > 1, "{said:?}, {before:?}");
            assert_eq!(allowed_cpus().expect("the CPUs of this thread"), before[..1]);
            assert_eq!(pin_to_one_cpu().expect("nothing is left to do"), None);
            let started = std::process::Command::new("nproc").output().expect("nproc of coreutils");
            assert_eq!(String::from_utf8_lossy(&started.stdout).trim(), "1");
        });
        thread.join().expect("the thread's assertions hold");
    }
}
