//! The live checks of claims, a file a system: the host's half. The table of claims is `ptediff_claims`.

mod dirty_race;
pub(crate) mod entry_algebra;
mod entry_states;
mod processor_access;
mod programs;
mod write_protect_tracking;

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Value;

use ptediff_claims::{Claim, Effort, Evidence};
use ptediff_reference_model::machine::Machine;

use crate::arguments::LoaderChoice;
use crate::error::Failure;
use crate::guest::GuestRequest;
use crate::guest::request::Task;
use crate::host::launch::{LaunchOptions, Platform, digest_text, launch, own_executable};
use crate::host::results::Finish;
use crate::host::session::{Keep, follow};
use crate::report::progress::Progress;

/// The probes' ring buffer, in bytes, where a check does not say otherwise.
const RING_BYTES: u32 = 1 << 20;

/// The check of one claim on live machines.
pub struct LiveCheck {
    /// The claim's name.
    pub claim: &'static str,
    /// Boots what it needs and judges what comes back.
    pub run: fn(&Machines, Effort) -> Result<Vec<Evidence>, ClaimFailure>,
}

/// Why a live check gave no evidence for its claim.
#[derive(Debug)]
pub enum ClaimFailure {
    /// The claim is false on a machine: the counter-example.
    Refuted(String),
    /// The check could not be carried out, or not wholly: what was missing.
    Inconclusive(String),
    /// Our rig failed.
    Rig(Failure),
}

impl From<Failure> for ClaimFailure {
    fn from(failure: Failure) -> Self {
        Self::Rig(failure)
    }
}

/// Every live check.
pub fn checks() -> impl Iterator<Item = &'static LiveCheck> {
    let systems = [
        entry_algebra::LIVE,
        entry_states::LIVE,
        dirty_race::LIVE,
        write_protect_tracking::LIVE,
        processor_access::LIVE,
    ];
    systems.into_iter().flatten()
}

/// The live check of a claim.
#[must_use]
pub fn check_of(claim: &Claim) -> Option<&'static LiveCheck> {
    checks().find(|check| check.claim == claim.name)
}

/// One machine that a check wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What runs it.
    pub platform: Platform,
    /// A kernel's name in the cache.
    pub kernel: &'static str,
    /// Number of CPUs.
    pub cpus: u32,
    /// Files for its initramfs: path and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Words for the kernel's command line.
    pub command_line: Vec<String>,
}

impl Wanted {
    /// A machine with one CPU and nothing besides.
    #[must_use]
    pub fn new(platform: Platform, kernel: &'static str) -> Self {
        Self { platform, kernel, cpus: 1, files: Vec::new(), command_line: Vec::new() }
    }
}

/// What the guest's part of a check gave.
#[derive(Debug)]
pub struct Answers {
    /// The machine, as the guest found it.
    pub machine: Machine,
    /// What it found, by name, as JSON.
    pub findings: Vec<(String, String)>,
    /// From power-on to the end.
    pub wall: Duration,
}

impl Answers {
    /// Every finding of this name, in order.
    ///
    /// # Errors
    /// One does not have the shape: the two halves of the check are not of one mind.
    pub fn of<T: DeserializeOwned>(&self, name: &str) -> Result<Vec<T>, ClaimFailure> {
        let found = self.findings.iter().filter(|(known, _)| known == name);
        found
            .map(|(_, value)| serde_json::from_str(value))
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::rig(&error).into())
    }

    /// The finding of this name, of which there must be one.
    ///
    /// # Errors
    /// There is none, or more than one, or it does not have the shape.
    pub fn one<T: DeserializeOwned>(&self, name: &str) -> Result<T, ClaimFailure> {
        let mut found = self.of(name)?;
        match (found.pop(), found.is_empty()) {
            (Some(value), true) => Ok(value),
            _ => Err(Failure::Rig { message: format!("the guest did not report `{name}` once"), help: None }.into()),
        }
    }

    /// Evidence from this machine.
    #[must_use]
    pub fn evidence(&self, cases: u64, unit: &str, note: String) -> Evidence {
        Evidence {
            kernel: self.machine.release.clone(),
            cpu: format!("{} {}", self.machine.platform, self.machine.cpu_model),
            cases,
            unit: unit.to_owned(),
            seconds: self.wall.as_secs_f64(),
            note,
        }
    }
}

/// The request of a check: no witnesses, the loader of this build.
fn request(platform: Platform, task: Task) -> Result<GuestRequest, Failure> {
    Ok(GuestRequest {
        task,
        platform: platform.name().to_owned(),
        require: platform.required_features(),
        judged_as: None,
        witness_every: 0,
        ring_bytes: RING_BYTES,
        loader: LoaderChoice::default(),
        hooks: None,
        renamed: Vec::new(),
        shrink_budget: 0,
        stop_after: 1,
        count_known: false,
        binary: digest_text(&own_executable()?),
        without_modules: None,
        plant: None,
    })
}

/// Boots machines for checks.
#[derive(Debug, Clone, Copy)]
pub struct Machines {
    /// Silence after which a machine counts as hung.
    pub silence: Duration,
}

impl Machines {
    /// Boots a machine, lets the guest do its part of a claim's check, and brings back what it found.
    ///
    /// # Errors
    /// The rig failed; the guest refused, which is inconclusive; the kernel died, which refutes the claim.
    pub fn ask(&self, wanted: &Wanted, claim: &str, parameters: Value) -> Result<Answers, ClaimFailure> {
        let start = Instant::now();
        let task = Task::Claim { name: claim.to_owned(), parameters };
        let request = request(wanted.platform, task)?;
        let options = LaunchOptions {
            platform: wanted.platform,
            kernel: wanted.kernel.to_owned(),
            modules: None,
            emulator: None,
            cpu_model: None,
            memory_mib: 512,
            cpus: wanted.cpus,
            command_line: wanted.command_line.clone(),
            files: wanted.files.clone(),
            links: Vec::new(),
            silence: self.silence,
            limit: None,
        };
        let mut channel = launch(&request, &options)?;
        let results = follow(&mut channel, &mut Keep::default(), &mut Progress::silent())?;
        let place = format!("{} on {}", wanted.kernel, wanted.platform.name());
        match (results.ending, results.machine) {
            (Finish::Finished, Some(machine)) => {
                Ok(Answers { machine, findings: results.findings, wall: start.elapsed() })
            }
            (Finish::Refused, _) => {
                let missing = results.refused.map(|refused| refused.missing.join(", ")).unwrap_or_default();
                Err(ClaimFailure::Inconclusive(format!("{place}: missing {missing}")))
            }
            (Finish::NeverBegan(what), _) => Err(ClaimFailure::Inconclusive(format!(
                "{place}: the session never began: {what}\n{}",
                results.console
            ))),
            (Finish::KernelDied(what), _) => {
                Err(ClaimFailure::Refuted(format!("{place}: the kernel died: {what}\n{}", results.console)))
            }
            (ending, _) => {
                let message = format!("{place}: {ending:?}\n{}", results.console);
                Err(Failure::Rig { message, help: None }.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ptediff_claims::{Check, claims};

    use super::*;

    #[test]
    fn live_claims_and_live_checks_are_the_same() {
        for claim in claims().filter(|claim| matches!(claim.check, Check::Live)) {
            assert!(check_of(claim).is_some(), "{} has no live check", claim.name);
        }
        for check in checks() {
            let claim = ptediff_claims::claim(check.claim);
            assert!(claim.is_some_and(|claim| matches!(claim.check, Check::Live)), "{} is no live claim", check.claim);
        }
    }
}
