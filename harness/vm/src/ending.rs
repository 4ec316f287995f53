//! How a machine's life ended, and how that is told from what is left behind.

use std::fmt;
use std::time::Duration;

/// What [`crate::Running::read`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activity {
    /// So many bytes of the data channel were appended.
    Bytes(usize),
    /// The machine is gone; all its bytes have been read before.
    Ended(Ending),
}

/// The end of a machine. What the guest or the emulator did, never a failure of our rig.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The guest powered the machine off. Whether it did so too early is for the reader of the bytes to tell.
    PoweredOff,
    /// The kernel panicked.
    GuestPanic {
        /// The panic's own words, after the first BUG or Oops line if there was one.
        message: String,
    },
    /// The console shows a BUG or Oops and no panic.
    GuestOops {
        /// The first such line.
        message: String,
    },
    /// The guest reset the machine by a triple fault (also the way of a kernel booted with `reboot=t`).
    TripleFault,
    /// The guest asked for a reset.
    Reset,
    /// Neither a byte nor a line of the console for as long as the watchdog allows; the emulator was killed.
    Hang {
        /// How long there was silence.
        silent_for: Duration,
    },
    /// The machine was alive when its time was up; the emulator was killed.
    TimeLimit,
    /// The emulator ended by itself, for no reason that is known to us.
    EmulatorExited {
        /// Its exit code.
        code: i32,
    },
    /// The emulator was killed by a signal, [`crate::Running::kill`] included.
    EmulatorKilled {
        /// The signal's number.
        signal: i32,
    },
}

impl fmt::Display for Ending {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoweredOff => write!(formatter, "the guest powered off"),
            Self::GuestPanic { message } => write!(formatter, "the kernel panicked: {message}"),
            Self::GuestOops { message } => write!(formatter, "the kernel reported a bug: {message}"),
            Self::TripleFault => write!(formatter, "the guest's CPU took a triple fault"),
            Self::Reset => write!(formatter, "the guest reset the machine"),
            Self::Hang { silent_for } => write!(
                formatter,
                "the guest hung: neither data nor console output for {:.1} s",
                silent_for.as_secs_f64()
            ),
            Self::TimeLimit => write!(formatter, "the guest was still running when its time was up"),
            Self::EmulatorExited { code } => {
                write!(formatter, "the emulator exited by itself with code {code}")
            }
            Self::EmulatorKilled { signal } => {
                write!(formatter, "the emulator was killed by signal {signal}")
            }
        }
    }
}

/// What the kernel says of its own death on the console, if it does: a panic, or a BUG or Oops without one.
///
/// Sources: `kernel/panic.c: panic`, `arch/x86/kernel/dumpstack.c: __die_header`, `arch/x86/mm/fault.c: show_fault_oops`.
pub(crate) fn death_on_console(console: &str) -> Option<Ending> {
    const PANIC: &str = "Kernel panic - not syncing: ";
    let mut bug = None;
    for line in console.lines() {
        let message = without_time_stamp(line.trim_end());
        if let Some(words) = message.strip_prefix(PANIC) {
            let message = match bug {
                Some(bug) => format!("{bug}; {words}"),
                None => words.to_owned(),
            };
            return Some(Ending::GuestPanic { message });
        }
        let is_bug = message.starts_with("BUG: ")
            || message.starts_with("kernel BUG at ")
            || (message.contains(" [#") && message.contains("] ") && message.contains(": "));
        if is_bug && bug.is_none() {
            bug = Some(message.to_owned());
        }
    }
    bug.map(|message| Ending::GuestOops { message })
}

/// Whether the console ends with the kernel's word for a reset that was asked for
/// (`kernel/reboot.c: kernel_restart`).
pub(crate) fn restart_on_console(console: &str) -> bool {
    console.lines().any(|line| without_time_stamp(line).starts_with("reboot: Restarting system"))
}

/// A console line without printk's `[   12.345678] ` (and `[ T1]`) in front.
fn without_time_stamp(line: &str) -> &str {
    let mut rest = line;
    while let Some(inner) = rest.strip_prefix('[') {
        match inner.split_once(']') {
            Some((stamp, after)) if stamp.chars().all(|sign| sign.is_ascii_digit() || " .TC".contains(sign)) => {
                rest = after.trim_start();
            }
            _ => break,
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(console: &str, expected: Option<Ending>) {
        assert_eq!(death_on_console(console), expected, "console: {console}");
    }

    fn panic(message: &str) -> Option<Ending> {
        Some(Ending::GuestPanic { message: message.to_owned() })
    }

    #[test]
    fn a_quiet_console_tells_of_no_death() {
        check("", None);
        check("[    0.000000] Linux version 6.12\n[Firmware Bug]: TSC\n", None);
        check("a program says: Kernel panic - not syncing: pretended\n", None);
        check("my text with BUG: inside\n", None);
    }

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        check(
            "[    1.5] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\r\n",
            panic("Attempted to kill init! exitcode=0x00000100"),
        );
        check("[    1.5][    T1] Kernel panic - not syncing: x\n", panic("x"));
        check("Kernel panic - not syncing: no time stamp\n", panic("no time stamp"));
    }

    #[test]
    fn the_first_bug_goes_before_the_panic() {
        check(
            "[ 1.0] BUG: kernel NULL pointer dereference, address: 0\n[ 1.1] Oops: 0002 [#1] PREEMPT SMP\n\
             [ 1.2] Kernel panic - not syncing: Fatal exception\n",
            panic("BUG: kernel NULL pointer dereference, address: 0; Fatal exception"),
        );
    }

    #[test]
    fn a_bug_without_a_panic_is_an_oops() {
        check(
            "[ 1.0] Oops: general protection fault, 0000 [#1] SMP\n",
            Some(Ending::GuestOops { message: "Oops: general protection fault, 0000 [#1] SMP".to_owned() }),
        );
    }

    #[test]
    fn a_restart_is_seen_only_in_the_kernels_own_line() {
        assert!(restart_on_console("[  2.1] reboot: Restarting system\n"));
        assert!(!restart_on_console("[  2.1] reboot: Power down\n"));
        assert!(!restart_on_console("echo reboot: Restarting system\n"));
    }
}
