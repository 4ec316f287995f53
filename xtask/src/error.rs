//! The ways in which a task fails: what failed, why, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use ptediff_vm::store::StoreError;
use thiserror::Error;

/// A task's failure, shown by miette.
#[derive(Debug, Error, Diagnostic)]
pub enum TaskError {
    /// The cache cannot be used. The message carries the remedy.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A program of the system failed.
    #[error("{} failed: `{}` {}\n{}", .0.task, .0.command, .0.ending, .0.tail)]
    #[diagnostic(help("{} (whole output: {})", .0.remedy, .0.log.display()))]
    Tool(Box<ToolFailure>),
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
    /// The machine's package sources do not say where the distribution's archive is.
    #[error("the package sources of this machine name no archive of Debian's suite `{codename}`: {detail}")]
    #[diagnostic(help(
        "ptediff is set up on Debian 12 with its own sources in /etc/apt/sources.list or sources.list.d"
    ))]
    NoArchive {
        /// The suite looked for.
        codename: String,
        /// What was found instead.
        detail: String,
    },
    /// No suite offers the package.
    #[error("{task} failed: no suite of the mirror offers it: {tried}")]
    #[diagnostic(help("the archive may have moved on: change the recipe in vm-images/ to a suite that has it"))]
    NotOffered {
        /// What was being done.
        task: String,
        /// Each suite with the reason.
        tried: String,
    },
    /// A download is not what the signed index says.
    #[error("{task} failed: {} has SHA-256 {found}, the signed package index says {expected}", file.display())]
    #[diagnostic(help("repeat the command; if it stays so, the mirror serves a wrong file"))]
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
    /// A tool's output or a file of the tree is not what it should be.
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

impl TaskError {
    /// For `map_err` on a file operation.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |cause| Self::Io { action, path, cause }
    }
}
