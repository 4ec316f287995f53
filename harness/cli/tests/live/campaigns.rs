//! Campaigns: they agree, the same seed gives the same bytes, and what they record kills the mutants.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libtest_mimic::{Failed, Trial};
use ptediff::exit_code::Exit;

use crate::command::run;
use crate::corpus;
use crate::machine::{Live, command, file, live, require, word};

/// Share of the mutants that recorded traces must kill, in percent.
const MUTATION_GOAL: f64 = 95.0;

type Campaign = LazyLock<Result<(Live, PathBuf), String>>;

static ON_QEMU: Campaign = LazyLock::new(|| campaign("qemu", "7.2", "11", "300", "qemu"));
static FIRST_ON_BOCHS: Campaign = LazyLock::new(|| campaign("bochs", "6.12", "5", "100", "bochs-first"));
static SECOND_ON_BOCHS: Campaign = LazyLock::new(|| campaign("bochs", "6.12", "5", "100", "bochs-second"));

fn campaign(platform: &str, kernel: &str, seed: &str, cases: &str, name: &str) -> Result<(Live, PathBuf), String> {
    let trace = file(&format!("{name}.trace"));
    let on_machine = || {
        require(kernel, (platform == "bochs").then_some("bochs-3.0"))?;
        let machine = ["run", "--platform", platform, "--kernel", kernel];
        live(&[&machine[..], &["--seed", seed, "--cases", cases, "--trace", word(&trace)]].concat())
    };
    let ran = on_machine().map_err(|failed: Failed| failed.message().unwrap_or("failed").to_owned())?;
    Ok((ran, trace))
}

fn done(campaign: &'static Campaign) -> Result<&'static (Live, PathBuf), Failed> {
    campaign.as_ref().map_err(|error| error.clone().into())
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("campaign::qemu::7.2::300_programs_agree", || check(&ON_QEMU, 300)),
        Trial::test("campaign::bochs::6.12::100_programs_agree", || check(&FIRST_ON_BOCHS, 100)),
        Trial::test("campaign::bochs::6.12::same_seed_same_bytes", same_seed_same_bytes),
        Trial::test("campaign::recorded_traces_judge_alike", recorded_traces_judge_alike),
        Trial::test("campaign::recorded_traces_kill_the_mutants", recorded_traces_kill_the_mutants),
        Trial::test("campaign::lies_are_unmasked", lies_are_unmasked),
    ]
}

fn check(campaign: &'static Campaign, programs: u32) -> Result<(), Failed> {
    let (ran, _) = done(campaign)?;
    ran.must_exit(Exit::Agree)?;
    ran.must_be("/agree", &programs.to_string())?;
    ran.must_be("/ending", "finished")
}

fn same_seed_same_bytes() -> Result<(), Failed> {
    let ((first, first_trace), (second, second_trace)) = (done(&FIRST_ON_BOCHS)?, done(&SECOND_ON_BOCHS)?);
    second.must_be("/trace_sha256", &first.text("/trace_sha256"))?;
    let (left, right) = (fs::read(first_trace)?, fs::read(second_trace)?);
    match left.iter().zip(&right).position(|(left, right)| left != right) {
        None if left.len() == right.len() && left.len() > 10_000 => Ok(()),
        place => Err(format!("{} and {} bytes, different from byte {place:?}", left.len(), right.len()).into()),
    }
}

/// A kept trace is judged without a machine as it was with one.
fn recorded_traces_judge_alike() -> Result<(), Failed> {
    for (ran, trace) in [done(&ON_QEMU)?, done(&FIRST_ON_BOCHS)?] {
        let judged = live(&["judge", word(trace)])?;
        for same in ["/agree", "/steps", "/bits_compared", "/trace_sha256", "/exit"] {
            judged.must_be(same, &ran.text(same))?;
        }
    }
    Ok(())
}

fn recorded_traces_kill_the_mutants() -> Result<(), Failed> {
    let mut traces = corpus::traces()?;
    for campaign in [&ON_QEMU, &FIRST_ON_BOCHS] {
        traces.push(done(campaign)?.1.clone());
    }
    let mut mutants = command(&["mutants", "--format", "json"]);
    let ran = run({
        mutants.args(&traces);
        mutants
    });
    let report: serde_json::Value = serde_json::from_str(&ran.stdout)?;
    match report["score"].as_f64() {
        Some(score) if score >= MUTATION_GOAL && ran.code == 0 => Ok(()),
        _ => Err(format!("the score is too low, exit {}: {report:#}", ran.code).into()),
    }
}

fn lies_are_unmasked() -> Result<(), Failed> {
    require("6.12", None)?;
    let ran = live(&["trust", "--platform", "qemu"])?;
    ran.must_exit(Exit::Agree)?;
    ran.must_be("/not_unmasked", "0")?;
    let lies = ran.json["lies"].as_array().map_or(0, Vec::len);
    // Each bit and the frame in three places, and the fields of an event.
    if lies < 60 { Err(ran.wrong("too few lies")) } else { Ok(()) }
}
