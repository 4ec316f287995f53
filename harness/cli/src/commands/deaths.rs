//! A program during which the kernel died: run again alone, and made smaller, one boot a candidate. The guest cannot
//! do this, for it is gone.

use std::time::{Duration, Instant};

use ptediff_corpus::Needs;
use ptediff_generate::shrink;
use ptediff_reference_model::program::Program;

use crate::arguments::MachineArguments;
use crate::error::Failure;
use crate::guest::request::Task;
use crate::host::launch::{Platform, launch};
use crate::host::results::{Alone, Finish, Results};
use crate::host::session::{Keep, follow};
use crate::report::progress::Progress;

use super::request::request;

/// Time after which no further candidate is booted: a machine that hangs costs its whole silence.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the program that was running when the kernel died alone, and makes it smaller with at most so many boots.
pub(super) fn examine_death(arguments: &MachineArguments, boots: u32, results: &mut Results, progress: &Progress) {
    if boots == 0 || arguments.platform == Platform::Native || !matches!(results.ending, Finish::KernelDied(_)) {
        return;
    }
    let Some(running) = &mut results.running else { return };
    progress.note("the kernel died: running that program alone");
    let start = Instant::now();
    let dies = |program: &Program| match is_deadly(arguments, program) {
        Ok(deadly) => deadly,
        Err(failure) => {
            eprintln!("a candidate cannot be run: {failure}");
            false
        }
    };
    // What the kernel did not live to see has no part in it.
    let mut met = running.program.clone();
    met.steps.truncate(running.steps_done + 1);
    if !dies(&met) {
        running.alone = Some(Alone::Survives);
        return;
    }
    let mut small = |candidate: &Program| start.elapsed() < PATIENCE && dies(candidate);
    let shrunk = shrink(&met, boots - 1, &mut small, &mut |step| {
        let fate = if step.kept { "dies" } else { "lives" };
        progress.note(&format!("boot {}: with {} steps it {fate}", step.execution + 1, step.steps));
    });
    running.alone = Some(Alone::Dies {
        program: shrunk.program,
        boots: shrunk.executions + 1,
        exhausted: shrunk.exhausted || start.elapsed() >= PATIENCE,
    });
}

/// Whether the kernel dies during this program.
fn is_deadly(arguments: &MachineArguments, program: &Program) -> Result<bool, Failure> {
    // It has run on this machine before: what succeeded or failed then does so again.
    let needs = vec![Needs::of(program)];
    let request = request(arguments, Task::Replay { programs: vec![program.clone()], needs, repeat: 1 })?;
    let mut channel = launch(&request, &arguments.launch_options(None))?;
    let results = follow(&mut channel, &mut Keep::default(), &mut Progress::silent())?;
    Ok(matches!(results.ending, Finish::KernelDied(_)) && results.running.is_some())
}
