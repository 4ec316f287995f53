//! Our kernel modules, built against the distribution's headers of each kernel in the cache. Nothing is installed.
//!
//! Each folder of `vm-images/modules` with a `Kbuild` is built; one artifact a kernel holds all of them. Headers of
//! a newer suite bring build tools that want a newer C library than this machine has: those run with their own
//! suite's. They were also configured for a newer compiler: options that this machine's does not know are dropped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use ptediff_vm::store::{ArtifactKind, KernelArtifact, Manifest, Origin, PackageOrigin, Store};

use crate::cargo;
use crate::error::TaskError;
use crate::progress::step;
use crate::recipes::{HeadersRecipe, ModuleRecipes};
use ptediff_archive::apt::{Apt, release_below};
use ptediff_archive::archive_sources::Archive;
use ptediff_archive::origin;
use ptediff_archive::tool::Tool;

/// Our modules' sources, below the workspace.
const SOURCES: &str = "vm-images/modules";
/// What stands behind the version in the release of the kernels that are used.
const FLAVOUR: &str = "-cloud-amd64";

/// What identifies the modules of a kernel: recipe, sources, and the kernel itself.
///
/// # Errors
/// [`TaskError`] if a source cannot be read.
pub fn recipe_sha256(recipes: &ModuleRecipes, kernel: &KernelArtifact) -> Result<String, TaskError> {
    let mut text = format!("{} {}\n", kernel.release, kernel.package_version);
    for folder in folders()? {
        for file in files(&folder)? {
            let content = fs::read_to_string(&file).map_err(TaskError::io("read", &file))?;
            text += &format!("{}\n{content}\n", file.display());
        }
    }
    Ok(recipes.sha256_with(&text))
}

/// Builds every module for one kernel of the cache.
///
/// # Errors
/// [`TaskError`] with the step that failed.
pub fn make(store: &Store, archive: &Archive, recipes: &ModuleRecipes, name: &str) -> Result<Manifest, TaskError> {
    let kind = ArtifactKind::Modules;
    let kernel = store.kernel(name)?;
    let recipe = recipes.headers_of(name)?;
    let apt = Apt::for_downloads_with_release(store.root(), archive, &kernel.suite)?;
    step(&format!("modules for {name}: package index of {}", kernel.suite), || apt.update())?;

    let staging = store.stage(kind, name)?;
    let scratch = store.stage(kind, name)?;
    let building =
        Building { recipes, kernel: &kernel, apt: &apt, scratch: scratch.path(), logs: store.root().join("logs") };
    let mut packages = Vec::new();
    let tree = step(&format!("modules for {name}: headers of {}", kernel.release), || {
        building.unpack_headers(recipe, &mut packages)
    })?;
    if !recipes.releases_with_tools_for_this_machine.iter().any(|release| release == release_below(&kernel.suite)) {
        step(&format!("modules for {name}: libraries of the build tools"), || {
            building.give_tools_their_libraries(&tree, &mut packages)
        })?;
    }
    for folder in folders()? {
        let module = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        step(&format!("modules for {name}: building {module}"), || {
            building.compile(&tree, &folder, &module, staging.path())
        })?;
    }
    Ok(staging.publish(Origin {
        suite: kernel.suite.clone(),
        packages,
        release: Some(kernel.release.clone()),
        recipe_sha256: recipe_sha256(recipes, &kernel)?,
        lacks: Vec::new(),
    })?)
}

/// The unpacked headers.
struct Tree {
    /// `/usr/src/linux-headers-<release>`, where make is run.
    headers: PathBuf,
    /// The folder of scripts and tools.
    kbuild: PathBuf,
}

struct Building<'a> {
    recipes: &'a ModuleRecipes,
    kernel: &'a KernelArtifact,
    apt: &'a Apt,
    scratch: &'a Path,
    logs: PathBuf,
}

