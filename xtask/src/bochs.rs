//! The Bochs emulators: one built here from the distribution's source package, and the distribution's own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use ptediff_vm::store::{ArtifactKind, Manifest, Origin, PackageOrigin, Store};

use crate::error::TaskError;
use crate::progress::step;
use crate::recipes::{SourceRecipe, SystemRecipe};
use crate::system_packages::installed_version;
use ptediff_archive::ArchiveError;
use ptediff_archive::apt::{Apt, SourceFile, upstream_tarball};
use ptediff_archive::archive_sources::Archive;
use ptediff_archive::extract_file;
use ptediff_archive::origin;
use ptediff_archive::tool::Tool;

const KIND: ArtifactKind = ArtifactKind::Emulator;

/// Builds Bochs from source and puts it into the cache with its firmware.
///
/// # Errors
/// [`TaskError`] with the step that failed.
pub fn build(store: &Store, archive: &Archive, recipe: &SourceRecipe) -> Result<Manifest, TaskError> {
    let name = &recipe.name;
    let apt = Apt::for_downloads(store.root(), archive, &recipe.suite, true)?;
    step(&format!("{name}: package index of {}", recipe.suite), || apt.update())?;
    let (version, tarball) = find_source(&apt, recipe)?;

    let staging = store.stage(KIND, name)?;
    let scratch = store.stage(KIND, name)?;
    let logs = store.root().join("logs");
    let mut packages = vec![PackageOrigin {
        package: recipe.source_package.clone(),
        version: version.clone(),
        sha256: Some(tarball.sha256.clone()),
    }];
    let source = step(&format!("{name}: source package {version} from {}", recipe.suite), || {
        apt.download_source_file(&recipe.source_package, &version, &tarball, scratch.path())
    })?;
    step(&format!("{name}: firmware"), || {
        for firmware in &recipe.firmware {
            let package = apt.find_one(&firmware.package)?;
            let archive = apt.download(&package, scratch.path())?;
            extract_file(&archive, &firmware.file, &staging.path().join(&firmware.to), &logs)?;
            packages.push(origin(&package));
        }
        Ok::<(), TaskError>(())
    })?;
    step(&format!("{name}: building (about two minutes)"), || {
        compile(recipe, &source, scratch.path(), &staging.path().join("bin/bochs"), &logs)
    })?;
    Ok(staging.publish(Origin {
        suite: recipe.suite.clone(),
        packages,
        release: None,
        recipe_sha256: recipe.sha256()?,
        lacks: Vec::new(),
    })?)
}

/// The version in the suite's index that the recipe asks for, with its tarball.
fn find_source(apt: &Apt, recipe: &SourceRecipe) -> Result<(String, SourceFile), TaskError> {
    let mut versions = Vec::new();
    for paragraph in apt.source_paragraphs(&recipe.source_package)? {
        let version = paragraph.get("Version").unwrap_or_default();
        if is_upstream_version(version, &recipe.upstream_version)
            && let Some(tarball) = upstream_tarball(&paragraph)
        {
            return Ok((version.to_owned(), tarball));
        }
        versions.push(version.to_owned());
    }
    Err(ArchiveError::NotOffered {
        task: format!("getting the source of {}", recipe.name),
        tried: format!("{} (versions there: {})", recipe.suite, versions.join(", ")),
    }
    .into())
}

/// Whether a package version is of the upstream version: "3.0+dfsg-1" is of 3.0, "3.01-1" is not.
fn is_upstream_version(version: &str, upstream: &str) -> bool {
    let rest = version.strip_prefix(upstream);
    rest.is_some_and(|rest| !rest.starts_with(|letter: char| letter.is_ascii_digit() || letter == '.'))
}

fn compile(recipe: &SourceRecipe, tarball: &Path, scratch: &Path, to: &Path, logs: &Path) -> Result<(), TaskError> {
    let tree = scratch.join("source");
    fs::create_dir(&tree).map_err(TaskError::io("create", &tree))?;
    let tool = |action: &str| Tool {
        task: format!("{}: {action}", recipe.name),
        log: logs.join(format!("{}-{action}.log", recipe.name)),
        remedy: "see the log, then repeat the command".to_owned(),
    };
    let mut unpack = Command::new("tar");
    unpack.arg("-x").arg("-f").arg(tarball).arg("-C").arg(&tree).arg("--strip-components=1");
    tool("unpack").run(&mut unpack)?;

    for (name, text) in recipe.patches.iter().zip(recipe.patch_texts()?) {
        let patch = scratch.join(name);
        fs::write(&patch, text).map_err(TaskError::io("write", &patch))?;
        let mut command = Command::new("patch");
        command.args(["-p1", "--fuzz=0", "-i"]).arg(&patch).current_dir(&tree);
        tool("patch").run(&mut command)?;
    }

    let mut configure = Command::new("./configure");
    configure.args(&recipe.configure).current_dir(&tree);
    configure.env("CFLAGS", &recipe.compiler_flags).env("CXXFLAGS", &recipe.compiler_flags);
    tool("configure").run(&mut configure)?;

    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut make = Command::new("make");
    make.arg(format!("-j{jobs}")).arg("bochs").current_dir(&tree);
    tool("make").run(&mut make)?;

    let folder = to.parent().unwrap_or(scratch);
    fs::create_dir_all(folder).map_err(TaskError::io("create", folder))?;
    tool("strip").run(Command::new("strip").arg("-o").arg(to).arg(tree.join("bochs")))?;
    Ok(())
}

/// Copies the distribution's own Bochs, which is installed, into the cache.
///
/// # Errors
/// [`TaskError`] if the installed version is another one or a file is missing.
pub fn take_from_system(store: &Store, recipe: &SystemRecipe) -> Result<Manifest, TaskError> {
    let mut packages = Vec::new();
    for package in &recipe.packages {
        let version = installed_version(package)?.unwrap_or_default();
        packages.push(PackageOrigin { package: package.clone(), version, sha256: None });
    }
    if let Some(first) = packages.first()
        && !is_upstream_version(&first.version, &recipe.required_version_prefix)
    {
        return Err(TaskError::WrongVersion {
            package: first.package.clone(),
            found: first.version.clone(),
            expected: recipe.required_version_prefix.clone(),
        });
    }
    step(&format!("{}: copying from the system", recipe.name), || {
        let staging = store.stage(KIND, &recipe.name)?;
        for file in &recipe.files {
            let to = staging.path().join(&file.to);
            let folder = to.parent().unwrap_or(staging.path());
            fs::create_dir_all(folder).map_err(TaskError::io("create", folder))?;
            fs::copy(&file.from, &to).map_err(TaskError::io("copy", Path::new(&file.from)))?;
        }
        Ok(staging.publish(Origin {
            suite: recipe.suite.clone(),
            packages,
            release: None,
            recipe_sha256: recipe.sha256(),
            lacks: Vec::new(),
        })?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_versions() {
        let check = |version: &str, upstream: &str, expected: bool| {
            assert_eq!(is_upstream_version(version, upstream), expected, "{version} of {upstream}");
        };
        check("3.0+dfsg-1", "3.0", true);
        check("3.0-1", "3.0", true);
        check("3.0.1-1", "3.0", false);
        check("3.01-1", "3.0", false);
        check("2.7+dfsg-4+deb12u1", "2.7", true);
        check("", "2.7", false);
    }
}
