//! One entry of the corpus.

use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::Program;
use serde::{Deserialize, Serialize};

use crate::needs::Needs;

/// Version of the stored form. It is raised before the form changes; older entries must stay readable. Schema 1 named
/// kernels by series where schema 2 names changes.
pub const SCHEMA: u32 = 2;

/// Bytes that a stored entry may have. A longer file is refused before it is read.
pub const MAX_ENTRY_BYTES: u64 = 1 << 20;

/// Characters that a name may have.
const MAX_NAME: usize = 100;

/// A program worth keeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the entry and, with `.json`, of its file. See [`is_valid_name`].
    pub name: String,
    /// What the program is for, in a sentence.
    pub description: String,
    /// Where it came from.
    pub origin: Origin,
    /// What a machine must have to run it.
    pub needs: Needs,
    /// The program.
    pub program: Program,
}

impl Entry {
    /// Why the machine cannot run the entry, by name; empty where it can.
    #[must_use]
    pub fn missing(&self, machine: &Machine) -> Vec<String> {
        self.needs.missing(machine)
    }
}

/// Where an entry came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Origin {
    /// Who found it.
    pub found_by: FoundBy,
    /// Seed of the campaign that made the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign_seed: Option<u64>,
    /// Index of the program in its campaign. The entry may be a shrunk form of that program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_index: Option<u32>,
    /// Document that describes the behaviour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// Kernel release on which it was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Machine on which it was found, such as `bochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// Day on which it was found, `YYYY-MM-DD`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

impl Origin {
    /// The origin of an entry that a person wrote.
    #[must_use]
    pub fn hand() -> Self {
        Self::of(FoundBy::Hand)
    }

    /// The origin of an entry that a campaign found.
    #[must_use]
    pub fn campaign(seed: u64, index: u32, kernel: &str, machine: &str) -> Self {
        Self {
            campaign_seed: Some(seed),
            program_index: Some(index),
            kernel: Some(kernel.to_owned()),
            machine: Some(machine.to_owned()),
            ..Self::of(FoundBy::Campaign)
        }
    }

    fn of(found_by: FoundBy) -> Self {
        Self {
            found_by,
            campaign_seed: None,
            program_index: None,
            document: None,
            kernel: None,
            machine: None,
            date: None,
        }
    }
}

/// Who found an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// A person wrote it.
    Hand,
    /// A generated program diverged.
    Campaign,
    /// It was taken from a document that describes the behaviour.
    Document,
}

/// Whether the name can be a file's: lower-case letters, digits and hyphens, beginning with a letter or
/// a digit, at most 100 characters.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}