impl Building<'_> {
    fn tool(&self, action: &str) -> Tool {
        Tool {
            task: format!("modules for {}: {action}", self.kernel.release),
            log: self.logs.join(format!("modules-{}-{action}.log", self.kernel.release)),
            remedy: "see the log; the headers must be of the very kernel in the cache: if the mirror has moved on, \
                     remove the kernel from the cache and set it up again"
                .to_owned(),
        }
    }

    fn unpack(&self, package: &str, to: &Path, packages: &mut Vec<PackageOrigin>) -> Result<(), TaskError> {
        let found = self.apt.find_one(package)?;
        let archive = self.apt.download(&found, self.scratch)?;
        packages.push(origin(&found));
        self.tool("unpack").run(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(to))?;
        Ok(())
    }

    fn unpack_headers(&self, recipe: &HeadersRecipe, packages: &mut Vec<PackageOrigin>) -> Result<Tree, TaskError> {
        let root = self.scratch.join("headers");
        let release = &self.kernel.release;
        let version = release.strip_suffix(FLAVOUR).unwrap_or(release);
        for package in &recipe.packages {
            let package = package.replace("{release}", release).replace("{version}", version);
            self.unpack(&package, &root, packages)?;
        }
        let sources = root.join("usr/src");
        let headers = sources.join(format!("linux-headers-{release}"));
        // It names the place where the packages are installed, which is not ours.
        let makefile = headers.join("Makefile");
        let text = fs::read_to_string(&makefile).map_err(TaskError::io("read", &makefile))?;
        let text = text.replace("/usr/src/", &format!("{}/", sources.display()));
        fs::write(&makefile, text).map_err(TaskError::io("write", &makefile))?;
        // Without it no type information is made for modules, which would need another tool.
        let image = headers.join("vmlinux");
        if image.exists() {
            fs::remove_file(&image).map_err(TaskError::io("remove", &image))?;
        }
        let scripts = headers.join("scripts");
        let scripts = scripts.canonicalize().map_err(TaskError::io("follow", &scripts))?;
        let kbuild = scripts.parent().unwrap_or(&scripts).to_path_buf();
        Ok(Tree { headers, kbuild })
    }

    /// Puts a script in each tool's place that calls it by its own suite's dynamic linker.
    fn give_tools_their_libraries(&self, tree: &Tree, packages: &mut Vec<PackageOrigin>) -> Result<(), TaskError> {
        let root = self.scratch.join("libraries");
        for package in &self.recipes.libraries_of_other_tools {
            self.unpack(package, &root, packages)?;
        }
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        for name in &self.recipes.other_tools {
            let tool = tree.kbuild.join(name);
            let moved = tool.with_added_extension("program");
            fs::rename(&tool, &moved).map_err(TaskError::io("rename", &tool))?;
            let (libraries, moved) = (libraries.display(), moved.display());
            let call = format!("exec {libraries}/ld-linux-x86-64.so.2 --library-path {libraries} {moved} \"$@\"");
            write_script(&tool, &call)?;
        }
        Ok(())
    }

    fn compile(&self, tree: &Tree, folder: &Path, module: &str, to: &Path) -> Result<(), TaskError> {
        let place = self.scratch.join(module);
        fs::create_dir_all(&place).map_err(TaskError::io("create", &place))?;
        for file in files(folder)? {
            let copy = place.join(file.file_name().unwrap_or_default());
            fs::copy(&file, &copy).map_err(TaskError::io("copy", &file))?;
        }
        let compiler = self.scratch.join("compiler");
        write_script(&compiler, &compiler_script(&self.recipes.options_of_newer_compilers))?;
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut make = Command::new("make");
        make.arg(format!("-j{jobs}")).arg("-C").arg(&tree.headers).arg(format!("M={}", place.display()));
        make.arg(format!("CC={}", compiler.display())).arg("modules").env("LC_ALL", "C.UTF-8");
        self.tool(module).run(&mut make)?;
        let mut built = 0;
        for file in files(&place)?.into_iter().filter(|file| file.extension().is_some_and(|end| end == "ko")) {
            let target = to.join(file.file_name().unwrap_or_default());
            let mut strip = Command::new("strip");
            self.tool("strip").run(strip.arg("--strip-debug").arg("-o").arg(&target).arg(&file))?;
            built += 1;
        }
        if built == 0 {
            let what = format!("the build of {module}");
            return Err(TaskError::Malformed { what, reason: "it succeeded and left no module".to_owned() });
        }
        Ok(())
    }
}

/// Calls gcc without the options that it does not know. Each is given as `-option=value` or alone.
fn compiler_script(unknown: &[String]) -> String {
    let patterns: Vec<String> = unknown.iter().map(|option| format!("{option}|{option}=*")).collect();
    let patterns = patterns.join("|");
    format!(
        "count=$#\n\
         while [ \"$count\" -gt 0 ]; do\n  \
         word=$1\n  shift\n  count=$((count - 1))\n  \
         case $word in {patterns}) ;; *) set -- \"$@\" \"$word\" ;; esac\n\
         done\n\
         exec gcc \"$@\""
    )
}

fn write_script(path: &Path, body: &str) -> Result<(), TaskError> {
    fs::write(path, format!("#!/bin/sh\n{body}\n")).map_err(TaskError::io("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(TaskError::io("make executable", path))
}

/// The folders of our modules, sorted. None at all would make an artifact of nothing.
///
/// # Errors
/// [`TaskError`] if they cannot be read or there are none.
pub fn folders() -> Result<Vec<PathBuf>, TaskError> {
    let root = cargo::workspace().join(SOURCES);
    let mut folders = Vec::new();
    for entry in fs::read_dir(&root).map_err(TaskError::io("read", &root))? {
        let path = entry.map_err(TaskError::io("read", &root))?.path();
        if path.join("Kbuild").is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    if folders.is_empty() {
        return Err(TaskError::Malformed { what: SOURCES.to_owned(), reason: "no folder has a Kbuild".to_owned() });
    }
    Ok(folders)
}

/// The files of a folder, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(TaskError::io("read", folder))? {
        let path = entry.map_err(TaskError::io("read", folder))?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_gets_what_it_knows_in_the_order_given() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let script = folder.path().join("compiler");
        let body = compiler_script(&["-fnew".to_owned(), "-fnewer".to_owned()]).replace("exec gcc", "printf '[%s]'");
        write_script(&script, &body).expect("a script");
        let output = Command::new(&script).args(["-O2", "-fnew=1", "two words", "-fnewer", "-fnewest", "a.c"]).output();
        let printed = String::from_utf8(output.expect("a shell").stdout).expect("text");
        assert_eq!(printed, "[-O2][two words][-fnewest][a.c]");
    }

    #[test]
    fn our_modules_are_found_with_their_sources() {
        let folders = folders().expect("folders");
        assert!(folders.iter().any(|folder| folder.ends_with("helper-oracle")), "{folders:?}");
        for folder in folders {
            let files = files(&folder).expect("files");
            assert!(files.iter().any(|file| file.extension().is_some_and(|end| end == "c")), "{files:?}");
        }
    }
}
