//! From an actor's answer to the operation's outcome.

use ptediff_reference_model::arena::PAGE_SIZE;
use ptediff_reference_model::outcome::{Fault, Outcome};
use ptediff_reference_model::program::Operation;

use crate::code::Sites;
use crate::mailbox::Answer;

/// Vector of an invalid opcode.
const INVALID_OPCODE: u64 = 6;

/// Vector of a page fault.
const PAGE_FAULT: u64 = 14;

/// Largest errno that a system call returns (include/linux/err.h: MAX_ERRNO).
const MAX_ERRNO: u64 = 4095;

/// An answer that no run of the operation can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unclassified {
    /// A fault at another instruction than the operation's.
    Stray(Fault),
    /// `/proc/self/clear_refs` could not be opened: the rig's fault, not an outcome.
    ClearRefsNotOpened(i32),
    /// `/proc/self/mem` could not be opened: as above.
    ProcMemNotOpened(i32),
    /// The answer says neither success nor failure.
    Senseless,
}

/// The errno in a system call's return value, if it failed.
pub(crate) fn errno(value: u64) -> Option<i32> {
    let negated = value.wrapping_neg();
    (1..=MAX_ERRNO).contains(&negated).then_some(negated as i32)
}

fn returned(value: u64, success: u64) -> Outcome {
    match errno(value) {
        Some(errno) => Outcome::Failed(errno),
        None if value == success => Outcome::Succeeded,
        None => Outcome::Elsewhere(value),
    }
}

impl Answer {
    /// The signal that the answer tells of.
    pub(crate) fn fault(&self) -> Fault {
        Fault {
            signal: self.signal as u8,
            code: self.code as u32 as i32,
            address: self.address,
            error_code: self.error_code as u32,
            key: self.key as u32,
        }
    }
}

/// What the answer means for this operation. `Fork` and `Exit` end elsewhere: see [`crate::executor`].
pub(crate) fn outcome(operation: &Operation, answer: &Answer, sites: &Sites) -> Result<Outcome, Unclassified> {
    if answer.signal != 0 {
        return faulted(operation, answer, sites);
    }
    Ok(match *operation {
        Operation::Mmap { range, .. }
        | Operation::MmapShared { range, .. }
        | Operation::MapShadowStack { range, .. }
        | Operation::Mremap { to: range, .. }
        | Operation::MremapResize { range, .. } => returned(answer.value, range.address()),
        Operation::Munmap { .. }
        | Operation::Mprotect { .. }
        | Operation::MadviseDontneed { .. }
        | Operation::Madvise { .. }
        | Operation::Mlock { .. }
        | Operation::Munlock { .. }
        | Operation::PkeyFree { .. }
        | Operation::PkeyMprotect { .. }
        | Operation::ControlShadowStack { .. }
        | Operation::UffdOpen { .. }
        | Operation::UffdClose { .. }
        | Operation::UffdRegister { .. }
        | Operation::UffdUnregister { .. }
        | Operation::UffdWriteProtect { .. }
        | Operation::UffdCopy { .. }
        | Operation::UffdZeropage { .. }
        | Operation::UffdWake { .. }
        | Operation::UffdFinish
        | Operation::MergePages
        | Operation::Exit => returned(answer.value, 0),
        Operation::Fork { .. } => match errno(answer.value) {
            Some(errno) => Outcome::Failed(errno),
            None => Outcome::Succeeded,
        },
        Operation::ClearSoftDirty => match (answer.stage, errno(answer.value)) {
            (0, Some(errno)) => return Err(Unclassified::ClearRefsNotOpened(errno)),
            (_, Some(errno)) => Outcome::Failed(errno),
            (_, None) if answer.value == 1 => Outcome::Succeeded,
            (_, None) => return Err(Unclassified::Senseless),
        },
        Operation::PkeyAlloc { .. } => match errno(answer.value) {
            Some(errno) => Outcome::Failed(errno),
            None => Outcome::Returned(answer.value),
        },
        Operation::WritePkru { .. } => Outcome::Returned(answer.value),
        Operation::ReadBySystemCall { .. } => match (answer.stage, errno(answer.value)) {
            (1, _) => Outcome::Loaded(answer.value),
            (_, Some(errno)) => Outcome::Failed(errno),
            (_, None) => return Err(Unclassified::Senseless),
        },
        Operation::WriteBySystemCall { .. } | Operation::WriteProcMem { .. } => {
            match (answer.stage, errno(answer.value)) {
                (0, Some(errno)) if matches!(operation, Operation::WriteProcMem { .. }) => {
                    return Err(Unclassified::ProcMemNotOpened(errno));
                }
                (1, Some(errno)) => Outcome::Failed(errno),
                (1, None) if answer.value == 8 => Outcome::Stored,
                _ => return Err(Unclassified::Senseless),
            }
        }
        Operation::Read { .. } => Outcome::Loaded(answer.value),
        Operation::Write { .. } | Operation::WriteShadowStack { .. } => Outcome::Stored,
        Operation::Execute { .. } if answer.stage == 1 => Outcome::Executed,
        Operation::Execute { .. } => return Err(Unclassified::Senseless),
        Operation::EnterShadowStack { .. }
        | Operation::LeaveShadowStack
        | Operation::Call { .. }
        | Operation::Return { .. }
        | Operation::DiscardFrames { .. } => Outcome::Loaded(answer.value),
        Operation::OverwriteReturn if answer.stage == 1 => Outcome::Stored,
        Operation::OverwriteReturn => Outcome::Loaded(answer.value),
        Operation::ShadowStackStatus => match errno(answer.value) {
            Some(errno) => Outcome::Failed(errno),
            None => Outcome::Loaded(answer.stage),
        },
    })
}

