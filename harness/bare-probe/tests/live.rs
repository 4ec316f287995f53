//! scratch runner
use ptediff_bare_probe::{
    IMAGE, Request, Session,
    deviation::Processor,
    space::{Part, SPACES},
};
use ptediff_vm::*;
#[test]
fn run() {
    let env = |n: &str, d: u64| std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
    let bochs = env("BOCHS", 0) != 0;
    let request = Request {
        processor: if bochs { Processor::Bochs } else { Processor::Qemu },
        five_levels: env("LA57", 0) != 0,
        spaces: env("SPACES", 1),
        part: match env("SAMPLE", 1000) {
            0 => Part::All,
            n => Part::Sample(n as u32),
        },
        facts: env("FACTS", 0) != 0,
        most_mismatches: env("MOST", 3),
    };
    let start = std::time::Instant::now();
    let spec =
        BareSpec::new(if bochs { BackendKind::Bochs } else { BackendKind::Qemu }, IMAGE.to_vec(), request.argument());
    let mut spec = spec;
    if let Ok(e) = std::env::var("EMU") {
        spec.emulator = Some(e.into());
    }
    let mut vm = boot_bare(&spec).unwrap();
    let mut session = Session::new();
    let mut seen = 0;
    loop {
        match vm.read(session.buffer()).unwrap() {
            Activity::Bytes(_) => {
                session.advance().unwrap();
                if session.blocks() != seen {
                    seen = session.blocks();
                    if env("VERBOSE", 0) != 0 {
                        println!("{seen} {:?}", start.elapsed());
                    }
                    if seen as u64 >= env("STOP", 9999) {
                        vm.kill();
                    }
                }
            }
            Activity::Ended(e) => {
                println!("ended {e} after {:?}; {}", start.elapsed(), vm.emulator_tail(5));
                break;
            }
        }
    }
    let answer = session.finish().unwrap();
    println!("{:?} {}", answer.machine, answer.vendor);
    for b in &answer.blocks {
        println!(
            "{} {} legal {} run {} faults {} mism {} unspec {:?} set {:?} dev {:?} {:.2}s {:.0}/s",
            SPACES[b.space].name,
            b.block,
            b.record.legal,
            b.record.run,
            b.record.faults,
            b.record.mismatches,
            b.record.unspecified,
            b.record.unspecified_set,
            b.record.deviations,
            b.time.as_secs_f64(),
            b.record.run as f64 / b.time.as_secs_f64()
        );
        for m in &b.mismatches {
            println!(
                "   {:#x} {:x?} exp {:x} obs {:x} mask {:x}",
                m.case.control, m.case.entries, m.expected.0, m.observed.0, !m.mask
            );
        }
    }
    println!(
        "facts {:x?}",
        answer.judge_facts(request.processor).iter().map(|f| (f.0.name, f.1, f.2)).collect::<Vec<_>>()
    );
    let j = std::time::Instant::now();
    println!("judge: {:?}", answer.judge(&request, None).iter().map(|d| (d.space, d.block)).collect::<Vec<_>>());
    println!("{:?}", j.elapsed());
}
