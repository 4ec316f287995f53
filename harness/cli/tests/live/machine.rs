//! Runs of the command that boot a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::Failed;
use ptediff::exit_code::Exit;
use ptediff_vm::store::Store;
use serde_json::Value;

use crate::command::{PTEDIFF, Ran, run, tidy};

static RUNS: AtomicU32 = AtomicU32::new(0);

/// Where traces and diverging programs go; removed at the end.
static FOLDER: LazyLock<PathBuf> =
    LazyLock::new(|| tempfile::Builder::new().prefix("ptediff-live-").tempdir().expect("a temporary folder").keep());

/// How often the command was run.
pub(crate) fn runs() -> String {
    format!("{} runs of the command", RUNS.load(Ordering::Relaxed))
}

/// A path for a file of these tests.
pub(crate) fn file(name: &str) -> PathBuf {
    FOLDER.join(name)
}

/// Removes what the tests wrote.
pub(crate) fn remove_folder() {
    if let Err(error) = fs::remove_dir_all(&*FOLDER) {
        println!("{} is left: {error}", FOLDER.display());
    }
}

/// What a machine needs from the cache, or the command that fetches it.
pub(crate) fn require(kernel: &str, emulator: Option<&str>) -> Result<(), Failed> {
    let store = Store::open()?;
    let found = store.kernel(kernel).map(drop).and_then(|()| match emulator {
        Some(emulator) => store.emulator(emulator).map(drop),
        None => Ok(()),
    });
    found.map_err(|error| format!("{error}\nfor all tests at once: cargo xtask setup --all").into())
}

/// The command, to be run in the folder of these tests.
pub(crate) fn command(words: &[&str]) -> Command {
    RUNS.fetch_add(1, Ordering::Relaxed);
    let mut command = Command::new(PTEDIFF);
    command.args(words).current_dir(&*FOLDER);
    // A loaded machine is no hung guest: only the tests of the watchdog ask for a short one.
    if ["audit", "run", "replay", "trust"].contains(&words[0]) && !words.contains(&"--silence") {
        command.args(["--silence", "400"]);
    }
    tidy(&mut command);
    command
}

/// A run's exit code and its JSON.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) code: i32,
    pub(crate) json: Value,
    pub(crate) stderr: String,
}

impl Live {
    /// From what a command with `--format json` left.
    pub(crate) fn of(ran: &Ran) -> Result<Self, Failed> {
        let json = serde_json::from_str(&ran.stdout).map_err(|error| format!("no JSON ({error}): {ran:#?}"))?;
        let live = Self { code: ran.code, json, stderr: ran.stderr.clone() };
        match live.json["exit"].as_i64() {
            Some(exit) if exit == i64::from(live.code) => Ok(live),
            other => Err(format!("exit code {} and the report's {other:?}", live.code).into()),
        }
    }

    /// A field at a JSON pointer, as text.
    pub(crate) fn text(&self, pointer: &str) -> String {
        match self.json.pointer(pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }

    /// Fails unless it ended with this code.
    pub(crate) fn must_exit(&self, exit: Exit) -> Result<(), Failed> {
        if self.code == i32::from(exit as u8) { Ok(()) } else { Err(self.wrong(&format!("not exit {}", exit as u8))) }
    }

    /// Fails unless the field is this.
    pub(crate) fn must_be(&self, pointer: &str, expected: &str) -> Result<(), Failed> {
        if self.text(pointer) == expected { Ok(()) } else { Err(self.wrong(&format!("{pointer} is not {expected}"))) }
    }

    /// Fails unless the field says this, among other things.
    pub(crate) fn must_say(&self, pointer: &str, expected: &str) -> Result<(), Failed> {
        if self.text(pointer).contains(expected) {
            Ok(())
        } else {
            Err(self.wrong(&format!("{pointer} does not say `{expected}`")))
        }
    }

    /// A failure with everything that is known.
    pub(crate) fn wrong(&self, what: &str) -> Failed {
        let mut json = self.json.clone();
        if let Some(fields) = json.as_object_mut() {
            for long in ["rules", "unreached", "performed", "succeeded"] {
                fields.remove(long);
            }
        }
        format!("{what}; exit code {}\n{json:#}\n{}", self.code, self.stderr).into()
    }
}

/// Runs the command to its end.
pub(crate) fn live(words: &[&str]) -> Result<Live, Failed> {
    let mut command = command(words);
    command.args(["--format", "json"]);
    Live::of(&run(command))
}

/// The path as an argument.
pub(crate) fn word(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}
