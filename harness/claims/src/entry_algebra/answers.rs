//! The answers about one helper, as a digest: what a kernel and the model are compared by.

use ptediff_reference_model::algebra::{Algebra, Domain, Helper, Level, Question, Reach};
use sha2::{Digest, Sha256};

/// SHA-256 over a helper's answers, each as eight bytes, least significant first: argument by argument, domain by
/// domain, entry by entry.
#[derive(Debug, Clone, Default)]
pub struct AnswerDigest {
    hasher: Sha256,
    bytes: u64,
}

impl AnswerDigest {
    /// Adds answers.
    pub fn add(&mut self, answers: &[u8]) {
        self.hasher.update(answers);
        self.bytes += answers.len() as u64;
    }

    /// How many answers were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.bytes / size_of::<u64>() as u64
    }

    /// The digest in hexadecimal.
    #[must_use]
    pub fn finish(self) -> String {
        self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Every helper at every level, whether or not some kernel has it.
pub fn helpers() -> impl Iterator<Item = (Level, Helper)> {
    Level::ALL.into_iter().flat_map(|level| Helper::ALL.iter().map(move |helper| (level, *helper)))
}

/// The model's answers about a helper, `None` if that kernel has none of the name.
#[must_use]
pub fn answers_of_model(algebra: &Algebra, level: Level, helper: Helper, reach: Reach) -> Option<AnswerDigest> {
    const BATCH: usize = 4096;
    if !algebra.has(level, helper) {
        return None;
    }
    let mut digest = AnswerDigest::default();
    let mut batch = Vec::with_capacity(BATCH);
    for question in Question::about(level, helper) {
        for entry in Domain::of(helper, reach).into_iter().flat_map(Domain::entries) {
            batch.extend_from_slice(&algebra.answer_of_existing(question, entry).to_le_bytes());
            if batch.len() >= BATCH {
                digest.add(&batch);
                batch.clear();
            }
        }
    }
    digest.add(&batch);
    Some(digest)
}

/// One digest over all helpers: SHA-256 over a line for each, its name and its digest or `-`.
#[must_use]
pub fn digest_of_all(helpers: impl IntoIterator<Item = (String, Option<String>)>) -> String {
    let mut digest = AnswerDigest::default();
    for (name, sha256) in helpers {
        digest.add(format!("{name} {}\n", sha256.as_deref().unwrap_or("-")).as_bytes());
    }
    digest.finish()
}

/// The same of the model.
#[must_use]
pub(super) fn digest_of_model(algebra: &Algebra, reach: Reach) -> String {
    digest_of_all(helpers().map(|(level, helper)| {
        let answers = answers_of_model(algebra, level, helper, reach);
        (helper.name(level), answers.map(AnswerDigest::finish))
    }))
}
