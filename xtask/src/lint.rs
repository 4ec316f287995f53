//! The linters: of the Rust, of the C, of the import table. All run, so that one round names all faults.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo;
use crate::error::TaskError;
use crate::progress::note;
use crate::{modules, tidy};

/// Runs every linter and returns the names of those that complained.
///
/// # Errors
/// [`TaskError`] if a linter cannot be run at all.
pub fn run() -> Result<Vec<String>, TaskError> {
    let mut formatting = cargo::command();
    formatting.args(["fmt", "--all", "--check"]);
    // The bare probe's guest is no target of cargo; its build script lets clippy see it.
    let mut guest_formatting = Command::new("rustfmt");
    guest_formatting.args(["--check", "--edition", "2024", "harness/bare-probe/guest/main.rs"]);
    guest_formatting.current_dir(cargo::workspace());
    let mut clippy = cargo::command();
    clippy.args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    let mut one_loader = ["libbpf", "aya"].map(|loader| {
        let mut clippy = cargo::command();
        clippy.args(["clippy", "--locked", "--package", "ptediff", "--package", "ptediff-observe", "--lib", "--bins"]);
        clippy.args(["--no-default-features", "--features", loader, "--", "-D", "warnings"]);
        clippy
    });
    let [libbpf_alone, aya_alone] = &mut one_loader;
    let mut clang_format = Command::new("clang-format");
    clang_format.args(["--dry-run", "-Werror", "--style=file"]);
    clang_format.args(c_files(&cargo::workspace().join("bpf/src"))?).current_dir(cargo::workspace());
    for folder in modules::folders()? {
        clang_format.args(c_files(&folder)?);
    }

    let mut complaints = Vec::new();
    for (name, command) in [
        ("cargo fmt", &mut formatting),
        ("rustfmt of the bare probe's guest", &mut guest_formatting),
        ("cargo clippy", &mut clippy),
        ("cargo clippy with libbpf alone", libbpf_alone),
        ("cargo clippy with aya alone", aya_alone),
        ("clang-format", &mut clang_format),
    ] {
        note(&format!("lint: {name}"));
        let status = command.status().map_err(|cause| TaskError::NotStarted {
            task: format!("lint with {name}"),
            program: command.get_program().to_string_lossy().into_owned(),
            cause,
            remedy: "the linters are set up by `cargo xtask ci` as root".to_owned(),
        })?;
        if !status.success() {
            complaints.push(name.to_owned());
        }
    }
    note("lint: import table");
    match tidy::check_import_table() {
        Ok(()) => {}
        Err(error @ TaskError::ImportTable { .. }) => {
            note(&error.to_string());
            complaints.push("import table".to_owned());
        }
        Err(error) => return Err(error),
    }
    Ok(complaints)
}

/// C sources and headers of a folder, sorted. None at all would make the check one that accepts anything.
fn c_files(folder: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(TaskError::io("read", folder))? {
        let path = entry.map_err(TaskError::io("read", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "c" || extension == "h") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        let reason = "there is no C source or header to check".to_owned();
        return Err(TaskError::Malformed { what: folder.display().to_string(), reason });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_c_is_checked_and_something_must_be() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        c_files(folder.path()).expect_err("nothing to check");
        for name in ["b.h", "a.bpf.c", "lib.rs"] {
            fs::write(folder.path().join(name), "").expect("write");
        }
        let names = c_files(folder.path()).expect("files");
        assert_eq!(names, [folder.path().join("a.bpf.c"), folder.path().join("b.h")]);
    }
}
