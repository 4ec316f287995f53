//! The bare probe: a freestanding guest that sets up page tables and processor states, makes accesses in ring 0
//! and ring 3, and sends what became of them through port 0xE9. It judges with the host's own code, and the host
//! judges again.
//!
//! The build script compiles it, see `build.rs`; it is no part of the library.

#![no_std]
#![no_main]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

#[path = "../src/block.rs"]
mod block;
#[path = "../src/case.rs"]
mod case;
#[path = "../src/deviation.rs"]
mod deviation;
#[path = "../src/fact.rs"]
mod fact;
#[path = "../src/message.rs"]
mod message;
#[path = "../../../reference-model/src/processor/mod.rs"]
mod processor;
#[path = "../src/space.rs"]
mod space;

mod access;
mod channel;
mod cpu;
mod facts;
mod memory;
mod runtime;

use core::arch::global_asm;

use block::run_block;
use case::control;
use channel::{power_off, send};
use deviation::Processor;
use memory::Tested;
use message::{ARGUMENT_MAGIC, ARGUMENT_WORDS, Tag};
use space::{Part, SPACES};

global_asm!(include_str!("entry.s"));

/// Called by the assembly with the host's argument.
#[unsafe(no_mangle)]
extern "C" fn guest_main(argument: *const [u64; ARGUMENT_WORDS]) -> ! {
    // SAFETY: the boot stub leaves the argument's address in RSI, within the page that it mapped.
    let [magic, processor, five_levels, spaces, sample, facts, most_mismatches] = unsafe { argument.read() };
    assert!(magic == ARGUMENT_MAGIC);
    let five_levels = five_levels != 0 && cpu::has_five_levels();
    memory::set_up(five_levels);
    let (machine, vendor) = cpu::machine();
    let paging = machine.paging;
    send(
        Tag::Hello,
        &[
            u64::from(paging.levels),
            u64::from(paging.physical_address_bits),
            u64::from(paging.gigabyte_pages),
            u64::from(machine.features),
            vendor[0],
            vendor[1],
        ],
    );
    let part = if sample == 0 { Part::All } else { Part::Sample(sample as u32) };
    let tested = Tested::new(five_levels);
    for (number, space) in SPACES.iter().enumerate() {
        if spaces >> number & 1 == 0 || !space.runs_on(&machine) {
            continue;
        }
        for block in 0..space.blocks() {
            send(Tag::BlockBegin, &[number as u64, u64::from(block)]);
            let state = space.state(block);
            cpu::enter_state(&machine, state);
            if state & control::CET != 0 {
                cpu::write_msr(cpu::PL0_SSP, memory::shadow_stack());
            }
            let mut left = most_mismatches;
            let record = run_block(
                &machine,
                Processor::of(processor),
                None,
                (space, block, part),
                |case, _| access::observe(&tested, case),
                |mismatch| {
                    if left != 0 {
                        left -= 1;
                        let [a, b, c, d, e] = mismatch.case.entries;
                        let control = u64::from(mismatch.case.control);
                        let outcomes = [mismatch.expected.0, mismatch.mask, mismatch.observed.0];
                        let [expected, mask, observed] = outcomes;
                        send(Tag::Mismatch, &[control, a, b, c, d, e, expected, mask, observed]);
                    }
                },
            );
            send(Tag::BlockEnd, &record.to_words());
        }
    }
    if facts != 0 {
        facts::establish(&machine, &tested);
    }
    send(Tag::End, &[]);
    power_off()
}

/// An exception outside an access: the guest is wrong.
#[unsafe(no_mangle)]
extern "C" fn stray_exception(vector: u64, code: u64, address: u64, instruction: u64) -> ! {
    send(Tag::Stray, &[vector, code, address, instruction]);
    power_off()
}
