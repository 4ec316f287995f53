//! `ptediff judge`: a recorded trace, judged again without a machine.

use crate::arguments::{Format, Judge};
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::host::results::Finish;
use crate::host::session::judge_bytes;
use crate::report;

use super::save::{check_folder, save};

pub(super) fn run(arguments: &Judge, format: Format) -> Result<Exit, Failure> {
    if let Some(folder) = &arguments.save {
        check_folder(folder)?;
    }
    let path = &arguments.trace;
    let bytes = std::fs::read(path).map_err(|source| Failure::File { path: path.clone(), source })?;
    let mut results = judge_bytes(&bytes);
    results.weigh(arguments.weighing);
    let saved = arguments.save.as_deref().map_or_else(Vec::new, |folder| save(folder, &results));
    if let Finish::BadTrace(message) = &results.ending {
        if results.programs > 0 {
            report::campaign(&results, &saved, format);
        }
        return Err(Failure::Trace { path: path.clone(), message: message.clone() });
    }
    report::campaign(&results, &saved, format);
    Ok(results.exit())
}
