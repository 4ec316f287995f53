//! Verdicts: agree, diverge, inconclusive.
//!
//! The judge steps the reference model along a recorded program and compares everything that was seen:
//! the outcome, every transition, every entry of every actor's arena, which actors live, and pagemap where
//! a witness was asked. The same code runs in the guest, step by step, and on the host, over the trace.
//!
//! # What this crate must not know
//!
//! How programs are made, run or observed; emulators, files, clocks. It sees [`StepRecord`]s only.
#![forbid(unsafe_code)]

mod binding;
mod cluster;
mod comparison;
mod contradiction;
mod evidence;
mod explanation;
mod ideal;
mod judge;
mod pairing;
mod tally;

pub use cluster::{Cluster, ClusterKey, DifferenceKind, clusters};
pub use comparison::pagemap_word;
pub use evidence::{Evidence, Seen, Standing};
pub use explanation::{agrees, kept_of};
pub use ideal::{ideal_records, records_of};
pub use judge::{Judge, Progress, is_rule_of_the_step, judge};
pub use pairing::{PairDifference, first_difference};
pub use tally::Tally;

#[cfg(doc)]
use ptediff_reference_model::observation::StepRecord;
