//! Reads an entry and refuses, with its place, whatever is not one.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use ptediff_reference_model::program::{Program, Step};
use ptediff_reference_model::validity::{InvalidProgram, check_program};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::entry::{Entry, MAX_ENTRY_BYTES, Origin, SCHEMA, is_valid_name};
use crate::error::{CorpusError, Span};
use crate::needs::{Needs, NeedsOfSchema1};

/// An entry, with the file it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// What it says.
    pub entry: Entry,
}

/// The one field that every schema has.
#[derive(Deserialize)]
struct Versioned<'a> {
    #[serde(borrow)]
    schema: &'a RawValue,
}

/// The fields of every schema, undecoded where their places are wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(rename = "schema")]
    _schema: u32,
    #[serde(borrow)]
    name: &'a RawValue,
    description: String,
    origin: Origin,
    #[serde(borrow)]
    needs: &'a RawValue,
    #[serde(borrow)]
    program: &'a RawValue,
}

/// Reads one entry's file.
///
/// # Errors
/// Any [`CorpusError`] about reading.
pub fn read_entry(path: &Path) -> Result<StoredEntry, CorpusError> {
    let unreadable = |error| CorpusError::Unreadable { path: path.to_owned(), error };
    let too_large = |bytes| CorpusError::TooLarge { path: path.to_owned(), bytes };
    let file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length > MAX_ENTRY_BYTES {
        return Err(too_large(length));
    }
    // The length may lie (a pipe, a file that grows): never take more.
    let mut bytes = Vec::new();
    file.take(MAX_ENTRY_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_ENTRY_BYTES {
        return Err(too_large(bytes.len() as u64));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| CorpusError::NotText { path: path.to_owned(), offset: error.utf8_error().valid_up_to() })?;
    let entry = parse_entry(path, &text)?;
    Ok(StoredEntry { path: path.to_owned(), text, entry })
}

/// Reads an entry from its text. `path` is for messages, and its stem must be the entry's name.
///
/// # Errors
/// Any [`CorpusError`] that has a place.
pub fn parse_entry(path: &Path, text: &str) -> Result<Entry, CorpusError> {
    let source = Source { path, text };
    let schema = source.check_schema()?;
    let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| source.malformed(0, &error, None))?;
    let name: String = source.decode(fields.name, None)?;
    let needs: Needs = match schema {
        1 => source.decode::<NeedsOfSchema1>(fields.needs, None)?.into(),
        _ => source.decode(fields.needs, None)?,
    };
    let raw_steps: Vec<&RawValue> = source.decode(fields.program, None)?;
    let impossible = |raw: &RawValue, reason| CorpusError::Impossible {
        path: path.to_owned(),
        text: text.to_owned(),
        span: source.span(raw),
        reason,
    };
    let mut program = Program::default();
    for (index, raw) in raw_steps.iter().enumerate() {
        program.steps.push(source.decode::<Step>(raw, Some(index))?);
    }
    check_program(&program).map_err(|reason| match reason {
        InvalidProgram::Step { index, .. } => impossible(raw_steps[index], reason),
        InvalidProgram::TooLong(_) => impossible(fields.program, reason),
    })?;
    if !is_valid_name(&name) || path.file_stem().is_none_or(|stem| stem != name.as_str()) {
        let span = source.span(fields.name);
        return Err(CorpusError::Name { path: path.to_owned(), text: text.to_owned(), span, name });
    }
    if let Some(field) = Needs::of(&program).undeclared_in(&needs).first() {
        let span = source.span(fields.needs);
        return Err(CorpusError::Undeclared { path: path.to_owned(), text: text.to_owned(), span, field });
    }
    Ok(Entry { name, description: fields.description, origin: fields.origin, needs, program })
}

/// The text that is read, for places.
struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Source<'a> {
    fn check_schema(&self) -> Result<u64, CorpusError> {
        // An entry of a newer schema may have any fields, so only the number is looked at first.
        let versioned: Versioned<'_> =
            serde_json::from_str(self.text).map_err(|error| self.malformed(0, &error, None))?;
        match self.decode::<u64>(versioned.schema, None)? {
            found @ 1.. if found <= u64::from(SCHEMA) => Ok(found),
            0 => Err(CorpusError::Malformed {
                path: self.path.to_owned(),
                text: self.text.to_owned(),
                span: self.span(versioned.schema),
                message: "there never was a schema 0".to_owned(),
                step: None,
            }),
            found => Err(CorpusError::NewerSchema {
                path: self.path.to_owned(),
                text: self.text.to_owned(),
                span: self.span(versioned.schema),
                found,
            }),
        }
    }

    fn decode<T: Deserialize<'a>>(&self, raw: &'a RawValue, step: Option<usize>) -> Result<T, CorpusError> {
        serde_json::from_str(raw.get()).map_err(|error| self.malformed(self.offset(raw), &error, step))
    }

    /// Offset of a value that borrows from the text.
    fn offset(&self, raw: &RawValue) -> usize {
        raw.get().as_ptr() as usize - self.text.as_ptr() as usize
    }

    fn span(&self, raw: &RawValue) -> Span {
        Span::of(self.text, self.offset(raw), raw.get().len())
    }

    /// The error of a part of the text that begins at `start`, with its place in the whole.
    fn malformed(&self, start: usize, error: &serde_json::Error, step: Option<usize>) -> CorpusError {
        let (path, text) = (self.path.to_owned(), self.text.to_owned());
        let end = start + offset_of(&self.text[start..], error.line(), error.column());
        let message = without_place(error);
        if error.is_eof() {
            return CorpusError::Truncated { path, text, span: Span::of(self.text, self.text.len(), 0), message };
        }
        // serde_json checks a value that it has read (a slot, a range) only after the object that holds it,
        // and then has read up to the object's end; a missing field is missing there.
        let is_missing = message.starts_with("missing field");
        let end = if is_missing { end } else { self.text[..end].trim_end_matches(['}', ',', ' ']).len() };
        let (offset, length) = token_that_ends_at(self.text, end);
        let span = Span::of(self.text, offset, length);
        let message = match step {
            Some(index) => format!("step {index}: {message}"),
            None => message,
        };
        CorpusError::Malformed { path, text, span, message, step }
    }
}

/// Byte that a line, from 1, and a column, as serde_json counts them, mean.
fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (start + column).min(text.len())
}

/// The error in words, without serde_json's own line and column, which may count from a part's start.
fn without_place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match message.rfind(" at line ") {
        Some(place) => message[..place].to_owned(),
        None => message,
    }
}

/// The token that ends at `end`, where serde_json has read up to: a string with its quotes, a word or
/// number, or one character.
fn token_that_ends_at(text: &str, end: usize) -> (usize, usize) {
    let before = text.as_bytes()[..end].trim_ascii_end();
    let Some((&last, head)) = before.split_last() else {
        return (0, text.len().min(1));
    };
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.' | b'_');
    let start = if last == b'"' {
        head.iter().rposition(|&byte| byte == b'"').unwrap_or(head.len())
    } else if is_word(&last) {
        head.iter().rposition(|byte| !is_word(byte)).map_or(0, |separator| separator + 1)
    } else {
        head.len()
    };
    (start, before.len() - start)
}
