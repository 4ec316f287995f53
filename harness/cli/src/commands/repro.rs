//! `ptediff repro`: a corpus entry as a stand-alone C program.

use std::io::Write;

use ptediff_reference_model::machine::Machine;

use ptediff_corpus::Needs;

use crate::arguments::Repro;
use crate::error::Failure;
use crate::exit_code::Exit;
use crate::report::reproducer::{Subject, reproducer};

use super::replay::entry;

pub(super) fn run(arguments: &Repro) -> Result<Exit, Failure> {
    let stored = entry(&arguments.entry, &arguments.corpus)?;
    let entry = &stored.entry;
    let shadow_stack = entry.needs.shadow_stack || Needs::to_behave_alike(&entry.program).shadow_stack;
    let machine = Machine::imagined(arguments.judge_as, shadow_stack, true);
    let subject = Subject {
        name: &entry.name,
        description: &entry.description,
        machine: &machine,
        program: &entry.program,
        finding: &[],
    };
    let text = reproducer(&subject)
        .map_err(|error| Failure::usage(error.to_string(), "--judge-as names the kernel that is expected"))?;
    let failed = |source| Failure::File { path: "standard output".into(), source };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed)?;
    Ok(Exit::Agree)
}
