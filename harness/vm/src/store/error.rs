//! What can go wrong with the cache, each with its cause and its remedy.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::ArtifactKind;

/// A failure of the cache store. Every message names the path and says what to do.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Neither `PTEDIFF_CACHE`, nor `XDG_CACHE_HOME`, nor `HOME` says where the cache lies.
    #[error("no cache directory: none of PTEDIFF_CACHE, XDG_CACHE_HOME and HOME is set; set PTEDIFF_CACHE")]
    NoHome,
    /// A name that is not one plain path component.
    #[error("`{name}` is not a name of a {kind}: one path component is expected")]
    BadName {
        /// What kind of artifact was asked for.
        kind: ArtifactKind,
        /// The name as given.
        name: String,
    },
    /// The artifact has never been set up.
    #[error("{kind} `{name}` is not in the cache ({}); run: {}", path.display(), kind.set_up_command(name))]
    Missing {
        /// What kind of artifact is missing.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is a directory, but nothing says that it is complete.
    #[error(
        "{kind} `{name}` in the cache has no manifest, so it is not complete ({}); run: {}",
        path.display(), kind.set_up_command(name)
    )]
    NoManifest {
        /// What kind of artifact is incomplete.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// The manifest that should exist.
        path: PathBuf,
    },
    /// The manifest is not one that this version can read.
    #[error(
        "the manifest of {kind} `{name}` cannot be used ({}): {reason}; run: {}",
        path.display(), kind.set_up_command(name)
    )]
    BadManifest {
        /// What kind of artifact it belongs to.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the artifact is not what the manifest says.
    #[error(
        "{kind} `{name}` in the cache is damaged: {}: {reason}; run: {}",
        path.display(), kind.set_up_command(name)
    )]
    Damaged {
        /// What kind of artifact is damaged.
        kind: ArtifactKind,
        /// Its name.
        name: String,
        /// The damaged file.
        path: PathBuf,
        /// Expected and found size or digest.
        reason: String,
    },
    /// The disk that holds the cache is full.
    #[error("no space left for the cache: cannot {action} {}; free some space or set PTEDIFF_CACHE", path.display())]
    NoSpace {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
    },
    /// The cache lies on a read-only mount, or the user may not write there.
    #[error("the cache cannot be written: cannot {action} {}: {cause}; set PTEDIFF_CACHE to a writable place", path.display())]
    NotWritable {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The system's own words.
        cause: io::Error,
    },
    /// Any other input or output error.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The system's own words.
        cause: io::Error,
    },
}

impl StoreError {
    /// Sorts a system error by what the user can do about it.
    pub fn from_io(action: &'static str, path: &Path, cause: io::Error) -> Self {
        let path = path.to_path_buf();
        match cause.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { action, path },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::NotWritable { action, path, cause }
            }
            _ => Self::Io { action, path, cause },
        }
    }

    /// Whether set-up can help: the artifact is absent, incomplete or damaged, and the cache
    /// itself is sound.
    #[must_use]
    pub fn is_mended_by_set_up(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::NoManifest { .. } | Self::BadManifest { .. } | Self::Damaged { .. })
    }
}
