//! Where an actor's own few pages lie: its code, the mailbox with the stacks, its shadow stack.
//!
//! They share one page table, and its directories with the arena's: fewer tables to copy at each fork.
//! They keep 512 MiB from the arena, so that no VMA of theirs ever touches one of the program's.

use ptediff_reference_model::arena::{ARENA_BASE, ARENA_PAGES, PAGE_SIZE};

use crate::mailbox::{MAILBOX_BYTES, SLOTS};

/// Address of the first byte of the actor's own area.
const AREA_BASE: u64 = ARENA_BASE + (512 << 20);

/// Bytes of the area: one 2 MiB page table's worth.
const AREA_BYTES: u64 = 2 << 20;

/// The page of code, private and read-only. The model knows it for what is pushed on shadow stacks.
pub(crate) use ptediff_reference_model::arena::CODE_BASE;

/// The shared memory, by offset: the slots' stacks, then the mailbox page, then the pages to copy from.
///
/// The pages below it stay unmapped: a stack that overflows ends there. It may run over the stacks below
/// its own, which hold nothing while their actors wait.
pub(crate) const SHARED_BASE: u64 = AREA_BASE + 0x1_0000;

/// Bytes of one slot's stack. Only signal frames lie there: 11 KiB with the largest register state of today.
pub(crate) const STACK_BYTES: u64 = 4 * PAGE_SIZE;

/// Offset of the mailbox page in the shared memory.
pub(crate) const MAILBOX_OFFSET: u64 = SLOTS as u64 * STACK_BYTES;

/// Address of the mailbox page in every actor.
pub(crate) const MAILBOX_BASE: u64 = SHARED_BASE + MAILBOX_OFFSET;

/// Address, in every actor, of the pages that UFFDIO_COPY copies from: behind the mailbox, as many as the arena has.
pub(crate) const COPY_SOURCE_BASE: u64 = MAILBOX_BASE + MAILBOX_BYTES;

/// Bytes of the pages that are copied from.
pub(crate) const COPY_SOURCE_BYTES: u64 = ARENA_PAGES as u64 * PAGE_SIZE;

/// Bytes of the shared memory.
pub(crate) const SHARED_BYTES: u64 = MAILBOX_OFFSET + MAILBOX_BYTES + COPY_SOURCE_BYTES;

/// The page of the actor's own shadow stack; the kernel keeps a guard page below it.
pub(crate) const SHADOW_STACK_BASE: u64 = AREA_BASE + 0x8_0000;

/// Where the stack of this slot starts (it grows down), in the actor's address space.
pub(crate) fn stack_top(slot: usize) -> u64 {
    SHARED_BASE + (slot as u64 + 1) * STACK_BYTES
}

/// Whether a mapping from `start` to `end` belongs to the area.
pub(crate) fn holds(start: u64, end: u64) -> bool {
    start >= AREA_BASE && end <= AREA_BASE + AREA_BYTES
}

const _: () = assert!(CODE_BASE == AREA_BASE, "the area starts with the code");
const _: () = assert!(SHARED_BASE.is_multiple_of(STACK_BYTES), "the code rounds the stack pointer up to a stack's top");
const _: () = assert!(AREA_BASE.is_multiple_of(AREA_BYTES), "the area must lie in one page table");
const _: () = assert!(AREA_BASE >> 30 == ARENA_BASE >> 30, "the area must share its page directory with the arena");
const _: () = assert!(CODE_BASE + PAGE_SIZE < SHARED_BASE, "a stack that overflows must not reach the code");
const _: () = assert!(SHARED_BASE + SHARED_BYTES + PAGE_SIZE < SHADOW_STACK_BASE, "shared memory is too large");
const _: () = assert!(SHADOW_STACK_BASE + PAGE_SIZE < AREA_BASE + AREA_BYTES, "the area is too small");
