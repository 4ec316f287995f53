//! Kernels of the distribution: found by suite, downloaded, never installed.

use std::process::Command;

use ptediff_vm::store::{ArtifactKind, Manifest, Origin, PackageOrigin, Store};

use crate::apt::{Apt, OfferedPackage, escape_pattern, is_unknown_suite};
use crate::archive_sources::Archive;
use crate::error::TaskError;
use crate::progress::{note, step};
use crate::recipes::{FileInPackage, KernelCandidate, KernelRecipe};
use crate::system_packages::extract_file;

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
        let member = within(&candidate.image, &release);
        extract_file(&archive, &member, &staging.path().join("vmlinuz"), &logs, scratch.path())?;

        let config_package = candidate.config.package.replace(RELEASE, &release);
        let config_archive = if config_package == image.name {
            archive
        } else {
            let found = apt.find_one(&config_package)?;
            packages.push(origin(&found));
            apt.download(&found, scratch.path())?
        };
        let member = within(&candidate.config, &release);
        extract_file(&config_archive, &member, &staging.path().join("config"), &logs, scratch.path())
    })?;
    Ok(staging.publish(Origin {
        suite: candidate.suite.clone(),
        packages,
        release: Some(release),
        recipe_sha256: recipe.sha256(),
    })?)
}

fn within(file: &FileInPackage, release: &str) -> String {
    file.file.replace(RELEASE, release)
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
