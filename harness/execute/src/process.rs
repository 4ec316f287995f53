//! Ends of child processes: seen, waited for, brought about.

use std::io;
use std::time::{Duration, Instant};

use crate::error::WaitStatus;

/// Reaps the process if it has ended.
///
/// # Errors
/// `waitpid`'s, such as `ECHILD` when somebody else reaped it.
pub(crate) fn reap_if_ended(pid: u32) -> io::Result<Option<WaitStatus>> {
    let mut status = 0;
    // SAFETY: waitpid writes only to `status`.
    match unsafe { libc::waitpid(pid as i32, &raw mut status, libc::WNOHANG) } {
        0 => Ok(None),
        ended if ended > 0 => Ok(Some(WaitStatus::from_raw(status))),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for the process to end, and reaps it; `None` when it has not ended in time.
///
/// # Errors
/// Those of `waitpid`, `pidfd_open`, `poll`.
pub(crate) fn reap(pid: u32, timeout: Duration) -> io::Result<Option<WaitStatus>> {
    // On one CPU, where actors go before the harness, it has ended already.
    if let Some(status) = reap_if_ended(pid)? {
        return Ok(Some(status));
    }
    let deadline = Instant::now() + timeout;
    // SAFETY: pidfd_open takes integers only.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let result = poll_until_ended(pid, descriptor, deadline);
    // SAFETY: the descriptor was opened above and is used nowhere else.
    unsafe { libc::close(descriptor) };
    result
}

fn poll_until_ended(pid: u32, descriptor: i32, deadline: Instant) -> io::Result<Option<WaitStatus>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        // SAFETY: poll reads and writes the one structure given.
        let ready = unsafe { libc::poll(&raw mut polled, 1, left.as_millis().min(60_000) as i32) };
        if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(io::Error::last_os_error());
        }
        if let Some(status) = reap_if_ended(pid)? {
            return Ok(Some(status));
        }
        if left.is_zero() {
            return Ok(None);
        }
    }
}

/// Sends SIGKILL. A process that is gone already is no error: its reaper will tell.
pub(crate) fn kill(pid: u32) {
    // SAFETY: kill takes integers only; the pid is that of a child which was not reaped yet.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
}
