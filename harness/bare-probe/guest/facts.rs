//! The experiments of `fact`, on the processor.

use crate::access::{self, BEFORE, WRITTEN};
use crate::case::{Machine, control as c};
use crate::channel::send;
use crate::cpu::{self, PKRS};
use crate::fact::{FACTS, KEY_1_CLOSED, KEY_1_READ_ONLY, REPORTED_FLAGS};
use crate::memory::{self, CODE, DATA, SUPERVISOR_CODE, Tested};
use crate::message::Tag;
use crate::processor::{KEY_SHIFT, PRESENT, USER, WRITABLE};

unsafe extern "C" {
    fn supervisor_write_msr();
    fn supervisor_breakpoint();
    static mut exception_watch: u64;
    static mut exception_pkrs: u64;
}

const KEY_1: u64 = 1 << KEY_SHIFT;
const OPEN: u64 = PRESENT | WRITABLE | USER;
const SUPERVISOR_PAGE: [u64; 5] = [PRESENT | WRITABLE | KEY_1, OPEN, OPEN, OPEN, OPEN];
const READ: u32 = 0;

/// Answers all facts that this processor can be asked for.
pub fn establish(machine: &Machine, tested: &Tested) {
    for (number, fact) in FACTS.iter().enumerate() {
        if machine.features & fact.needs != fact.needs {
            continue;
        }
        let mut answer = Answer { words: [0; 9], count: 1 };
        answer.words[0] = number as u64;
        // The order of FACTS.
        match number {
            0 => reserved_bits(machine, &mut answer),
            1 => without_flush(machine, tested, &mut answer),
            2 => without_write_protect(machine, tested, &mut answer),
            3 => fetches(machine, tested, &mut answer),
            4 => user_pages(machine, tested, &mut answer),
            5 => exceptions(machine, tested, &mut answer),
            _ => dirty_without_write_protect(machine, tested, &mut answer),
        }
        send(Tag::Fact, &answer.words[..answer.count]);
    }
}

struct Answer {
    words: [u64; 9],
    count: usize,
}

impl Answer {
    fn add(&mut self, word: u64) {
        self.words[self.count] = word;
        self.count += 1;
    }
}

fn data(tested: &Tested, control: u32) -> u64 {
    access::make(control, tested.address + DATA, 2)
}

/// Lets the TLB know nothing of the tested page but these entries.
fn map(tested: &Tested, entries: &[u64; 5], is_fetch: bool) {
    tested.set(entries, is_fetch);
    cpu::forget(tested.address + if is_fetch { CODE } else { DATA });
}

fn reserved_bits(machine: &Machine, answer: &mut Answer) {
    cpu::enter_state(machine, c::WP | c::NXE);
    answer.add(access::run(supervisor_write_msr, u64::from(PKRS), 1 << 32));
    // CR4.PKS is clear: nothing is refused by the value.
    answer.add(access::run(supervisor_write_msr, u64::from(PKRS), 0xffff_ffff));
    answer.add(cpu::read_msr(PKRS));
    cpu::write_msr(PKRS, 0);
}

fn without_flush(machine: &Machine, tested: &Tested, answer: &mut Answer) {
    cpu::enter_state(machine, c::WP | c::NXE | c::PKS);
    map(tested, &SUPERVISOR_PAGE, false);
    cpu::write_msr(PKRS, 0);
    answer.add(data(tested, READ));
    answer.add(data(tested, c::WRITE));
    cpu::write_msr(PKRS, KEY_1_CLOSED);
    answer.add(data(tested, READ));
    answer.add(data(tested, c::WRITE));
    cpu::write_msr(PKRS, KEY_1_READ_ONLY);
    answer.add(data(tested, READ));
    answer.add(data(tested, c::WRITE));
    cpu::write_msr(PKRS, 0);
    answer.add(data(tested, c::WRITE));
}

fn without_write_protect(machine: &Machine, tested: &Tested, answer: &mut Answer) {
    cpu::enter_state(machine, c::NXE | c::PKS);
    map(tested, &SUPERVISOR_PAGE, false);
    cpu::write_msr(PKRS, KEY_1_READ_ONLY);
    answer.add(data(tested, READ));
    answer.add(data(tested, c::WRITE));
    cpu::write_msr(PKRS, KEY_1_CLOSED);
    answer.add(data(tested, c::WRITE));
}

fn fetches(machine: &Machine, tested: &Tested, answer: &mut Answer) {
    cpu::enter_state(machine, c::WP | c::NXE | c::PKS);
    cpu::write_msr(PKRS, KEY_1_CLOSED);
    map(tested, &SUPERVISOR_PAGE, false);
    answer.add(data(tested, READ));
    map(tested, &SUPERVISOR_PAGE, true);
    answer.add(access::make(c::FETCH, tested.address + CODE + SUPERVISOR_CODE, 2));
}

fn user_pages(machine: &Machine, tested: &Tested, answer: &mut Answer) {
    cpu::enter_state(machine, c::WP | c::NXE | c::PKS | c::PKE);
    cpu::write_msr(PKRS, KEY_1_CLOSED);
    map(tested, &[OPEN | KEY_1, OPEN, OPEN, OPEN, OPEN], false);
    answer.add(data(tested, READ));
}

fn exceptions(machine: &Machine, tested: &Tested, answer: &mut Answer) {
    cpu::enter_state(machine, c::WP | c::NXE | c::PKS);
    cpu::write_msr(PKRS, KEY_1_CLOSED);
    map(tested, &SUPERVISOR_PAGE, false);
    // SAFETY: one thread; the assembly reads the first word and writes the second in its handler alone.
    unsafe { (&raw mut exception_watch).write_volatile(1) };
    data(tested, READ);
    // SAFETY: as above.
    answer.add(unsafe { (&raw const exception_pkrs).read_volatile() });
    access::run(supervisor_breakpoint, 0, 0);
    // SAFETY: as above.
    answer.add(unsafe { (&raw const exception_pkrs).read_volatile() });
    // SAFETY: as above.
    unsafe { (&raw mut exception_watch).write_volatile(0) };
    answer.add(cpu::read_msr(PKRS));
}

fn dirty_without_write_protect(machine: &Machine, tested: &Tested, answer: &mut Answer) {
    cpu::enter_state(machine, c::NXE);
    let entries = [PRESENT | USER, OPEN, OPEN, OPEN, OPEN];
    memory::set_data(BEFORE);
    map(tested, &entries, false);
    answer.add(data(tested, c::WRITE));
    answer.add(u64::from(memory::data() == WRITTEN));
    answer.add(tested.get(false, &entries)[0] & REPORTED_FLAGS);
}
