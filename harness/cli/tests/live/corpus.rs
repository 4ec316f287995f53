//! Every entry of the corpus on every kernel, under both loaders: one boot a kernel, one test an entry.

use std::path::Path;
use std::sync::LazyLock;

use libtest_mimic::{Completion, Failed, Trial};
use ptediff_corpus::Corpus;

use crate::command::run;
use crate::machine::{Live, command, file, live, require, word};

/// The corpus of this repository.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");

type Replayed = LazyLock<Result<Live, String>>;

static ON_6_1: Replayed = LazyLock::new(|| replay("6.1", "qemu"));
static ON_6_12: Replayed = LazyLock::new(|| replay("6.12", "bochs"));
static ON_7_2: Replayed = LazyLock::new(|| replay("7.2", "bochs"));
static IN_PLACE: Replayed = LazyLock::new(replay_in_place);

/// The traces of the replays.
pub(crate) fn traces() -> Result<Vec<std::path::PathBuf>, Failed> {
    for replayed in [&ON_6_1, &ON_6_12, &ON_7_2] {
        replayed.as_ref().map_err(Clone::clone)?;
    }
    Ok(vec![file("corpus-6.1.trace"), file("corpus-6.12.trace"), file("corpus-7.2.trace")])
}

fn replay(kernel: &str, platform: &str) -> Result<Live, String> {
    let on_machine = || {
        require(kernel, (platform == "bochs").then_some("bochs-3.0"))?;
        let trace = file(&format!("corpus-{kernel}.trace"));
        let words = ["replay", "--all", "--corpus", CORPUS, "--platform", platform, "--kernel", kernel];
        live(&[&words[..], &["--loader", "both", "--trace", word(&trace)]].concat())
    };
    on_machine().map_err(said)
}

fn replay_in_place() -> Result<Live, String> {
    let mut command = command(&[
        "replay",
        "--all",
        "--corpus",
        CORPUS,
        "--platform",
        "native",
        "--loader",
        "both",
        "--format",
        "json",
    ]);
    command.env("PTEDIFF_NATIVE", "1");
    Live::of(&run(command)).map_err(said)
}

fn said(failed: Failed) -> String {
    failed.message().unwrap_or("failed").to_owned()
}

pub(crate) fn trials(in_place: bool) -> Vec<Trial> {
    let corpus = match Corpus::open(Path::new(CORPUS)) {
        Ok(corpus) if !corpus.names().is_empty() => corpus,
        Ok(_) => return vec![Trial::test("corpus", || Err("the corpus is empty".into()))],
        Err(error) => return vec![Trial::test("corpus", move || Err(error.to_string().into()))],
    };
    let runs: &[(&str, &'static Replayed)] =
        if in_place { &[("native", &IN_PLACE)] } else { &[("6.1", &ON_6_1), ("6.12", &ON_6_12), ("7.2", &ON_7_2)] };
    let mut trials = Vec::new();
    for &(kernel, replayed) in runs {
        trials.push(Trial::test(format!("corpus::{kernel}::loaders"), move || loaders_agree(replayed)));
        for name in corpus.names() {
            let entry = name.clone();
            trials.push(Trial::ignorable_test(format!("corpus::{kernel}::{name}"), move || check(replayed, &entry)));
        }
    }
    trials
}

/// Both loaders saw the same, and it was not little. That no event was lost, the entries' agreement says.
fn loaders_agree(replayed: &Replayed) -> Result<(), Failed> {
    let replayed = replayed.as_ref().map_err(Clone::clone)?;
    let compared = |name: &str| replayed.json["loaders"][name].as_u64().unwrap_or(0);
    let (events, snapshots, steps) = (compared("events"), compared("snapshots"), replayed.json["steps"].as_u64());
    if events < 1000 || Some(snapshots) != steps || replayed.json["loaders"]["moved"] != 0 {
        return Err(replayed.wrong(&format!("{events} events, {snapshots} snapshots in {steps:?} steps")));
    }
    Ok(())
}

/// The entry agreed, but for defects that this version is known to have; or the machine lacks something, which is no verdict.
fn check(replayed: &Replayed, entry: &str) -> Result<Completion, Failed> {
    let replayed = replayed.as_ref().map_err(Clone::clone)?;
    let entries = replayed.json["entries"].as_array().ok_or_else(|| replayed.wrong("no entries"))?;
    let found = entries.iter().find(|replayed| replayed["name"] == entry);
    let verdict = found.and_then(|found| found["verdict"].as_str()).unwrap_or("not in the report");
    match verdict {
        "agree" => Ok(Completion::Completed),
        // The kernel's version is one that has it: all else was as it should be.
        known if known.starts_with("known defect") => Ok(Completion::Completed),
        lacking if lacking.starts_with("inconclusive: the machine lacks") => Ok(Completion::ignored_with(lacking)),
        other => Err(replayed.wrong(&format!("{entry}: {other}"))),
    }
}
