//! scratch
fn main() {
    let machine = ptediff_reference_model::machine::Machine::imagined("6.1.192".parse().unwrap(), false, true);
    let mut args = std::env::args().skip(1);
    let seed: u64 = args.next().unwrap().parse().unwrap();
    let index: u32 = args.next().unwrap().parse().unwrap();
    let options = ptediff_generate::Options { steps: 8..=50, profile: None };
    let program = ptediff_generate::program(seed, index, &machine, &options);
    for (number, step) in program.steps.iter().enumerate() {
        println!("{number} {step}");
    }
}
