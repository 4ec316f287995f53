//! What the archive serves, and getting it by name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use ptediff_vm::store::{ArtifactKind, Manifest, Store, StoreError};

use crate::apt::{Apt, is_unknown_suite};
use crate::archive_sources::Archive;
use crate::error::ArchiveError;
use crate::fetch::fetch;
use crate::lock::SetUpLock;
use crate::offered::{OfferedKernel, kernels_of, merge, newest_of_name, package_pattern};
use crate::progress::{Progress, step};
use crate::recipe::KernelsRecipe;

/// The archive's kernels and the cache's.
pub struct Kernels<'a> {
    store: &'a Store,
    archive: &'a Archive,
    recipe: &'a KernelsRecipe,
    progress: &'a dyn Progress,
    /// Held for as long as this lives.
    _lock: &'a SetUpLock,
    /// What was asked for already: each suite's index is fetched once.
    asked: RefCell<BTreeMap<String, Asked>>,
}

type Asked = Result<Rc<Vec<OfferedKernel>>, String>;

/// What the archive serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The newest first.
    pub kernels: Vec<OfferedKernel>,
    /// Suites that could not be asked.
    pub skipped: Vec<SkippedSuite>,
}

/// A suite that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedSuite {
    /// Its name.
    pub suite: String,
    /// Why.
    pub reason: String,
}

impl<'a> Kernels<'a> {
    /// The kernels of an archive, for a cache of which the caller holds the lock.
    #[must_use]
    pub fn new(
        store: &'a Store,
        archive: &'a Archive,
        recipe: &'a KernelsRecipe,
        lock: &'a SetUpLock,
        progress: &'a dyn Progress,
    ) -> Self {
        Self { store, archive, recipe, progress, _lock: lock, asked: RefCell::default() }
    }

    /// Every kernel that the archive serves. A suite that this mirror has not is skipped by name.
    ///
    /// # Errors
    /// [`ArchiveError`] if a suite cannot be asked for another reason: no network, a wrong signature.
    pub fn list(&self) -> Result<Listing, ArchiveError> {
        let (mut found, mut skipped) = (Vec::new(), Vec::new());
        for suite in &self.recipe.suites {
            match self.of_suite(suite)? {
                Ok(kernels) => found.push(kernels.as_ref().clone()),
                Err(reason) => skipped.push(SkippedSuite { suite: suite.clone(), reason }),
            }
        }
        Ok(Listing { kernels: merge(found), skipped })
    }

    /// The kernel that a name means in the archive today: for a series that has suites of its own the newest there,
    /// else the newest of all that answer to it.
    ///
    /// # Errors
    /// [`ArchiveError::NotOffered`] if no suite has one; as for [`Kernels::list`].
    pub fn find(&self, name: &str) -> Result<OfferedKernel, ArchiveError> {
        for suite in self.recipe.preferred_suites(name) {
            match self.of_suite(suite)? {
                Ok(kernels) => {
                    if let Some(kernel) = newest_of_name(&kernels, name) {
                        return Ok(kernel.clone());
                    }
                    self.progress.note(&format!("kernel {name}: {suite} has none"));
                }
                Err(reason) => self.progress.note(&format!("kernel {name}: {suite} is skipped: {reason}")),
            }
        }
        let Listing { kernels, skipped } = self.list()?;
        for SkippedSuite { suite, reason } in &skipped {
            self.progress.note(&format!("kernel {name}: {suite} is skipped: {reason}"));
        }
        newest_of_name(&kernels, name).cloned().ok_or_else(|| {
            let skipped = skipped.iter().map(|one| one.suite.as_str());
            let asked =
                self.recipe.suites.iter().map(String::as_str).filter(|suite| !skipped.clone().any(|one| one == *suite));
            let mut tried = format!("none of {} has one", asked.collect::<Vec<_>>().join(", "));
            let skipped: Vec<_> = skipped.clone().collect();
            if !skipped.is_empty() {
                tried += &format!("; {} could not be asked", skipped.join(", "));
            }
            ArchiveError::NotOffered { task: format!("getting kernel {name}"), tried }
        })
    }

    /// Gets the kernel that a name means in the archive today into the cache, under its release; the name then
    /// stands for it.
    ///
    /// # Errors
    /// [`ArchiveError`] with the step that failed.
    pub fn fetch(&self, name: &str) -> Result<Manifest, ArchiveError> {
        self.fetch_as(name, name)
    }

    /// As [`Kernels::fetch`], and another name stands for the kernel: `6.12` for 6.12.118, say.
    ///
    /// # Errors
    /// As for [`Kernels::fetch`].
    pub fn fetch_as(&self, name: &str, wanted: &str) -> Result<Manifest, ArchiveError> {
        let kernel = self.find(wanted)?;
        let is_this = |manifest: &Manifest| {
            manifest.recipe_sha256 == self.recipe.sha256() && manifest.package_version() == kernel.package_version()
        };
        let manifest = match self.store.manifest(ArtifactKind::Kernel, &kernel.release) {
            Ok(manifest) if is_this(&manifest) => manifest,
            // Whatever is there instead is replaced; a cache that cannot be used says so again.
            _ => fetch(self.store, self.archive, self.recipe, self.progress, &kernel)?,
        };
        if name != kernel.release {
            self.store.name_kernel(name, &kernel.release)?;
        }
        Ok(manifest)
    }

    /// Drops a kernel from the cache, with every name that stands for it. Returns its release.
    ///
    /// # Errors
    /// [`StoreError`] if there is none of that name or it cannot be removed.
    pub fn drop(&self, name: &str) -> Result<String, StoreError> {
        self.store.drop_kernel(name)
    }

    /// The kernels of a suite, or why it is skipped.
    fn of_suite(&self, suite: &str) -> Result<Asked, ArchiveError> {
        if let Some(asked) = self.asked.borrow().get(suite) {
            return Ok(asked.clone());
        }
        let apt = Apt::for_downloads(self.store.root(), self.archive, suite, false)?;
        let asked = match step(self.progress, &format!("package index of {suite}"), || apt.update()) {
            Ok(()) => {
                let packages = apt.find(&package_pattern(self.recipe))?;
                Ok(Rc::new(kernels_of(self.recipe, suite, &packages)))
            }
            Err(error) if is_unknown_suite(&error) => Err("the mirror has no such suite".to_owned()),
            Err(error) => return Err(error),
        };
        self.asked.borrow_mut().insert(suite.to_owned(), asked.clone());
        Ok(asked)
    }
}
