//! The guest's part of the live checks of claims, a file a system.
//!
//! A check sends what it found as [`Frame::Finding`]s; its other half (`crate::claims`) judges them on the host.

mod entry_algebra;

use std::io::Write;

use serde::Serialize;
use serde_json::Value;

use ptediff_reference_model::machine::Machine;
use ptediff_trace::{Finding, Frame, Writer};

use super::program::RigError;

/// The guest's part of one check.
pub(super) struct GuestCheck {
    /// The claim that it is for.
    claim: &'static str,
    /// Does it.
    run: fn(&Value, &Machine, &mut dyn Report) -> Result<(), RigError>,
}

/// Where findings go.
pub(super) trait Report {
    /// Sends one finding.
    fn send(&mut self, finding: Finding) -> Result<(), RigError>;
    /// Sends a line for people, which also tells the host's watchdog that the guest lives.
    fn log(&mut self, line: String) -> Result<(), RigError>;
}

impl<W: Write> Report for Writer<W> {
    fn send(&mut self, finding: Finding) -> Result<(), RigError> {
        Writer::send(self, &Frame::Finding(finding))
            .map_err(|error| RigError::of("the trace cannot be written", &error))
    }

    fn log(&mut self, line: String) -> Result<(), RigError> {
        Writer::send(self, &Frame::Log(line)).map_err(|error| RigError::of("the trace cannot be written", &error))
    }
}

impl dyn Report + '_ {
    /// Sends one finding as JSON.
    pub(super) fn find(&mut self, name: &str, value: &impl Serialize) -> Result<(), RigError> {
        let value = serde_json::to_string(value).map_err(|error| RigError::of("a finding as JSON", &error))?;
        self.send(Finding { name: name.to_owned(), value })
    }
}

/// Every check with a part in the guest.
fn checks() -> impl Iterator<Item = &'static GuestCheck> {
    [entry_algebra::CHECKS].into_iter().flatten()
}

/// Does the guest's part of the check of this claim.
pub(super) fn run<W: Write>(
    claim: &str,
    parameters: &Value,
    machine: &Machine,
    writer: &mut Writer<W>,
) -> Result<(), RigError> {
    let Some(check) = checks().find(|check| check.claim == claim) else {
        return Err(RigError(format!("the guest has no part in a check of {claim}")));
    };
    (check.run)(parameters, machine, writer)
}
