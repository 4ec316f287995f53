//! One case, on the processor.

use crate::case::{Case, Outcome, control as c};
use crate::cpu;
use crate::memory::{self, CODE, DATA, SUPERVISOR_CODE, Tested, USER_CODE, USER_STACK};
use crate::processor::{ACCESSED, DIRTY};

/// What the data word holds before an access.
pub const BEFORE: u64 = 0x0123_4567_89ab_cdef;
/// What a write puts there.
pub const WRITTEN: u64 = 0xfedc_ba98_7654_3210;
const PAGE_FAULT: u64 = 14;
const EXCEPTION: u64 = 1 << 63;
/// Bits 0 to 6 of an error code have a place of their own in an outcome.
const KNOWN_CODE: u64 = 0x7f;

unsafe extern "C" {
    fn enter_access(code: u64, address: u64, value: u64, flags: u64, user_stack: u64) -> u64;
    fn supervisor_read();
    fn supervisor_write();
    fn supervisor_fetch();
    fn supervisor_shadow_write();
    fn supervisor_user_shadow_write();
    fn user_read();
    fn user_write();
    fn user_shadow_write();
    fn user_shadow_read();
    static user_code_begin: u8;
    static mut access_value: u64;
    static mut exception_address: u64;
}

fn place(code: unsafe extern "C" fn()) -> u64 {
    code as *const () as u64
}

/// Where a piece of the page of ring 3 lies there.
fn user_place(code: unsafe extern "C" fn()) -> u64 {
    USER_CODE + (place(code) - &raw const user_code_begin as u64)
}

/// Runs a piece of ring 0 with two arguments: 0, or the exception.
pub fn run(code: unsafe extern "C" fn(), first: u64, second: u64) -> u64 {
    // SAFETY: as in `make`.
    unsafe { enter_access(place(code), first, second, 2, 0) }
}

/// Makes the access of a control word at an address: 0, or the exception.
#[inline(always)]
pub fn make(control: u32, address: u64, flags: u64) -> u64 {
    let has = |bit: u32| control & bit != 0;
    let (code, stack) = match (has(c::USER), has(c::SHADOW), has(c::WRITE), has(c::FETCH)) {
        (false, false, false, false) => (place(supervisor_read), 0),
        (false, false, true, _) => (place(supervisor_write), 0),
        (false, false, false, true) => (place(supervisor_fetch), 0),
        (false, true, ..) if has(c::WRUSS) => (place(supervisor_user_shadow_write), 0),
        (false, true, ..) => {
            memory::free_shadow_stack();
            (place(supervisor_shadow_write), 0)
        }
        (true, false, false, false) => (user_place(user_read), USER_STACK),
        (true, false, true, _) => (user_place(user_write), USER_STACK),
        (true, false, false, true) => (address, USER_STACK),
        (true, true, true, _) => (user_place(user_shadow_write), USER_STACK),
        (true, true, false, _) => {
            cpu::set_user_shadow_stack(address);
            (user_place(user_shadow_read), USER_STACK)
        }
    };
    // SAFETY: the code is one of ours, comes back whatever the access does, and writes nothing of the guest's but the
    // target and the fields beside it.
    unsafe { enter_access(code, address, WRITTEN, flags, stack) }
}

/// Makes a case's accesses and says what became of them.
#[inline(always)]
pub fn observe(tested: &Tested, case: &Case) -> Outcome {
    let has = |bit: u32| case.control & bit != 0;
    let is_fetch = has(c::FETCH);
    let offset = match (is_fetch, has(c::USER)) {
        (true, true) => CODE,
        (true, false) => CODE + SUPERVISOR_CODE,
        (false, _) => DATA,
    };
    let address = tested.address + offset;
    let before = tested.set(&case.entries, is_fetch);
    memory::set_data(BEFORE);
    cpu::forget(address);
    let flags = cpu::flags_of(case);
    let mut word = 0;
    if has(c::TWICE) {
        let first = make(0, address, flags);
        if first & EXCEPTION != 0 {
            word |= Outcome::FIRST_FAULT | (first & KNOWN_CODE) << Outcome::FIRST_CODE_SHIFT;
            word |= vector_word(first);
        }
    }
    // SAFETY: one thread; the assembly writes these words inside `enter_access` alone.
    unsafe { (&raw mut access_value).write_volatile(0) };
    let result = make(case.control, address, flags);
    if result & EXCEPTION != 0 {
        word |= Outcome::FAULT | result & KNOWN_CODE | vector_word(result);
        // SAFETY: as above.
        if unsafe { (&raw const exception_address).read_volatile() } != address {
            word |= Outcome::WRONG_ADDRESS;
        }
    } else {
        // SAFETY: as above.
        let value = unsafe { (&raw const access_value).read_volatile() };
        if !is_fetch && !has(c::SHADOW) && !has(c::WRITE) && value == BEFORE {
            word |= Outcome::LOADED;
        }
    }
    word |= match memory::data() {
        BEFORE => 0,
        WRITTEN => Outcome::STORED,
        _ => Outcome::MEMORY_SPOILT,
    };
    let after = tested.get(is_fetch, &before);
    let mut changed = 0;
    for (before, after) in before.iter().zip(&after) {
        changed |= (before ^ after) & !(ACCESSED | DIRTY);
    }
    if changed != 0 {
        word |= Outcome::ENTRY_CHANGED;
    }
    Outcome(word | Outcome::flags(&after))
}

/// What is unusual about an exception: another vector than that of a page fault, and unknown bits of the error code.
#[inline(always)]
fn vector_word(result: u64) -> u64 {
    let vector = result >> 32 & 0xff;
    let rest = (result & 0xffff) >> 7;
    let vector_bits = if vector == PAGE_FAULT { 0 } else { vector << Outcome::VECTOR_SHIFT };
    vector_bits | rest << Outcome::REST_OF_CODE_SHIFT
}
