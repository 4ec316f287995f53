//! The import table of ARCHITECTURE.md, proved from cargo's own metadata.
//!
//! Architecture Invariant: data flows one way, generate -> execute -> observe -> compare -> report, and a crate
//! names only the crates that its row allows. Development dependencies count too; crates whose tests need a
//! live kernel may name `ptediff-vm` in them, to boot one with themselves inside.

use serde::Deserialize;

use crate::cargo;
use crate::error::TaskError;

/// What a crate of ours may name of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Exactly these, or fewer.
    Only(&'static [&'static str]),
    /// These, and `ptediff-vm` in tests.
    WithLiveTests(&'static [&'static str]),
    /// Every library room; not `xtask`.
    EveryRoom,
}

const MODEL: &str = "ptediff-reference-model";
const MACHINES: &str = "ptediff-vm";
const ARCHIVE: &str = "ptediff-archive";

/// The table: each crate of the workspace with what it may name.
pub const IMPORT_TABLE: [(&str, Allowed); 14] = [
    (MODEL, Allowed::Only(&[])),
    ("ptediff-bare-probe", Allowed::WithLiveTests(&[MODEL])),
    ("ptediff-bpf", Allowed::Only(&[])),
    ("ptediff-claims", Allowed::Only(&[MODEL])),
    ("ptediff-generate", Allowed::Only(&[MODEL])),
    ("ptediff-execute", Allowed::WithLiveTests(&[MODEL])),
    ("ptediff-compare", Allowed::Only(&[MODEL])),
    ("ptediff-corpus", Allowed::Only(&[MODEL])),
    ("ptediff-trace", Allowed::Only(&[MODEL])),
    ("ptediff-observe", Allowed::WithLiveTests(&[MODEL, "ptediff-bpf"])),
    (MACHINES, Allowed::Only(&[])),
    (ARCHIVE, Allowed::Only(&[MACHINES])),
    ("xtask", Allowed::Only(&[MACHINES, ARCHIVE])),
    ("ptediff", Allowed::EveryRoom),
];

impl Allowed {
    fn permits(self, import: &Import) -> bool {
        let name = import.name.as_str();
        match self {
            Self::Only(names) => names.contains(&name),
            Self::WithLiveTests(names) => names.contains(&name) || (import.only_in_tests && name == MACHINES),
            Self::EveryRoom => name != "xtask",
        }
    }
}

/// A crate of the workspace and the crates of the workspace that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The package's name.
    pub name: String,
    /// Packages of the workspace among its dependencies of any kind.
    pub imports: Vec<Import>,
}

/// A dependency on a crate of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The package's name.
    pub name: String,
    /// Whether it is a development dependency.
    pub only_in_tests: bool,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// "dev", "build", or nothing for a normal one.
    kind: Option<String>,
    /// Present for dependencies by path: those of the workspace.
    path: Option<String>,
}

/// Reads the answer of `cargo metadata --no-deps`.
///
/// # Errors
/// [`TaskError::Malformed`] if it is none.
pub fn parse_metadata(text: &str) -> Result<Vec<Room>, TaskError> {
    let metadata: Metadata = serde_json::from_str(text).map_err(|error| TaskError::Malformed {
        what: "the output of `cargo metadata`".to_owned(),
        reason: error.to_string(),
    })?;
    let room = |package: Package| {
        let ours = package.dependencies.into_iter().filter(|dependency| dependency.path.is_some());
        let import = |dependency: Dependency| Import {
            only_in_tests: dependency.kind.as_deref() == Some("dev"),
            name: dependency.name,
        };
        Room { name: package.name, imports: ours.map(import).collect() }
    };
    Ok(metadata.packages.into_iter().map(room).collect())
}

/// Every way in which the rooms break the table, a sentence each; empty if they keep it.
#[must_use]
pub fn violations(rooms: &[Room]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, _) in IMPORT_TABLE {
        if !rooms.iter().any(|room| room.name == name) {
            found.push(format!("the table names {name}, the workspace has no such crate"));
        }
    }
    for room in rooms {
        let Some((_, allowed)) = IMPORT_TABLE.iter().find(|(name, _)| *name == room.name) else {
            found.push(format!("{} has no row in the table", room.name));
            continue;
        };
        for import in room.imports.iter().filter(|import| !allowed.permits(import)) {
            let place = if import.only_in_tests { " in tests" } else { "" };
            found.push(format!("{} may not depend on {}{place}", room.name, import.name));
        }
    }
    found
}

/// Checks this workspace.
///
/// # Errors
/// [`TaskError::ImportTable`] with every violation, or cargo's failure.
pub fn check_import_table() -> Result<(), TaskError> {
    let rooms = parse_metadata(&cargo::metadata()?)?;
    let violations = violations(&rooms);
    if violations.is_empty() { Ok(()) } else { Err(TaskError::ImportTable { violations }) }
}

/// The one folder that compares kernel versions.
const KERNELS: &str = "reference-model/src/kernel/";

