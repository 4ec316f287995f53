//! `ptediff bench`: figures of the loop, all from one run on one machine.

use std::time::Instant;

use ptediff_generate::{Options, program};
use ptediff_observe::Loader;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::Model;

use crate::arguments::{Bench, Format};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::launch;
use crate::host::results::{Finish, Results};
use crate::host::session::{Keep, describe, follow};
use crate::report;
use crate::report::progress::Progress;

use super::request::request;

/// Programs on which the model's own speed is measured.
const MODEL_PROGRAMS: u32 = 2000;

pub(super) fn run(arguments: &Bench, format: Format) -> Result<Exit, Failure> {
    let task = Task::Bench { seed: arguments.seed, programs: arguments.cases, max_steps: arguments.steps };
    let request = request(&arguments.machine, task)?;
    let mut channel = launch(&request, &arguments.machine.launch_options(None))?;
    let results = follow(&mut channel, &mut Keep::default(), &mut Progress::new("programs"))?;
    let exit = results.exit();
    let (Some(machine), Finish::Finished) = (&results.machine, &results.ending) else {
        report::campaign(&results, &[], format);
        return Ok(exit);
    };
    let mut figures = figures(&results, machine)?;
    figures.insert(0, ("seconds from power-on to the first comparison".to_owned(), time_to_first(arguments)?));
    match format {
        Format::Human => {
            println!("{}", describe(machine));
            for (name, value) in &figures {
                println!("{name:58} {value:12.1}");
            }
        }
        Format::Json => {
            let document: serde_json::Map<String, serde_json::Value> =
                figures.into_iter().map(|(name, value)| (name, value.into())).collect();
            println!("{}", serde_json::json!({ "machine": machine, "figures": document }));
        }
    }
    Ok(exit)
}

/// From power-on to the first compared step, in a machine of its own that does nothing else.
fn time_to_first(arguments: &Bench) -> Result<f64, Failure> {
    let task = Task::Campaign {
        seed: arguments.seed,
        first: 0,
        programs: 1,
        min_steps: 8,
        max_steps: arguments.steps,
        profile: None,
    };
    let request = request(&arguments.machine, task)?;
    let mut channel = launch(&request, &arguments.machine.launch_options(None))?;
    let results = follow(&mut channel, &mut Keep::default(), &mut Progress::silent())?;
    results
        .first_comparison
        .map(|time| time.as_secs_f64())
        .ok_or_else(|| Failure::Rig { message: "the machine compared nothing".to_owned(), help: None })
}

fn figures(results: &Results, machine: &Machine) -> Result<Vec<(String, f64)>, Failure> {
    let mark = |name: &str| {
        results
            .marks
            .iter()
            .find(|(known, _, _)| known == name)
            .ok_or_else(|| Failure::Rig { message: format!("the guest did not set the mark `{name}`"), help: None })
    };
    let (programs, steps) = (mark("programs")?.1, mark("steps")?.1);
    let between = |phase: &str| -> Result<f64, Failure> {
        let (begin, end) = (mark(&format!("{phase} begins"))?.2, mark(&format!("{phase} ends"))?.2);
        Ok((end - begin).as_secs_f64())
    };
    let (generated, bare, whole) = (between("generate")?, between("bare")?, between("whole")?);
    let mut figures = vec![
        ("programs".to_owned(), programs),
        ("steps a program".to_owned(), steps / programs),
        ("programs/s: generated, observed, compared, streamed".to_owned(), programs / (whole + generated)),
        ("programs/s: bare, handshake included".to_owned(), programs / bare),
        ("ratio whole / bare".to_owned(), whole / bare),
        ("generation, us a program".to_owned(), generated / programs * 1e6),
        ("bare, us a step".to_owned(), bare / steps * 1e6),
    ];
    let mut before = bare;
    for (name, what) in [
        ("attached", "+ probes attached, us a step"),
        ("snapshots", "+ events drained, snapshot taken, us a step"),
        ("judged", "+ normalised and judged, us a step"),
        ("whole", "+ witnesses and stream, us a step"),
    ] {
        let now = between(name)?;
        figures.push((what.to_owned(), (now - before) / steps * 1e6));
        before = now;
    }
    figures.push(("observation and comparison in all, us a step".to_owned(), (whole - bare) / steps * 1e6));
    figures.push(("model alone on this host, steps/s".to_owned(), model_speed(machine)));
    let (bare, _) = spent(results, "unobserved storm");
    for loader in Loader::built_in() {
        let (load, loads) = spent(results, &format!("{loader} load"));
        let (attach, _) = spent(results, &format!("{loader} attach"));
        let (storm, _) = spent(results, &format!("{loader} storm"));
        let (read, events) = spent(results, &format!("{loader} read"));
        figures.push((format!("{loader}: load, ms"), load / loads * 1e3));
        figures.push((format!("{loader}: attach, ms"), attach / loads * 1e3));
        figures.push((format!("{loader}: probes, us an event of a storm"), (storm - bare) / events * 1e6));
        figures.push((format!("{loader}: reading, us an event of a storm"), read / events * 1e6));
        figures.push((format!("{loader}: events of the storms"), events));
    }
    Ok(figures)
}

/// Seconds of a phase that came more than once, and the sum of the values at its ends.
fn spent(results: &Results, phase: &str) -> (f64, f64) {
    let named = |name: String| results.marks.iter().filter(move |(known, _, _)| *known == name);
    let (begins, ends) = (named(format!("{phase} begins")), named(format!("{phase} ends")));
    begins.zip(ends).fold((0.0, 0.0), |(seconds, values), ((_, _, begin), (_, value, end))| {
        (seconds + (*end - *begin).as_secs_f64(), values + value)
    })
}

/// Steps a second of the model alone, on this host.
fn model_speed(machine: &Machine) -> f64 {
    let programs: Vec<_> = (0..MODEL_PROGRAMS).map(|index| program(1, index, machine, &Options::default())).collect();
    let steps: usize = programs.iter().map(|program| program.steps.len()).sum();
    let start = Instant::now();
    for program in &programs {
        let mut model = Model::new(machine);
        for (index, step) in program.steps.iter().enumerate() {
            std::hint::black_box(model.step(index, step));
        }
    }
    steps as f64 / start.elapsed().as_secs_f64()
}
