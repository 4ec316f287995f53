//! Kernels of the distribution: found by suite, downloaded, never installed.

use std::path::Path;
use std::process::Command;

use ptediff_vm::store::{ArtifactKind, Manifest, Origin, PackageOrigin, Store};

use crate::apt::{Apt, OfferedPackage, escape_pattern, is_unknown_suite};
use crate::archive_sources::Archive;
use crate::error::TaskError;
use crate::progress::{note, step};
use crate::recipes::{FileInPackage, KernelCandidate, KernelRecipe};
use crate::system_packages::extract_file;
use crate::tool::Tool;

const RELEASE: &str = "{release}";

/// Gets a kernel's image and configuration into the cache.
///
/// # Errors
/// [`TaskError`] with the step that failed.
pub fn make(store: &Store, archive: &Archive, recipe: &KernelRecipe) -> Result<Manifest, TaskError> {
    let mut tried = Vec::new();
    for candidate in &recipe.candidates {
        let suite = &candidate.suite;
        let apt = Apt::for_downloads(store.root(), archive, suite, false)?;
        match step(&format!("kernel {}: package index of {suite}", recipe.name), || apt.update()) {
            Ok(()) => {}
            Err(error) if is_unknown_suite(&error) => {
                note(&format!("kernel {}: the mirror has no suite {suite}", recipe.name));
                tried.push(format!("{suite} (the mirror has no such suite)"));
                continue;
            }
            Err(error) => return Err(error),
        }
        let prefix = candidate.image.package.replace(RELEASE, "");
        let pattern = format!("{}{}", escape_pattern(&prefix), recipe.release_pattern);
        match newest(apt.find(&pattern)?)? {
            Some(image) => return fetch(store, recipe, candidate, &apt, &image, &prefix),
            None => {
                note(&format!("kernel {}: {suite} has no such package", recipe.name));
                tried.push(format!("{suite} (no package matches {pattern})"));
            }
        }
    }
    Err(TaskError::NotOffered { task: format!("getting kernel {}", recipe.name), tried: tried.join("; ") })
}

fn fetch(
    store: &Store,
    recipe: &KernelRecipe,
    candidate: &KernelCandidate,
    apt: &Apt,
    image: &OfferedPackage,
    prefix: &str,
) -> Result<Manifest, TaskError> {
    let release = image.name.strip_prefix(prefix).unwrap_or(&image.name).to_owned();
    let kind = ArtifactKind::Kernel;
    let staging = store.stage(kind, &recipe.name)?;
    let scratch = store.stage(kind, &recipe.name)?;
    let logs = store.root().join("logs");
    let mut packages: Vec<PackageOrigin> = Vec::new();
    let title = format!("kernel {}: {} {} from {}", recipe.name, image.name, image.version, candidate.suite);
    step(&title, || -> Result<(), TaskError> {
        let archive = apt.download(image, scratch.path())?;
        packages.push(origin(image));
        let mut archives = vec![(image.name.clone(), archive)];
        let mut extract = |file: &FileInPackage, to: &Path| -> Result<(), TaskError> {
            let package = file.package.replace(RELEASE, &release);
            let known = archives.iter().find(|(name, _)| *name == package).map(|(_, archive)| archive.clone());
            let archive = match known {
                Some(archive) => archive,
                None => {
                    let found = apt.find_one(&package)?;
                    packages.push(origin(&found));
                    let archive = apt.download(&found, scratch.path())?;
                    archives.push((package, archive.clone()));
                    archive
                }
            };
            extract_file(&archive, &file.file.replace(RELEASE, &release), to, &logs, scratch.path())
        };
        extract(&candidate.image, &staging.path().join("vmlinuz"))?;
        extract(&candidate.config, &staging.path().join("config"))?;
        for (index, module) in candidate.modules.iter().enumerate() {
            let packed = module.file.rsplit('/').next().unwrap_or(&module.file);
            let plain = staging.path().join("modules").join(module_file_name(index, packed));
            if packed.ends_with(".xz") {
                let compressed = plain.with_added_extension("xz");
                extract(module, &compressed)?;
                unpack_xz(&compressed, &logs)?;
            } else {
                extract(module, &plain)?;
            }
        }
        Ok(())
    })?;
    Ok(staging.publish(Origin {
        suite: candidate.suite.clone(),
        packages,
        release: Some(release),
        recipe_sha256: recipe.sha256(),
    })?)
}

/// The name of a module in the cache: sorted by name they are in the order in which they are loaded.
fn module_file_name(index: usize, packed: &str) -> String {
    format!("{index:02}-{}", packed.strip_suffix(".xz").unwrap_or(packed))
}

/// Takes the place of `name.xz` by `name`.
fn unpack_xz(compressed: &Path, logs: &Path) -> Result<(), TaskError> {
    let tool = Tool {
        task: format!("unpacking {}", compressed.display()),
        log: logs.join("unpack.log"),
        remedy: "the package may be damaged, or xz-utils not be installed".to_owned(),
    };
    tool.run(Command::new("xz").arg("--decompress").arg("--force").arg(compressed))
}

pub(crate) fn origin(package: &OfferedPackage) -> PackageOrigin {
    PackageOrigin {
        package: package.name.clone(),
        version: package.version.clone(),
        sha256: Some(package.sha256.clone()),
    }
}

/// The package with the highest version, by the distribution's own comparison.
fn newest(packages: Vec<OfferedPackage>) -> Result<Option<OfferedPackage>, TaskError> {
    let mut best: Option<OfferedPackage> = None;
    for package in packages {
        let better = match &best {
            Some(best) => is_newer(&package.version, &best.version)?,
            None => true,
        };
        if better {
            best = Some(package);
        }
    }
    Ok(best)
}

fn is_newer(left: &str, right: &str) -> Result<bool, TaskError> {
    let status = Command::new("dpkg").args(["--compare-versions", left, "gt", right]).status();
    let status = status.map_err(|cause| TaskError::NotStarted {
        task: "comparing package versions".to_owned(),
        program: "dpkg".to_owned(),
        cause,
        remedy: "ptediff is set up on Debian 12".to_owned(),
    })?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_keep_the_order_in_which_they_are_loaded() {
        assert_eq!(module_file_name(0, "zsmalloc.ko"), "00-zsmalloc.ko");
        assert_eq!(module_file_name(11, "zram.ko.xz"), "11-zram.ko");
    }

    #[test]
    fn the_highest_version_wins_by_number_not_by_letter() {
        let package = |version: &str| OfferedPackage {
            name: format!("linux-image-{version}"),
            version: version.to_owned(),
            sha256: String::new(),
        };
        let found = newest(vec![package("6.12.95-1~bpo12+1"), package("6.12.107-1"), package("6.12.43-1")]);
        assert_eq!(found.expect("dpkg").map(|package| package.version).as_deref(), Some("6.12.107-1"));
        assert_eq!(newest(Vec::new()).expect("nothing to compare"), None);
    }
}
