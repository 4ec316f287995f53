//! The kernel's own selftests, built from the distribution's source package by the kernel's own makefiles.
//!
//! Source and programs lie in the cache alone. What does not build is left out, with make's words for it in
//! [`NOT_BUILT`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use ptediff_vm::store::{ArtifactKind, KernelArtifact, Manifest, Origin, Store};

use crate::error::TaskError;
use crate::progress::step;
use crate::recipes::SelftestRecipes;
use ptediff_archive::apt::Apt;
use ptediff_archive::archive_sources::Archive;
use ptediff_archive::origin;
use ptediff_archive::tool::Tool;

/// The file of the artifact that names each program that did not build, and each warning of the makefiles.
pub const NOT_BUILT: &str = "not-built.txt";

/// What identifies the selftests of a kernel: the recipe and the kernel itself.
#[must_use]
pub fn recipe_sha256(recipes: &SelftestRecipes, kernel: &KernelArtifact) -> String {
    recipes.sha256_with(&format!("{} {}\n", kernel.release, kernel.package_version))
}

/// Builds the selftests of one kernel of the cache.
///
/// # Errors
/// [`TaskError`] with the step that failed; [`TaskError::Malformed`] where a target has no program at all.
pub fn make(store: &Store, archive: &Archive, recipes: &SelftestRecipes, name: &str) -> Result<Manifest, TaskError> {
    let kind = ArtifactKind::Selftests;
    let kernel = store.kernel(name)?;
    let source = recipes.source_of(name)?;
    let apt = Apt::for_downloads(store.root(), archive, &kernel.suite, false)?;
    step(&format!("selftests of {name}: package index of {}", kernel.suite), || apt.update())?;

    let staging = store.stage(kind, name)?;
    let scratch = store.stage(kind, name)?;
    let building = Building { recipes, name, scratch: scratch.path(), logs: store.root().join("logs") };
    let package = apt.find_one(&source.package)?;
    let tree = step(&format!("selftests of {name}: {} {}", package.name, package.version), || {
        building.unpack(&apt.download(&package, scratch.path())?, &package.name)
    })?;
    step(&format!("selftests of {name}: building (about a minute)"), || building.compile(&tree, staging.path()))?;
    Ok(staging.publish(Origin {
        suite: kernel.suite.clone(),
        packages: vec![origin(&package)],
        release: Some(kernel.release.clone()),
        recipe_sha256: recipe_sha256(recipes, &kernel),
        lacks: Vec::new(),
    })?)
}

struct Building<'a> {
    recipes: &'a SelftestRecipes,
    name: &'a str,
    scratch: &'a Path,
    logs: PathBuf,
}

impl Building<'_> {
    fn tool(&self, action: &str) -> Tool {
        Tool {
            task: format!("selftests of {}: {action}", self.name),
            log: self.logs.join(format!("selftests-{}-{action}.log", self.name)),
            remedy: "see the log, then repeat the command".to_owned(),
        }
    }

    /// Unpacks the package, and the kernel's source in it; returns where that lies.
    fn unpack(&self, archive: &Path, package: &str) -> Result<PathBuf, TaskError> {
        let files = self.scratch.join("package");
        self.tool("extract").run(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(&files))?;
        let mut unpack = Command::new("tar");
        unpack.arg("-x").arg("-f").arg(files.join(format!("usr/src/{package}.tar.xz"))).arg("-C").arg(self.scratch);
        unpack.arg("--anchored");
        unpack.args(self.recipes.left_out.iter().map(|folder| format!("--exclude={package}/{folder}")));
        self.tool("unpack").run(&mut unpack)?;
        Ok(self.scratch.join(package))
    }

    fn compile(&self, tree: &Path, to: &Path) -> Result<(), TaskError> {
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let make = || {
            let mut make = Command::new("make");
            make.arg(format!("-j{jobs}")).current_dir(tree).env("LC_ALL", "C.UTF-8");
            make
        };
        self.tool("headers").run(make().arg("headers"))?;
        // One program that does not build keeps none of the others out, and its errors stand together.
        let mut install = make();
        install.args(["--ignore-errors", "--output-sync=target", "-C", "tools/testing/selftests", "install"]);
        install.arg(format!("TARGETS={}", self.recipes.targets.join(" ")));
        install.arg(format!("INSTALL_PATH={}", to.display()));
        let tool = self.tool("make");
        tool.run(&mut install)?;
        for target in &self.recipes.targets {
            let folder = to.join(target);
            if fs::read_dir(&folder).map_or(0, Iterator::count) == 0 {
                let (what, log) = (format!("the build of the {target} selftests"), tool.log.display());
                return Err(TaskError::Malformed { what, reason: format!("it left no program; see {log}") });
            }
        }
        let log = fs::read(&tool.log).map_err(TaskError::io("read", &tool.log))?;
        let path = to.join(NOT_BUILT);
        fs::write(&path, not_built(&String::from_utf8_lossy(&log))).map_err(TaskError::io("write", &path))
    }
}

/// Of make's words, a line for each program that did not build, with the first error of it, and for each warning of
/// the makefiles.
fn not_built(log: &str) -> String {
    let mut text = String::new();
    let mut error = None;
    for line in log.lines() {
        if line.starts_with("Warning: ") && !text.contains(line) {
            text += &format!("{line}\n");
        }
        if error.is_none() && line.contains("error: ") {
            error = Some(line);
        }
        let target = line.split_once("] Error ").filter(|(_, rest)| rest.ends_with("(ignored)"));
        let target = target.and_then(|(before, _)| before.rsplit_once(": ")).map(|(_, target)| target);
        if let Some((_, program)) = target.and_then(|path| path.rsplit_once("/selftests/")) {
            let line = format!("{program}: {}\n", error.take().unwrap_or("see the log"));
            // `install` tries again what `all` could not build.
            if !text.contains(&line) {
                text += &line;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_build_is_named_with_its_reason() {
        let log = "Warning: missing liburing support. Some tests will be skipped.\n\
                   Warning: missing liburing support. Some tests will be skipped.\n\
                   gcc -o /s/selftests/mm/cow cow.c\n\
                   cow.c:7:1: error: unknown type name 'folio'\n\
                   cow.c:9:1: error: another\n\
                   make[1]: [../lib.mk:222: /s/selftests/mm/cow] Error 1 (ignored)\n\
                   cow.c:7:1: error: unknown type name 'folio'\n\
                   make[1]: [../lib.mk:222: /s/selftests/mm/cow] Error 1 (ignored)\n\
                   make[1]: [../lib.mk:222: /s/selftests/x86/lam_64] Error 2 (ignored)\n\
                   make[1]: [../lib.mk:150: install] Error 23 (ignored)\n";
        assert_eq!(
            not_built(log),
            "Warning: missing liburing support. Some tests will be skipped.\n\
             mm/cow: cow.c:7:1: error: unknown type name 'folio'\n\
             x86/lam_64: see the log\n"
        );
        assert_eq!(not_built("make: Leaving directory '/s'\n"), "");
    }
}
