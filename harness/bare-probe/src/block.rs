//! Running a block of cases, and what is kept of it. The guest runs it on the processor, the host with the
//! model in the processor's place; both get the same record if all agree.
//!
//! Compiled into host and guest.

use core::fmt;

use crate::case::{Case, Machine, Outcome, control, expect};
use crate::deviation::{KNOWN_EMULATOR_DEVIATIONS, MOST_DEVIATIONS, Processor};
use crate::processor::{ErrorCode, LEVELS, Mutant, Rule};
use crate::space::{Part, Space};

/// What is kept of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRecord {
    /// Cases that the block has; 0 if not all were run.
    pub legal: u64,
    /// Cases that were run.
    pub run: u64,
    /// Cases that ended in a page fault.
    pub faults: u64,
    /// Digest of all outcomes, as far as they are specified, in order.
    pub digest: u64,
    /// Digest of all outcomes, unspecified bits included.
    pub whole_digest: u64,
    /// Cases in which the outcome was not the expected one, nor that of a known deviation.
    pub mismatches: u64,
    /// Cases in which Accessed was not specified, by level; and last those in which PK was not.
    pub unspecified: [u64; UNSPECIFIED],
    /// Cases among these in which it was set.
    pub unspecified_set: [u64; UNSPECIFIED],
    /// Cases by the rule that decided.
    pub rules: [u64; Rule::DECIDING],
    /// Cases by known deviation.
    pub deviations: [u64; MOST_DEVIATIONS],
}

/// Bits of an outcome that can be unspecified: Accessed at each level, and PK.
pub const UNSPECIFIED: usize = LEVELS + 1;

/// The bit of that number.
const fn unspecified_bit(number: usize) -> u64 {
    if number < LEVELS { 1 << (Outcome::ACCESSED_SHIFT as usize + number) } else { ErrorCode::KEY as u64 }
}

/// Words of a record.
pub const RECORD_WORDS: usize = 6 + 2 * UNSPECIFIED + Rule::DECIDING + MOST_DEVIATIONS;

impl BlockRecord {
    const EMPTY: Self = Self {
        legal: 0,
        run: 0,
        faults: 0,
        digest: 0,
        whole_digest: 0,
        mismatches: 0,
        unspecified: [0; UNSPECIFIED],
        unspecified_set: [0; UNSPECIFIED],
        rules: [0; Rule::DECIDING],
        deviations: [0; MOST_DEVIATIONS],
    };

    /// As words.
    #[must_use]
    pub fn to_words(self) -> [u64; RECORD_WORDS] {
        let mut words = [0; RECORD_WORDS];
        let head = [self.legal, self.run, self.faults, self.digest, self.whole_digest, self.mismatches];
        let parts: [&[u64]; 5] = [&head, &self.unspecified, &self.unspecified_set, &self.rules, &self.deviations];
        let mut place = 0;
        for part in parts {
            words[place..place + part.len()].copy_from_slice(part);
            place += part.len();
        }
        words
    }

    /// From words.
    #[must_use]
    pub fn from_words(words: &[u64; RECORD_WORDS]) -> Self {
        let mut record = Self::EMPTY;
        let head: [&mut u64; 6] = [
            &mut record.legal,
            &mut record.run,
            &mut record.faults,
            &mut record.digest,
            &mut record.whole_digest,
            &mut record.mismatches,
        ];
        for (place, word) in head.into_iter().zip(words) {
            *place = *word;
        }
        let mut place = 6;
        let parts: [&mut [u64]; 4] =
            [&mut record.unspecified, &mut record.unspecified_set, &mut record.rules, &mut record.deviations];
        for part in parts {
            let length = part.len();
            part.copy_from_slice(&words[place..place + length]);
            place += length;
        }
        record
    }
}

/// A case whose outcome is not the expected one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// The case.
    pub case: Case,
    /// What was expected.
    pub expected: Outcome,
    /// The bits of it that are specified.
    pub mask: u64,
    /// What was seen.
    pub observed: Outcome,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (_, name) in control::NAMES.iter().filter(|(bit, _)| self.case.control & bit != 0) {
            write!(formatter, "{name} ")?;
        }
        let [pte, pde, pdpte, pml4e, pml5e] = self.case.entries;
        write!(formatter, "PTE {pte:#x} PDE {pde:#x} PDPTE {pdpte:#x} PML4E {pml4e:#x} PML5E {pml5e:#x}: ")?;
        let outcome = |formatter: &mut fmt::Formatter<'_>, outcome: Outcome| {
            match outcome.fault() {
                Some(code) => write!(formatter, "#PF {code}")?,
                None => write!(formatter, "allowed")?,
            }
            write!(formatter, " [{:#x}]", outcome.0)
        };
        write!(formatter, "expected ")?;
        outcome(formatter, self.expected)?;
        write!(formatter, ", seen ")?;
        outcome(formatter, self.observed)?;
        write!(formatter, ", not specified {:#x}", !self.mask)
    }
}

#[inline(always)]
fn fold(digest: u64, word: u64) -> u64 {
    // Each step is a bijection of the digest, so one changed outcome changes the end.
    (digest.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// Runs the cases of a block. `observe` makes the access; it is also told what is expected, which the host's
/// stand-in for a processor answers with. `report` is told of mismatches.
pub fn run_block(
    machine: &Machine,
    processor: Processor,
    mutant: Option<Mutant>,
    (space, block, part): (&Space, u32, Part),
    mut observe: impl FnMut(&Case, Outcome) -> Outcome,
    mut report: impl FnMut(&Mismatch),
) -> BlockRecord {
    let mut record = BlockRecord::EMPTY;
    let context = Case { control: space.state(block), entries: space.common }.context(machine);
    let legal = space.for_each(block, part, |case| {
        let mut context = context;
        context.alignment_check = case.control & control::AC != 0;
        let expected = expect(mutant, &context, case);
        record.rules[expected.rule as usize] += 1;
        let mut wanted = expected.outcome;
        for (number, deviation) in KNOWN_EMULATOR_DEVIATIONS.iter().enumerate() {
            if deviation.processor == processor
                && let Some(outcome) = (deviation.outcome)(case, &expected)
            {
                wanted = Outcome(outcome.0 & expected.mask);
                record.deviations[number] += 1;
                break;
            }
        }
        let observed = observe(case, wanted);
        record.run += 1;
        record.faults += (observed.0 & Outcome::FAULT) / Outcome::FAULT;
        let specified = observed.0 & expected.mask;
        record.digest = fold(record.digest, specified);
        record.whole_digest = fold(record.whole_digest, observed.0);
        if expected.mask != !0 {
            for number in 0..UNSPECIFIED {
                let bit = unspecified_bit(number);
                if expected.mask & bit == 0 {
                    record.unspecified[number] += 1;
                    record.unspecified_set[number] += u64::from(observed.0 & bit != 0);
                }
            }
        }
        if specified != wanted.0 {
            record.mismatches += 1;
            report(&Mismatch { case: *case, expected: wanted, mask: expected.mask, observed });
        }
    });
    record.legal = legal;
    record
}
