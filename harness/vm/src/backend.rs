//! What an emulator must be able to do for us.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::bare::BareSpec;
use crate::bochs::Bochs;
use crate::qemu::Qemu;
use crate::{BackendKind, Ending, VmError, VmSpec};

/// An emulator: how it is started, and how its own records tell what became of the guest.
pub(crate) trait Backend: Send {
    /// Writes what the emulator needs into the machine's folder, and says how it is started. The command's
    /// standard output is the data channel, and the guest's serial console goes to [`Folder::console`].
    ///
    /// # Errors
    /// A file is missing or unusable, or the machine cannot be built.
    fn prepare(&self, spec: &VmSpec, folder: &Folder) -> Result<Start, VmError>;

    /// The same for a guest that is no Linux: its memory, and a boot sector that jumps into it.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    fn prepare_bare(&self, spec: &BareSpec, folder: &Folder) -> Result<Start, VmError>;

    /// What else can be said of an emulator that refused to start with these messages.
    fn refusal(&self, _folder: &Folder, _messages: &str) -> Option<String> {
        None
    }

    /// What the emulator's records say of how the guest ended, after an exit that no signal caused. `None`:
    /// they say nothing.
    fn ending(&self, records: &str, console: &str) -> Option<Ending>;
}

/// The way to start an emulator.
#[derive(Debug)]
pub(crate) struct Start {
    /// The command.
    pub(crate) command: Command,
    /// The bytes behind which the data channel begins; empty if all of the standard output is the channel.
    pub(crate) channel_opening: &'static [u8],
}

impl BackendKind {
    /// The implementation.
    pub(crate) fn backend(self) -> Box<dyn Backend> {
        match self {
            Self::Bochs => Box::new(Bochs),
            Self::Qemu => Box::new(Qemu),
        }
    }
}

/// The private folder of one machine, removed with it. One whose owner was killed is removed when the next
/// machine is made: while the owner lives, it holds a lock.
#[derive(Debug)]
pub(crate) struct Folder {
    directory: TempDir,
    _lock: File,
}

const FOLDER_PREFIX: &str = "ptediff-vm-";
const LOCK: &str = "lock";

impl Folder {
    /// A new folder where the system keeps temporary files.
    pub(crate) fn new() -> Result<Self, VmError> {
        Self::new_in(&std::env::temp_dir())
    }

    fn new_in(parent: &Path) -> Result<Self, VmError> {
        let failed = |error| VmError::io(format!("make a folder for temporary files in {}", parent.display()))(error);
        remove_abandoned(parent);
        let directory = tempfile::Builder::new().prefix(FOLDER_PREFIX).tempdir_in(parent).map_err(failed)?;
        // Locked before it has its name, so that nobody can take it for abandoned in between.
        let unnamed = directory.path().join("lock.new");
        let lock = File::create(&unnamed).map_err(failed)?;
        lock.lock().map_err(failed)?;
        std::fs::rename(&unnamed, directory.path().join(LOCK)).map_err(failed)?;
        Ok(Self { directory, _lock: lock })
    }

    /// A file of the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The serial console.
    pub(crate) fn console(&self) -> PathBuf {
        self.path("console.log")
    }

    /// The emulator's own records.
    pub(crate) fn records(&self) -> PathBuf {
        self.path("emulator.log")
    }

    /// The emulator's standard error.
    pub(crate) fn messages(&self) -> PathBuf {
        self.path("messages.log")
    }

    /// Writes a file and says where it is.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, VmError> {
        let path = self.path(name);
        std::fs::write(&path, content).map_err(VmError::io(format!("write {}", path.display())))?;
        Ok(path)
    }
}

/// Removes the folders of owners that were killed. What cannot be removed (another user's, say) stays.
fn remove_abandoned(parent: &Path) {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(FOLDER_PREFIX)) {
        let is_abandoned = File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_abandoned {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A text file's content, empty if there is none; what is not UTF-8 is replaced.
pub(crate) fn text_of(path: &Path) -> String {
    std::fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches('\r')).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_without_an_owner_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let first = Folder::new_in(parent.path()).unwrap();
        let abandoned = parent.path().join("ptediff-vm-abandoned");
        let unlocked = parent.path().join("ptediff-vm-no-lock");
        let other = parent.path().join("other");
        for folder in [&abandoned, &unlocked, &other] {
            std::fs::create_dir(folder).unwrap();
        }
        for folder in [&abandoned, &other] {
            std::fs::write(folder.join(LOCK), "").unwrap();
        }
        let second = Folder::new_in(parent.path()).unwrap();
        assert!(first.path(LOCK).exists() && second.path(LOCK).exists());
        assert!(!abandoned.exists() && unlocked.exists() && other.exists());
    }

    #[test]
    fn the_last_lines_of_a_text() {
        assert_eq!(last_lines("", 3), "");
        assert_eq!(last_lines("a\r\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a\r\nb\n", 5), "a\nb");
        assert_eq!(last_lines("a\nb\n", 0), "");
    }
}
