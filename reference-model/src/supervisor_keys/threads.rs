//! Two threads on one CPU, their exceptions, and what the register lets each of them do.

use std::fmt;

use super::{INITIAL_PKRS, Preservation};
use crate::protection_key::KeyRights;

/// The key of persistent memory, opened and closed with a reference count.
const DEVICE: u8 = 1;
/// Another user's key, opened and closed without one.
const OTHER: u8 = 2;
/// Exceptions within exceptions: so many at most.
const DEEPEST: usize = 2;
/// Enabling within enabling: so often at most, in one context.
const MOST_ENABLED: u8 = 2;

/// What kind of exception comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exception {
    /// An interrupt: its handler may not sleep.
    Interrupt,
    /// A page fault: its handler may sleep.
    PageFault,
    /// #MC, NMI, #DB or #BP, which come in another way than `idtentry_enter`.
    MachineCheck,
}

/// Something that happens to the context that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// `dev_access_enable`.
    Enable,
    /// `dev_access_disable`.
    Disable,
    /// `pks_update_protection` of the other key: allow all.
    EnableOther,
    /// `pks_update_protection` of the other key: no access.
    DisableOther,
    /// An exception comes, from kernel mode.
    Enter(Exception),
    /// Its handler returns.
    Return,
    /// The other thread is switched to.
    Switch,
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::EnableOther => "enable another key",
            Self::DisableOther => "disable another key",
            Self::Enter(Exception::Interrupt) => "interrupt",
            Self::Enter(Exception::PageFault) => "page fault",
            Self::Enter(Exception::MachineCheck) => "machine check",
            Self::Return => "return",
            Self::Switch => "switch thread",
        })
    }
}

/// All events.
pub(super) const EVENTS: [Event; 9] = [
    Event::Enable,
    Event::Disable,
    Event::EnableOther,
    Event::DisableOther,
    Event::Enter(Exception::Interrupt),
    Event::Enter(Exception::PageFault),
    Event::Enter(Exception::MachineCheck),
    Event::Return,
    Event::Switch,
];

/// What is wrong after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Violation {
    /// The running context may use a key that it did not enable: unwanted access is not stopped.
    Leak,
    /// The running context may not use a key that it enabled: its next access is a fault that nobody handles.
    Loss,
    /// `WARN_ON_ONCE(current->dev_page_access_ref != 0)` fires.
    Warning,
}

/// When the register is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// At each occasion.
    Always,
    /// If it does not hold the value already, as the per-CPU cache (`pkrs_cache`) tells.
    IfChanged,
}

/// What a context itself enabled; the truth that the register is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Wanted {
    device: u8,
    other: bool,
}

/// An exception's frame: what was saved at its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Frame {
    exception: Exception,
    wanted: Wanted,
    register: u32,
    thread_value: u32,
    references: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Thread {
    /// `thread.saved_pkrs`: the value to be loaded when the thread is switched to.
    saved: u32,
    /// `dev_page_access_ref`. Wraps, as it does in the series.
    references: u32,
    wanted: Wanted,
    frames: Vec<Frame>,
}

impl Thread {
    fn wanted(&mut self) -> &mut Wanted {
        match self.frames.last_mut() {
            Some(frame) => &mut frame.wanted,
            None => &mut self.wanted,
        }
    }
}

/// Two threads, one CPU.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Threads {
    register: u32,
    running: usize,
    threads: [Thread; 2],
}

impl Default for Threads {
    fn default() -> Self {
        Self::new()
    }
}

impl Threads {
    /// Both with no access, as `pks_init_task` leaves them.
    #[must_use]
    pub fn new() -> Self {
        let thread = Thread { saved: INITIAL_PKRS, references: 0, wanted: Wanted::default(), frames: Vec::new() };
        Self { register: INITIAL_PKRS, running: 0, threads: [thread.clone(), thread] }
    }

    /// IA32_PKRS.
    #[must_use]
    pub fn register(&self) -> u32 {
        self.register
    }

    /// Whether the event can come now: a handler returns as it came (what it enabled is disabled again), and only
    /// threads and handlers of page faults are switched away from.
    #[must_use]
    pub fn permits(&self, event: Event) -> bool {
        let thread = &self.threads[self.running];
        let wanted = thread.frames.last().map_or(thread.wanted, |frame| frame.wanted);
        match event {
            Event::Enable => wanted.device < MOST_ENABLED,
            Event::Disable => wanted.device > 0,
            Event::EnableOther => !wanted.other,
            Event::DisableOther => wanted.other,
            Event::Enter(_) => thread.frames.len() < DEEPEST,
            Event::Return => !thread.frames.is_empty() && wanted == Wanted::default(),
            Event::Switch => thread.frames.iter().all(|frame| frame.exception == Exception::PageFault),
        }
    }

