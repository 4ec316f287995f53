//! What a program needs in a machine that has nothing: itself, its interpreter, its libraries.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Failure;

/// Files and links for an initramfs, by their paths in the machine.
#[derive(Debug, Default)]
pub struct Luggage {
    /// Path and content.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Path and target.
    pub links: BTreeMap<String, String>,
}

/// Where a command is found, by the PATH of whoever calls.
///
/// # Errors
/// It is nowhere.
pub fn find(command: &str) -> Result<PathBuf, Failure> {
    let missing = || {
        Failure::usage(
            format!("there is no command `{command}`"),
            "name a program of this machine; with --root, one of the folder, by its path in the machine",
        )
    };
    if command.contains('/') {
        let path = std::path::absolute(command).map_err(|_| missing())?;
        return if path.is_file() { Ok(path) } else { Err(missing()) };
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join(command)).find(|path| path.is_file()).ok_or_else(missing)
}

impl Luggage {
    /// Packs a file, and what it is run by: the interpreter of a script, the loader and the libraries of a program.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn pack(&mut self, path: &Path) -> Result<(), Failure> {
        let name = path.to_string_lossy().into_owned();
        if self.files.contains_key(&name) {
            return Ok(());
        }
        let content = fs::read(path).map_err(|source| Failure::File { path: path.to_owned(), source })?;
        self.files.insert(name, content);
        self.pack_what_runs(path)
    }

    /// Packs what a file of this machine is run by, where the luggage does not have it.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn pack_what_runs(&mut self, path: &Path) -> Result<(), Failure> {
        let content = fs::read(path).map_err(|source| Failure::File { path: path.to_owned(), source })?;
        if let Some(interpreter) = script_interpreter(&content) {
            return self.pack(Path::new(&interpreter));
        }
        if content.starts_with(b"\x7fELF") {
            for library in libraries(path) {
                self.pack(&library)?;
            }
        }
        Ok(())
    }

    /// Packs everything in a folder, whose root becomes the machine's.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn pack_folder(&mut self, folder: &Path) -> Result<(), Failure> {
        self.pack_below(folder, "")
    }

    fn pack_below(&mut self, folder: &Path, place: &str) -> Result<(), Failure> {
        let failed = |source| Failure::File { path: folder.to_owned(), source };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (path, place) = (entry.path(), format!("{place}/{}", entry.file_name().to_string_lossy()));
            let kind = entry.file_type().map_err(failed)?;
            let unreadable = |source| Failure::File { path: path.clone(), source };
            if kind.is_dir() {
                self.pack_below(&path, &place)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(unreadable)?;
                self.links.insert(place, target.to_string_lossy().into_owned());
            } else if kind.is_file() {
                let content = fs::read(&path).map_err(unreadable)?;
                self.files.insert(place, content);
            }
        }
        Ok(())
    }

    /// All bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|content| content.len() as u64).sum()
    }
}

/// The interpreter that the first line of a script names.
fn script_interpreter(content: &[u8]) -> Option<String> {
    let line = content.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    String::from_utf8_lossy(line).split_whitespace().next().map(str::to_owned)
}

/// The loader and the libraries of a program, as its own loader finds them; none of a static one.
fn libraries(path: &Path) -> Vec<PathBuf> {
    let Ok(output) = Command::new("ldd").arg(path).output() else { return Vec::new() };
    libraries_in(&String::from_utf8_lossy(&output.stdout))
}

fn libraries_in(listing: &str) -> Vec<PathBuf> {
    listing
        .lines()
        .filter_map(|line| {
            let place = line.split_once("=>").map_or(line, |(_, place)| place).trim();
            let path = place.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_told_from_what_has_no_file() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(libraries_in(listing), expected);
        assert_eq!(libraries_in("\tnot a dynamic executable\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn scripts_name_their_interpreter() {
        assert_eq!(script_interpreter(b"#! /bin/sh -e\ntrue\n").as_deref(), Some("/bin/sh"));
        assert_eq!(script_interpreter(b"\x7fELF"), None);
    }
}
