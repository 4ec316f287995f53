//! What an emulator must be able to do for us.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

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

/// The private folder of one machine, removed with it.
#[derive(Debug)]
pub(crate) struct Folder {
    directory: TempDir,
}

impl Folder {
    /// A new folder where the system keeps temporary files.
    pub(crate) fn new() -> Result<Self, VmError> {
        let directory = tempfile::Builder::new()
            .prefix("ptediff-vm-")
            .tempdir()
            .map_err(VmError::io("make a folder for temporary files"))?;
        Ok(Self { directory })
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
    fn the_last_lines_of_a_text() {
        assert_eq!(last_lines("", 3), "");
        assert_eq!(last_lines("a\r\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a\r\nb\n", 5), "a\nb");
        assert_eq!(last_lines("a\nb\n", 0), "");
    }
}
