//! The nursery: the process that actors are forked from.
//!
//! It starts as the harness's own executable, and is then stripped by commands until nothing is left that
//! a fork would have to copy in vain.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command as Program, Stdio};
use std::time::Duration;

use ptediff_reference_model::arena::PAGE_SIZE;

use crate::actor::ACTOR_ARGUMENT;
use crate::area::{MAILBOX_BASE, SHADOW_STACK_BASE};
use crate::classify::errno;
use crate::code::{EVENT_DESCRIPTOR, Sites};
use crate::command::{SET_TOKEN, SYS_MAP_SHADOW_STACK};
use crate::error::ExecuteError;
use crate::handshake::{NoAnswer, SharedMailbox};
use crate::mailbox::{Answer, Command, NURSERY_SLOT, SCRATCH_OFFSET};
use crate::{maps, process};

/// `ARCH_SHSTK_ENABLE`, `ARCH_SHSTK_SHSTK`, `ARCH_SHSTK_WRSS` (uapi/asm/prctl.h).
const SHADOW_STACK_ENABLE: u64 = 0x5001;
const FEATURE_SHADOW_STACK: u64 = 1;
const FEATURE_WRSS: u64 = 2;

/// `SA_RESTORER` (uapi/asm/signal.h); the C library hides it.
const SA_RESTORER: u64 = 0x0400_0000;

/// Signals that an access may raise.
const ACCESS_SIGNALS: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP];

/// Real-time priority of nursery and actors: above every ordinary process, the harness among them, so that
/// an actor runs the moment it is woken.
const PRIORITY: u64 = 1;

/// Address of the scratch room in the nursery.
pub(crate) const SCRATCH: u64 = MAILBOX_BASE + SCRATCH_OFFSET;

/// The nursery's process, driven through its mailbox slot.
pub(crate) struct Nursery {
    pid: u32,
    alive: bool,
    /// What it was last asked for, in words.
    doing: &'static str,
    timeout: Duration,
}

