//! placeholder until the lead's skeleton is merged
pub mod dirty_race;
