//! Making an artifact beside its final place, so that it appears complete or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::manifest::{FileRecord, MANIFEST_FILE, MANIFEST_SCHEMA, Manifest, PackageOrigin, sha256_of_file};
use super::{ArtifactKind, Store, StoreError};

/// What every unfinished directory's name begins with. Artifact names never begin with a dot.
pub(super) const STAGING_PREFIX: &str = ".staging-";

/// A directory in which an artifact is being made. Dropped unpublished, it is removed.
#[derive(Debug)]
pub struct Staging {
    directory: TempDir,
    destination: PathBuf,
}

/// What the manifest says besides the files, which [`Staging::publish`] finds itself.
#[derive(Debug, Clone)]
pub struct Origin {
    /// See [`Manifest::suite`].
    pub suite: String,
    /// See [`Manifest::packages`]; never empty.
    pub packages: Vec<PackageOrigin>,
    /// See [`Manifest::release`].
    pub release: Option<String>,
    /// See [`Manifest::recipe_sha256`].
    pub recipe_sha256: String,
    /// See [`Manifest::lacks`].
    pub lacks: Vec<String>,
}

impl Staging {
    pub(super) fn new(store: &Store, kind: ArtifactKind, name: &str) -> Result<Self, StoreError> {
        let destination = store.directory(kind, name)?;
        let parent = store.root().join(kind.folder());
        fs::create_dir_all(&parent).map_err(|error| StoreError::from_io("create directory", &parent, error))?;
        let directory = tempfile::Builder::new()
            .prefix(&format!("{STAGING_PREFIX}{name}-"))
            .tempdir_in(&parent)
            .map_err(|error| StoreError::from_io("create a directory in", &parent, error))?;
        Ok(Self { directory, destination })
    }

    /// The directory to put the artifact's files into.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Records every file with its size and digest, writes all of it to the disk and moves the
    /// directory to its final place. A previous artifact of that name is replaced.
    ///
    /// # Errors
    /// Any failure to read, write or rename; the previous artifact then stays, or, at worst, none
    /// is there: never half of one.
    pub fn publish(self, origin: Origin) -> Result<Manifest, StoreError> {
        let mut files = Vec::new();
        record_files(self.path(), self.path(), &mut files)?;
        files.sort_by(|left, right| left.path.cmp(&right.path));
        let manifest = Manifest {
            schema: MANIFEST_SCHEMA,
            suite: origin.suite,
            packages: origin.packages,
            release: origin.release,
            recipe_sha256: origin.recipe_sha256,
            lacks: origin.lacks,
            files,
        };
        let path = self.path().join(MANIFEST_FILE);
        let failed = |error| StoreError::from_io("write", &path, error);
        let text = serde_json::to_string_pretty(&manifest).map_err(|error| failed(error.into()))?;
        let mut file = File::create(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)?;
        file.write_all(b"\n").map_err(failed)?;
        file.sync_all().map_err(failed)?;
        self.move_into_place()?;
        Ok(manifest)
    }

    fn move_into_place(self) -> Result<(), StoreError> {
        let destination = &self.destination;
        let failed = |error| StoreError::from_io("rename to", destination, error);
        let parent = destination.parent().unwrap_or(Path::new("/"));
        // The old artifact steps aside into a directory that is removed on return, also on failure.
        let aside = tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(parent).map_err(failed)?;
        if destination.exists() {
            fs::rename(destination, aside.path().join("previous")).map_err(failed)?;
        }
        fs::rename(self.directory.path(), destination).map_err(failed)?;
        // The staged directory has moved away: there is nothing left to remove.
        let _ = self.directory.keep();
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)
    }
}

fn record_files(root: &Path, directory: &Path, files: &mut Vec<FileRecord>) -> Result<(), StoreError> {
    let failed = |error| StoreError::from_io("read", directory, error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let failed = |error| StoreError::from_io("read", &path, error);
        let metadata = fs::metadata(&path).map_err(failed)?;
        if metadata.is_dir() {
            record_files(root, &path, files)?;
            continue;
        }
        File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
        let relative = path.strip_prefix(root).unwrap_or(&path);
        files.push(FileRecord {
            path: relative.to_string_lossy().into_owned(),
            size: metadata.len(),
            sha256: sha256_of_file(&path).map_err(failed)?,
        });
    }
    Ok(())
}
