//! One set-up at a time: what removes leftovers must not meet another's half-made artifact.

use std::fs::{self, File, TryLockError};

use ptediff_vm::store::{Store, StoreError};

use crate::error::ArchiveError;
use crate::progress::{Progress, step};

/// The right to change the cache, until it is dropped.
#[derive(Debug)]
pub struct SetUpLock {
    _file: File,
}

impl SetUpLock {
    /// Waits for another set-up to end, in whatever process.
    ///
    /// # Errors
    /// [`ArchiveError`] if the cache cannot be written.
    pub fn take(store: &Store, progress: &dyn Progress) -> Result<Self, ArchiveError> {
        let root = store.root();
        fs::create_dir_all(root).map_err(|error| StoreError::from_io("create directory", root, error))?;
        let path = root.join("set-up.lock");
        let file = File::create(&path).map_err(|error| StoreError::from_io("create", &path, error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                step(progress, "waiting for another set-up to end", || file.lock())
                    .map_err(ArchiveError::io("lock", &path))?;
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::from_io("lock", &path, error).into()),
        }
        Ok(Self { _file: file })
    }
}
