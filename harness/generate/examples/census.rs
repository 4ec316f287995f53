//! Prints what a campaign would do, by the model: how often each operation is tried and succeeds, how
//! often each rule fires, and what generation costs.
//!
//! Usage: census [PROGRAMS [SEED]]

use std::collections::BTreeMap;
use std::time::Instant;

use ptediff_generate::{Options, program};
use ptediff_reference_model::kernel::KernelVersion;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;
use ptediff_reference_model::program::OPERATION_NAMES;
use ptediff_reference_model::rule::RULES;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let programs = arguments.next().unwrap_or(2000) as u32;
    let seed = arguments.next().unwrap_or(1);
    for version in [KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2] {
        census(programs, seed, &machine(version));
    }
}

fn machine(version: KernelVersion) -> Machine {
    Machine::imagined(version, true, true)
}

fn census(programs: u32, seed: u64, machine: &Machine) {
    let start = Instant::now();
    let made: Vec<_> = (0..programs).map(|index| program(seed, index, machine, &Options::default())).collect();
    let each = start.elapsed() / programs;
    let steps: usize = made.iter().map(|program| program.steps.len()).sum();
    let mut tried = [0u32; OPERATION_NAMES.len()];
    let mut succeeded = [0u32; OPERATION_NAMES.len()];
    let mut rules = BTreeMap::new();
    let start = Instant::now();
    for program in &made {
        let mut model = Model::new(machine);
        for (index, step) in program.steps.iter().enumerate() {
            let expectation = model.step(index, step);
            let kind = step.operation.kind();
            tried[kind] += 1;
            if expectation.outcome.is_some_and(|outcome| step.operation.succeeds_with(&outcome)) {
                succeeded[kind] += 1;
            }
            for rule in expectation.fired {
                *rules.entry(rule).or_insert(0u32) += 1;
            }
        }
    }
    let model_time = start.elapsed();
    println!("{}: {programs} programs, {steps} steps, {each:?} a program to generate", machine.version);
    println!("model alone: {:.0} steps/s", steps as f64 / model_time.as_secs_f64());
    for (kind, name) in OPERATION_NAMES.iter().enumerate() {
        println!("{name:20} tried {:6} succeeded {:6}", tried[kind], succeeded[kind]);
    }
    for info in &RULES {
        let count = rules.get(&info.rule).copied().unwrap_or_default();
        println!("{:40} {count:7}{}", info.identifier, if count == 0 { " never" } else { "" });
    }
}
