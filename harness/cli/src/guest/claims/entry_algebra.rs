//! Asks the kernel by the helper oracle (`vm-images/modules/helper-oracle`) and compares with the model.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use ptediff_claims::entry_algebra::{AnswerDigest, KERNEL_HELPERS, helpers};
use ptediff_reference_model::algebra::{Algebra, Domain, Helper, Level, Question, Reach};
use ptediff_reference_model::machine::Machine;
use ptediff_vm::load_kernel_module;

use super::{GuestCheck, Report};
use crate::claims::entry_algebra::{CONSTANTS, Constant, FULL, HelperFinding, MODULE_PATH, Mismatch};
use crate::guest::program::RigError;

pub(super) const CHECKS: &[GuestCheck] = &[GuestCheck { claim: KERNEL_HELPERS, run: ask_the_kernel }];

/// Where the module answers.
const ORACLE: &str = "/proc/ptediff-helper-oracle";
/// Bytes of a helper's name in a question, zeros included (`helper_oracle.h`).
const NAME_BYTES: usize = 32;
/// Bytes of answers that are read at once.
const BATCH: usize = 1 << 18;
/// Answers about one helper can take a minute: the host's watchdog hears of it sooner.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

fn ask_the_kernel(parameters: &Value, machine: &Machine, report: &mut dyn Report) -> Result<(), RigError> {
    load_kernel_module(Path::new("/").join(MODULE_PATH).as_path(), c"")
        .map_err(|error| RigError::of("the helper oracle cannot be loaded", &error))?;
    let mut oracle = Oracle::open().map_err(|error| RigError::of(ORACLE, &error))?;
    let failed = |error: io::Error| RigError::of("the helper oracle", &error);

    let mut constants = Vec::new();
    for name in CONSTANTS {
        let value = oracle.constant(name).map_err(failed)?;
        constants.push(Constant { name: (*name).to_owned(), value });
    }
    report.find("constants", &constants)?;
    let shadow_stack_cpu =
        constants.iter().any(|constant| constant.name == "cpu_has_shstk" && constant.value == Some(1));

    let reach = if parameters[FULL] == true { Reach::Full } else { Reach::Representative };
    let algebra = Algebra::of_dialect(machine.dialect, shadow_stack_cpu);
    let mut last_sign = Instant::now();
    for (level, helper) in helpers() {
        let finding = about(&mut oracle, &algebra, level, helper, reach, &mut |name| {
            if last_sign.elapsed() >= SIGN_OF_LIFE {
                last_sign = Instant::now();
                report.log(format!("helpers: at {name}"))?;
            }
            Ok(())
        })?;
        report.find("helper", &finding)?;
    }
    Ok(())
}

fn about(
    oracle: &mut Oracle,
    algebra: &Algebra,
    level: Level,
    helper: Helper,
    reach: Reach,
    still_here: &mut dyn FnMut(&str) -> Result<(), RigError>,
) -> Result<HelperFinding, RigError> {
    let name = helper.name(level);
    let in_model = algebra.has(level, helper);
    let mut finding =
        HelperFinding { name, exists: false, answers: 0, sha256: String::new(), mismatches: 0, first: None };
    let mut digest = AnswerDigest::default();
    for question in Question::about(level, helper) {
        for domain in Domain::of(helper, reach) {
            let asked = oracle.ask(&finding.name, question.argument, domain);
            if !asked.map_err(|error| RigError::of(&finding.name, &error))? {
                return Ok(finding);
            }
            finding.exists = true;
            let mut entries = domain.entries();
            let mut done = 0;
            while done < domain.count() {
                let answers =
                    oracle.answers(done, domain.count()).map_err(|error| RigError::of(&finding.name, &error))?;
                digest.add(answers);
                done += (answers.len() / size_of::<u64>()) as u64;
                for (bytes, entry) in answers.chunks_exact(size_of::<u64>()).zip(entries.by_ref()) {
                    let kernel = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
                    if !in_model {
                        continue;
                    }
                    let model = algebra.answer_of_existing(question, entry);
                    if kernel != model {
                        finding.mismatches += 1;
                        finding.first.get_or_insert(Mismatch { argument: question.argument, entry, kernel, model });
                    }
                }
                still_here(&finding.name)?;
            }
        }
    }
    finding.answers = digest.count();
    finding.sha256 = digest.finish();
    Ok(finding)
}

/// The module's file.
struct Oracle {
    file: File,
    batch: Vec<u8>,
}

impl Oracle {
    fn open() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(ORACLE)?;
        Ok(Self { file, batch: vec![0; BATCH] })
    }

    /// Asks about every entry of a domain. False if the kernel has no such helper.
    fn ask(&mut self, name: &str, argument: u64, domain: Domain) -> io::Result<bool> {
        let mut question = [0; NAME_BYTES + 3 * size_of::<u64>()];
        question[..name.len()].copy_from_slice(name.as_bytes());
        for (place, number) in [argument, domain.base, domain.mask].into_iter().enumerate() {
            let start = NAME_BYTES + place * size_of::<u64>();
            question[start..start + size_of::<u64>()].copy_from_slice(&number.to_le_bytes());
        }
        match self.file.write(&question) {
            Ok(written) if written == question.len() => Ok(true),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Answers from the given one on, as many as fit.
    fn answers(&mut self, first: u64, count: u64) -> io::Result<&[u8]> {
        let wanted = usize::try_from((count - first) * size_of::<u64>() as u64).unwrap_or(BATCH).min(BATCH);
        let batch = &mut self.batch[..wanted];
        self.file.read_exact_at(batch, first * size_of::<u64>() as u64)?;
        Ok(batch)
    }

    /// A constant of the kernel's headers, if it has it.
    fn constant(&mut self, name: &str) -> io::Result<Option<u64>> {
        if !self.ask(name, 0, Domain { base: 0, mask: 0 })? {
            return Ok(None);
        }
        let bytes = self.answers(0, 1)?;
        Ok(Some(u64::from_le_bytes(bytes.try_into().unwrap_or_default())))
    }
}