fn faulted(operation: &Operation, answer: &Answer, sites: &Sites) -> Result<Outcome, Unclassified> {
    let mut fault = answer.fault();
    if answer.trap == INVALID_OPCODE && answer.address == answer.instruction {
        // The instruction's own address, which no other machine has to share.
        fault.address = 0;
    }
    if answer.instruction == sites.answer && fault.signal == libc::SIGSEGV as u8 && fault.code == libc::SI_KERNEL {
        // The sigreturn of an access's fault was refused: the kernel's own signal came on top.
        return Ok(Outcome::Faulted(fault));
    }
    let expected = match *operation {
        Operation::Read { .. } => sites.load,
        Operation::Write { .. } => sites.store,
        Operation::WriteShadowStack { .. } => sites.shadow_stack_store,
        Operation::EnterShadowStack { .. } if answer.instruction == sites.enter[1] => sites.enter[1],
        Operation::EnterShadowStack { .. } => sites.enter[0],
        Operation::LeaveShadowStack => sites.leave_save,
        Operation::Call { .. } => sites.call,
        Operation::Return { .. } => sites.ret,
        Operation::DiscardFrames { .. } => sites.discard,
        Operation::OverwriteReturn => sites.overwrite,
        Operation::Execute { page } => {
            // A refused fetch is a page fault at the page itself. Anything else that the page's own
            // instructions raise (`add [rax], al` of a zero-filled page: a page fault at address 0; or
            // an invalid opcode) says that the first byte was fetched and executed.
            if answer.trap == PAGE_FAULT && answer.address == page.address() {
                page.address()
            } else if (page.address()..page.address() + PAGE_SIZE).contains(&answer.instruction) {
                return Ok(Outcome::Executed);
            } else {
                return Err(Unclassified::Stray(fault));
            }
        }
        _ => return Err(Unclassified::Stray(fault)),
    };
    if answer.instruction == expected { Ok(Outcome::Faulted(fault)) } else { Err(Unclassified::Stray(fault)) }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
    use ptediff_reference_model::program::{Advice, FrameCount, Placement, Protection};

    use super::*;

    const SITES: Sites = Sites {
        load: 0x11,
        store: 0x22,
        shadow_stack_store: 0x33,
        enter: [0x61, 0x62],
        leave_save: 0x63,
        call: 0x64,
        ret: 0x65,
        discard: 0x66,
        overwrite: 0x67,
        answer: 0x68,
        handler: 0x44,
        restorer: 0x55,
    };
    const PAGE: u64 = 0x1000_0000_5000;

    fn check(operation: Operation, answer: Answer, expected: Result<Outcome, Unclassified>) {
        assert_eq!(outcome(&operation, &answer, &SITES), expected, "{operation}: {answer:?}");
    }

    fn returns(value: i64) -> Answer {
        Answer { value: value as u64, ..Answer::default() }
    }

    fn segv(address: u64, error_code: u64, instruction: u64) -> Answer {
        Answer { signal: 11, code: 2, address, trap: 14, error_code, instruction, ..Answer::default() }
    }

    fn segv_fault(address: u64, error_code: u32) -> Fault {
        Fault { signal: 11, code: 2, address, error_code, key: 0 }
    }

    fn page() -> PageIndex {
        PageIndex::new(5).unwrap()
    }

    fn range() -> PageRange {
        PageRange::single(page())
    }

    #[test]
    fn system_calls() {
        let mmap =
            Operation::Mmap { range: range(), protection: Protection::READ, placement: Placement::FixedNoReplace };
        check(mmap, returns(PAGE as i64), Ok(Outcome::Succeeded));
        check(mmap, returns(0x7000), Ok(Outcome::Elsewhere(0x7000)));
        check(mmap, returns(0), Ok(Outcome::Elsewhere(0)));
        check(mmap, returns(-17), Ok(Outcome::Failed(17)));
        let shadow = Operation::MapShadowStack { range: range(), token: false };
        check(shadow, returns(PAGE as i64), Ok(Outcome::Succeeded));
        check(shadow, returns(-95), Ok(Outcome::Failed(95)));
        let to = PageRange::new(9, 1).unwrap();
        let moved = Operation::Mremap { range: range(), to, keep: false };
        check(moved, returns(PAGE as i64 + 0x4000), Ok(Outcome::Succeeded));
        check(moved, returns(PAGE as i64), Ok(Outcome::Elsewhere(PAGE)));
        check(moved, returns(-14), Ok(Outcome::Failed(14)));
        let resized = Operation::MremapResize { range: range(), pages: 2 };
        check(resized, returns(PAGE as i64), Ok(Outcome::Succeeded));
        check(resized, returns(-12), Ok(Outcome::Failed(12)));
        for operation in [
            Operation::Munmap { range: range() },
            Operation::Mprotect { range: range(), protection: Protection::NONE },
            Operation::MadviseDontneed { range: range() },
            Operation::Madvise { range: range(), advice: Advice::Cold },
            Operation::Mlock { range: range() },
            Operation::Munlock { range: range() },
        ] {
            check(operation, returns(0), Ok(Outcome::Succeeded));
            check(operation, returns(-12), Ok(Outcome::Failed(12)));
            check(operation, returns(4096), Ok(Outcome::Elsewhere(4096)));
            check(operation, segv(PAGE, 4, 0x11), Err(Unclassified::Stray(segv_fault(PAGE, 4))));
        }
        let fork = Operation::Fork { child: ActorId::new(1).unwrap() };
        check(fork, returns(4321), Ok(Outcome::Succeeded));
        check(fork, returns(-11), Ok(Outcome::Failed(11)));
    }

    #[test]
    fn errno_is_only_what_the_kernel_calls_an_error() {
        assert_eq!(errno((-1_i64) as u64), Some(1));
        assert_eq!(errno((-4095_i64) as u64), Some(4095));
        assert_eq!(errno((-4096_i64) as u64), None);
        assert_eq!(errno(0), None);
        assert_eq!(errno(PAGE), None);
    }

    #[test]
    fn clear_soft_dirty() {
        let written = |value: i64| Answer { stage: 1, ..returns(value) };
        check(Operation::ClearSoftDirty, written(1), Ok(Outcome::Succeeded));
        check(Operation::ClearSoftDirty, written(-22), Ok(Outcome::Failed(22)));
        check(Operation::ClearSoftDirty, written(0), Err(Unclassified::Senseless));
        check(Operation::ClearSoftDirty, returns(-2), Err(Unclassified::ClearRefsNotOpened(2)));
        let forced = Operation::WriteProcMem { page: page() };
        check(forced, written(8), Ok(Outcome::Stored));
        check(forced, written(-5), Ok(Outcome::Failed(5)));
        check(forced, written(4), Err(Unclassified::Senseless));
        check(forced, returns(-13), Err(Unclassified::ProcMemNotOpened(13)));
    }

    #[test]
    fn loads_and_stores() {
        let cases = [
            (Operation::Read { page: page() }, 0x11, Outcome::Loaded(42)),
            (Operation::Write { page: page() }, 0x22, Outcome::Stored),
            (Operation::WriteShadowStack { page: page() }, 0x33, Outcome::Stored),
        ];
        for (operation, site, retired) in cases {
            check(operation, returns(42), Ok(retired));
            check(operation, segv(PAGE, 0x47, site), Ok(Outcome::Faulted(segv_fault(PAGE, 0x47))));
            // Another address is the kernel's affair, not a stray fault.
            check(operation, segv(0, 0x47, site), Ok(Outcome::Faulted(segv_fault(0, 0x47))));
            check(operation, segv(PAGE, 0x47, 0x44), Err(Unclassified::Stray(segv_fault(PAGE, 0x47))));
        }
        let no_wrss = Answer { signal: 4, code: 2, address: 0x33, trap: 6, instruction: 0x33, ..Answer::default() };
        let fault = Fault { signal: 4, code: 2, address: 0, error_code: 0, key: 0 };
        check(Operation::WriteShadowStack { page: page() }, no_wrss, Ok(Outcome::Faulted(fault)));
    }

    #[test]
    fn keys() {
        use ptediff_reference_model::protection_key::{KeyArgument, KeyRights, ProtectionKey};
        let rights = KeyRights::Allow;
        check(Operation::PkeyAlloc { rights }, returns(1), Ok(Outcome::Returned(1)));
        check(Operation::PkeyAlloc { rights }, returns(-28), Ok(Outcome::Failed(28)));
        check(Operation::PkeyFree { key: ProtectionKey::FIRST }, returns(-22), Ok(Outcome::Failed(22)));
        let protect = Operation::PkeyMprotect { range: range(), protection: Protection::READ, key: KeyArgument::NONE };
        check(protect, returns(0), Ok(Outcome::Succeeded));
        let write = Operation::WritePkru { key: ProtectionKey::FIRST, rights };
        check(write, returns(0x5555_5554), Ok(Outcome::Returned(0x5555_5554)));
        let denied = Answer { code: 4, key: 1, ..segv(PAGE, 0x25, 0x11) };
        let fault = Fault { code: 4, key: 1, ..segv_fault(PAGE, 0x25) };
        check(Operation::Read { page: page() }, denied, Ok(Outcome::Faulted(fault)));
    }

    #[test]
    fn accesses_by_system_calls() {
        let (read, write) =
            (Operation::ReadBySystemCall { page: page() }, Operation::WriteBySystemCall { page: page() });
        let staged = |value: i64| Answer { stage: 1, ..returns(value) };
        check(read, staged(0x2_e1ff), Ok(Outcome::Loaded(0x2_e1ff)));
        check(read, staged(-14), Ok(Outcome::Loaded(-14_i64 as u64)));
        check(read, returns(-14), Ok(Outcome::Failed(14)));
        check(read, returns(7), Err(Unclassified::Senseless));
        check(write, staged(8), Ok(Outcome::Stored));
        check(write, staged(-14), Ok(Outcome::Failed(14)));
        check(write, staged(4), Err(Unclassified::Senseless));
        check(write, returns(-11), Err(Unclassified::Senseless));
    }

    #[test]
    fn live_shadow_stacks() {
        let frames = FrameCount::ONE;
        let moved = [
            (Operation::EnterShadowStack { page: page() }, 0x61),
            (Operation::EnterShadowStack { page: page() }, 0x62),
            (Operation::LeaveShadowStack, 0x63),
            (Operation::Call { frames }, 0x64),
            (Operation::Return { frames }, 0x65),
            (Operation::DiscardFrames { frames }, 0x66),
        ];
        for (operation, site) in moved {
            check(operation, returns(42), Ok(Outcome::Loaded(42)));
            check(operation, segv(PAGE, 0x46, site), Ok(Outcome::Faulted(segv_fault(PAGE, 0x46))));
            check(operation, segv(PAGE, 0x46, 0x11), Err(Unclassified::Stray(segv_fault(PAGE, 0x46))));
            // Its sigreturn was refused.
            let again = Answer { code: 128, ..segv(0, 0x46, 0x68) };
            check(operation, again, Ok(Outcome::Faulted(Fault { code: 128, ..segv_fault(0, 0x46) })));
            check(operation, segv(0, 0x46, 0x68), Err(Unclassified::Stray(segv_fault(0, 0x46))));
        }
        let overwritten = Answer { stage: 1, ..Answer::default() };
        check(Operation::OverwriteReturn, overwritten, Ok(Outcome::Stored));
        check(Operation::OverwriteReturn, Answer::default(), Ok(Outcome::Loaded(0)));
        let status = Answer { stage: 3, ..Answer::default() };
        check(Operation::ShadowStackStatus, status, Ok(Outcome::Loaded(3)));
        check(Operation::ShadowStackStatus, returns(-22), Ok(Outcome::Failed(22)));
    }

    #[test]
    fn execute() {
        let execute = Operation::Execute { page: page() };
        check(execute, Answer { stage: 1, ..Answer::default() }, Ok(Outcome::Executed));
        check(execute, Answer::default(), Err(Unclassified::Senseless));
        // Refused fetch: absent page, then a page that may not be executed.
        check(execute, segv(PAGE, 0x14, PAGE), Ok(Outcome::Faulted(segv_fault(PAGE, 0x14))));
        check(execute, segv(PAGE, 0x15, PAGE), Ok(Outcome::Faulted(segv_fault(PAGE, 0x15))));
        // `add [rax], al` ran, at the page's start or, had that passed, further on.
        check(execute, segv(0, 6, PAGE), Ok(Outcome::Executed));
        check(execute, segv(0, 6, PAGE + 8), Ok(Outcome::Executed));
        check(execute, segv(0, 6, PAGE + 4096), Err(Unclassified::Stray(segv_fault(0, 6))));
        // An invalid opcode on the page: its si_addr is the page too, but it was executed.
        let invalid = Answer { signal: 4, trap: 6, address: PAGE, instruction: PAGE, ..Answer::default() };
        check(execute, invalid, Ok(Outcome::Executed));
        // The kernel says the page faulted, but the instruction pointer is elsewhere.
        check(execute, segv(PAGE, 0x15, 0x22), Err(Unclassified::Stray(segv_fault(PAGE, 0x15))));
    }
}
