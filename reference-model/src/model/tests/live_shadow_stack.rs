//! What the last of some steps gives on a live shadow stack, by version.

use super::*;
use crate::arena::RETURN_SITE;
use crate::outcome::Outcome::{Dead, Executed, Failed, Faulted, Killed, Loaded, Stored, Succeeded};
use crate::outcome::{Fault, Outcome};
use crate::program::{FrameCount, ShadowStackControl, ShadowStackFeatures};

const BOTH: [KernelVersion; 2] = [KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2];
const ENTER: Operation = Operation::EnterShadowStack { page: FIRST };
const LEAVE: Operation = Operation::LeaveShadowStack;
const OVERWRITE: Operation = Operation::OverwriteReturn;
const STATUS: Operation = Operation::ShadowStackStatus;
const UNMAP: Operation = Operation::Munmap { range: ONE };
const DISCARD: Operation = Operation::MadviseDontneed { range: ONE };
const BAD_TOKEN: Outcome = Faulted(Fault { signal: 11, code: 10, address: 0, error_code: 4, key: 0 });
const MISMATCH: Outcome = Faulted(Fault { signal: 11, code: 10, address: 0, error_code: 1, key: 0 });
const UNDEFINED: Outcome = Faulted(Fault { signal: 4, code: 2, address: 0, error_code: 0, key: 0 });

/// SSP of an empty stack on page 0.
const TOP: u64 = 0x1000_0000_1000;

fn frames(count: u16) -> FrameCount {
    FrameCount::try_from(count).unwrap()
}

fn call(count: u16) -> Operation {
    Operation::Call { frames: frames(count) }
}

fn back(count: u16) -> Operation {
    Operation::Return { frames: frames(count) }
}

fn discard(count: u16) -> Operation {
    Operation::DiscardFrames { frames: frames(count) }
}

fn control(control: ShadowStackControl, features: u8) -> Operation {
    Operation::ControlShadowStack { control, features: ShadowStackFeatures::try_from(features).unwrap() }
}

fn narrow(protection: u8) -> Operation {
    Operation::Mprotect { range: ONE, protection: Protection::from_bits(protection).unwrap() }
}

fn refused(code: i32, address: u64, error_code: u32) -> Outcome {
    Faulted(Fault { signal: 11, code, address, error_code, key: 0 })
}

/// Runs the steps on each version and compares what the last gives.
fn gives_on(versions: &[KernelVersion], shadow_stack: bool, steps: &[(usize, Operation)], expected: Outcome) {
    for &version in versions {
        let mut model = Model::as_released(&machine(version, shadow_stack));
        let outcomes = steps.iter().enumerate().map(|(index, &(who, operation))| {
            let step = Step { actor: actor(who), operation };
            assert!(model.is_possible(&step), "{step} of {steps:?} on {version}");
            model.step(index, &step).outcome
        });
        assert_eq!(outcomes.last().flatten(), Some(expected), "{steps:?} on {version}");
    }
}

fn gives(steps: &[Operation], expected: Outcome) {
    let steps: Vec<(usize, Operation)> = steps.iter().map(|&operation| (0, operation)).collect();
    gives_on(&BOTH, true, &steps, expected);
}

#[test]
fn the_pointer_follows_calls_returns_and_moves() {
    gives(&[SHADOW_STACK, ENTER], Loaded(TOP));
    gives(&[SHADOW_STACK, ENTER, call(3)], Loaded(TOP - 24));
    gives(&[SHADOW_STACK, ENTER, call(3), back(2)], Loaded(TOP - 8));
    gives(&[SHADOW_STACK, ENTER, call(512), discard(511)], Loaded(TOP - 8));
    gives(&[SHADOW_STACK, ENTER, call(512), READ], Loaded(RETURN_SITE));
    gives(&[SHADOW_STACK, ENTER, LEAVE], Loaded(0));
    gives(&[SHADOW_STACK, ENTER, LEAVE, ENTER], Loaded(TOP));
    gives(&[SHADOW_STACK, call(1)], Loaded(0));
    // A signal leaves SSP where it was, and its frame below.
    gives(&[SHADOW_STACK, ENTER, call(1), WRITE, back(1)], Loaded(TOP));
}

#[test]
fn what_the_cpu_refuses() {
    gives(&[SHADOW_STACK, ENTER, ENTER], BAD_TOKEN);
    gives(&[SHADOW_STACK, ENTER, call(1), LEAVE, ENTER], BAD_TOKEN);
    gives(&[SHADOW_STACK, ENTER, call(2), OVERWRITE], Stored);
    gives(&[SHADOW_STACK, ENTER, call(2), OVERWRITE, back(1)], MISMATCH);
    gives(&[SHADOW_STACK, ENTER, call(2), OVERWRITE, discard(1), back(1)], Loaded(TOP));
    gives(&[SHADOW_STACK, ENTER, call(1), DISCARD, back(1)], MISMATCH);
    gives(&[SHADOW_STACK, ENTER, call(1), back(2)], refused(1, TOP, 0x44));
    gives(&[ENTER], refused(1, TOP - 8, 0x44));
    gives(&[mmap(3), WRITE, ENTER], refused(2, TOP - 8, 0x45));
    gives(&[SHADOW_STACK, ENTER, UNMAP, LEAVE], refused(1, TOP - 4, 0x46));
}

