//! Single experiments beside the spaces: what IA32_PKRS does across writes, faults and exceptions, and what a write
//! without CR0.WP does to Dirty.
//!
//! Compiled into host and guest.

use crate::case::{Machine, control as c};
use crate::processor::{DIRTY, PRESENT, USER, WRITABLE};

/// Most words that a fact has.
pub const MOST_WORDS: usize = 8;

/// An experiment.
pub struct Fact {
    /// Its name.
    pub name: &'static str,
    /// What is done, and what the words of the answer are.
    pub question: &'static str,
    /// Control bits that the processor must have.
    pub needs: u32,
    /// The answer by the SDM: how many words, and the words.
    pub expected: fn(&Machine) -> (usize, [u64; MOST_WORDS]),
}

/// Stands for an access that was made, or an instruction that was carried out.
pub const MADE: u64 = 0;
/// A page fault with this error code.
const fn fault(code: u64) -> u64 {
    1 << 63 | 14 << 32 | code
}
/// #GP(0).
const PROTECTION: u64 = 1 << 63 | 13 << 32;
/// A value of IA32_PKRS that closes key 1 to all access.
pub const KEY_1_CLOSED: u64 = 0x4;
/// A value of IA32_PKRS that closes key 1 to writes.
pub const KEY_1_READ_ONLY: u64 = 0x8;

/// The experiments, by number.
pub const FACTS: [Fact; 7] = [
    Fact {
        name: "pkrs-reserved-bits",
        question: "WRMSR to IA32_PKRS of 1 << 32; then of all bits below; then what RDMSR gives",
        needs: c::PKS,
        expected: |_| (3, [PROTECTION, MADE, 0xffff_ffff, 0, 0, 0, 0, 0]),
    },
    Fact {
        name: "pkrs-without-flush",
        question: "a supervisor page with key 1 that the TLB knows, and no INVLPG from there on: with IA32_PKRS 0 read \
                   and write; closed: read and write; read-only: read and write; 0 again: write",
        needs: c::PKS,
        expected: |_| (7, [MADE, MADE, fault(0x21), fault(0x23), MADE, fault(0x23), MADE, 0]),
    },
    Fact {
        name: "pkrs-without-write-protect",
        question: "CR0.WP clear, a supervisor page with key 1: read-only: read and write; closed: write",
        needs: c::PKS,
        expected: |_| (3, [MADE, MADE, fault(0x23), 0, 0, 0, 0, 0]),
    },
    Fact {
        name: "pkrs-and-fetches",
        question: "key 1 closed: a read of a supervisor page with key 1, and a fetch from it",
        needs: c::PKS,
        expected: |_| (2, [fault(0x21), MADE, 0, 0, 0, 0, 0, 0]),
    },
    Fact {
        name: "pkrs-and-user-pages",
        question: "CR4.SMAP clear, key 1 closed in IA32_PKRS and open in PKRU: a supervisor-mode read of a user page \
                   with key 1",
        needs: c::PKS | c::PKE,
        expected: |_| (1, [MADE, 0, 0, 0, 0, 0, 0, 0]),
    },
    Fact {
        name: "pkrs-in-exceptions",
        question: "key 1 closed: what IA32_PKRS holds when the handler of a page fault begins; when that of INT3 \
                   begins; and after both",
        needs: c::PKS,
        expected: |_| (3, [KEY_1_CLOSED, KEY_1_CLOSED, KEY_1_CLOSED, 0, 0, 0, 0, 0]),
    },
    Fact {
        name: "write-without-write-protect",
        question: "CR0.WP clear, a PTE with R/W and Dirty clear: a supervisor-mode write; whether memory holds it; the \
                   PTE's P, R/W, U/S and Dirty after it",
        needs: c::WP,
        expected: |machine| {
            let dirty = if machine.features & c::CET != 0 { 0 } else { DIRTY };
            (3, [MADE, 1, PRESENT | USER | dirty, 0, 0, 0, 0, 0])
        },
    },
];

/// The flags that the last fact reports.
pub const REPORTED_FLAGS: u64 = PRESENT | WRITABLE | USER | DIRTY;
