//! What goes wrong outside a verdict, for people: one paragraph, the place where there is one, what to do,
//! and the exit code.

use std::path::{Path, PathBuf};

use miette::{Diagnostic, NamedSource, SourceSpan};
use thiserror::Error;

use ptediff_corpus::CorpusError;
use ptediff_vm::VmError;
use ptediff_vm::store::StoreError;

use crate::exit_code::Exit;

/// What helps against any wrong entry.
const ENTRY_HELP: &str = "the format is described in docs/corpus.md; `ptediff replay` takes files of schemas 1 and 2";

/// Bytes of a line that is still shown with the place in it.
const LONGEST_LINE: usize = 400;

/// A command failed.
#[derive(Debug, Error, Diagnostic)]
pub enum Failure {
    /// A corpus entry cannot be used.
    #[error("{message}")]
    #[diagnostic(help("{ENTRY_HELP}"))]
    Entry {
        /// What is wrong with it.
        message: String,
        /// The entry's text.
        #[source_code]
        text: NamedSource<String>,
        /// Where in the text.
        #[label("here")]
        place: Option<SourceSpan>,
    },
    /// The command line asks for something that cannot be.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do.
        #[help]
        help: Option<String>,
    },
    /// A trace cannot be read.
    #[error("{}: {message}", path.display())]
    #[diagnostic(help("a trace is what `ptediff run --trace FILE` writes; a cut or corrupt one cannot be judged"))]
    Trace {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file of the user's cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Our rig failed.
    #[error("{message}")]
    Rig {
        /// What failed, and why.
        message: String,
        /// What to do.
        #[help]
        help: Option<String>,
    },
}

impl Failure {
    /// The exit code of the failure.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Entry { .. } | Self::Usage { .. } | Self::Trace { .. } | Self::File { .. } => Exit::Usage,
            Self::Rig { .. } => Exit::Rig,
        }
    }

    /// A rig failure with the chain of its causes.
    #[must_use]
    pub fn rig(error: &dyn std::error::Error) -> Self {
        Self::Rig { message: with_causes(error), help: None }
    }

    /// A file or folder of the user's that cannot be written.
    #[must_use]
    pub fn unwritable(path: &Path, error: std::io::Error) -> Self {
        Self::Rig {
            message: format!("cannot write {}: {error}", path.display()),
            help: Some("make room, or choose another folder".to_owned()),
        }
    }

    /// A usage failure.
    #[must_use]
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), help: Some(help.into()) }
    }
}

/// Whether the lines around the place are short enough to be shown.
fn is_worth_showing(text: &str, offset: usize) -> bool {
    let line = text.as_bytes()[..offset.min(text.len())].iter().filter(|&&byte| byte == b'\n').count();
    text.lines().skip(line.saturating_sub(1)).take(3).all(|line| line.len() <= LONGEST_LINE)
}

/// An error and its causes, on one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    message
}

/// Prints a failure on standard error: its paragraph, and the place where there is one.
pub fn complain(failure: Failure) {
    eprintln!("{:?}", miette::Report::new(failure));
}

impl From<VmError> for Failure {
    fn from(error: VmError) -> Self {
        match error {
            VmError::Store(error) => error.into(),
            VmError::Kernel { .. } => Self::usage(
                error.to_string(),
                "--kernel takes a name of the cache (6.12, 6.12.113; 6.1 with QEMU) or the path of a bzImage",
            ),
            VmError::Spec(_) => Self::usage(error.to_string(), "see `ptediff run --help`"),
            _ => Self::rig(&error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::rig(&error)
    }
}

impl From<CorpusError> for Failure {
    fn from(error: CorpusError) -> Self {
        let message = with_causes(&error);
        match (error.place(), error.path()) {
            (Some((text, span)), Some(path)) if is_worth_showing(text, span.offset) => Self::Entry {
                message,
                text: NamedSource::new(path.display().to_string(), text.to_owned()),
                place: Some(SourceSpan::new(span.offset.into(), span.length)),
            },
            (place, _) if error.is_bad_input() => Self::Usage { message, help: place.map(|_| ENTRY_HELP.to_owned()) },
            _ => Self::Rig { message, help: Some("make room, or choose another folder".to_owned()) },
        }
    }
}
