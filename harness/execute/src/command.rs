//! From an operation to the command that an actor understands.

use ptediff_reference_model::arena::{ARENA_BASE, ARENA_PAGES, PAGE_SIZE, PageRange};
use ptediff_reference_model::program::{Operation, Placement, Protection, store_value};
use ptediff_reference_model::protection_key::KeyRights;

use crate::area::{MAILBOX_BASE, stack_top};
use crate::mailbox::{Command, STAGE_OFFSET, slot_offset};

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
    pub(crate) const WRITE_PKRU: u64 = 9;
    pub(crate) const LOAD_BY_SYSTEM_CALL: u64 = 10;
    pub(crate) const STORE_BY_SYSTEM_CALL: u64 = 11;
    pub(crate) const ENTER_SHADOW_STACK: u64 = 12;
    pub(crate) const LEAVE_SHADOW_STACK: u64 = 13;
    pub(crate) const CALL: u64 = 14;
    pub(crate) const RETURN: u64 = 15;
    pub(crate) const DISCARD_FRAMES: u64 = 16;
    pub(crate) const OVERWRITE_RETURN: u64 = 17;
    pub(crate) const GO_HOME: u64 = 18;
    pub(crate) const WRITE_PROC_MEM: u64 = 19;
}

/// `map_shadow_stack`, which this libc does not name (arch/x86/entry/syscalls/syscall_64.tbl).
pub(crate) const SYS_MAP_SHADOW_STACK: i64 = 453;

