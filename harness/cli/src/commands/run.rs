//! `ptediff run`: a campaign.

use ptediff_generate::Profile;

use crate::arguments::{Format, Run};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::{Platform, launch};
use crate::host::session::{Keep, follow};
use crate::report;
use crate::report::progress::Progress;

use super::deaths::examine_death;
use super::opinions::ask_others;
use super::request::request;
use super::save::{check_folder, save};

/// Fewest steps of a generated program.
pub(super) const MIN_STEPS: u16 = 8;

pub(super) fn run(arguments: &Run, format: Format) -> Result<Exit, Failure> {
    if let Some(profile) = &arguments.profile {
        profile.parse::<Profile>().map_err(|error| Failure::usage(error.to_string(), "see `ptediff run --help`"))?;
    }
    check_folder(&arguments.save)?;
    let task = Task::Campaign {
        seed: arguments.seed,
        first: arguments.first,
        programs: arguments.cases,
        min_steps: MIN_STEPS.min(arguments.steps),
        max_steps: arguments.steps,
        profile: arguments.profile.clone(),
    };
    let mut request = request(&arguments.machine, task)?;
    request.shrink_budget = arguments.shrink;
    request.stop_after = arguments.stop_after;
    request.count_known = arguments.weighing.count_known;
    let mut progress = Progress::new("programs");
    let mut channel = launch(&request, &arguments.machine.launch_options(arguments.time))?;
    let start = match arguments.machine.platform {
        Platform::Native => "running in place".to_owned(),
        platform => format!("booting {} on {}", arguments.machine.kernel, platform.name()),
    };
    progress.note(&format!(
        "{start} (seed {}, {} programs of up to {} steps)",
        arguments.seed, arguments.cases, arguments.steps
    ));
    // Only now: a machine that cannot be started must not cost an older trace.
    let mut keep = Keep::at(arguments.trace.as_deref())?;
    let mut results = follow(&mut channel, &mut keep, &mut progress)?;
    results.weigh(arguments.weighing);
    results.given = Some(arguments.machine.given());
    examine_death(&arguments.machine, arguments.shrink_boots, &mut results, &progress);
    if !arguments.no_opinions {
        ask_others(&arguments.machine, &mut results, &progress);
    }
    progress.finish();
    let saved = save(&arguments.save, &results);
    report::campaign(&results, &saved, format);
    keep.finish(results.exit())
}
