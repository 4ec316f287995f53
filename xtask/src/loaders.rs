//! What a build with one loader of the probes takes: with aya alone, no library in C.

use std::process::Stdio;

use crate::cargo;
use crate::error::TaskError;

/// Crates that bring a library in C, or build one. (The bindings of `linux-raw-sys` are numbers and types.)
fn is_c(name: &str) -> bool {
    let binds = name.ends_with("-sys") && name != "linux-raw-sys";
    binds || name.starts_with("libbpf") || matches!(name, "cc" | "cmake" | "pkg-config")
}

/// Those among the crates, normal and for the build, of `ptediff` with these cargo features and no others.
///
/// # Errors
/// Cargo fails.
pub fn c_libraries(features: &str) -> Result<Vec<String>, TaskError> {
    let mut command = cargo::command();
    command.args(["tree", "--offline", "--locked", "--package", "ptediff", "--edges", "normal,build"]);
    command.args(["--no-default-features", "--features", features, "--prefix", "none", "--format", "{p}"]);
    let output = command.stderr(Stdio::inherit()).output().map_err(|cause| TaskError::NotStarted {
        task: "listing the crates of a build".to_owned(),
        program: "cargo".to_owned(),
        cause,
        remedy: "install Rust".to_owned(),
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let crates: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    if !output.status.success() || !crates.contains(&"ptediff") {
        let reason = format!("it ended with {} and {} lines", output.status, crates.len());
        return Err(TaskError::Malformed { what: "the output of `cargo tree`".to_owned(), reason });
    }
    let mut found: Vec<String> = crates.into_iter().filter(|name| is_c(name)).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    Ok(found)
}