    /// Lets the event happen. Returns how often WRMSR was executed, and whether the warning fired.
    pub fn apply(&mut self, event: Event, preservation: Preservation, writes: Writes) -> (u32, bool) {
        let mut count = 0;
        let mut write = |register: &mut u32, value: u32| {
            if writes == Writes::Always || *register != value {
                count += 1;
            }
            *register = value;
        };
        let thread = &mut self.threads[self.running];
        let mut warned = false;
        // pks_update_protection: the thread's saved value is changed, and becomes the register's.
        let mut update = |thread: &mut Thread, register: &mut u32, key: u8, rights: KeyRights| {
            thread.saved = rights.put(thread.saved, key);
            write(register, thread.saved);
        };
        match event {
            Event::Enable => {
                if thread.references == 0 {
                    update(thread, &mut self.register, DEVICE, KeyRights::Allow);
                }
                thread.references = thread.references.wrapping_add(1);
                thread.wanted().device += 1;
            }
            Event::Disable => {
                thread.references = thread.references.wrapping_sub(1);
                if thread.references == 0 {
                    update(thread, &mut self.register, DEVICE, KeyRights::DisableAccess);
                }
                thread.wanted().device -= 1;
            }
            Event::EnableOther => {
                update(thread, &mut self.register, OTHER, KeyRights::Allow);
                thread.wanted().other = true;
            }
            Event::DisableOther => {
                update(thread, &mut self.register, OTHER, KeyRights::DisableAccess);
                thread.wanted().other = false;
            }
            Event::Enter(exception) => {
                let mut frame = Frame {
                    exception,
                    wanted: Wanted::default(),
                    register: self.register,
                    thread_value: thread.saved,
                    references: thread.references,
                };
                if saves(preservation, exception) {
                    write(&mut self.register, INITIAL_PKRS);
                    if preservation != Preservation::RegistersFrame {
                        thread.references = 0;
                    }
                    if preservation == Preservation::Whole {
                        thread.saved = INITIAL_PKRS;
                    }
                    if preservation == Preservation::ByValue {
                        // The callee's copy was filled; the caller's still has its initial zeroes.
                        (frame.register, frame.references) = (0, 0);
                    }
                }
                thread.frames.push(frame);
            }
            Event::Return => {
                let Some(frame) = thread.frames.pop() else { return (0, false) };
                if saves(preservation, frame.exception) {
                    let value = match preservation {
                        Preservation::RegistersFrame => frame.thread_value,
                        _ => frame.register,
                    };
                    write(&mut self.register, value);
                    if !matches!(preservation, Preservation::ByValue | Preservation::ByReference) {
                        thread.saved = frame.thread_value;
                    }
                    if preservation != Preservation::RegistersFrame {
                        warned = thread.references != 0;
                        thread.references = frame.references;
                    }
                }
            }
            Event::Switch => {
                self.running = 1 - self.running;
                // pks_sched_in
                write(&mut self.register, self.threads[self.running].saved);
            }
        }
        (count, warned)
    }

    /// What the register permits or refuses the running context against its own wishes.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let thread = &self.threads[self.running];
        let wanted = thread.frames.last().map_or(thread.wanted, |frame| frame.wanted);
        let mut found = Vec::new();
        for key in 1..crate::protection_key::KEYS {
            let is_wanted = match key {
                DEVICE => wanted.device > 0,
                OTHER => wanted.other,
                _ => false,
            };
            let is_open = KeyRights::of(self.register, key) == KeyRights::Allow;
            let violation = match (is_open, is_wanted) {
                (true, false) => Violation::Leak,
                (false, true) => Violation::Loss,
                _ => continue,
            };
            if !found.contains(&violation) {
                found.push(violation);
            }
        }
        found
    }
}

/// Whether the entry of this exception saves and resets anything.
fn saves(preservation: Preservation, exception: Exception) -> bool {
    match preservation {
        Preservation::None => false,
        Preservation::ByValue | Preservation::ByReference => exception != Exception::MachineCheck,
        Preservation::WithThreadValue | Preservation::RegistersFrame | Preservation::Whole => true,
    }
}