#[test]
fn a_signal_without_room_for_its_frame_kills() {
    gives(&[SHADOW_STACK, ENTER, UNMAP, call(1)], Killed(11));
    gives(&[SHADOW_STACK, ENTER, UNMAP, READ], Killed(11));
    // One of the two words of the frame fits.
    gives(&[SHADOW_STACK, ENTER, call(511), WRITE], Killed(11));
    gives(&[SHADOW_STACK, ENTER, call(510), WRITE], refused(2, FIRST.address(), 7));
    // What is executed is `jmp *%rcx` of a stored value, or raises a signal.
    let code = Operation::Mmap {
        range: range(1, 1),
        protection: Protection::from_bits(5).unwrap(),
        placement: Placement::Fixed,
    };
    let execute = Operation::Execute { page: page(1) };
    gives(&[SHADOW_STACK, code, ENTER, execute], Executed);
    gives(&[SHADOW_STACK, code, ENTER, UNMAP, execute], Killed(11));
    let died = [(0, SHADOW_STACK), (0, FORK), (1, ENTER)];
    let on = |more: &[(usize, Operation)], expected| {
        gives_on(&BOTH, true, &[&died[..], &[(1, UNMAP), (1, call(1))], more].concat(), expected);
    };
    on(&[(1, READ)], Dead);
    on(&[(0, ENTER), (0, call(1))], Loaded(TOP - 8));
    on(&[(1, Operation::Exit), (0, FORK)], Succeeded);
}

#[test]
fn sigreturn_reads_through_get_user_pages_in_6_12() {
    let steps = [(0, SHADOW_STACK), (0, ENTER), (0, narrow(2)), (0, WRITE)];
    gives_on(&[KernelVersion::LINUX_6_12], true, &steps, Killed(11));
    gives_on(&[KernelVersion::LINUX_7_2], true, &steps, refused(2, FIRST.address(), 7));
}

#[test]
fn fork_copies_what_was_pushed_and_the_pointer() {
    let forked = [(0, SHADOW_STACK), (0, ENTER), (0, call(2)), (0, FORK)];
    let after = |more: &[(usize, Operation)], expected| gives_on(&BOTH, true, &[&forked[..], more].concat(), expected);
    after(&[(1, back(2))], Loaded(TOP));
    after(&[(1, OVERWRITE), (0, back(2))], Loaded(TOP));
    after(&[(0, OVERWRITE), (1, back(2)), (0, back(1))], MISMATCH);
    // RET is a shadow-stack load, which needs an entry of a shadow stack.
    check("return after fork", &[&forked[..], &[(1, back(1))]].concat(), &[(0, PROTECTED), (1, SHADOW)]);
    check("signal after fork", &[&forked[..], &[(1, WRITE)]].concat(), &[(0, PROTECTED), (1, SHADOW)]);
}

#[test]
fn features() {
    use ShadowStackControl::{Disable, Enable, Lock, Unlock};
    gives(&[STATUS], Loaded(3));
    gives(&[control(Disable, 2), STATUS], Loaded(1));
    gives(&[control(Disable, 1), STATUS], Loaded(0));
    gives(&[control(Disable, 1), control(Enable, 2)], Failed(1));
    gives(&[control(Disable, 1), control(Enable, 1), STATUS], Loaded(1));
    gives(&[control(Lock, 2), control(Enable, 2)], Failed(1));
    gives(&[control(Lock, 2), control(Unlock, 2)], Failed(1));
    gives(&[control(Disable, 2), control(Unlock, 2), STATUS], Loaded(3));
    gives(&[control(Enable, 3)], Failed(22));
    gives(&[control(Enable, 4)], Failed(22));
    gives(&[control(Disable, 0)], Failed(22));
    gives(&[SHADOW_STACK, control(Disable, 2), WRSS], UNDEFINED);
    gives(&[SHADOW_STACK, control(Disable, 1), ENTER], UNDEFINED);
    gives(&[SHADOW_STACK, ENTER, control(Disable, 1), call(1)], Loaded(0));
    let child = [(0, control(Lock, 2)), (0, FORK), (1, control(Disable, 2))];
    gives_on(&BOTH, true, &child, Failed(1));
    gives_on(&BOTH, false, &[(0, STATUS)], Loaded(0));
    gives_on(&BOTH, false, &[(0, control(Enable, 1))], Failed(95));
    gives_on(&BOTH, false, &[(0, control(Lock, 1)), (0, control(Enable, 1))], Failed(1));
    gives_on(&[KernelVersion::LINUX_6_1], false, &[(0, control(Lock, 1))], Failed(22));
    gives_on(&[KernelVersion::LINUX_6_1], false, &[(0, STATUS)], Failed(22));
}
