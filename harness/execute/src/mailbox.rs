//! The mailbox: one page shared by the harness and all actors, a slot for each.

use std::sync::atomic::AtomicU32;

use ptediff_reference_model::arena::{ACTORS, PAGE_SIZE};

/// Slots of the mailbox: one for each actor, one for the nursery.
pub(crate) const SLOTS: usize = ACTORS + 1;

/// The nursery's slot.
pub(crate) const NURSERY_SLOT: usize = ACTORS;

/// Bytes of the mailbox.
pub(crate) const MAILBOX_BYTES: u64 = PAGE_SIZE;

/// Whose turn it is, the value of [`Slot::turn`].
///
/// Both sides sleep on this one word, but never at once: an actor while it is `ANSWERED`, the harness
/// while it is `AWAITED`.
pub(crate) mod turn {
    /// A command is there; the harness does not sleep (yet).
    pub(crate) const COMMANDED: u32 = 1;
    /// A command is there and the harness sleeps: the actor must wake it.
    pub(crate) const AWAITED: u32 = 2;
    /// The answer is there; the actor sleeps or is about to.
    pub(crate) const ANSWERED: u32 = 3;
}

/// What an actor is asked for: one of [`crate::command::kind`] and its words.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) kind: u64,
    pub(crate) words: [u64; 7],
}

/// What an actor gives back. All zero but for what the command or the signal handler wrote.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    /// Result of a system call, or the loaded value.
    pub(crate) value: u64,
    /// How far a command of several steps came.
    pub(crate) stage: u64,
    /// Signal number; 0 when nothing faulted. The rest has a meaning only with a signal.
    pub(crate) signal: u64,
    /// `si_code`, its low 32 bits.
    pub(crate) code: u64,
    /// `si_addr`.
    pub(crate) address: u64,
    /// Exception vector (`REG_TRAPNO`): 14 for a page fault.
    pub(crate) trap: u64,
    /// Hardware error code (`REG_ERR`).
    pub(crate) error_code: u64,
    /// Address of the instruction that faulted.
    pub(crate) instruction: u64,
    /// `si_pkey`.
    pub(crate) key: u64,
}

/// One process's place in the mailbox.
#[repr(C, align(256))]
pub(crate) struct Slot {
    pub(crate) turn: AtomicU32,
    pub(crate) command: Command,
    pub(crate) answer: Answer,
}

/// The mailbox page.
#[repr(C)]
pub(crate) struct Mailbox {
    pub(crate) slots: [Slot; SLOTS],
    /// Room for the structures that the nursery's system calls take by address.
    pub(crate) scratch: [u64; 8],
}

/// Offset of a slot in the mailbox.
pub(crate) fn slot_offset(slot: usize) -> u64 {
    (std::mem::offset_of!(Mailbox, slots) + slot * size_of::<Slot>()) as u64
}

/// Offset, in a slot, of how far a command of several steps came.
pub(crate) const STAGE_OFFSET: u64 = (std::mem::offset_of!(Slot, answer) + std::mem::offset_of!(Answer, stage)) as u64;

/// Offset of the scratch room in the mailbox.
pub(crate) const SCRATCH_OFFSET: u64 = std::mem::offset_of!(Mailbox, scratch) as u64;

const _: () = assert!(size_of::<Command>() == 64 && size_of::<Answer>() == 72, "the assembly relies on these sizes");
const _: () = assert!(size_of::<Slot>() == 256, "a slot is four cache lines");
const _: () = assert!(size_of::<Mailbox>() as u64 <= MAILBOX_BYTES, "the mailbox is one page");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_assembly_looks_for_them() {
        let words = std::mem::offset_of!(Command, words);
        assert_eq!((std::mem::offset_of!(Command, kind), words), (0, 8));
        assert_eq!(std::mem::offset_of!(Slot, turn), 0);
        assert!(std::mem::offset_of!(Slot, command) >= 4);
        let fields = [
            std::mem::offset_of!(Answer, value),
            std::mem::offset_of!(Answer, stage),
            std::mem::offset_of!(Answer, signal),
            std::mem::offset_of!(Answer, code),
            std::mem::offset_of!(Answer, address),
            std::mem::offset_of!(Answer, trap),
            std::mem::offset_of!(Answer, error_code),
            std::mem::offset_of!(Answer, instruction),
            std::mem::offset_of!(Answer, key),
        ];
        assert_eq!(fields, [0, 8, 16, 24, 32, 40, 48, 56, 64]);
    }

    #[test]
    fn slots_and_scratch_do_not_overlap() {
        let offsets: Vec<u64> = (0..SLOTS).map(slot_offset).collect();
        assert_eq!(offsets, [0, 256, 512, 768, 1024]);
        assert_eq!(SCRATCH_OFFSET, 1280);
    }
}