/// `ARCH_SHSTK_STATUS` (uapi/asm/prctl.h).
const SHADOW_STACK_STATUS: u64 = 0x5005;

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

    /// Move back to the shadow stack outside the arena, if the actor runs on another.
    pub(crate) fn go_home() -> Self {
        Self::new(kind::GO_HOME, &[])
    }

    /// Unmap the whole arena.
    pub(crate) fn empty_arena() -> Self {
        Self::system_call(libc::SYS_munmap, &[ARENA_BASE, ARENA_PAGES as u64 * PAGE_SIZE])
    }

    /// mmap of anonymous memory at a fixed address, `kind` MAP_PRIVATE or MAP_SHARED.
    fn mmap(range: PageRange, protection: Protection, kind: i32, placement: Placement) -> Self {
        let placement = match placement {
            Placement::Fixed => libc::MAP_FIXED,
            Placement::FixedNoReplace => libc::MAP_FIXED_NOREPLACE,
        };
        let flags = kind | libc::MAP_ANONYMOUS | placement;
        let arguments = [range.address(), range.bytes(), protection.bits().into(), flags as u64, u64::MAX, 0];
        Self::system_call(libc::SYS_mmap, &arguments)
    }

    /// The command for the operation of the step with this index, of the actor in this slot.
    pub(crate) fn of_operation(index: usize, slot: usize, operation: &Operation) -> Self {
        match *operation {
            Operation::Mmap { range, protection, placement } => {
                Self::mmap(range, protection, libc::MAP_PRIVATE, placement)
            }
            Operation::MmapShared { range, protection, placement } => {
                Self::mmap(range, protection, libc::MAP_SHARED, placement)
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
            Operation::Mremap { range, to, keep } => {
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | if keep { libc::MREMAP_DONTUNMAP } else { 0 };
                let arguments = [range.address(), range.bytes(), to.bytes(), flags as u64, to.address()];
                Self::system_call(libc::SYS_mremap, &arguments)
            }
            Operation::MremapResize { range, pages } => {
                Self::system_call(libc::SYS_mremap, &[range.address(), range.bytes(), u64::from(pages) * PAGE_SIZE])
            }
            Operation::PkeyAlloc { rights } => Self::system_call(libc::SYS_pkey_alloc, &[0, rights.bits().into()]),
            Operation::PkeyFree { key } => Self::system_call(libc::SYS_pkey_free, &[key.number().into()]),
            Operation::PkeyMprotect { range, protection, key } => {
                let key = i64::from(key.number()) as u64;
                let arguments = [range.address(), range.bytes(), protection.bits().into(), key];
                Self::system_call(libc::SYS_pkey_mprotect, &arguments)
            }
            Operation::WritePkru { key, rights } => {
                let (kept, set) = (!KeyRights::DisableBoth.put(0, key.number()), rights.put(0, key.number()));
                Self::new(kind::WRITE_PKRU, &[kept.into(), set.into()])
            }
            Operation::ReadBySystemCall { page } => Self::new(kind::LOAD_BY_SYSTEM_CALL, &[page.address()]),
            Operation::WriteBySystemCall { page } => {
                Self::new(kind::STORE_BY_SYSTEM_CALL, &[page.address(), store_value(index)])
            }
            Operation::WriteProcMem { page } => Self::new(kind::WRITE_PROC_MEM, &[page.address(), store_value(index)]),
            Operation::EnterShadowStack { page } => {
                Self::new(kind::ENTER_SHADOW_STACK, &[page.address() + PAGE_SIZE - 8])
            }
            Operation::LeaveShadowStack => Self::new(kind::LEAVE_SHADOW_STACK, &[]),
            Operation::Call { frames } => Self::new(kind::CALL, &[frames.get().into()]),
            Operation::Return { frames } => Self::new(kind::RETURN, &[frames.get().into()]),
            Operation::DiscardFrames { frames } => Self::new(kind::DISCARD_FRAMES, &[frames.get().into()]),
            Operation::OverwriteReturn => Self::new(kind::OVERWRITE_RETURN, &[store_value(index)]),
            Operation::ControlShadowStack { control, features } => {
                Self::system_call(libc::SYS_arch_prctl, &[control.number(), features.bits().into()])
            }
            // The kernel stores the features in the answer.
            Operation::ShadowStackStatus => {
                let features = MAILBOX_BASE + slot_offset(slot) + STAGE_OFFSET;
                Self::system_call(libc::SYS_arch_prctl, &[SHADOW_STACK_STATUS, features])
            }
            Operation::UffdOpen { .. }
            | Operation::UffdClose { .. }
            | Operation::UffdRegister { .. }
            | Operation::UffdUnregister { .. }
            | Operation::UffdWriteProtect { .. }
            | Operation::UffdCopy { .. }
            | Operation::UffdZeropage { .. }
            | Operation::UffdWake { .. }
            | Operation::UffdFinish => unreachable!("the executor asks crate::uffd for {operation}"),
            Operation::MergePages => unreachable!("no actor does that"),
            Operation::WriteShadowStack { page } => {
                Self::new(kind::SHADOW_STACK_STORE, &[page.address(), store_value(index)])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageIndex};
    use ptediff_reference_model::program::{Advice, FrameCount, ShadowStackControl, ShadowStackFeatures};
    use ptediff_reference_model::protection_key::{KeyArgument, ProtectionKey};

    use super::*;

    fn check(operation: Operation, kind: u64, words: &[u64]) {
        let command = Command::of_operation(6, 1, &operation);
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
        let shared = |placement| Operation::MmapShared { range, protection, placement };
        check(shared(Placement::Fixed), call, &[9, start, bytes, 3, 0x31, u64::MAX]);
        check(shared(Placement::FixedNoReplace), call, &[9, start, bytes, 3, 0x10_0021, u64::MAX]);
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
        let to = PageRange::new(16, 4).unwrap();
        let target = 0x1000_0001_0000;
        check(Operation::Mremap { range, to, keep: false }, call, &[25, start, bytes, 0x4000, 3, target]);
        check(Operation::Mremap { range, to, keep: true }, call, &[25, start, bytes, 0x4000, 7, target]);
        check(Operation::MremapResize { range, pages: 5 }, call, &[25, start, bytes, 0x5000]);
        check(Operation::ClearSoftDirty, kind::CLEAR_SOFT_DIRTY, &[]);
        check(Operation::MapShadowStack { range, token: true }, call, &[453, start, bytes, 1]);
        check(Operation::MapShadowStack { range, token: false }, call, &[453, start, bytes]);
        check(Operation::WriteShadowStack { page }, kind::SHADOW_STACK_STORE, &[last, value]);
        let (key, rights) = (ProtectionKey::new(3).unwrap(), KeyRights::DisableWrite);
        check(Operation::PkeyAlloc { rights }, call, &[330, 0, 2]);
        check(Operation::PkeyFree { key }, call, &[331, 3]);
        let protect = |key| Operation::PkeyMprotect { range, protection, key };
        check(protect(KeyArgument::new(15).unwrap()), call, &[329, start, bytes, 3, 15]);
        check(protect(KeyArgument::NONE), call, &[329, start, bytes, 3, u64::MAX]);
        check(Operation::WritePkru { key, rights }, kind::WRITE_PKRU, &[0xffff_ff3f, 0x80]);
        check(Operation::ReadBySystemCall { page }, kind::LOAD_BY_SYSTEM_CALL, &[last]);
        check(Operation::WriteBySystemCall { page }, kind::STORE_BY_SYSTEM_CALL, &[last, value]);
        check(Operation::WriteProcMem { page }, kind::WRITE_PROC_MEM, &[last, value]);
        let frames = FrameCount::try_from(1024).unwrap();
        check(Operation::EnterShadowStack { page }, kind::ENTER_SHADOW_STACK, &[last + 4088]);
        check(Operation::LeaveShadowStack, kind::LEAVE_SHADOW_STACK, &[]);
        check(Operation::Call { frames }, kind::CALL, &[1024]);
        check(Operation::Return { frames }, kind::RETURN, &[1024]);
        check(Operation::DiscardFrames { frames }, kind::DISCARD_FRAMES, &[1024]);
        check(Operation::OverwriteReturn, kind::OVERWRITE_RETURN, &[value]);
        for (control, number) in ShadowStackControl::ALL.into_iter().zip(0x5001..) {
            let features = ShadowStackFeatures::WRSS;
            check(Operation::ControlShadowStack { control, features }, call, &[158, number, 2]);
        }
        check(Operation::ShadowStackStatus, call, &[158, 0x5005, MAILBOX_BASE + 256 + STAGE_OFFSET]);
        let child = ActorId::new(2).unwrap();
        check(Operation::Fork { child }, kind::FORK, &[MAILBOX_BASE + 512, stack_top(2)]);
    }
}
