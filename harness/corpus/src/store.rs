//! A folder of entries.

use std::fs;
use std::path::{Path, PathBuf};

use crate::entry::{Entry, is_valid_name};
use crate::error::CorpusError;
use crate::read::{StoredEntry, read_entry};
use crate::write::write_entry;

/// A folder of entries. Names are file names, so they are unique.
#[derive(Debug, Clone)]
pub struct Corpus {
    folder: PathBuf,
    names: Vec<String>,
}

impl Corpus {
    /// Lists the entries of a folder: the files whose names end in `.json` and do not begin with a dot.
    /// They are not read yet.
    ///
    /// # Errors
    /// [`CorpusError::Unreadable`].
    pub fn open(folder: &Path) -> Result<Self, CorpusError> {
        let unreadable = |error| CorpusError::Unreadable { path: folder.to_owned(), error };
        let mut names = Vec::new();
        for file in fs::read_dir(folder).map_err(unreadable)? {
            let file = file.map_err(unreadable)?.file_name();
            // A file that is no entry's by its name is listed all the same where it ends in .json: reading
            // it gives the error, and nothing is passed over in silence.
            if let Some(name) = file.to_string_lossy().strip_suffix(".json").filter(|name| !name.starts_with('.')) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(Self { folder: folder.to_owned(), names })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Names of the entries, sorted.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads the entries, sorted by name.
    pub fn entries(&self) -> impl Iterator<Item = Result<StoredEntry, CorpusError>> + '_ {
        self.names.iter().map(|name| read_entry(&self.path(name)))
    }

    /// Reads the entry of this name.
    ///
    /// # Errors
    /// [`CorpusError::Unknown`], and those of [`read_entry`].
    pub fn get(&self, name: &str) -> Result<StoredEntry, CorpusError> {
        match self.names.iter().any(|known| known == name) {
            true => read_entry(&self.path(name)),
            false => Err(CorpusError::Unknown { folder: self.folder.clone(), name: name.to_owned() }),
        }
    }

    /// Stores a new entry. One of the same name and program may be there already and then stays.
    ///
    /// # Errors
    /// [`CorpusError::Taken`] where the name holds another program; those of [`write_entry`].
    pub fn add(&mut self, entry: &Entry) -> Result<PathBuf, CorpusError> {
        let path = self.path(&entry.name);
        if is_valid_name(&entry.name) && path.exists() {
            return match read_entry(&path) {
                Ok(stored) if stored.entry.program == entry.program => Ok(path),
                _ => Err(CorpusError::Taken { path }),
            };
        }
        let path = write_entry(&self.folder, entry)?;
        if let Err(place) = self.names.binary_search(&entry.name) {
            self.names.insert(place, entry.name.clone());
        }
        Ok(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }
}
