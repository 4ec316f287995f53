//! Asks the kernel by the helper oracle (`vm-images/modules/helper-oracle`) and compares with the model.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use ptediff_claims::entry_algebra::{AnswerDigest, KERNEL_HELPERS, KERNEL_HELPERS_BARE, helpers};
use ptediff_reference_model::algebra::{Algebra, Domain, Helper, Level, Question, Reach};
use ptediff_reference_model::machine::Machine;
use ptediff_vm::load_kernel_module;

use super::{GuestCheck, Report};
use crate::claims::entry_algebra::{CONSTANTS, Constant, EXPECTED, FULL, HelperFinding, Mismatch, Oracle};
use crate::guest::program::RigError;

pub(super) const CHECKS: &[GuestCheck] = &[
    GuestCheck {
        claim: KERNEL_HELPERS,
        run: |parameters, machine, report| ask_the_kernel(Oracle::AsConfigured, parameters, machine, report),
    },
    GuestCheck {
        claim: KERNEL_HELPERS_BARE,
        run: |parameters, machine, report| ask_the_kernel(Oracle::Bare, parameters, machine, report),
    },
];

/// Bytes of a helper's name in a question, zeros included (`helper_oracle.h`).
const NAME_BYTES: usize = 32;
/// Bytes of answers that are read at once.
const BATCH: usize = 1 << 18;
/// Answers after which the host's watchdog hears of it: seconds, where the machine is not starved.
const SIGN_OF_LIFE: u64 = 1 << 21;

fn ask_the_kernel(
    oracle: Oracle,
    parameters: &Value,
    machine: &Machine,
    report: &mut dyn Report,
) -> Result<(), RigError> {
    load_kernel_module(&Path::new("/").join(oracle.path_in_guest()), c"")
        .map_err(|error| RigError::of("the helper oracle cannot be loaded", &error))?;
    let which = oracle;
    let mut oracle = OracleFile::open(oracle.file()).map_err(|error| RigError::of(oracle.file(), &error))?;
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
    let algebra = which.algebra(machine.kernel_as_released(), shadow_stack_cpu);
    let mut since_sign = 0;
    for (level, helper) in helpers() {
        let expected = parameters[EXPECTED][helper.name(level)].as_str();
        let finding = about(&mut oracle, &algebra, (level, helper), reach, expected, &mut |name, answers| {
            since_sign += answers;
            if since_sign < SIGN_OF_LIFE {
                return Ok(());
            }
            since_sign = 0;
            report.log(format!("helpers: at {name}"))
        })?;
        report.find("helper", &finding)?;
    }
    Ok(())
}

/// Asks about one helper. The model is evaluated here only where the answers are not those that the host expects: to
/// name the first that differs.
fn about(
    oracle: &mut OracleFile,
    algebra: &Algebra,
    (level, helper): (Level, Helper),
    reach: Reach,
    expected: Option<&str>,
    still_here: &mut dyn FnMut(&str, u64) -> Result<(), RigError>,
) -> Result<HelperFinding, RigError> {
    let name = helper.name(level);
    let mut finding =
        HelperFinding { name, exists: false, answers: 0, sha256: String::new(), mismatches: 0, first: None };
    let mut digest = AnswerDigest::default();
    let add = &mut |_, _: &mut dyn Iterator<Item = u64>, answers: &[u8]| digest.add(answers);
    if !ask_about_all(oracle, (level, helper), reach, add, still_here)? {
        return Ok(finding);
    }
    finding.exists = true;
    finding.answers = digest.count();
    finding.sha256 = digest.finish();
    if expected == Some(finding.sha256.as_str()) || !algebra.has(level, helper) {
        return Ok(finding);
    }
    let compare = &mut |question: Question, entries: &mut dyn Iterator<Item = u64>, answers: &[u8]| {
        for (bytes, entry) in answers.chunks_exact(size_of::<u64>()).zip(entries) {
            let kernel = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            let model = algebra.answer_of_existing(question, entry);
            if kernel != model {
                finding.mismatches += 1;
                finding.first.get_or_insert(Mismatch { argument: question.argument, entry, kernel, model });
            }
        }
    };
    ask_about_all(oracle, (level, helper), reach, compare, still_here)?;
    Ok(finding)
}

/// What is done with a batch of answers: to which question, about which entries.
type Batch<'a> = &'a mut dyn FnMut(Question, &mut dyn Iterator<Item = u64>, &[u8]);

/// Asks all questions about a helper on all entries. False if the kernel has no such helper.
fn ask_about_all(
    oracle: &mut OracleFile,
    (level, helper): (Level, Helper),
    reach: Reach,
    batch: Batch<'_>,
    still_here: &mut dyn FnMut(&str, u64) -> Result<(), RigError>,
) -> Result<bool, RigError> {
    let name = helper.name(level);
    let failed = |error: io::Error| RigError::of(&name, &error);
    for question in Question::about(level, helper) {
        for domain in Domain::of(helper, reach) {
            if !oracle.ask(&name, question.argument, domain).map_err(failed)? {
                return Ok(false);
            }
            let mut entries = domain.entries();
            let mut done = 0;
            while done < domain.count() {
                let answers = oracle.answers(done, domain.count()).map_err(failed)?;
                let count = (answers.len() / size_of::<u64>()) as u64;
                batch(question, &mut entries.by_ref().take(answers.len() / size_of::<u64>()), answers);
                done += count;
                still_here(&name, count)?;
            }
        }
    }
    Ok(true)
}

/// The module's file.
struct OracleFile {
    file: File,
    batch: Vec<u8>,
}

impl OracleFile {
    fn open(path: &str) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
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
