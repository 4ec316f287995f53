//! `ptediff watch`: any program, and invariants of its entries.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use ptediff_observe::Loader;
use serde::de::DeserializeOwned;

use crate::arguments::{Format, Watch};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::{LaunchOptions, Platform, launch};
use crate::host::programs::{Luggage, find};
use crate::host::results::{Finish, Results};
use crate::host::session::{Keep, follow};
use crate::report::progress::Progress;
use crate::report::watch::{Watched, violation_text};
use crate::watch::{Counters, Output, Ran, Violation, WatchTask, Whom, finding};

use super::request::request;

/// Memory that a machine has besides what is put into it, in MiB, and how often that lies in it: as archive, as
/// unpacked files, of which at most half of memory may be.
const BARE_MEMORY: u64 = 512;
const COPIES: u64 = 3;

pub(super) fn run(arguments: &Watch, format: Format) -> Result<Exit, Failure> {
    let format = if arguments.json { Format::Json } else { format };
    let in_place = arguments.machine.platform == Platform::Native;
    if arguments.pid.is_some() && !in_place {
        return Err(Failure::usage(
            "a process of this machine cannot be watched in another one",
            "add --platform native, inside a machine that is meant for it",
        ));
    }
    if !Loader::Libbpf.is_built_in() {
        return Err(Failure::usage(
            "this ptediff was built without libbpf, whose probes watch",
            "build it with the cargo feature `libbpf`",
        ));
    }
    let mut options = arguments.machine.launch_options(if in_place { None } else { arguments.time });
    options.cpus = arguments.cpus;
    options.command_line.clone_from(&arguments.append);
    let whom = match arguments.pid {
        Some(process) => Whom::Process(process),
        None if in_place => Whom::Command(arguments.command.clone()),
        None => Whom::Command(pack(arguments, &mut options)?),
    };
    let plant = match arguments.plant_bits.as_slice() {
        [bits, causes] => Some((*bits, *causes)),
        _ => None,
    };
    let task = Task::Watch(WatchTask {
        whom,
        pairs: arguments.pairs,
        seconds: arguments.time,
        probes: arguments.probes,
        pagemap_every: Some(arguments.pagemap_every).filter(|seconds| *seconds > 0.0),
        plant_pagemap: arguments.plant_pagemap.unwrap_or(0),
        plant,
    });
    let request = request(&arguments.machine, task)?;
    let mut channel = launch(&request, &options)?;

    let watched = Rc::new(RefCell::new(Watched::default()));
    let into = Rc::clone(&watched);
    let mut progress = Progress::new("watched")
        .heard_by(move |name, value, progress| hear(&mut into.borrow_mut(), name, value, progress, format));
    let results = follow(&mut channel, &mut Keep::default(), &mut progress)?;
    progress.finish();
    drop(progress);
    let watched = watched.take();
    let exit = exit_of(&watched, &results);
    match format {
        Format::Human => watched.print(&results, exit),
        Format::Json => println!("{}", watched.json(&results, exit)),
    }
    Ok(exit)
}

/// What the machine must have for the command; returns the command as it is called there.
fn pack(arguments: &Watch, options: &mut LaunchOptions) -> Result<Vec<String>, Failure> {
    let mut luggage = Luggage::default();
    let mut command = arguments.command.clone();
    if let Some(folder) = &arguments.root {
        luggage.pack_folder(folder)?;
    }
    for file in &arguments.file {
        let path = std::path::absolute(file).map_err(|source| Failure::File { path: file.clone(), source })?;
        luggage.pack(&path)?;
    }
    if let Some(program) = command.first_mut() {
        let in_folder = arguments.root.as_ref().filter(|_| luggage.files.contains_key(program));
        if let Some(folder) = in_folder {
            luggage.pack_what_runs(&folder.join(program.trim_start_matches('/')))?;
        } else if !luggage.files.contains_key(program) && !luggage.links.contains_key(program) {
            let path = find(program)?;
            luggage.pack(&path)?;
            *program = path.to_string_lossy().into_owned();
        }
    }
    let needed = BARE_MEMORY + COPIES * luggage.bytes().div_ceil(1 << 20);
    options.memory_mib = options.memory_mib.max(u32::try_from(needed).unwrap_or(u32::MAX));
    options.files = luggage.files.into_iter().collect();
    options.links = luggage.links.into_iter().collect();
    Ok(command)
}

/// Takes a finding as it comes. What the command prints goes out at once.
fn hear(watched: &mut Watched, name: &str, value: &str, progress: &Progress, format: Format) -> bool {
    match name {
        finding::OUTPUT => {
            if let Some(output) = decoded::<Output>(watched, value) {
                // The command's words are kept out of a JSON document.
                progress.above(|| match output.is_error || format == Format::Json {
                    true => eprint!("{}", output.text),
                    false => print!("{}", output.text),
                });
                // Somebody may be waiting for half a line.
                drop(std::io::stdout().flush());
            }
        }
        finding::COUNTERS => {
            if let Some(counters) = decoded::<Counters>(watched, value) {
                progress.status(crate::report::watch::status(&counters));
                watched.counters = Some(counters);
            }
        }
        finding::VIOLATION => {
            if let Some(violation) = decoded::<Violation>(watched, value) {
                if format == Format::Human && watched.violations.len() < Watched::SHOWN {
                    progress.above(|| println!("{}", violation_text(&violation)));
                }
                watched.violations.push(violation);
            }
        }
        finding::RAN => {
            if let Some(ran) = decoded::<Ran>(watched, value) {
                watched.runs.push(ran);
            }
        }
        finding::SUMMARY => {
            watched.counters = decoded(watched, value);
            watched.is_whole = watched.counters.is_some();
        }
        _ => return false,
    }
    true
}

fn decoded<T: DeserializeOwned>(watched: &mut Watched, value: &str) -> Option<T> {
    match serde_json::from_str(value) {
        Ok(value) => Some(value),
        Err(error) => {
            watched.damage.get_or_insert_with(|| format!("the guest's words cannot be read: {error}"));
            None
        }
    }
}

/// A violation counts however the run ended; agreement wants a whole run in which nothing was lost.
fn exit_of(watched: &Watched, results: &Results) -> Exit {
    let contradicted = watched.violations.iter().any(|violation| violation.contradiction.is_some());
    if watched.damage.is_some() || contradicted {
        return Exit::Rig;
    }
    if let Finish::KernelDied(_) = results.ending {
        return Exit::KernelDied;
    }
    let (events, violations, lost) =
        watched.counters.as_ref().map_or((0, 0, 0), |all| (all.all_events(), all.all_violations(), all.all_lost()));
    if violations > 0 {
        return Exit::Diverge;
    }
    match results.ending {
        Finish::Finished if watched.is_whole => {}
        Finish::RigFailed(_) | Finish::BadTrace(_) => return Exit::Rig,
        _ => return Exit::CannotTell,
    }
    let started = watched.runs.iter().any(|ran| ran.watched) && watched.runs.iter().all(|ran| !ran.not_started);
    if lost > 0 || events == 0 || !started { Exit::CannotTell } else { Exit::Agree }
}
