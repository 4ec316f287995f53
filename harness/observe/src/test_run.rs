//! BPF_PROG_TEST_RUN for a raw tracepoint program without context.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::error::ObserveError;

const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// The `test` member of the kernel's `union bpf_attr` (`include/uapi/linux/bpf.h`).
#[derive(Default)]
#[repr(C)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

const _: () = assert!(size_of::<TestRun>() == 80);

/// Runs the program once on this CPU (`net/bpf/test_run.c: bpf_prog_test_run_raw_tp`).
pub(crate) fn run_once(program: BorrowedFd<'_>) -> Result<(), ObserveError> {
    let mut attributes = TestRun { prog_fd: program.as_raw_fd() as u32, ..TestRun::default() };
    // SAFETY: the kernel reads and writes the 80 bytes of `attributes` only; its pointers are null.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<TestRun>()) };
    if answer != 0 {
        return Err(ObserveError::last_os_error("running the snapshot program"));
    }
    if attributes.retval != 0 {
        return Err(ObserveError::BadEvent(format!("the snapshot program returned {}", attributes.retval)));
    }
    Ok(())
}
