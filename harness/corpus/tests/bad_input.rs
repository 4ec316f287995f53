//! Every way in which an entry can be wrong gives an error that says what and where.

use std::fs;
use std::path::Path;

use ptediff_corpus::{CorpusError, MAX_ENTRY_BYTES, parse_entry, read_entry};
use ptediff_reference_model::program::MAX_STEPS;

const PATH: &str = "corpus/example.json";

/// An entry with these steps.
fn with_steps(steps: &str) -> String {
    format!(
        r#"{{
  "schema": 1,
  "name": "example",
  "description": "An example.",
  "origin": {{"found-by": "hand"}},
  "needs": {{}},
  "program": [
{steps}
  ]
}}
"#
    )
}

const EXIT: &str = r#"    {"actor": 0, "operation": "exit"}"#;

/// Parses, and expects an error whose message holds `message` and begins with its place, and whose span
/// covers `spanned`.
fn check(text: &str, line: usize, column: usize, spanned: &str, message: &str) -> CorpusError {
    let error = parse_entry(Path::new(PATH), text).expect_err("the entry is wrong");
    let words = error.to_string();
    assert!(words.starts_with(&format!("{PATH}:{line}:{column}: ")), "{words}");
    assert!(words.contains(message), "{words}");
    let (source, span) = error.place().expect("a place");
    assert_eq!(source, text);
    assert_eq!(&text[span.offset..span.offset + span.length], spanned, "{words}");
    error
}

#[test]
fn steps_that_are_no_steps() {
    // The brackets stand around what the error must point at.
    let wrong = [
        (r#"    {"actor": 0, "operation": ["swapoff"]}"#, "step 0: unknown variant `swapoff`"),
        (r#"    {"actor": 0, "operation": {["brk"]: {}}}"#, "step 0: unknown variant `brk`"),
        (r#"    {"actor": 0, "operation": {"read": {"page": [32]}}}"#, "slot 32 lies outside the arena"),
        (r#"    {"actor": 0, "operation": {"write": {"page": [-1]}}}"#, "step 0: invalid value: integer `-1`"),
        (r#"    {"actor": [4], "operation": "exit"}"#, "actor 4 does not exist"),
        (
            r#"    {"actor": 0, "operation": {"munmap": {"range": {"first": 30, "pages": [3]}}}}"#,
            "range of 3 pages from slot 30",
        ),
        (r#"    {"actor": 0, "operation": "exit", ["when"]: 1}"#, "unknown field `when`"),
        (r#"    {"actor": 0[}]"#, "missing field `operation`"),
        (
            r#"    {"actor": 0, "operation": {"mprotect": {"range": {"first": 0, "pages": 1}, "protection": ["rwz"]}}}"#,
            "protection `rwz`",
        ),
    ];
    for (marked, message) in wrong {
        let start = marked.find('[').expect("a mark");
        let end = marked.find(']').expect("a mark");
        let step = [&marked[..start], &marked[start + 1..end], &marked[end + 1..]].concat();
        let error = check(&with_steps(&step), 8, start + 1, &marked[start + 1..end], message);
        assert!(matches!(error, CorpusError::Malformed { step: Some(0), .. }), "{error:?}");
    }
}

#[test]
fn steps_that_nobody_can_perform() {
    let by = |actor: usize| format!(r#"    {{"actor": {actor}, "operation": "clear-soft-dirty"}}"#);
    let fork = |child: usize| format!(r#"    {{"actor": 0, "operation": {{"fork": {{"child": {child}}}}}}}"#);
    let cases = [
        (vec![by(0), by(1)], 9, "step 1: actor 1 is not alive"),
        (vec![EXIT.to_owned(), by(0)], 9, "step 1: actor 0 is not alive"),
        (vec![fork(1), by(1), fork(1)], 10, "step 2: fork cannot give the child the number 1"),
    ];
    for (steps, line, message) in cases {
        let wrong = steps.last().expect("a step").trim().to_owned();
        let error = check(&with_steps(&steps.join(",\n")), line, 5, &wrong, message);
        assert!(matches!(error, CorpusError::Impossible { .. }), "{error:?}");
    }
    let long = vec![by(0); MAX_STEPS + 1].join(",\n");
    let error = parse_entry(Path::new(PATH), &with_steps(&long)).expect_err("too long");
    assert!(error.to_string().contains("has 257 steps; at most 256"), "{error}");
}

#[test]
fn entries_of_the_wrong_shape() {
    let good = with_steps(EXIT);
    assert!(parse_entry(Path::new(PATH), &good).is_ok());
    let newer = good.replace("\"schema\": 1", "\"schema\": 3").replace("\"program\"", "\"programme\"");
    assert!(matches!(check(&newer, 2, 13, "3", "schema 3"), CorpusError::NewerSchema { found: 3, .. }));
    check(&good.replace("\"schema\": 1", "\"schema\": 0"), 2, 13, "0", "never was a schema 0");
    check(&good.replace("\"schema\": 1", "\"schema\": \"1\""), 2, 13, "\"1\"", "invalid type");
    check(
        &good.replace("\"needs\": {}", "\"needs\": {\"hugetlb\": true}"),
        6,
        13,
        "\"hugetlb\"",
        "unknown field `hugetlb`",
    );
    check(&good.replace("  \"needs\": {},\n", ""), 9, 1, "}", "missing field `needs`");
    check(&good.replace("\"hand\"", "\"dog\""), 5, 26, "\"dog\"", "unknown variant `dog`");
    check(&good.replace("\"name\": \"example\"", "\"name\": \"other\""), 3, 11, "\"other\"", "must be its file's name");
    check(&good.replace("  \"program\"", "  program"), 7, 3, "p", "key must be a string");
    let wrss = with_steps(r#"    {"actor": 0, "operation": {"write-shadow-stack": {"page": 0}}}"#);
    check(&wrss, 6, 12, "{}", "needs shadow-stack");
    assert!(matches!(
        check(&(good.clone() + "x"), 11, 1, "x", "trailing characters"),
        CorpusError::Malformed { step: None, .. }
    ));
}

#[test]
fn an_entry_cut_anywhere_is_cut_short() {
    let good = with_steps(&[EXIT; 1].join(",\n"));
    for length in 0..good.trim_end().len() {
        let text = &good[..length];
        let error = parse_entry(Path::new(PATH), text).expect_err("cut");
        assert!(matches!(error, CorpusError::Truncated { .. }), "cut at {length}: {error:?}");
        assert_eq!(error.place().expect("a place").1.offset, length);
    }
}

#[test]
fn files_that_are_no_entries() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("example.json");
    let large = "x".repeat(10 << 20);
    fs::write(&path, large).expect("written");
    let error = read_entry(&path).expect_err("too large");
    assert!(matches!(error, CorpusError::TooLarge { bytes: 10_485_760, .. }), "{error:?}");
    // Up to the limit the file is read, and then judged by what it says.
    fs::write(&path, " ".repeat(MAX_ENTRY_BYTES as usize)).expect("written");
    assert!(matches!(read_entry(&path), Err(CorpusError::Truncated { .. })));
    fs::write(&path, b"{\"schema\": 1, \"name\": \"\xff\"}").expect("written");
    assert!(matches!(read_entry(&path), Err(CorpusError::NotText { offset: 23, .. })));
    assert!(matches!(read_entry(&folder.path().join("absent.json")), Err(CorpusError::Unreadable { .. })));
    assert!(matches!(read_entry(folder.path()), Err(CorpusError::Unreadable { .. })));
    assert!(matches!(read_entry(Path::new("/dev/zero")), Err(CorpusError::TooLarge { .. })));
}
