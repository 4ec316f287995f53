//! The CPU's side of every check, and PKS: what was asked, and the checks over the model.

use crate::claim::Claim;

/// The claims of this system.
pub(crate) const CLAIMS: &[Claim] = &[];
