//! The claims: what was asked or stated in the five seed documents, what the answer is, and how it is checked.
//!
//! Each of the four systems has a file with its table of [`Claim`]s. A claim is checked here, over the model alone
//! ([`Check::Model`]), or live by the `ptediff` command, which finds its check by the claim's name ([`Check::Live`]).
//! `docs/claims.md` is made from these tables and the evidence that was recorded last.
//!
//! **Must not know**: machines, kernel images, files, the terminal. The evidence of live checks is data to it.

mod claim;
mod dirty_race;
pub mod entry_algebra;
mod evidence;
mod processor_access;
mod write_protect_tracking;

pub use claim::{Cases, Check, Claim, Effort, Refuted, Seed, System};
pub use evidence::{Evidence, Record};

/// Every claim, system by system, in the order of the tables.
pub fn claims() -> impl Iterator<Item = &'static Claim> {
    [entry_algebra::CLAIMS, dirty_race::CLAIMS, write_protect_tracking::CLAIMS, processor_access::CLAIMS]
        .into_iter()
        .flatten()
}

/// The claim of this name.
#[must_use]
pub fn claim(name: &str) -> Option<&'static Claim> {
    claims().find(|claim| claim.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_begin_with_their_system() {
        let mut seen = BTreeSet::new();
        for claim in claims() {
            assert!(seen.insert(claim.name), "{} stands twice", claim.name);
            let prefix = format!("{}.", claim.system.prefix());
            assert!(claim.name.starts_with(&prefix), "{} does not begin with {prefix}", claim.name);
        }
    }

    #[test]
    fn questions_end_as_questions_and_answers_as_sentences() {
        for claim in claims() {
            assert!(claim.question.ends_with('?'), "{}: {}", claim.name, claim.question);
            assert!(claim.answer.ends_with('.'), "{}: {}", claim.name, claim.answer);
        }
    }

    /// The representative part of every check over the model: it holds, and it looked at something.
    #[test]
    fn claims_over_the_model_hold() {
        for claim in claims() {
            let Check::Model(check) = claim.check else { continue };
            match check(Effort::Representative) {
                Ok(cases) => assert!(cases.count > 0, "{} looked at nothing", claim.name),
                Err(refuted) => panic!("{}: {}", claim.name, refuted.what),
            }
        }
    }
}
