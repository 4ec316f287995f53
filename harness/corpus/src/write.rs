//! Writes an entry: one step a line, and all of it or nothing.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::entry::{Entry, SCHEMA};
use crate::error::CorpusError;
use crate::read::parse_entry;

/// The stored text of an entry.
#[must_use]
pub fn format_entry(entry: &Entry) -> String {
    let fields = [
        ("schema", json(&SCHEMA)),
        ("name", json(&entry.name)),
        ("description", json(&entry.description)),
        ("origin", json(&entry.origin)),
        ("needs", json(&entry.needs)),
    ];
    let mut text = String::from("{\n");
    for (field, value) in fields {
        text += &format!("  \"{field}\": {value},\n");
    }
    let steps: Vec<String> = entry.program.steps.iter().map(|step| format!("    {}", json(step))).collect();
    match steps.is_empty() {
        true => text + "  \"program\": []\n}\n",
        false => text + "  \"program\": [\n" + &steps.join(",\n") + "\n  ]\n}\n",
    }
}

/// A value on one line, with a space after each colon and comma that is not inside a string.
fn json(value: &impl Serialize) -> String {
    let dense = serde_json::to_string(value).expect("plain data with string keys");
    let mut spaced = String::with_capacity(dense.len() + 16);
    let (mut in_string, mut escaped) = (false, false);
    for character in dense.chars() {
        spaced.push(character);
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else {
            match character {
                '"' => in_string = true,
                ':' | ',' => spaced.push(' '),
                _ => {}
            }
        }
    }
    spaced
}

/// Writes the entry into the folder, as `NAME.json`, replacing a file that is there. The file appears
/// whole or not at all.
///
/// # Errors
/// [`CorpusError::Unstorable`] for an entry that could not be read again; [`CorpusError::Full`],
/// [`CorpusError::ReadOnly`] or [`CorpusError::Unwritable`] where the file system refuses.
pub fn write_entry(folder: &Path, entry: &Entry) -> Result<PathBuf, CorpusError> {
    let path = folder.join(format!("{}.json", entry.name));
    let text = format_entry(entry);
    // What is written must be readable: parsing it checks name, needs and program by the reader's rules.
    parse_entry(&path, &text)
        .map_err(|error| CorpusError::Unstorable { name: entry.name.clone(), message: error.to_string() })?;
    let unwritable = |error| CorpusError::unwritable(&path, error);
    let mut file = tempfile::Builder::new().prefix(".entry-").tempfile_in(folder).map_err(unwritable)?;
    file.write_all(text.as_bytes()).map_err(unwritable)?;
    // tempfile makes files that only the owner may read; an entry is a source file.
    fs::set_permissions(file.path(), Permissions::from_mode(0o644)).map_err(unwritable)?;
    file.as_file().sync_all().map_err(unwritable)?;
    file.persist(&path).map_err(|error| unwritable(error.error))?;
    // The rename is durable once the folder is; where it cannot be synced the file is still whole.
    if let Ok(folder) = File::open(folder) {
        folder.sync_all().map_err(unwritable)?;
    }
    Ok(path)
}
