//! `ptediff doctor`: what this host has, what a machine has, which hooks attach there.

use ptediff_vm::in_place::may_run_in_place;
use ptediff_vm::store::Store;

use crate::arguments::{Doctor, Format};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::guest::request::Task;
use crate::host::launch::{launch, own_executable};
use crate::host::results::{Finish, Results};
use crate::host::session::{Keep, describe, follow};
use crate::report::progress::Progress;

use super::request::request;

pub(super) fn run(arguments: &Doctor, format: Format) -> Result<Exit, Failure> {
    let mut lines = host(arguments)?;
    let mut exit = Exit::Agree;
    if !arguments.host_only {
        let request = request(&arguments.machine, Task::Doctor)?;
        let mut channel = launch(&request, &arguments.machine.launch_options(None))?;
        let results = follow(&mut channel, &mut Keep::default(), &mut Progress::silent())?;
        exit = match &results.ending {
            Finish::Finished => Exit::Agree,
            _ => results.exit(),
        };
        lines.extend(machine(&results));
    }
    match format {
        Format::Human => {
            for (what, says) in &lines {
                println!("{what}: {says}");
            }
        }
        Format::Json => {
            let document: Vec<_> =
                lines.iter().map(|(what, says)| serde_json::json!({ "what": what, "says": says })).collect();
            println!("{}", serde_json::json!({ "doctor": document, "exit": exit as u8 }));
        }
    }
    Ok(exit)
}

fn host(arguments: &Doctor) -> Result<Vec<(String, String)>, Failure> {
    let mut lines = vec![("ptediff".to_owned(), format!("{}, static", env!("CARGO_PKG_VERSION")))];
    own_executable()?;
    let store = Store::open()?;
    lines.push(("cache".to_owned(), store.root().display().to_string()));
    for listed in store.list()? {
        if let Some(release) = listed.stands_for.as_ref().filter(|_| listed.state.is_ok()) {
            lines.push((format!("{} {}", listed.kind, listed.name), format!("stands for {release}")));
            continue;
        }
        let says = match store.verify(listed.kind, &listed.name) {
            Ok(manifest) => format!("{} (digests verified)", manifest.package_version()),
            Err(error) => error.to_string(),
        };
        lines.push((format!("{} {}", listed.kind, listed.name), says));
    }
    let place = if may_run_in_place() { "allowed" } else { "not allowed (a machine is booted instead)" };
    lines.push(("running in place".to_owned(), place.to_owned()));
    lines.push(("platform".to_owned(), arguments.machine.platform.name().to_owned()));
    Ok(lines)
}

fn machine(results: &Results) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    if let Some(machine) = &results.machine {
        lines.push(("machine".to_owned(), describe(machine)));
        let calibrated = if machine.is_calibrated() {
            "calibrated: a matrix had nothing unexplained on it"
        } else {
            "not calibrated: judged by the table of changes alone"
        };
        lines.push(("kernel version".to_owned(), format!("{}, {calibrated}", machine.version)));
        lines.extend(machine.caveat().map(|caveat| ("judged as".to_owned(), caveat)));
    }
    if let Some(refused) = &results.refused {
        lines.push(("refused, missing".to_owned(), refused.missing.join(", ")));
        lines.push(("seen".to_owned(), refused.seen.join("; ")));
    }
    lines.extend(results.log.iter().map(|line| ("guest".to_owned(), line.clone())));
    lines.push(("boot to the session's end".to_owned(), format!("{:.1} s", results.wall.as_secs_f64())));
    match &results.ending {
        Finish::Finished | Finish::TimeLimit | Finish::Refused => {}
        Finish::NeverBegan(what) | Finish::KernelDied(what) | Finish::RigFailed(what) | Finish::BadTrace(what) => {
            lines.push(("ended".to_owned(), what.clone()));
            lines.extend(results.console.lines().map(|line| ("console".to_owned(), line.to_owned())));
        }
    }
    lines
}
