//! From an actor's answer to the operation's outcome.

use ptediff_reference_model::arena::PAGE_SIZE;
use ptediff_reference_model::outcome::{Fault, Outcome};
use ptediff_reference_model::program::Operation;

use crate::code::Sites;
use crate::mailbox::Answer;

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
        }
    }
}

/// What the answer means for this operation. `Fork` and `Exit` end elsewhere: see [`crate::executor`].
pub(crate) fn outcome(operation: &Operation, answer: &Answer, sites: &Sites) -> Result<Outcome, Unclassified> {
    if answer.signal != 0 {
        return faulted(operation, answer, sites);
    }
    Ok(match *operation {
        Operation::Mmap { range, .. } | Operation::MapShadowStack { range, .. } => {
            returned(answer.value, range.address())
        }
        Operation::Munmap { .. }
        | Operation::Mprotect { .. }
        | Operation::MadviseDontneed { .. }
        | Operation::Madvise { .. }
        | Operation::Mlock { .. }
        | Operation::Munlock { .. }
        | Operation::UffdOpen { .. }
        | Operation::UffdClose { .. }
        | Operation::UffdRegister { .. }
        | Operation::UffdUnregister { .. }
        | Operation::UffdWriteProtect { .. }
        | Operation::UffdCopy { .. }
        | Operation::UffdZeropage { .. }
        | Operation::UffdWake { .. }
        | Operation::UffdFinish
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
        Operation::Read { .. } => Outcome::Loaded(answer.value),
        Operation::Write { .. } | Operation::WriteShadowStack { .. } => Outcome::Stored,
        Operation::Execute { .. } if answer.stage == 1 => Outcome::Executed,
        Operation::Execute { .. } => return Err(Unclassified::Senseless),
    })
}

fn faulted(operation: &Operation, answer: &Answer, sites: &Sites) -> Result<Outcome, Unclassified> {
    let fault = answer.fault();
    let expected = match *operation {
        Operation::Read { .. } => sites.load,
        Operation::Write { .. } => sites.store,
        Operation::WriteShadowStack { .. } => sites.shadow_stack_store,
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
    use ptediff_reference_model::program::{Advice, Placement, Protection};

    use super::*;

    const SITES: Sites = Sites { load: 0x11, store: 0x22, shadow_stack_store: 0x33, handler: 0x44, restorer: 0x55 };
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
        Fault { signal: 11, code: 2, address, error_code }
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
        let fault = Fault { signal: 4, code: 2, address: 0x33, error_code: 0 };
        check(Operation::WriteShadowStack { page: page() }, no_wrss, Ok(Outcome::Faulted(fault)));
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
