//! Progress: a bar on a terminal, plain lines elsewhere. Always on standard error.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far a session is.
#[derive(Debug)]
pub struct Progress {
    shown: Shown,
    total: u64,
    done: u64,
    what: &'static str,
    listener: Option<Listener>,
}

/// Told of each finding as it comes, by name and JSON; returns whether that is all that is to be done with it.
type Hear = Box<dyn FnMut(&str, &str, &Progress) -> bool>;

struct Listener(Hear);

impl std::fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Listener")
    }
}

#[derive(Debug)]
enum Shown {
    Silent,
    Bar(ProgressBar),
    /// Programs done at which the next line is due.
    Lines(u64),
}

impl Progress {
    /// A display that counts these things.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        let shown = if stderr().is_terminal() { Shown::Bar(ProgressBar::new_spinner()) } else { Shown::Lines(0) };
        Self { shown, total: 0, done: 0, what, listener: None }
    }

    /// No display.
    #[must_use]
    pub fn silent() -> Self {
        Self { shown: Shown::Silent, total: 0, done: 0, what: "", listener: None }
    }

    /// The same, with somebody who is told of each finding as it comes.
    #[must_use]
    pub fn heard_by(mut self, hear: impl FnMut(&str, &str, &Self) -> bool + 'static) -> Self {
        self.listener = Some(Listener(Box::new(hear)));
        self
    }

    /// A finding came. Returns whether it was taken by the listener.
    pub fn hear(&mut self, name: &str, value: &str) -> bool {
        let Some(mut listener) = self.listener.take() else { return false };
        let taken = (listener.0)(name, value, self);
        self.listener = Some(listener);
        taken
    }

    /// A line that takes the place of the one before, on a terminal.
    pub fn status(&self, line: String) {
        if let Shown::Bar(bar) = &self.shown {
            bar.set_message(line);
            bar.tick();
        }
    }

    /// Something to be printed on standard output (or error), above the line on a terminal.
    pub fn above(&self, print: impl FnOnce()) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(print),
            Shown::Silent | Shown::Lines(_) => print(),
        }
    }

    /// The session is there, and has so many things to do.
    pub fn begin(&mut self, total: u64) {
        self.total = total;
        if let Shown::Bar(bar) = &self.shown {
            bar.set_length(total);
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} [{elapsed}, {per_sec}]");
            if let Ok(style) = style {
                bar.set_style(style);
            }
        }
    }

    /// A line for people.
    pub fn note(&self, line: &str) {
        match &self.shown {
            Shown::Silent => {}
            Shown::Bar(bar) => bar.println(line),
            Shown::Lines(_) => eprintln!("{line}"),
        }
    }

    /// So many are done, so many of them diverged.
    pub fn advance(&mut self, done: u64, diverged: usize) {
        if done == self.done {
            return;
        }
        self.done = done;
        match &mut self.shown {
            Shown::Silent => {}
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(format!("{}, {diverged} diverged", self.what));
            }
            Shown::Lines(due) if done >= *due => {
                eprintln!("{done}/{} {}, {diverged} diverged", self.total, self.what);
                *due = done + (self.total / 10).max(1);
            }
            Shown::Lines(_) => {}
        }
    }

    /// Takes the display away.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
