//! From an operation to the command that an actor understands.

use ptediff_reference_model::arena::{ARENA_BASE, ARENA_PAGES, PAGE_SIZE};
use ptediff_reference_model::program::{Operation, Placement, store_value};

use crate::area::{MAILBOX_BASE, stack_top};
use crate::mailbox::{Command, slot_offset};

/// Kinds of command, the value of [`Command::kind`]. The assembly in [`crate::code`] knows them.
pub(crate) mod kind {
    pub(crate) const SYSTEM_CALL: u64 = 1;
    pub(crate) const LOAD: u64 = 2;
    pub(crate) const STORE: u64 = 3;
    pub(crate) const SHADOW_STACK_STORE: u64 = 4;
    pub(crate) const EXECUTE: u64 = 5;
    pub(crate) const FORK: u64 = 6;
    pub(crate) const CLEAR_SOFT_DIRTY: u64 = 7;
    pub(crate) const SWITCH_SHADOW_STACK: u64 = 8;
}

/// `map_shadow_stack`, which this libc does not name (arch/x86/entry/syscalls/syscall_64.tbl).
pub(crate) const SYS_MAP_SHADOW_STACK: i64 = 453;

/// `SHADOW_STACK_SET_TOKEN` (uapi/asm/mman.h).
pub(crate) const SET_TOKEN: u64 = 1;

impl Command {
    fn new(kind: u64, given: &[u64]) -> Self {
        let mut words = [0; 7];
        words[..given.len()].copy_from_slice(given);
        Self { kind, words }
    }

    /// A system call with up to six arguments.
    pub(crate) fn system_call(number: i64, arguments: &[u64]) -> Self {
        let mut command = Self::new(kind::SYSTEM_CALL, &[number as u64]);
        command.words[1..=arguments.len()].copy_from_slice(arguments);
        command
    }

    /// Fork a process that takes this slot.
    pub(crate) fn fork(slot: usize) -> Self {
        Self::new(kind::FORK, &[MAILBOX_BASE + slot_offset(slot), stack_top(slot)])
    }

    /// Say where the shadow stack stands: 0 where there is none.
    pub(crate) fn shadow_stack_pointer() -> Self {
        Self::new(kind::SWITCH_SHADOW_STACK, &[])
    }

    /// Move to the shadow stack that has its restore token at `address`, and say where it stands.
    pub(crate) fn switch_shadow_stack(address: u64) -> Self {
        Self::new(kind::SWITCH_SHADOW_STACK, &[address])
    }

    /// Unmap the whole arena.
    pub(crate) fn empty_arena() -> Self {
        Self::system_call(libc::SYS_munmap, &[ARENA_BASE, ARENA_PAGES as u64 * PAGE_SIZE])
    }

