//! The entry algebra: what was asked, and the checks over the model.

use crate::claim::Claim;

/// The claims of this system.
pub(crate) const CLAIMS: &[Claim] = &[];
