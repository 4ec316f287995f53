//! Compiles the guest with the compiler that builds the workspace: a static ELF without a standard library.
//!
//! Cargo cannot build it as a target of its own: it needs `panic = "abort"`, which is a matter of whole profiles, and
//! no standard library, while the rest of the workspace unwinds.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() {
    for place in ["guest", "src", "build.rs", "../../reference-model/src/processor"] {
        println!("cargo::rerun-if-changed={place}");
    }
    let image = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bare-probe.elf");
    if let Err(message) = compile(&image) {
        for line in message.lines() {
            println!("cargo::error={line}");
        }
        exit(1);
    }
}

fn compile(image: &Path) -> Result<(), String> {
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    // With `cargo clippy` the guest is looked at, too.
    let mut command = match env::var_os("RUSTC_WORKSPACE_WRAPPER") {
        Some(wrapper) => {
            let mut command = Command::new(wrapper);
            command.arg(rustc);
            command
        }
        None => Command::new(rustc),
    };
    let output = command
        .args(["--edition", "2024", "--crate-name", "bare_probe_guest", "--crate-type", "bin", "--target", TARGET])
        .args(["-C", "opt-level=3", "-C", "panic=abort", "-C", "relocation-model=static", "-C", "no-redzone=yes"])
        .args(["-C", "target-feature=+crt-static", "-C", "codegen-units=1", "-C", "strip=debuginfo"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib", "-C", "link-arg=-static"])
        .args(["-C", "link-arg=-Wl,-T,guest/link.ld", "-C", "link-arg=-Wl,--build-id=none"])
        .args(["-C", "link-arg=-Wl,-z,max-page-size=4096", "-C", "link-arg=-Wl,-z,norelro"])
        // The files shared with the host hold what only the host uses.
        .args(["-D", "warnings", "-A", "dead_code", "-A", "unused_imports", "-o"])
        .arg(image)
        .arg("guest/main.rs")
        .output()
        .map_err(|error| format!("the compiler cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("the guest was not built ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr)))
}
