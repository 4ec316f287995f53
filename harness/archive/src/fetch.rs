//! A kernel of the distribution: downloaded, taken apart, never installed.

use std::path::{Path, PathBuf};

use ptediff_vm::store::{ArtifactKind, Manifest, Origin, PackageOrigin, Store};
use ptediff_vm::{ModuleError, ModuleFiles};

use crate::apt::{Apt, OfferedPackage};
use crate::archive_sources::Archive;
use crate::error::ArchiveError;
use crate::offered::{OfferedFile, OfferedKernel};
use crate::progress::{Progress, step};
use crate::recipe::KernelsRecipe;
use crate::unpack::{each_file, no_file, plain, write_file};

/// Puts a kernel that a suite serves into the cache, under its release. The suite's index must be there.
pub(crate) fn fetch(
    store: &Store,
    archive: &Archive,
    recipe: &KernelsRecipe,
    progress: &dyn Progress,
    kernel: &OfferedKernel,
) -> Result<Manifest, ArchiveError> {
    let kind = ArtifactKind::Kernel;
    let (staging, scratch) = (store.stage(kind, &kernel.release)?, store.stage(kind, &kernel.release)?);
    let mut fetching = Fetching {
        apt: Apt::for_downloads(store.root(), archive, &kernel.suite, false)?,
        scratch: scratch.path(),
        logs: store.root().join("logs"),
        packages: Vec::new(),
    };
    let mut lacks = kernel.lacks.clone();
    let title = format!("kernel {}: version {} from {}", kernel.release, kernel.package_version(), kernel.suite);
    step(progress, &title, || -> Result<(), ArchiveError> {
        fetching.file(&kernel.image, &staging.path().join("vmlinuz"))?;
        if let Some(config) = &kernel.config {
            fetching.file(config, &staging.path().join("config"))?;
        }
        if let Some(place) = &kernel.modules {
            let modules = fetching.modules(place, &recipe.module_folders)?;
            let malformed = |error: ModuleError| ArchiveError::Malformed {
                what: place.package.name.clone(),
                reason: error.to_string(),
            };
            let ordered = modules.for_swap().map_err(malformed)?;
            if ordered.is_empty() {
                lacks.push(format!("no modules: there is no zram in the package {}", place.package.name));
            }
            for (index, module) in ordered.into_iter().enumerate() {
                let to = staging.path().join("modules").join(module_file_name(index, &module.name));
                write_file(&to, &mut module.content.as_slice())?;
            }
        }
        Ok(())
    })?;
    for lack in &lacks {
        progress.note(&format!("kernel {}: {lack}", kernel.release));
    }
    Ok(staging.publish(Origin {
        suite: kernel.suite.clone(),
        packages: fetching.packages.iter().map(|(package, _)| origin(package)).collect(),
        release: Some(kernel.release.clone()),
        recipe_sha256: recipe.sha256(),
        lacks,
    })?)
}

struct Fetching<'a> {
    apt: Apt,
    scratch: &'a Path,
    logs: PathBuf,
    /// What was downloaded already, and to where.
    packages: Vec<(OfferedPackage, PathBuf)>,
}

impl Fetching<'_> {
    fn package(&mut self, package: &OfferedPackage) -> Result<PathBuf, ArchiveError> {
        if let Some((_, path)) = self.packages.iter().find(|(known, _)| known == package) {
            return Ok(path.clone());
        }
        let path = self.apt.download(package, self.scratch)?;
        self.packages.push((package.clone(), path.clone()));
        Ok(path)
    }

    fn file(&mut self, place: &OfferedFile, to: &Path) -> Result<(), ArchiveError> {
        let archive = self.package(&place.package)?;
        crate::unpack::extract_file(&archive, &place.path, to, &self.logs)
    }

    /// The modules of some folders of the package.
    fn modules(&mut self, place: &OfferedFile, folders: &[String]) -> Result<ModuleFiles, ArchiveError> {
        let archive = self.package(&place.package)?;
        let root = format!("{}/", plain(&place.path));
        let mut modules = ModuleFiles::default();
        each_file(&archive, &self.logs, |path, content| {
            let below = path.strip_prefix(&root).unwrap_or_default();
            if folders.iter().any(|folder| below.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))) {
                let mut packed = Vec::new();
                content.read_to_end(&mut packed).map_err(ArchiveError::io("unpack", &archive))?;
                modules.add(Path::new(path), packed);
            }
            Ok(())
        })?;
        if modules.is_empty() { Err(no_file(&archive, &root)) } else { Ok(modules) }
    }
}

/// The name of a module in the cache: sorted by name they are in the order in which they are loaded.
fn module_file_name(index: usize, name: &str) -> String {
    format!("{index:02}-{name}.ko")
}

/// A package as the manifest records it.
#[must_use]
pub fn origin(package: &OfferedPackage) -> PackageOrigin {
    PackageOrigin {
        package: package.name.clone(),
        version: package.version.clone(),
        sha256: Some(package.sha256.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_keep_the_order_in_which_they_are_loaded() {
        assert_eq!(module_file_name(0, "zsmalloc"), "00-zsmalloc.ko");
        assert_eq!(module_file_name(11, "zram"), "11-zram.ko");
    }
}
