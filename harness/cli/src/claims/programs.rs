//! Boots for checks that look at programs: a campaign or a replay, with everything that was recorded.

use std::path::Path;
use std::time::Duration;

use ptediff_claims::Evidence;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::observation::StepRecord;
use ptediff_reference_model::program::Program;
use ptediff_trace::{Attempt, Decoder, Frame};

use crate::error::Failure;
use crate::guest::GuestRequest;
use crate::guest::request::Task;
use crate::host::launch::{LaunchOptions, Platform, launch};
use crate::host::results::Finish;
use crate::host::session::{Keep, follow};
use crate::report::progress::Progress;

use super::{ClaimFailure, Machines, request};

const MEMORY_MIB: u32 = 512;

/// One program as it ran.
pub(super) struct Ran {
    /// What ran.
    pub(super) program: Program,
    /// What was seen, step by step.
    pub(super) records: Vec<StepRecord>,
}

/// A boot: the machine and what ran on it.
pub(super) struct Boot {
    /// The machine, as the guest found it.
    pub(super) machine: Machine,
    /// First runs, in order.
    pub(super) programs: Vec<Ran>,
    /// From power-on to the end.
    pub(super) wall: Duration,
}

impl Boot {
    /// Evidence from this boot.
    pub(super) fn evidence(&self, cases: u64, unit: &str, note: String) -> Evidence {
        Evidence {
            kernel: self.machine.release.clone(),
            cpu: format!("{} {}", self.machine.platform, self.machine.cpu_model),
            cases,
            unit: unit.to_owned(),
            seconds: self.wall.as_secs_f64(),
            note,
        }
    }
}

/// Boots a machine, has it run the programs of the task, and brings back what was recorded.
pub(super) fn boot(machines: &Machines, platform: Platform, kernel: &str, task: Task) -> Result<Boot, ClaimFailure> {
    let request = GuestRequest { witness_every: 64, stop_after: u32::MAX, ..request(platform, task)? };
    let options = LaunchOptions {
        platform,
        kernel: kernel.to_owned(),
        modules: None,
        emulator: None,
        cpu_model: None,
        memory_mib: MEMORY_MIB,
        cpus: 1,
        command_line: Vec::new(),
        files: Vec::new(),
        links: Vec::new(),
        silence: machines.silence,
        limit: None,
    };
    let folder = tempfile::tempdir().map_err(|error| Failure::rig(&error))?;
    let path = folder.path().join("trace");
    let mut channel = launch(&request, &options)?;
    let mut keep = Keep::at(Some(&path))?;
    let results = follow(&mut channel, &mut keep, &mut Progress::silent())?;
    let place = format!("{kernel} on {}", platform.name());
    match (&results.ending, results.machine) {
        (Finish::Finished, Some(machine)) => Ok(Boot { machine, programs: read(&path)?, wall: results.wall }),
        (Finish::Refused, _) => Err(ClaimFailure::Inconclusive(format!("{place} lacks what is needed"))),
        (Finish::NeverBegan(what), _) => {
            Err(ClaimFailure::Inconclusive(format!("{place}: the session never began: {what}\n{}", results.console)))
        }
        (Finish::KernelDied(what), _) => Err(ClaimFailure::Refuted(format!("{place}: the kernel died: {what}"))),
        (ending, _) => {
            let message = format!("{place}: {ending:?}\n{}", results.console);
            Err(Failure::Rig { message, help: None }.into())
        }
    }
}

/// The first runs of all programs of a trace.
fn read(path: &Path) -> Result<Vec<Ran>, Failure> {
    let failed = |message: String| Failure::Trace { path: path.to_owned(), message };
    let bytes = std::fs::read(path).map_err(|source| Failure::File { path: path.to_owned(), source })?;
    let mut decoder = Decoder::new();
    decoder.push(&bytes);
    let mut programs = Vec::new();
    let mut running: Option<Ran> = None;
    while let Some(frame) = decoder.next_frame().map_err(|error| failed(error.to_string()))? {
        match frame {
            Frame::ProgramBegin { attempt, program, .. } => {
                running = (attempt == Attempt::First).then(|| Ran { program, records: Vec::new() });
            }
            Frame::StepDone(done) => {
                if let Some(ran) = &mut running {
                    ran.records.push(done.record);
                }
            }
            Frame::ProgramEnd { .. } => programs.extend(running.take()),
            _ => {}
        }
    }
    Ok(programs)
}