    /// The command for the operation of the step with this index.
    pub(crate) fn of_operation(index: usize, operation: &Operation) -> Self {
        match *operation {
            Operation::Mmap { range, protection, placement } => {
                let placement = match placement {
                    Placement::Fixed => libc::MAP_FIXED,
                    Placement::FixedNoReplace => libc::MAP_FIXED_NOREPLACE,
                };
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | placement;
                let arguments = [range.address(), range.bytes(), protection.bits().into(), flags as u64, u64::MAX, 0];
                Self::system_call(libc::SYS_mmap, &arguments)
            }
            Operation::Munmap { range } => Self::system_call(libc::SYS_munmap, &[range.address(), range.bytes()]),
            Operation::Read { page } => Self::new(kind::LOAD, &[page.address()]),
            Operation::Write { page } => Self::new(kind::STORE, &[page.address(), store_value(index)]),
            Operation::Execute { page } => Self::new(kind::EXECUTE, &[page.address()]),
            Operation::Mprotect { range, protection } => {
                let arguments = [range.address(), range.bytes(), protection.bits().into()];
                Self::system_call(libc::SYS_mprotect, &arguments)
            }
            Operation::Fork { child } => Self::fork(child.index()),
            Operation::Exit => Self::system_call(libc::SYS_exit_group, &[0]),
            Operation::MadviseDontneed { range } => {
                let arguments = [range.address(), range.bytes(), libc::MADV_DONTNEED as u64];
                Self::system_call(libc::SYS_madvise, &arguments)
            }
            Operation::ClearSoftDirty => Self::new(kind::CLEAR_SOFT_DIRTY, &[]),
            Operation::MapShadowStack { range, token } => {
                let flags = if token { SET_TOKEN } else { 0 };
                Self::system_call(SYS_MAP_SHADOW_STACK, &[range.address(), range.bytes(), flags])
            }
            Operation::Madvise { range, advice } => {
                let arguments = [range.address(), range.bytes(), advice.number() as u64];
                Self::system_call(libc::SYS_madvise, &arguments)
            }
            Operation::Mlock { range } => Self::system_call(libc::SYS_mlock, &[range.address(), range.bytes()]),
            Operation::Munlock { range } => Self::system_call(libc::SYS_munlock, &[range.address(), range.bytes()]),
            Operation::UffdOpen { .. }
            | Operation::UffdClose { .. }
            | Operation::UffdRegister { .. }
            | Operation::UffdUnregister { .. }
            | Operation::UffdWriteProtect { .. }
            | Operation::UffdCopy { .. }
            | Operation::UffdZeropage { .. }
            | Operation::UffdWake { .. }
            | Operation::UffdFinish => unreachable!("the executor asks crate::uffd for {operation}"),
            Operation::WriteShadowStack { page } => {
                Self::new(kind::SHADOW_STACK_STORE, &[page.address(), store_value(index)])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
    use ptediff_reference_model::program::{Advice, Protection};

    use super::*;

    fn check(operation: Operation, kind: u64, words: &[u64]) {
        let command = Command::of_operation(6, &operation);
        assert_eq!(command.kind, kind, "{operation}");
        assert_eq!(command.words[..words.len()], *words, "{operation}");
        assert!(command.words[words.len()..].iter().all(|&word| word == 0), "{operation}: words beyond the last");
    }

    #[test]
    fn operations_become_commands() {
        let range = PageRange::new(2, 3).unwrap();
        let page = PageIndex::new(31).unwrap();
        let protection = Protection::READ_WRITE;
        let (call, start, bytes, last) = (kind::SYSTEM_CALL, 0x1000_0000_2000, 0x3000, 0x1000_0001_f000);
        let value = (7 << 16) | 0xe1ff;
        let mmap = |placement| Operation::Mmap { range, protection, placement };
        check(mmap(Placement::Fixed), call, &[9, start, bytes, 3, 0x32, u64::MAX]);
        check(mmap(Placement::FixedNoReplace), call, &[9, start, bytes, 3, 0x10_0022, u64::MAX]);
        check(Operation::Munmap { range }, call, &[11, start, bytes]);
        check(Operation::Read { page }, kind::LOAD, &[last]);
        check(Operation::Write { page }, kind::STORE, &[last, value]);
        check(Operation::Execute { page }, kind::EXECUTE, &[last]);
        check(Operation::Mprotect { range, protection: Protection::EXECUTE }, call, &[10, start, bytes, 4]);
        check(Operation::Exit, call, &[231]);
        check(Operation::MadviseDontneed { range }, call, &[28, start, bytes, 4]);
        for (advice, number) in [
            (Advice::Cold, libc::MADV_COLD),
            (Advice::PopulateRead, libc::MADV_POPULATE_READ),
            (Advice::PopulateWrite, libc::MADV_POPULATE_WRITE),
            (Advice::WipeOnFork, libc::MADV_WIPEONFORK),
            (Advice::KeepOnFork, libc::MADV_KEEPONFORK),
            (Advice::DontFork, libc::MADV_DONTFORK),
            (Advice::DoFork, libc::MADV_DOFORK),
            (Advice::Free, libc::MADV_FREE),
        ] {
            check(Operation::Madvise { range, advice }, call, &[28, start, bytes, number as u64]);
        }
        check(Operation::Mlock { range }, call, &[149, start, bytes]);
        check(Operation::Munlock { range }, call, &[150, start, bytes]);
        check(Operation::ClearSoftDirty, kind::CLEAR_SOFT_DIRTY, &[]);
        check(Operation::MapShadowStack { range, token: true }, call, &[453, start, bytes, 1]);
        check(Operation::MapShadowStack { range, token: false }, call, &[453, start, bytes]);
        check(Operation::WriteShadowStack { page }, kind::SHADOW_STACK_STORE, &[last, value]);
        let child = ActorId::new(2).unwrap();
        check(Operation::Fork { child }, kind::FORK, &[MAILBOX_BASE + 512, stack_top(2)]);
    }
}
