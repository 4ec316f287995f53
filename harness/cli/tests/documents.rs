//! What the documents and the corpus claim, against the code: generated tables are current, and no entry of the
//! corpus is there for nothing. `PTEDIFF_UPDATE_DOCUMENTS=1` writes the tables anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ptediff_corpus::{Corpus, Entry};
use ptediff_generate::reached;
use ptediff_reference_model::machine::{Dialect, Machine};
use ptediff_reference_model::rule::{RULES, Rule};

/// Ends the part of a document that people write.
const MARKER: &str = "<!-- table: everything below this line is generated -->\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The table below the marker must be this.
fn check(document: &str, table: &str) {
    let path: PathBuf = root().join("docs").join(document);
    let text = fs::read_to_string(&path).unwrap();
    let (head, _) = text.split_once(MARKER).expect("the document has the marker");
    let wanted = format!("{head}{MARKER}\n{table}");
    if std::env::var_os("PTEDIFF_UPDATE_DOCUMENTS").is_some() {
        fs::write(&path, wanted).unwrap();
    } else {
        assert!(text == wanted, "docs/{document} is old: PTEDIFF_UPDATE_DOCUMENTS=1 cargo test --test documents");
    }
}

#[test]
fn the_rules_are_those_of_the_model() {
    let mut table = "| rule | statement | source | dialects |\n| --- | --- | --- | --- |\n".to_owned();
    for info in &RULES {
        let dialects: Vec<String> = info.dialects.iter().map(ToString::to_string).collect();
        let (rule, statement, source) = (info.identifier, info.statement, info.source);
        writeln!(table, "| `{rule}` | {statement} | {source} | {} |", dialects.join(", ")).unwrap();
    }
    check("rules.md", &table);
}

#[test]
fn the_pairs_are_those_of_the_corpus() {
    let output = Command::new(env!("CARGO_BIN_EXE_ptediff")).arg("pairs").current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table: String = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") })
        .collect();
    check("pairs.md", &table);
}

/// A rule on a kernel, after one that fired when the page was touched last.
type Context = (Dialect, Option<Rule>, Rule);

fn contexts(entry: &Entry) -> BTreeSet<Context> {
    let mut all = BTreeSet::new();
    for dialect in [Dialect::Linux6_1, Dialect::Linux6_12, Dialect::Linux7_2] {
        let machine = Machine::imagined(dialect, true, true);
        if entry.missing(&machine).is_empty() {
            let reached = reached(&machine, &entry.program).unwrap_or_default();
            all.extend(reached.contexts.iter().map(|&(before, rule)| (dialect, before, rule)));
        }
    }
    all
}

/// Small entries explain better, so each must reach what the smaller ones do not, not the other way round.
#[test]
fn every_entry_reaches_a_rule_where_no_smaller_one_does() {
    let corpus = Corpus::open(&root().join("corpus")).unwrap();
    let mut entries: Vec<Entry> = corpus.entries().map(|stored| stored.unwrap().entry).collect();
    entries.sort_by_key(|entry| (entry.program.steps.len(), entry.name.clone()));
    let mut reached = BTreeSet::new();
    let mut redundant = Vec::new();
    for entry in &entries {
        let before = reached.len();
        reached.extend(contexts(entry));
        if reached.len() == before {
            redundant.push(entry.name.as_str());
        }
    }
    assert!(redundant.is_empty(), "{} of {} are redundant: {redundant:?}", redundant.len(), entries.len());
}
