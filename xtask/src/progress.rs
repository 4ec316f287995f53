//! Progress of set-up: a spinner on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ptediff_archive::Progress;

/// The user's terminal.
#[derive(Debug, Default)]
pub struct Terminal {
    spinner: Mutex<Option<ProgressBar>>,
    /// The work itself writes to the terminal: no spinner.
    is_talkative: bool,
}

impl Terminal {
    fn spinner(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.spinner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Terminal {
    fn note(&self, line: &str) {
        note(line);
    }

    fn begin(&self, step: &str) {
        if !self.is_talkative && std::io::stderr().is_terminal() {
            *self.spinner() = Some(spinner(step));
        } else {
            note(&format!("{step} ..."));
        }
    }

    fn end(&self, step: &str, succeeded: bool, took: Duration) {
        if let Some(spinner) = self.spinner().take() {
            spinner.finish_and_clear();
        }
        let outcome = if succeeded { "done" } else { "FAILED" };
        note(&format!("{step}: {outcome} in {:.1} s", took.as_secs_f64()));
    }
}

/// Shows that `work` is going on, and how long it took. The result is passed on.
///
/// # Errors
/// Those of `work`.
pub fn step<T, E>(name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    ptediff_archive::step(&Terminal::default(), name, work)
}

/// As [`step`], for work that itself writes to the terminal.
///
/// # Errors
/// Those of `work`.
pub fn talkative_step<T, E>(name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    ptediff_archive::step(&Terminal { is_talkative: true, ..Terminal::default() }, name, work)
}

/// One line for the user.
pub fn note(line: &str) {
    eprintln!("xtask: {line}");
}

fn spinner(name: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.set_message(name.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}
