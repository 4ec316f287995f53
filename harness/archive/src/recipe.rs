//! `vm-images/kernels.json`: which suites serve kernels, and how their packages are laid out.

use ptediff_vm::store::{is_series, sha256_of_bytes};
use serde::{Deserialize, Serialize};

use crate::error::ArchiveError;

const TEXT: &str = include_str!("../../../vm-images/kernels.json");
const FILE: &str = "vm-images/kernels.json";
const SCHEMA: u32 = 2;

/// Stands for what `uname -r` says.
pub(crate) const RELEASE: &str = "{release}";

/// `kernels.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelsRecipe {
    schema: u32,
    /// What a release ends with, behind a hyphen.
    pub flavour: String,
    /// Every suite that serves kernels. Of a release in several of them the first one's is taken.
    pub suites: Vec<String>,
    /// Series that set-up and the tests use, each with suites that are asked before all others.
    pub named: Vec<NamedSeries>,
    /// How packages are laid out. The first whose image package a suite has is a kernel's.
    pub(crate) layouts: Vec<Layout>,
    /// Folders of modules, below `kernel`, that are looked into for what a swap file takes.
    pub(crate) module_folders: Vec<String>,
}

/// A series with suites of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSeries {
    /// The name in the cache and on the command line.
    pub name: String,
    /// In the order of preference.
    pub suites: Vec<String>,
}

/// Where image, configuration and modules of a kernel are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    /// The compressed image.
    pub(crate) image: PlaceInPackage,
    /// The configuration.
    pub(crate) config: PlaceInPackage,
    /// The folder `kernel` of the modules.
    pub(crate) modules: PlaceInPackage,
}

/// A file or folder within a binary package.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaceInPackage {
    /// The package.
    pub(crate) package: String,
    /// The path, without a leading slash. A leading `usr/` counts as absent: suites differ in it.
    pub(crate) file: String,
}

impl KernelsRecipe {
    /// Reads the recipe that was compiled in.
    ///
    /// # Errors
    /// [`ArchiveError::Malformed`] if it is not of the known form.
    pub fn load() -> Result<Self, ArchiveError> {
        Self::parse(TEXT).map_err(|reason| ArchiveError::Malformed { what: FILE.to_owned(), reason })
    }

    fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct SchemaOnly {
            schema: u32,
        }
        let SchemaOnly { schema } = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if schema != SCHEMA {
            return Err(format!("schema {schema} is not {SCHEMA}"));
        }
        let recipe: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        debug_assert_eq!(recipe.schema, SCHEMA);
        for layout in &recipe.layouts {
            if layout.image.package.strip_suffix(RELEASE).is_none() {
                return Err(format!("package `{}` does not end with {RELEASE}", layout.image.package));
            }
        }
        match recipe.named.iter().find(|named| !is_series(&named.name)) {
            Some(named) => Err(format!("`{}` is no series", named.name)),
            None => Ok(recipe),
        }
    }

    /// Identifies how a kernel is taken apart: another recipe makes another artifact. Which suites are asked makes
    /// no difference to a kernel.
    #[must_use]
    pub fn sha256(&self) -> String {
        // Plain data: the serialisation cannot fail.
        let text = serde_json::to_string(&(&self.layouts, &self.module_folders)).unwrap_or_default();
        sha256_of_bytes(text.as_bytes())
    }

    /// The suites that are asked first for this name.
    #[must_use]
    pub fn preferred_suites(&self, name: &str) -> &[String] {
        self.named.iter().find(|named| named.name == name).map_or(&[], |named| &named.suites)
    }
}

impl PlaceInPackage {
    /// The package's name for a release.
    pub(crate) fn package_of(&self, release: &str) -> String {
        self.package.replace(RELEASE, release)
    }

    /// The path for a release.
    pub(crate) fn path_of(&self, release: &str) -> String {
        self.file.replace(RELEASE, release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_of_the_tree_is_sound() {
        let recipe = KernelsRecipe::load().expect("a recipe");
        let names: Vec<_> = recipe.named.iter().map(|named| named.name.as_str()).collect();
        assert_eq!(names, ["6.1", "6.12", "7.2"]);
        for suite in recipe.named.iter().flat_map(|named| &named.suites) {
            assert!(recipe.suites.contains(suite), "{suite}");
        }
        assert_eq!(recipe.preferred_suites("6.18"), &[] as &[String]);
    }

    #[test]
    fn other_forms_are_refused_by_name() {
        let check = |from: &str, to: &str, expected: &str| {
            assert!(TEXT.contains(from), "{from}");
            let reason = KernelsRecipe::parse(&TEXT.replacen(from, to, 1)).expect_err("refused");
            assert!(reason.contains(expected), "{reason}");
        };
        check("\"schema\": 2", "\"schema\": 1", "schema 1 is not 2");
        check("\"flavour\"", "\"flavor\"", "flavor");
        check("\"linux-binary-{release}\"", "\"linux-binary\"", "does not end with {release}");
        check("\"name\": \"6.12\"", "\"name\": \"6.12.95\"", "is no series");
    }

    #[test]
    fn only_what_changes_a_kernel_changes_the_digest() {
        let recipe = KernelsRecipe::load().expect("a recipe");
        let mut fewer_suites = recipe.clone();
        fewer_suites.suites.pop();
        assert_eq!(recipe.sha256(), fewer_suites.sha256());
        let mut fewer_folders = recipe.clone();
        fewer_folders.module_folders.pop();
        assert_ne!(recipe.sha256(), fewer_folders.sha256());
    }
}
