//! What is never generated, and why. Reports print it: what was not tried must not look tried.

/// Something that the kernel offers and the generator never asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Narrowing {
    /// What is left out.
    pub left_out: &'static str,
    /// Why.
    pub reason: &'static str,
}

/// Everything that is left out within the operations that are generated.
pub const NARROWINGS: [Narrowing; 9] = [
    Narrowing {
        left_out: "swap of shared memory; swap and KSM together; KSM on shadow stacks, on locked and on inaccessible memory, with mremap and with MADV_FREE",
        reason: "not modelled together: such programs are not run",
    },
    Narrowing {
        left_out: "userfaultfd with shared memory, copies by the kernel, or a live shadow stack; system calls that wait",
        reason: "not modelled together: such programs are not run",
    },
    Narrowing {
        left_out: "protection keys on the shadow stacks of an actor that runs on one",
        reason: "a signal handler begins with every key closed: its return would be refused, again and again",
    },
    Narrowing {
        left_out: "pkey_free of key 0, and other rights for key 0 in PKRU",
        reason: "the actors' own pages have key 0: pkey_alloc would give it out again and could close it",
    },
    Narrowing {
        left_out: "WRPKRU on a machine without protection keys",
        reason: "the instruction is undefined there: nothing of page tables would be tested",
    },
    Narrowing {
        left_out: "WRSS and the moves to another shadow stack on a machine without user shadow stacks",
        reason: "the instructions are undefined there: nothing of page tables would be tested",
    },
    Narrowing {
        left_out: "ranges that leave the arena or are not page-aligned",
        reason: "the arena is all that is observed; the refusals of malformed ranges change no entry",
    },
    Narrowing {
        left_out: "two actors acting at the same time",
        reason: "a program is a sequence: races need a model of what may happen, not of what must",
    },
    Narrowing { left_out: "the exit of the last actor before the last step", reason: "nobody would be left to act" },
];
