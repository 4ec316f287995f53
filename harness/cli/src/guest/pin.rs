//! One CPU for the session and the processes that it starts.
//!
//! A machine of ours has one CPU. A machine that runs in place may have several, and on them the state of a step
//! would depend on the scheduler: the per-CPU batches of pages (`mm/swap.c: lru_add_drain`), which hold references,
//! are drained on the CPU that the session runs on, and must be those that the actors filled.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Binds the calling thread, and what it starts from now on, to the first of the CPUs that it may use. Says so if
/// there were several.
///
/// # Errors
/// The kernel's reason (`sched_setaffinity(2)`).
pub fn pin_to_one_cpu() -> Result<Option<String>, Errno> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread)?;
    let cpus: Vec<usize> =
        (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).is_ok_and(|allowed| allowed)).collect();
    let [first, _, ..] = cpus.as_slice() else { return Ok(None) };
    let mut one = CpuSet::new();
    one.set(*first)?;
    sched_setaffinity(this_thread, &one)?;
    Ok(Some(format!("of {} CPUs that may be used, session and actors use CPU {first} alone", cpus.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> usize {
        let set = sched_getaffinity(Pid::from_raw(0)).expect("the CPUs of this thread");
        (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu) == Ok(true)).count()
    }

    #[test]
    fn a_thread_and_what_it_starts_have_one_cpu_from_then_on() {
        // A thread of its own: the other tests keep their CPUs.
        let thread = std::thread::spawn(|| {
            let before = allowed();
            let said = pin_to_one_cpu().expect("the thread can be pinned");
            assert_eq!(said.is_some(), before > 1, "{said:?}, {before} CPUs");
            assert_eq!(allowed(), 1);
            assert_eq!(pin_to_one_cpu(), Ok(None), "there is nothing left to do");
            let started = std::process::Command::new("nproc").output().expect("nproc of coreutils");
            assert_eq!(String::from_utf8_lossy(&started.stdout).trim(), "1");
        });
        thread.join().expect("the thread's assertions hold");
    }
}