/// Lines of a source file that look into a kernel version or compare one with a number of their own.
#[must_use]
pub fn compares_versions(path: &str, text: &str) -> Vec<String> {
    if path.starts_with(KERNELS) || path.contains("/tests") || path.ends_with("tests.rs") {
        return Vec::new();
    }
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let is_comparison = |line: &str| {
        let compares = ["==", "!=", "<=", ">=", " < ", " > ", "matches!", "contains("];
        line.contains("KernelVersion::") && compares.iter().any(|sign| line.contains(sign))
            || [".major", ".minor", ".patch"].iter().any(|field| {
                line.match_indices(field).any(|(at, _)| !line[at + field.len()..].starts_with(['\"', '(', '_']))
            })
    };
    let lines =
        code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//") && is_comparison(line));
    lines.map(|(number, line)| format!("{path}:{}: compares a kernel version: {}", number + 1, line.trim())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn import(name: &str, only_in_tests: bool) -> Import {
        Import { name: name.to_owned(), only_in_tests }
    }

    /// The rooms as the table has them, each importing all that it may.
    fn sound() -> Vec<Room> {
        let imports = |allowed: Allowed| {
            let every = IMPORT_TABLE.iter().flat_map(|(name, _)| [import(name, false), import(name, true)]);
            every.filter(|import| allowed.permits(import)).collect()
        };
        let room = |&(name, allowed): &(&str, Allowed)| Room { name: name.to_owned(), imports: imports(allowed) };
        IMPORT_TABLE.iter().map(room).collect()
    }

    fn check(change: impl FnOnce(&mut Vec<Room>), expected: &[&str]) {
        let mut rooms = sound();
        change(&mut rooms);
        assert_eq!(violations(&rooms), expected);
    }

    fn plant(from: &str, to: &str, only_in_tests: bool) -> impl FnOnce(&mut Vec<Room>) {
        move |rooms| {
            let room = rooms.iter_mut().find(|room| room.name == from).expect("a room of the table");
            room.imports.push(import(to, only_in_tests));
        }
    }

    #[test]
    fn the_table_itself_holds() {
        check(|_| (), &[]);
    }

    #[test]
    fn planted_edges_are_found() {
        for (from, to) in [
            ("ptediff-vm", "ptediff-reference-model"),
            ("ptediff-compare", "ptediff-execute"),
            ("ptediff-reference-model", "ptediff-bpf"),
            ("ptediff-execute", "ptediff-vm"),
            ("ptediff-archive", "ptediff-trace"),
            ("xtask", "ptediff"),
            ("ptediff", "xtask"),
        ] {
            check(plant(from, to, false), &[&format!("{from} may not depend on {to}")]);
        }
    }

    #[test]
    fn tests_may_boot_machines_where_the_table_says_so_and_nothing_more() {
        check(plant("ptediff-execute", "ptediff-vm", true), &[]);
        for (from, to) in
            [("ptediff-execute", "ptediff-observe"), ("ptediff-compare", "ptediff-vm"), ("ptediff-vm", "ptediff-trace")]
        {
            check(plant(from, to, true), &[&format!("{from} may not depend on {to} in tests")]);
        }
    }

    #[test]
    fn versions_are_compared_where_kernels_are_data_and_nowhere_else() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let mut folders = vec![root.join("harness"), root.join("reference-model/src")];
        let (mut files, mut found) = (0, Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    files += 1;
                    let name = path.strip_prefix(root).expect("below the root").display().to_string();
                    found.extend(compares_versions(&name, &fs::read_to_string(&path).expect("text")));
                }
            }
        }
        assert!(files > 300, "{files} files");
        assert_eq!(found, Vec::<String>::new());
        let planted = "fn old(v: KernelVersion) -> bool { v == KernelVersion::LINUX_6_1 || v.minor < 12 }";
        assert_eq!(compares_versions("harness/a.rs", planted).len(), 1);
        assert_eq!(compares_versions("reference-model/src/kernel/a.rs", planted).len(), 0);
    }

    #[test]
    fn crates_and_rows_must_match() {
        check(
            |rooms| rooms.push(Room { name: "ptediff-new".to_owned(), imports: Vec::new() }),
            &["ptediff-new has no row in the table"],
        );
        check(
            |rooms| rooms.retain(|room| room.name != "ptediff-corpus"),
            &["the table names ptediff-corpus, the workspace has no such crate"],
        );
    }

    #[test]
    fn every_kind_of_dependency_by_path_counts() {
        let rooms = parse_metadata(
            r#"{"packages": [{"name": "ptediff-vm", "dependencies": [
                {"name": "ptediff-compare", "kind": "dev", "path": "/w/harness/compare"},
                {"name": "ptediff-corpus", "kind": "build", "path": "/w/harness/corpus"},
                {"name": "serde", "kind": null}
            ]}]}"#,
        );
        let imports = &rooms.expect("metadata")[0].imports;
        assert_eq!(imports, &[import("ptediff-compare", true), import("ptediff-corpus", false)]);
        parse_metadata("{}").expect_err("no metadata");
    }
}
