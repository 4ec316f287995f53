//! Every live claim, its representative part: one test a claim.

use libtest_mimic::{Completion, Failed, Trial};
use ptediff::exit_code::Exit;
use ptediff_claims::{Check, claims};

use crate::machine::live;

pub(crate) fn trials() -> Vec<Trial> {
    let of_machines = claims().filter(|claim| matches!(claim.check, Check::Live));
    of_machines
        .map(|claim| Trial::ignorable_test(format!("claims::{}", claim.name), move || check(claim.name)))
        .collect()
}

/// The claim holds; or something lacks, which is no verdict and is named.
fn check(claim: &str) -> Result<Completion, Failed> {
    let ran = live(&["claims", "--run", claim, "--silence", "400"])?;
    if ran.code == i32::from(Exit::CannotTell as u8) {
        return Ok(Completion::ignored_with(format!("inconclusive: {}", ran.text("/claims/0/why"))));
    }
    ran.must_exit(Exit::Agree)?;
    ran.must_be("/claims/0/name", claim)?;
    ran.must_be("/claims/0/fate", "holds")?;
    Ok(Completion::Completed)
}
