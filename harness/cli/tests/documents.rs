//! What the documents and the corpus claim, against the code: generated tables are current, and no entry of the
//! corpus is there for nothing. `PTEDIFF_UPDATE_DOCUMENTS=1` writes the tables anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ptediff_claims::{Check, Claim, Evidence, Record, System, claims};
use ptediff_corpus::{Corpus, Entry};
use ptediff_generate::reached;
use ptediff_reference_model::invariant::Invariant;
use ptediff_reference_model::kernel::{self, ChangeKind, KernelVersion};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::pagemap;
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
    let mut table = "| rule | statement | source | kernels |\n| --- | --- | --- | --- |\n".to_owned();
    for info in &RULES {
        let needs: Vec<String> = info.needs.iter().map(|need| format!("`{need}`")).collect();
        let needs = if needs.is_empty() { "any".to_owned() } else { needs.join(", ") };
        let (rule, statement, source) = (info.identifier, info.statement, info.source);
        writeln!(table, "| `{rule}` | {statement} | {source} | {needs} |").unwrap();
    }
    check("rules.md", &table);
}

#[test]
fn the_changes_are_those_of_the_table() {
    let mut table = "| change | a kernel that has it | function | since | until | source |\n".to_owned();
    table += "| --- | --- | --- | --- | --- | --- |\n";
    for info in kernel::changes() {
        let name = match info.kind {
            ChangeKind::Design => format!("`{}`", info.identifier),
            ChangeKind::Defect { cve, .. } => {
                format!("`{}`{}", info.identifier, cve.map_or_else(String::new, |cve| format!(", {cve}")))
            }
        };
        let says = match info.kind {
            ChangeKind::Design => info.statement.to_owned(),
            ChangeKind::Defect { right, .. } => format!("**Defect.** {} Right: {right}", info.statement),
        };
        let fact = info.fact.map_or_else(String::new, |fact| format!("; if {}", fact.statement()));
        let until = info.versions.until.map_or_else(|| "-".to_owned(), |until| until.to_string());
        let (function, since, source) = (info.function, info.versions.since, info.source);
        writeln!(table, "| {name} | {says} | {function} | {since}{fact} | {until} | {source} |").unwrap();
    }
    check("changes.md", &table);
}

#[test]
fn the_invariants_are_those_of_the_watch() {
    let machine = |version| Machine::imagined(version, true, true);
    let mut table = "| invariant | statement | source | kernels |\n| --- | --- | --- | --- |\n".to_owned();
    for invariant in Invariant::ALL {
        let versions = [KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2];
        let kernels: Vec<String> = versions
            .into_iter()
            .filter(|kind| invariant.holds_on(&machine(*kind)))
            .map(|kind| kind.to_string())
            .collect();
        let (statement, source) = (invariant.statement(), invariant.source());
        writeln!(table, "| `{invariant}` | {statement} | {source} | {} |", kernels.join(", ")).unwrap();
    }
    let (name, statement, source) = (pagemap::IDENTIFIER, pagemap::STATEMENT, pagemap::SOURCE);
    writeln!(table, "| `{name}` | {statement} | {source} | 6.1, 6.12, 7.2 |").unwrap();
    check("watch.md", &table);
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

#[test]
fn the_race_table_is_that_of_all_interleavings() {
    check("dirty-race.md", &format!("\n{}", ptediff_claims::dirty_race::document()));
}

#[test]
fn the_claims_are_those_of_the_table_with_the_evidence_recorded_last() {
    let records: Vec<Record> = serde_json::from_slice(&fs::read(root().join("docs/claims.json")).unwrap()).unwrap();
    for record in &records {
        assert!(ptediff_claims::claim(&record.claim).is_some(), "evidence for {}, which is no claim", record.claim);
    }
    let mut text = String::new();
    for system in System::ALL {
        writeln!(text, "## {}\n", system.title()).unwrap();
        for claim in claims().filter(|claim| claim.system == system) {
            let record = records.iter().find(|record| record.claim == claim.name);
            text.push_str(&claim_text(claim, record));
        }
    }
    check("claims.md", &text);
}

/// Every claim has evidence, and that of live ones is from machines: a page of promises would convince nobody.
#[test]
fn every_claim_has_recorded_evidence() {
    let records: Vec<Record> = serde_json::from_slice(&fs::read(root().join("docs/claims.json")).unwrap()).unwrap();
    for claim in claims() {
        let record = records.iter().find(|record| record.claim == claim.name);
        let record = record.unwrap_or_else(|| panic!("no evidence is recorded for {}", claim.name));
        assert!(record.evidence.iter().any(|row| row.cases > 0), "{}: nothing was looked at", claim.name);
        let is_live = matches!(claim.check, Check::Live);
        assert!(!is_live || record.evidence.iter().any(|row| row.cpu != "-"), "{}: no machine", claim.name);
    }
}

fn claim_text(claim: &Claim, record: Option<&Record>) -> String {
    let mut text = format!("### `{}`\n\n**{}**\n\n", claim.name, claim.question);
    writeln!(text, "*{}*\n\n{}\n", claim.seed.title(), claim.answer).unwrap();
    let Some(record) = record else { return text };
    text.push_str("| kernel | CPU | cases | seconds | |\n| --- | --- | --- | --- | --- |\n");
    for Evidence { kernel, cpu, cases, unit, seconds, note } in &record.evidence {
        writeln!(text, "| {kernel} | {cpu} | {} {unit} | {seconds:.1} | {note} |", grouped(*cases)).unwrap();
    }
    text.push_str(if record.is_full { "\n" } else { "\nThe representative part; `--full` was not recorded.\n\n" });
    text
}

/// Thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap()).collect();
    groups.join(",")
}

/// A rule on a kernel, after one that fired when the page was touched last.
type Context = (KernelVersion, Option<Rule>, Rule);

fn contexts(entry: &Entry) -> BTreeSet<Context> {
    let mut all = BTreeSet::new();
    for version in [KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2] {
        let machine = Machine::imagined(version, true, true);
        if entry.missing(&machine).is_empty() {
            let reached = reached(&machine, &entry.program).unwrap_or_default();
            all.extend(reached.contexts.iter().map(|&(before, rule)| (version, before, rule)));
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
