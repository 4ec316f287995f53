//! `ptediff repro`: a corpus entry as a stand-alone C program.

use std::io::Write;

use ptediff_reference_model::machine::{Dialect, KernelVersion, Machine};

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
    let machine = imagined(arguments.dialect, shadow_stack);
    let subject = Subject {
        name: &entry.name,
        description: &entry.description,
        machine: &machine,
        program: &entry.program,
        finding: &[],
    };
    let text = reproducer(&subject)
        .map_err(|error| Failure::usage(error.to_string(), "--dialect names the kernel that is expected"))?;
    let failed = |source| Failure::File { path: "standard output".into(), source };
    std::io::stdout().write_all(text.as_bytes()).map_err(failed)?;
    Ok(Exit::Agree)
}

/// A machine that nobody has run: what the expectations of a reproducer are told of.
fn imagined(dialect: Dialect, shadow_stack: bool) -> Machine {
    let (major, minor) = match dialect {
        Dialect::Linux6_1 => (6, 1),
        Dialect::Linux6_12 => (6, 12),
        Dialect::Linux7_2 => (7, 2),
    };
    Machine {
        release: dialect.to_string(),
        version: KernelVersion { major, minor, patch: 0 },
        dialect,
        dialect_forced: true,
        shadow_stack,
        protection_keys: true,
        exact_accessed: true,
        platform: "none".to_owned(),
        cpu_model: "none".to_owned(),
    }
}
