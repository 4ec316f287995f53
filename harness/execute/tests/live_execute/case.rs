//! A case: a list of steps with the outcome of each, or a function for what steps cannot say.

use std::path::PathBuf;
use std::time::Duration;

use ptediff_execute::{Executor, ExecutorOptions};
use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
use ptediff_reference_model::outcome::{Fault, Outcome};
use ptediff_reference_model::program::{Operation, Placement, Protection, Step};

pub(crate) use ptediff_reference_model::program::store_value;

/// What a case needs of the CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    ShadowStack,
    NoShadowStack,
}

/// One case. A failure is told in words.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    pub(crate) run: fn(&mut Executor) -> Result<(), String>,
}

/// Options for executors of the guest.
pub(crate) fn options(shadow_stack: bool, step_timeout: Duration) -> ExecutorOptions {
    ExecutorOptions { shadow_stack, executable: PathBuf::from("/proc/self/exe"), step_timeout }
}

/// Begins a program; actor 0 may be forked or not.
pub(crate) fn begin(executor: &mut Executor) -> Result<(), String> {
    executor.begin(&mut |_| {}).map_err(|error| format!("begin: {error}"))
}

/// Performs the steps as one program, and compares every outcome.
pub(crate) fn check(executor: &mut Executor, steps: &[(usize, Operation, Outcome)]) -> Result<(), String> {
    begin(executor)?;
    for (index, &(number, operation, expected)) in steps.iter().enumerate() {
        let step = Step { actor: actor(number), operation };
        match executor.perform(index, &step) {
            Ok(outcome) if outcome == expected => {}
            Ok(outcome) => return Err(format!("step {index}, {step}: {outcome} ({outcome:x?}), not {expected}")),
            Err(error) => return Err(format!("step {index}, {step}: error: {error}")),
        }
    }
    executor.end().map_err(|error| format!("end: {error}"))
}

pub(crate) fn actor(number: usize) -> ActorId {
    ActorId::new(number).expect("cases name actors 0..4")
}

pub(crate) fn page(number: usize) -> PageIndex {
    PageIndex::new(number).expect("cases name pages 0..32")
}

pub(crate) fn pages(first: usize, count: usize) -> PageRange {
    PageRange::new(first, count).expect("cases name ranges in the arena")
}

pub(crate) fn protection(text: &str) -> Protection {
    let bits = [('r', 1), ('w', 2), ('x', 4)].iter().filter(|(letter, _)| text.contains(*letter));
    Protection::from_bits(bits.map(|(_, bit)| bit).sum()).expect("three bits")
}

pub(crate) fn mmap(first: usize, count: usize, access: &str) -> Operation {
    Operation::Mmap { range: pages(first, count), protection: protection(access), placement: Placement::Fixed }
}

pub(crate) fn mmap_if_free(first: usize, count: usize) -> Operation {
    let placement = Placement::FixedNoReplace;
    Operation::Mmap { range: pages(first, count), protection: Protection::READ_WRITE, placement }
}

pub(crate) fn munmap(first: usize, count: usize) -> Operation {
    Operation::Munmap { range: pages(first, count) }
}

pub(crate) fn mprotect(first: usize, count: usize, access: &str) -> Operation {
    Operation::Mprotect { range: pages(first, count), protection: protection(access) }
}

pub(crate) fn dontneed(first: usize, count: usize) -> Operation {
    Operation::MadviseDontneed { range: pages(first, count) }
}

pub(crate) fn shadow(first: usize, count: usize, token: bool) -> Operation {
    Operation::MapShadowStack { range: pages(first, count), token }
}

pub(crate) fn read(number: usize) -> Operation {
    Operation::Read { page: page(number) }
}

pub(crate) fn write(number: usize) -> Operation {
    Operation::Write { page: page(number) }
}

pub(crate) fn wrss(number: usize) -> Operation {
    Operation::WriteShadowStack { page: page(number) }
}

pub(crate) fn execute(number: usize) -> Operation {
    Operation::Execute { page: page(number) }
}

pub(crate) fn fork(child: usize) -> Operation {
    Operation::Fork { child: actor(child) }
}

/// SIGSEGV with SEGV_MAPERR at the page.
pub(crate) fn unmapped(number: usize, error_code: u32) -> Outcome {
    Outcome::Faulted(Fault { signal: 11, code: 1, address: page(number).address(), error_code, key: 0 })
}

/// SIGSEGV with SEGV_ACCERR at the page.
pub(crate) fn refused(number: usize, error_code: u32) -> Outcome {
    Outcome::Faulted(Fault { signal: 11, code: 2, address: page(number).address(), error_code, key: 0 })
}
