//! `ptediff audit`: which defects of the table a kernel has.

use ptediff_corpus::Needs;
use ptediff_reference_model::kernel::DEFECTS;
use ptediff_reference_model::program::Program;

use crate::arguments::{Audit, Format};
use crate::audit::{Plan, combined, ending_of, plan, told_by};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::{Platform, launch};
use crate::host::results::Results;
use crate::host::session::{Keep, follow};
use crate::report::audit::{exit, json, print};
use crate::report::progress::Progress;

use super::request::request;

/// QEMU's CPU without protection keys, and the feature that it lacks.
const WITHOUT_KEYS: (&str, &str) = ("max,-pku", "ospke");

pub(super) fn run(arguments: &mut Audit, format: Format) -> Result<Exit, Failure> {
    if let Some(kernel) = &arguments.kernel {
        arguments.machine.kernel.clone_from(kernel);
    }
    // What the machine has decides which programs tell.
    let empty = boot(arguments, &[], false)?;
    let Some(machine) = &empty.machine else { return Ok(tell_nothing(&empty, format)) };
    let Plan { here, without_keys, settled } = plan(machine);
    let mut findings = settled;
    findings.extend(told_by(here, &mut |programs| boot(arguments, programs, false))?);
    let can_do_without_keys = arguments.machine.platform == Platform::Qemu && arguments.machine.cpu_model.is_none();
    if can_do_without_keys {
        findings.extend(told_by(without_keys, &mut |programs| boot(arguments, programs, true))?);
    } else {
        let why = "needs a CPU without protection keys: --platform qemu, with --cpu-model max,-pku or no --cpu-model";
        findings.extend(combined(without_keys.into_iter().map(|telling| telling.not_told(why)).collect()));
    }
    findings.sort_by_key(|finding| DEFECTS.iter().position(|info| info.change == finding.defect));
    match format {
        Format::Human => print(machine, &findings),
        Format::Json => println!("{:#}", json(machine, &findings)),
    }
    Ok(exit(&findings))
}

fn boot(arguments: &Audit, programs: &[Program], keyless: bool) -> Result<Results, Failure> {
    let needs = programs.iter().map(Needs::of).collect();
    let mut request = request(&arguments.machine, Task::Replay { programs: programs.to_vec(), needs, repeat: 1 })?;
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
fn tell_nothing(results: &Results, format: Format) -> Exit {
    let (exit, why) = (results.exit(), ending_of(results, &results.ending));
    match format {
        Format::Human => {
            println!("nothing can be told of this kernel: {why}");
            if !results.console.is_empty() {
                println!("{}", results.console);
            }
            println!("exit         {} ({})", exit as u8, exit.meaning());
        }
        Format::Json => {
            let console = &results.console;
            println!("{:#}", serde_json::json!({ "why": why, "console": console, "exit": exit as u8 }));
        }
    }
    exit
}
