//! What can be wrong with an entry or its file.

use std::io;
use std::path::{Path, PathBuf};

use ptediff_reference_model::validity::InvalidProgram;
use thiserror::Error;

use crate::entry::{MAX_ENTRY_BYTES, SCHEMA};

/// A place in an entry's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub offset: usize,
    /// Bytes, at least 1 unless the text is empty or the place is its end.
    pub length: usize,
    /// Line of the first byte, from 1.
    pub line: usize,
    /// Byte in that line, from 1.
    pub column: usize,
}

impl Span {
    /// The span of these bytes of the text.
    #[must_use]
    pub fn of(text: &str, offset: usize, length: usize) -> Self {
        let offset = offset.min(text.len());
        let before = &text.as_bytes()[..offset];
        let line_start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Self { offset, length: length.min(text.len() - offset), line, column: offset - line_start + 1 }
    }
}

/// Where an error lies, for messages: `PATH:LINE:COLUMN`.
fn at(path: &Path, span: &Span) -> String {
    format!("{}:{}:{}", path.display(), span.line, span.column)
}

/// Why an entry was not read or not written.
#[derive(Debug, Error)]
pub enum CorpusError {
    /// The file or the folder cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// File or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// The file is too long to be an entry. It was not read.
    #[error("{} has {bytes} bytes; an entry has at most {MAX_ENTRY_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The file is not UTF-8.
    #[error("{} is not UTF-8 text: byte {offset} is no character", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// First byte that is wrong.
        offset: usize,
    },
    /// The text ends in the middle.
    #[error("{}: the entry is cut short: {message}", at(path, span))]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The whole text.
        text: String,
        /// Where it ends.
        span: Span,
        /// What was expected there.
        message: String,
    },
    /// The text is not JSON, or a field is unknown, missing or of a wrong value.
    #[error("{}: {message}", at(path, span))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The whole text.
        text: String,
        /// Where it is wrong.
        span: Span,
        /// What is wrong.
        message: String,
        /// The step that is wrong, where it is one.
        step: Option<usize>,
    },
    /// Written by a newer ptediff.
    #[error(
        "{}: the entry has schema {found}, and this ptediff reads up to {SCHEMA}: use a newer ptediff",
        at(path, span)
    )]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// The whole text.
        text: String,
        /// The number.
        span: Span,
        /// Schema of the entry.
        found: u64,
    },
    /// The program cannot be performed on any machine.
    #[error("{}: {reason}", at(path, span))]
    Impossible {
        /// The file.
        path: PathBuf,
        /// The whole text.
        text: String,
        /// The step, or the program.
        span: Span,
        /// What is wrong, with the step's index.
        reason: InvalidProgram,
    },
    /// The entry's name is not its file's, or cannot be a file's.
    #[error("{}: the entry's name `{name}` must be its file's name without .json, of a-z, 0-9 and -", at(path, span))]
    Name {
        /// The file.
        path: PathBuf,
        /// The whole text.
        text: String,
        /// The name.
        span: Span,
        /// The name.
        name: String,
    },
    /// The program needs what the entry does not declare.
    #[error("{}: the program needs {field}, and \"needs\" does not say so", at(path, span))]
    Undeclared {
        /// The file.
        path: PathBuf,
        /// The whole text.
        text: String,
        /// The field `needs`.
        span: Span,
        /// Field that must be set in it.
        field: &'static str,
    },
    /// No entry has this name.
    #[error("the corpus {} has no entry `{name}`", folder.display())]
    Unknown {
        /// The corpus.
        folder: PathBuf,
        /// The name asked for.
        name: String,
    },
    /// An entry of this name is there and differs.
    #[error("{} is there already and holds another program", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// The entry to be written is not one that could be read again.
    #[error("the entry `{name}` cannot be stored: {message}")]
    Unstorable {
        /// Its name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// The file system has no room. Nothing was changed.
    #[error("cannot write {}: the file system is full; nothing was changed", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// The file system or the folder cannot be written. Nothing was changed.
    #[error("cannot write {}: the folder is read-only or not ours; nothing was changed", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// Another failure of writing. Nothing was changed.
    #[error("cannot write {}; nothing was changed", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
}

impl CorpusError {
    pub(crate) fn unwritable(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, error },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Self::ReadOnly { path, error },
            _ => Self::Unwritable { path, error },
        }
    }

    /// The text that is wrong, and the place in it.
    #[must_use]
    pub fn place(&self) -> Option<(&str, Span)> {
        match self {
            Self::Truncated { text, span, .. }
            | Self::Malformed { text, span, .. }
            | Self::NewerSchema { text, span, .. }
            | Self::Impossible { text, span, .. }
            | Self::Name { text, span, .. }
            | Self::Undeclared { text, span, .. } => Some((text, *span)),
            _ => None,
        }
    }

    /// The file or folder that the error is about.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unreadable { path, .. }
            | Self::TooLarge { path, .. }
            | Self::NotText { path, .. }
            | Self::Truncated { path, .. }
            | Self::Malformed { path, .. }
            | Self::NewerSchema { path, .. }
            | Self::Impossible { path, .. }
            | Self::Name { path, .. }
            | Self::Undeclared { path, .. }
            | Self::Taken { path }
            | Self::Full { path, .. }
            | Self::ReadOnly { path, .. }
            | Self::Unwritable { path, .. } => Some(path),
            Self::Unknown { folder, .. } => Some(folder),
            Self::Unstorable { .. } => None,
        }
    }

    /// Whether what the user gave is wrong, as against a failing file system.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Full { .. } | Self::ReadOnly { .. } | Self::Unwritable { .. } | Self::Unstorable { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(errno: i32, expected: &str) {
        let error = CorpusError::unwritable(Path::new("a.json"), io::Error::from_raw_os_error(errno));
        assert!(error.to_string().contains(expected), "errno {errno}: {error}");
        assert!(error.to_string().ends_with("nothing was changed") && !error.is_bad_input());
    }

    #[test]
    fn failures_of_writing_are_told_apart() {
        check(28, "the file system is full");
        check(122, "the file system is full");
        check(30, "the folder is read-only");
        check(13, "the folder is read-only");
        check(5, "cannot write a.json; nothing");
    }

    #[test]
    fn places_are_counted_from_one() {
        let text = "ab\ncd";
        assert_eq!(Span::of(text, 0, 1), Span { offset: 0, length: 1, line: 1, column: 1 });
        assert_eq!(Span::of(text, 4, 9), Span { offset: 4, length: 1, line: 2, column: 2 });
        assert_eq!(Span::of(text, 9, 1), Span { offset: 5, length: 0, line: 2, column: 3 });
    }
}
