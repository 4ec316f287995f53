//! The ways in which a task fails: what failed, why, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use ptediff_archive::ArchiveError;
use ptediff_vm::store::StoreError;
use thiserror::Error;

/// A task's failure, shown by miette.
#[derive(Debug, Error, Diagnostic)]
pub enum TaskError {
    /// The archive, the cache, or a program of the system.
    #[error("{error}")]
    Archive {
        /// What failed.
        error: Box<ArchiveError>,
        /// What to do.
        #[help]
        help: Option<String>,
    },
    /// Cargo failed and said why on the user's terminal.
    #[error("{task} failed: `{command}` {ending}; its messages are above")]
    #[diagnostic(help(
        "mend what cargo complains of; crates that were never downloaded need the network once (`cargo xtask setup --all`)"
    ))]
    Cargo {
        /// What was being done, in words.
        task: String,
        /// The command line.
        command: String,
        /// How it ended.
        ending: String,
    },
    /// A program of the system could not be started.
    #[error("{task} failed: cannot start `{program}`: {cause}")]
    #[diagnostic(help("{remedy}"))]
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
    /// Packages are missing and only root may install them.
    #[error("system packages are missing ({}), and only root can install them", packages.join(", "))]
    #[diagnostic(help("run as root, then repeat this command:\n  {}", commands.join("\n  ")))]
    NotRoot {
        /// What is missing.
        packages: Vec<String>,
        /// The exact lines that install it.
        commands: Vec<String>,
    },
    /// Too little room for what set-up will put into the cache.
    #[error("the disk of the cache {} has {available_mib} MiB left, set-up needs about {needed_mib} MiB", cache.display())]
    #[diagnostic(help("free some space or set PTEDIFF_CACHE to a directory on a larger disk"))]
    LittleSpace {
        /// The cache's directory.
        cache: PathBuf,
        /// Free space in MiB.
        available_mib: u64,
        /// Estimated need in MiB.
        needed_mib: u64,
    },
    /// The environment would drop the flags of `.cargo/config.toml`.
    #[error(
        "{variable} is set in the environment and silently replaces the flags of .cargo/config.toml, static linking with them"
    )]
    #[diagnostic(help(
        "unset {variable}, or add `-C target-feature=+crt-static` to it: the same file must run in the guest"
    ))]
    FlagsReplaced {
        /// The variable.
        variable: &'static str,
    },
    /// A name that no recipe has.
    #[error("there is no recipe for {kind} `{name}`; known: {known}")]
    #[diagnostic(help("recipes are in vm-images/"))]
    UnknownName {
        /// Kernel or backend.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// A package is there in a version that will not do.
    #[error("package {package} {found} is installed, {expected} is needed")]
    #[diagnostic(help("remove the package, then repeat this command as root"))]
    WrongVersion {
        /// The package.
        package: String,
        /// The installed version.
        found: String,
        /// What is needed.
        expected: String,
    },
    /// The import table does not hold.
    #[error("the import table of ARCHITECTURE.md does not hold:\n{}", violations.join("\n"))]
    #[diagnostic(help(
        "remove the dependency, or change the table in xtask/src/tidy.rs and ARCHITECTURE.md in the same commit"
    ))]
    ImportTable {
        /// One sentence for each forbidden edge or unknown crate.
        violations: Vec<String>,
    },
    /// A tool's output or a file of the tree is not what it should be.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which text.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl TaskError {
    /// For `map_err` on a file operation.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| ArchiveError::Io { action, path, cause }.into()
    }
}

impl From<ArchiveError> for TaskError {
    fn from(error: ArchiveError) -> Self {
        Self::Archive { help: error.help(), error: Box::new(error) }
    }
}

impl From<StoreError> for TaskError {
    fn from(error: StoreError) -> Self {
        ArchiveError::from(error).into()
    }
}
