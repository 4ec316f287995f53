//! Compiles the probes with clang into `OUT_DIR/*.bpf.o`.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Objects by name: `src/NAME.bpf.c` each.
const OBJECTS: [&str; 3] = ["pte_snapshot", "write_protect_watch", "program_watch"];
const HEADERS: [&str; 6] = [
    "src/pte_snapshot.h",
    "src/kernel.h",
    "src/page_walk.h",
    "src/address_walk.h",
    "src/write_protect_watch.h",
    "src/program_watch.h",
];

fn main() {
    for file in HEADERS.iter().chain(&["build.rs"]) {
        println!("cargo::rerun-if-changed={file}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");

    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for name in OBJECTS {
        let source = format!("src/{name}.bpf.c");
        println!("cargo::rerun-if-changed={source}");
        let object = folder.join(format!("{name}.bpf.o"));
        if let Err(message) = compile(&source, &object) {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            exit(1);
        }
        strip_debug_sections(&object);
    }
}

/// Runs clang for the `bpf` target. BTF and CO-RE relocations need `-g`.
fn compile(source: &str, object: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let output = Command::new(&clang)
        .args(["-target", "bpf", "-O2", "-g", "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
        .args(["-c", source, "-o"])
        .arg(object)
        .output()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!(
                "the eBPF probes need clang, and `{clang}` is not there: install the Debian package `clang` \
                 (apt-get install clang llvm), or name another clang in the environment variable CLANG"
            ),
            _ => format!("`{clang}` cannot be run: {error}"),
        })?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{clang}` refused {source} ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Drops DWARF, which nobody reads; `.BTF` and `.BTF.ext` stay. Without llvm-strip the object is larger and
/// works the same.
fn strip_debug_sections(object: &Path) {
    let stripped = Command::new("llvm-strip").arg("-g").arg(object).status();
    if !stripped.is_ok_and(|status| status.success()) {
        println!("cargo::warning=llvm-strip (Debian package llvm) is missing: the eBPF object keeps its DWARF");
    }
}
