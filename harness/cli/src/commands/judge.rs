//! `ptediff judge`: a recorded trace, judged again without a machine.

use crate::arguments::{Format, Judge};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::host::results::Finish;
use crate::host::session::judge_bytes;
use crate::report;

pub(super) fn run(arguments: &Judge, format: Format) -> Result<Exit, Failure> {
    let path = &arguments.trace;
    let bytes = std::fs::read(path).map_err(|source| Failure::File { path: path.clone(), source })?;
    let results = judge_bytes(&bytes);
    if let (Finish::RigFailed(message), 0) = (&results.ending, results.programs) {
        return Err(Failure::Trace { path: path.clone(), message: message.clone() });
    }
    report::campaign(&results, &[], format);
    Ok(results.exit())
}
