//! What was compared, what was left out and why: a campaign prints it, so that "no divergence" means
//! something.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use ptediff_reference_model::expectation::{EntryExpectation, Vagueness};
use ptediff_reference_model::outcome::Outcome;
use ptediff_reference_model::program::{OPERATION_NAMES, Operation};
use ptediff_reference_model::rule::{RULES, Rule};

/// Counts over any number of programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Steps that were compared to the end.
    pub steps: u64,
    /// Entries compared that were not empty on both sides.
    pub entries: u64,
    /// Transitions compared.
    pub transitions: u64,
    /// Pagemap words compared.
    pub pagemap_words: u64,
    /// Entries that the page walk through /proc/kcore compared with the probe.
    pub walked: u64,
    /// Bits of entries and transitions that had to be as the model says.
    pub bits_compared: u64,
    /// Bits that were left open, by reason.
    pub bits_suppressed: BTreeMap<Vagueness, u64>,
    /// Times that each operation was performed, in the order of [`OPERATION_NAMES`].
    pub performed: Vec<u64>,
    /// Times that each operation succeeded: the system call returned success, the access went through.
    pub succeeded: Vec<u64>,
    /// Times that each rule fired in a step that agreed, in the order of [`RULES`].
    pub confirmed: Vec<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            steps: 0,
            entries: 0,
            transitions: 0,
            pagemap_words: 0,
            walked: 0,
            bits_compared: 0,
            bits_suppressed: BTreeMap::new(),
            performed: vec![0; OPERATION_NAMES.len()],
            succeeded: vec![0; OPERATION_NAMES.len()],
            confirmed: vec![0; RULES.len()],
        }
    }
}

impl Tally {
    /// Adds another tally's counts.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.entries += other.entries;
        self.transitions += other.transitions;
        self.pagemap_words += other.pagemap_words;
        self.walked += other.walked;
        self.bits_compared += other.bits_compared;
        for (reason, bits) in &other.bits_suppressed {
            *self.bits_suppressed.entry(*reason).or_default() += bits;
        }
        for (mine, theirs) in [
            (&mut self.performed, &other.performed),
            (&mut self.succeeded, &other.succeeded),
            (&mut self.confirmed, &other.confirmed),
        ] {
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine += theirs;
            }
        }
    }

    /// Share of bits that were left open, `0.0..=1.0`.
    #[must_use]
    pub fn suppressed_share(&self) -> f64 {
        let suppressed: u64 = self.bits_suppressed.values().sum();
        let all = suppressed + self.bits_compared;
        if all == 0 { 0.0 } else { suppressed as f64 / all as f64 }
    }

    pub(crate) fn entry(&mut self, expected: &EntryExpectation) {
        self.entries += 1;
        let open = u64::from(expected.unspecified.count_ones());
        self.bits_compared += 64 - open;
        if let Some(reason) = expected.reason {
            *self.bits_suppressed.entry(reason).or_default() += open;
        }
    }

    pub(crate) fn operation(&mut self, operation: &Operation, outcome: &Outcome) {
        self.performed[operation.kind()] += 1;
        if operation.succeeds_with(outcome) {
            self.succeeded[operation.kind()] += 1;
        }
    }

    pub(crate) fn rules(&mut self, fired: &[Rule]) {
        for rule in fired {
            self.confirmed[rule.index()] += 1;
        }
    }
}
