//! The ways in which the archive fails us: what failed, why, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use ptediff_vm::store::StoreError;
use thiserror::Error;

/// A failure on the way from the distribution's archive to the cache.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The cache cannot be used. The message carries the remedy.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A program of the system failed.
    #[error("{} failed: `{}` {}\n{}", .0.task, .0.command, .0.ending, .0.tail)]
    Tool(Box<ToolFailure>),
    /// A program of the system could not be started.
    #[error("{task} failed: cannot start `{program}`: {cause}")]
    NotStarted {
        /// What was being done, in words.
        task: String,
        /// The program.
        program: String,
        /// The system's own words.
        cause: io::Error,
        /// What to do.
        remedy: String,
    },
    /// The machine's package sources do not say where the distribution's archive is.
    #[error("the package sources of this machine name no archive of Debian's suite `{codename}`: {detail}")]
    NoArchive {
        /// The suite looked for.
        codename: String,
        /// What was found instead.
        detail: String,
    },
    /// No suite offers the package.
    #[error("{task} failed: no suite of the mirror offers it: {tried}")]
    NotOffered {
        /// What was being done.
        task: String,
        /// Each suite with the reason.
        tried: String,
    },
    /// A download is not what the signed index says.
    #[error("{task} failed: {} has SHA-256 {found}, the signed package index says {expected}", file.display())]
    WrongDigest {
        /// What was being done.
        task: String,
        /// The file.
        file: PathBuf,
        /// The digest in the index.
        expected: String,
        /// The digest of the file.
        found: String,
    },
    /// Input or output failed outside the cache.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's own words.
        cause: io::Error,
    },
    /// A tool's output, a package or a recipe is not what it should be.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which text.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// How a program of the system failed.
#[derive(Debug)]
pub struct ToolFailure {
    /// What was being done, in words.
    pub task: String,
    /// The command line.
    pub command: String,
    /// How it ended.
    pub ending: String,
    /// The last lines of its output.
    pub tail: String,
    /// The file with all of its output.
    pub log: PathBuf,
    /// What to do.
    pub remedy: String,
}

impl ArchiveError {
    /// For `map_err` on a file operation.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::Io { action, path, cause }
    }

    /// What to do, where the message itself does not say.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Store(_) | Self::Io { .. } | Self::Malformed { .. } => return None,
            Self::Tool(failure) => format!("{} (whole output: {})", failure.remedy, failure.log.display()),
            Self::NotStarted { remedy, .. } => remedy.clone(),
            Self::NoArchive { .. } => {
                "ptediff is set up on Debian 12 with its own sources in /etc/apt/sources.list or sources.list.d"
                    .to_owned()
            }
            Self::NotOffered { .. } => {
                "the archive moves on: `cargo xtask kernels` lists what it serves; suites and packages are in vm-images/"
                    .to_owned()
            }
            Self::WrongDigest { .. } => {
                "repeat the command; if it stays so, the mirror serves a wrong file".to_owned()
            }
        };
        Some(text)
    }
}
