//! Who is told what goes on. This crate prints nothing itself.

use std::time::{Duration, Instant};

/// Is told of steps and of what deserves a line.
pub trait Progress {
    /// A line for the user.
    fn note(&self, line: &str);
    /// A step begins.
    fn begin(&self, step: &str);
    /// The step that began last has ended.
    fn end(&self, step: &str, succeeded: bool, took: Duration);
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn note(&self, _line: &str) {}
    fn begin(&self, _step: &str) {}
    fn end(&self, _step: &str, _succeeded: bool, _took: Duration) {}
}

/// Tells that `work` is going on, and how long it took. The result is passed on.
///
/// # Errors
/// Those of `work`.
pub fn step<T, E>(progress: &dyn Progress, name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    let start = Instant::now();
    progress.begin(name);
    let result = work();
    progress.end(name, result.is_ok(), start.elapsed());
    result
}
