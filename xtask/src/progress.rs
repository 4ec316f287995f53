//! Progress of set-up: a spinner on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Shows that `work` is going on, and how long it took. The result is passed on.
///
/// # Errors
/// Those of `work`.
pub fn step<T, E>(name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let spinner = std::io::stderr().is_terminal().then(|| spinner(name));
    timed(name, spinner, work)
}

/// As [`step`], for work that itself writes to the terminal.
///
/// # Errors
/// Those of `work`.
pub fn talkative_step<T, E>(name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    timed(name, None, work)
}

fn timed<T, E>(name: &str, spinner: Option<ProgressBar>, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    if spinner.is_none() {
        note(&format!("{name} ..."));
    }
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "FAILED" };
    let line = format!("{name}: {outcome} in {:.1} s", start.elapsed().as_secs_f64());
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    note(&line);
    result
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