impl Nursery {
    /// Starts the nursery and prepares it.
    pub(crate) fn start(
        mailbox: &SharedMailbox,
        memory: &std::fs::File,
        executable: &Path,
        shadow_stack: bool,
        timeout: Duration,
    ) -> Result<Self, ExecuteError> {
        mailbox.expect_process(NURSERY_SLOT);
        let child = Program::new(executable)
            .arg(ACTOR_ARGUMENT)
            .arg(memory.as_raw_fd().to_string())
            // The C library would register restartable sequences in memory that is given up below, and
            // the kernel would kill the process at its next switch.
            .env_clear()
            .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
            .stdin(Stdio::null())
            .spawn()
            .map_err(|source| ExecuteError::Harness { doing: "starting the nursery", source })?;
        let mut nursery = Self { pid: child.id(), alive: true, doing: "start", timeout };
        nursery.receive(mailbox)?;
        nursery.prepare_process(mailbox)?;
        if shadow_stack {
            nursery.enable_shadow_stack(mailbox)?;
        }
        nursery.unmap_surplus(mailbox)?;
        Ok(nursery)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// One handshake; `doing` says in words what it is for.
    pub(crate) fn ask(
        &mut self,
        mailbox: &SharedMailbox,
        doing: &'static str,
        command: Command,
    ) -> Result<Answer, ExecuteError> {
        self.doing = doing;
        mailbox.send(NURSERY_SLOT, command)?;
        let answer = self.receive(mailbox)?;
        if answer.signal != 0 {
            return Err(ExecuteError::StrayFault {
                who: Self::name(),
                fault: answer.fault(),
                instruction: answer.instruction,
            });
        }
        Ok(answer)
    }

    fn receive(&mut self, mailbox: &SharedMailbox) -> Result<Answer, ExecuteError> {
        mailbox.receive(NURSERY_SLOT, self.pid, self.timeout).map_err(|reason| match reason {
            NoAnswer::Ended(status) => {
                self.alive = false;
                ExecuteError::NurseryDied { status, doing: self.doing }
            }
            NoAnswer::TimedOut => ExecuteError::TimedOut { who: Self::name(), after: self.timeout },
            NoAnswer::Failed(source) => ExecuteError::Harness { doing: "looking after the nursery", source },
        })
    }

    fn name() -> String {
        "the nursery".to_owned()
    }

    /// A system call that must succeed; gives what it returned.
    fn must(
        &mut self,
        mailbox: &SharedMailbox,
        call: &'static str,
        number: i64,
        arguments: &[u64],
    ) -> Result<u64, ExecuteError> {
        let answer = self.ask(mailbox, call, Command::system_call(number, arguments))?;
        match errno(answer.value) {
            Some(errno) => Err(ExecuteError::Preparation { call, errno }),
            None => Ok(answer.value),
        }
    }

    fn prepare_process(&mut self, mailbox: &SharedMailbox) -> Result<(), ExecuteError> {
        let sites = Sites::get();
        let flags = SA_RESTORER | (libc::SA_SIGINFO | libc::SA_NODEFER) as u64;
        mailbox.write_scratch([sites.handler, flags, sites.restorer, 0, 0, 0, 0, 0]);
        for signal in ACCESS_SIGNALS {
            self.must(mailbox, "rt_sigaction", libc::SYS_rt_sigaction, &[signal as u64, SCRATCH, 0, 8])?;
        }
        mailbox.write_scratch([0; 8]);
        let set = libc::SIG_SETMASK as u64;
        self.must(mailbox, "rt_sigprocmask", libc::SYS_rt_sigprocmask, &[set, SCRATCH, 0, 8])?;
        self.must(mailbox, "setrlimit(RLIMIT_CORE)", libc::SYS_setrlimit, &[libc::RLIMIT_CORE.into(), SCRATCH])?;
        let no_huge_pages = [libc::PR_SET_THP_DISABLE as u64, 1, 0, 0, 0];
        self.must(mailbox, "prctl(PR_SET_THP_DISABLE)", libc::SYS_prctl, &no_huge_pages)?;
        self.must(mailbox, "close_range", libc::SYS_close_range, &[0, u32::MAX.into(), 0])?;
        // Actors inherit it: their system calls that access a page go through it.
        let flags = libc::EFD_NONBLOCK as u64;
        let descriptor = self.must(mailbox, "eventfd2", libc::SYS_eventfd2, &[0, flags])?;
        if descriptor != EVENT_DESCRIPTOR as u64 {
            return Err(ExecuteError::Preparation { call: "eventfd2", errno: libc::EBADF });
        }
        // Only speed hangs on the priority: without the right to it (EPERM), handshakes take the slower way.
        mailbox.write_scratch([PRIORITY, 0, 0, 0, 0, 0, 0, 0]);
        let priority = [0, libc::SCHED_FIFO as u64, SCRATCH];
        match self.must(mailbox, "sched_setscheduler", libc::SYS_sched_setscheduler, &priority) {
            Err(ExecuteError::Preparation { errno: libc::EPERM, .. }) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Turns on shadow stack and WRSS, and moves to a one-page shadow stack in the area: the kernel's own
    /// lies far off, under page tables that every fork would copy. (arch/x86/kernel/shstk.c)
    fn enable_shadow_stack(&mut self, mailbox: &SharedMailbox) -> Result<(), ExecuteError> {
        let calls: [(&'static str, i64, &[u64]); 3] = [
            ("arch_prctl(SHSTK)", libc::SYS_arch_prctl, &[SHADOW_STACK_ENABLE, FEATURE_SHADOW_STACK]),
            ("arch_prctl(WRSS)", libc::SYS_arch_prctl, &[SHADOW_STACK_ENABLE, FEATURE_WRSS]),
            ("map_shadow_stack", SYS_MAP_SHADOW_STACK, &[SHADOW_STACK_BASE, PAGE_SIZE, SET_TOKEN]),
        ];
        for (call, number, arguments) in calls {
            self.must(mailbox, call, number, arguments).map_err(|error| match error {
                ExecuteError::Preparation { call, errno } => ExecuteError::NoShadowStack { call, errno },
                other => other,
            })?;
        }
        // Each handshake above was a task switch. An emulator is known that loses the state there.
        if self.ask(mailbox, "RDSSP", Command::shadow_stack_pointer())?.value == 0 {
            return Err(ExecuteError::ShadowStackLost);
        }
        let token = SHADOW_STACK_BASE + PAGE_SIZE - 8;
        let found = self.ask(mailbox, "RSTORSSP", Command::switch_shadow_stack(token))?.value;
        if found != token {
            return Err(ExecuteError::ShadowStackNotSwitched { expected: token, found });
        }
        Ok(())
    }

    /// Gives up the executable, heap, stack and all else that the area does not hold.
    fn unmap_surplus(&mut self, mailbox: &SharedMailbox) -> Result<(), ExecuteError> {
        let listed = std::fs::read_to_string(format!("/proc/{}/maps", self.pid))
            .map_err(|source| ExecuteError::Harness { doing: "reading the nursery's /proc/pid/maps", source })?;
        for mapping in maps::surplus(&listed) {
            let range = [mapping.start, mapping.end - mapping.start];
            match self.must(mailbox, "munmap", libc::SYS_munmap, &range) {
                Err(ExecuteError::Preparation { errno: libc::EPERM, .. }) if mapping.kernels_own => {}
                other => _ = other?,
            }
        }
        Ok(())
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        if self.alive {
            process::kill(self.pid);
            // Nobody is left to tell of a failure; an unreaped nursery ends with the harness.
            _ = process::reap(self.pid, self.timeout);
        }
    }
}
