//! `ptediff audit`: which defects of the table a kernel has.

use ptediff_corpus::Needs;
use ptediff_reference_model::kernel::{Change, DEFECTS};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;

use crate::arguments::{Audit, Format};
use crate::audit::{Effort, Finding, Telling, Told, decide, search};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::{Platform, launch};
use crate::host::results::{Finish, Results};
use crate::host::session::{Keep, follow};
use crate::report::audit::{exit, json, print};
use crate::report::progress::Progress;

use super::request::request;

/// Times that each program runs: what is said must be said twice.
const RUNS: usize = 2;

/// QEMU's CPU without protection keys, and the feature that it lacks.
const WITHOUT_KEYS: (&str, &str) = ("max,-pku", "ospke");

pub(super) fn run(arguments: &mut Audit, format: Format) -> Result<Exit, Failure> {
    if let Some(kernel) = &arguments.kernel {
        arguments.machine.kernel.clone_from(kernel);
    }
    // What the machine has decides which programs tell.
    let empty = go(arguments, &[], false)?;
    let Some(machine) = empty.machine.clone() else { return Err(not_told(&empty)) };
    let all: Vec<Change> = DEFECTS.iter().map(|info| info.change).collect();
    let mut findings = told_by(arguments, &machine, &all, false)?;
    let open = |findings: &[Finding]| -> Vec<Change> {
        all.iter().copied().filter(|defect| findings.iter().all(|finding| finding.defect != *defect)).collect()
    };
    // What this machine cannot show another might: one without keys, one with shadow stacks.
    let keyless = Machine { protection_keys: false, ..machine.clone() };
    if arguments.machine.platform == Platform::Qemu && arguments.machine.cpu_model.is_none() {
        findings.extend(told_by(arguments, &keyless, &open(&findings), true)?);
    }
    let elsewhere = [
        (keyless, "needs a CPU without protection keys (QEMU with --cpu-model max,-pku)"),
        (
            Machine { shadow_stack: true, protection_keys: true, ..machine.clone() },
            "needs user shadow stacks (--platform bochs)",
        ),
        (
            Machine { swap: true, merging: true, protection_keys: true, ..machine.clone() },
            "needs a swap file, KSM or protection keys",
        ),
    ];
    for (other, why) in elsewhere {
        for Telling { defect, program } in search(&other, &open(&findings), Effort::Quick) {
            findings.push(Finding { defect, program: Some(program), told: Told::CannotTell(why.to_owned()) });
        }
    }
    for defect in open(&findings) {
        findings.push(Finding { defect, program: None, told: Told::NotExpressible });
    }
    findings.sort_by_key(|finding| all.iter().position(|&defect| defect == finding.defect));
    match format {
        Format::Human => print(&machine, &findings),
        Format::Json => println!("{}", json(&machine, &findings)),
    }
    Ok(exit(&findings))
}

/// What a machine tells of defects, by the programs that are found for it.
fn told_by(arguments: &Audit, machine: &Machine, wanted: &[Change], keyless: bool) -> Result<Vec<Finding>, Failure> {
    let telling = search(machine, wanted, if keyless { Effort::Quick } else { Effort::Full });
    if telling.is_empty() {
        return Ok(Vec::new());
    }
    let results = go(arguments, &telling, keyless)?;
    let Some(machine) = &results.machine else { return Err(not_told(&results)) };
    let runs: Vec<&[StepRecord]> = results.records.iter().map(Vec::as_slice).collect();
    let told = telling.into_iter().enumerate().map(|(index, Telling { defect, program })| {
        let own: Vec<&[StepRecord]> = runs.iter().copied().skip(index * RUNS).take(RUNS).collect();
        let told = match own.len() {
            RUNS => decide(machine, defect, &program, &own),
            _ => Told::CannotTell(format!("the machine ended early: {}", end_of(&results))),
        };
        Finding { defect, program: Some(program), told }
    });
    Ok(told.collect())
}

fn go(arguments: &Audit, telling: &[Telling], keyless: bool) -> Result<Results, Failure> {
    let programs: Vec<_> = telling.iter().flat_map(|one| std::iter::repeat_n(one.program.clone(), RUNS)).collect();
    let needs = programs.iter().map(Needs::of).collect();
    let mut request = request(&arguments.machine, Task::Replay { programs, needs, repeat: 1 })?;
    let mut options = arguments.machine.launch_options(None);
    if keyless {
        let (model, feature) = WITHOUT_KEYS;
        options.cpu_model = Some(model.to_owned());
        request.require.retain(|required| required != feature);
    }
    let mut channel = launch(&request, &options)?;
    follow(&mut channel, &mut Keep::default(), &mut Progress::silent())
}

/// The machine did not even say what it is.
fn not_told(results: &Results) -> Failure {
    Failure::Rig { message: format!("the machine cannot be audited: {}", end_of(results)), help: None }
}

fn end_of(results: &Results) -> String {
    match (&results.refused, &results.ending) {
        (Some(refused), _) => format!("it lacks {}", refused.missing.join(", ")),
        (None, Finish::Finished) => "it has finished".to_owned(),
        (None, ending) => format!("{ending:?}"),
    }
}
