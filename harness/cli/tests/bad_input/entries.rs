//! Corpus entries that are none.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::case::{Case, words};

const GOOD_STEP: &str = r#"{"actor": 0, "operation": {"mmap": {"range": {"first": 0, "pages": 1}, "protection": "rw-", "placement": "fixed"}}}"#;

/// The text of an entry with this schema and these steps, a line each, from line 7 on.
fn entry(schema: u32, steps: &[&str]) -> String {
    let steps: Vec<String> = steps.iter().map(|step| format!("    {step}")).collect();
    format!(
        "{{\n  \"schema\": {schema},\n  \"name\": \"entry\",\n  \"description\": \"For a test.\",\n  \
         \"origin\": {{\"found-by\": \"hand\"}}, \"needs\": {{}},\n  \"program\": [\n{}\n  ]\n}}\n",
        steps.join(",\n")
    )
}

/// Stores the text and gives the arguments that replay it.
fn replay(folder: &Path, text: &[u8]) -> Vec<OsString> {
    let file = folder.join("entry.json");
    fs::write(&file, text).expect("the entry can be written");
    words([&"replay", &"--platform", &"qemu", &file])
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "entry-unknown-operation",
            |folder| {
                replay(
                    folder,
                    entry(1, &[GOOD_STEP, r#"{"actor": 0, "operation": {"teleport": {"page": 0}}}"#]).as_bytes(),
                )
            },
            &["DIR/entry.json:8:", "unknown variant `teleport`"],
        )
        .kept(),
        Case::new(
            "entry-newer-schema",
            |folder| replay(folder, entry(3, &["{\"of\": \"the future\"}"]).as_bytes()),
            &["DIR/entry.json:2:13", "schema 3", "use a newer ptediff"],
        )
        .kept(),
        Case::new(
            "entry-truncated",
            |folder| {
                let text = entry(1, &[GOOD_STEP]);
                replay(folder, &text.as_bytes()[..text.len() - 30])
            },
            &["DIR/entry.json:7:", "cut short"],
        )
        .kept(),
        Case::new(
            "entry-of-10-megabytes",
            |folder| {
                let mut text = entry(1, &[GOOD_STEP]);
                text.push_str(&" ".repeat(10_000_000));
                replay(folder, text.as_bytes())
            },
            &["DIR/entry.json has 100002", "at most 1048576"],
        ),
        Case::new(
            "entry-slot-outside-the-arena",
            |folder| {
                replay(
                    folder,
                    entry(1, &[GOOD_STEP, r#"{"actor": 0, "operation": {"read": {"page": 32}}}"#]).as_bytes(),
                )
            },
            &["DIR/entry.json:8:", "32"],
        )
        .kept(),
        Case::new(
            "entry-range-past-the-arena",
            |folder| {
                replay(
                    folder,
                    entry(1, &[r#"{"actor": 0, "operation": {"munmap": {"range": {"first": 30, "pages": 3}}}}"#])
                        .as_bytes(),
                )
            },
            &["DIR/entry.json:7:"],
        ),
        Case::new(
            "entry-actor-that-does-not-exist",
            |folder| {
                replay(folder, entry(1, &[GOOD_STEP, r#"{"actor": 2, "operation": {"read": {"page": 0}}}"#]).as_bytes())
            },
            &["DIR/entry.json:8:", "actor 2"],
        )
        .kept(),
        Case::new(
            "entry-actor-number-too-large",
            |folder| replay(folder, entry(1, &[r#"{"actor": 9, "operation": {"read": {"page": 0}}}"#]).as_bytes()),
            &["DIR/entry.json:7:", "9"],
        ),
        Case::new("entry-empty-file", |folder| replay(folder, b""), &["DIR/entry.json:1:1"]),
        Case::new("entry-not-text", |folder| replay(folder, b"{\"schema\": \xff}"), &["byte 11"]),
        Case::new(
            "entry-nested-too-deeply",
            |folder| replay(folder, "[".repeat(500_000).as_bytes()),
            &["DIR/entry.json:1:", "cut short"],
        ),
        Case::new(
            "entry-other-name-than-its-file",
            |folder| replay(folder, entry(1, &[GOOD_STEP]).replace("\"entry\"", "\"other\"").as_bytes()),
            &["DIR/entry.json:3:11", "`other`"],
        ),
        Case::new(
            "entry-need-not-declared",
            |folder| {
                replay(
                    folder,
                    entry(1, &[r#"{"actor": 0, "operation": {"write-shadow-stack": {"page": 0}}}"#]).as_bytes(),
                )
            },
            &["DIR/entry.json:5:", "shadow-stack"],
        ),
        Case::new(
            "entry-missing-file",
            |folder| words([&"replay", &folder.join("none.json")]),
            &["cannot read DIR/none.json", "No such file"],
        ),
        Case::new("entry-is-a-folder", |folder| words([&"replay", &folder.join("mount/")]), &["cannot read DIR/mount"]),
        Case::new("entry-without-end", |_| words([&"replay", &"/dev/zero"]), &["/dev/zero", "at most 1048576"]),
        Case::new(
            "corpus-without-that-entry",
            |folder| words([&"replay", &"--corpus", &folder.join("mount"), &"no-such-entry"]),
            &["DIR/mount has no entry `no-such-entry`"],
        ),
        Case::new(
            "corpus-empty",
            |folder| words([&"replay", &"--all", &"--corpus", &folder.join("mount")]),
            &["DIR/mount has no entry"],
        ),
        Case::new(
            "corpus-missing",
            |folder| words([&"replay", &"--all", &"--corpus", &folder.join("none")]),
            &["cannot read DIR/none", "No such file"],
        ),
    ]
}
