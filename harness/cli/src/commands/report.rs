//! `ptediff report`: the divergences of a recorded trace as texts that can be mailed.

use crate::arguments::Report;
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::host::results::Finish;
use crate::host::session::judge_bytes;
use crate::report::mail::{Attached, mail};

pub(super) fn run(arguments: &Report) -> Result<Exit, Failure> {
    let path = &arguments.trace;
    let bytes = std::fs::read(path).map_err(|source| Failure::File { path: path.clone(), source })?;
    let results = judge_bytes(&bytes);
    if let (Finish::RigFailed(message), 0) = (&results.ending, results.programs) {
        return Err(Failure::Trace { path: path.clone(), message: message.clone() });
    }
    for cluster in results.clusters() {
        if let Some(text) = mail(&results, &cluster, Attached::default()) {
            println!("{text}");
        }
    }
    if results.divergences.is_empty() {
        println!("no divergence among {} programs", results.programs);
    }
    Ok(results.exit())
}
