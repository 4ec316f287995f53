//! Files out of a binary package.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::Command;

use crate::error::ArchiveError;
use crate::tool::Tool;

/// Passes every regular file of a package to `take`: its path, without a leading `./` or `usr/`, and its bytes.
///
/// # Errors
/// [`ArchiveError`] if the package is damaged; those of `take`.
pub(crate) fn each_file(
    archive: &Path,
    logs: &Path,
    mut take: impl FnMut(&str, &mut dyn Read) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let tool = Tool {
        task: format!("unpacking {}", archive.file_name().unwrap_or_default().to_string_lossy()),
        log: logs.join("unpack.log"),
        remedy: "the package may be damaged: repeat the command".to_owned(),
    };
    tool.read_output(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(archive), |stream| {
        let failed = |cause: io::Error| ArchiveError::io("unpack", archive)(cause);
        let mut members = tar::Archive::new(stream);
        for member in members.entries().map_err(failed)? {
            let mut member = member.map_err(failed)?;
            if member.header().entry_type().is_file() {
                let path = member.path().map_err(failed)?.to_string_lossy().into_owned();
                take(plain(&path), &mut member)?;
            }
        }
        Ok(())
    })
}

/// Takes one file out of a package.
///
/// # Errors
/// [`ArchiveError`] if the package is damaged or has no such file.
pub fn extract_file(archive: &Path, member: &str, to: &Path, logs: &Path) -> Result<(), ArchiveError> {
    let mut found = false;
    each_file(archive, logs, |path, content| {
        if path == plain(member) {
            write_file(to, content)?;
            found = true;
        }
        Ok(())
    })?;
    if found { Ok(()) } else { Err(no_file(archive, member)) }
}

/// A package that is laid out in another way than its recipe says.
pub(crate) fn no_file(archive: &Path, member: &str) -> ArchiveError {
    ArchiveError::Malformed {
        what: archive.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        reason: format!("it has no file {member}; packages may be laid out in another way now: see vm-images/"),
    }
}

/// Writes a file, its folders with it.
pub(crate) fn write_file(to: &Path, content: &mut dyn Read) -> Result<(), ArchiveError> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(ArchiveError::io("create", parent))?;
    }
    let mut file = File::create(to).map_err(ArchiveError::io("write", to))?;
    io::copy(content, &mut file).map_err(ArchiveError::io("write", to))?;
    Ok(())
}

/// A path as it is compared: since bookworm `/lib` is a link to `/usr/lib`, and packages name either.
pub(crate) fn plain(path: &str) -> &str {
    let path = path.strip_prefix("./").unwrap_or(path);
    path.strip_prefix("usr/").unwrap_or(path)
}
