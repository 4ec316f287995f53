//! The recipes of `vm-images/`: which suites, packages, options and patches make a kernel or an emulator.

use ptediff_archive::KernelsRecipe;
use ptediff_vm::store::sha256_of_bytes;
use serde::{Deserialize, Serialize};

use crate::error::TaskError;

const EMULATORS: &str = include_str!("../../vm-images/emulators.json");
const MODULES: &str = include_str!("../../vm-images/modules.json");
const SELFTESTS: &str = include_str!("../../vm-images/selftests.json");
const PACKAGES: &str = include_str!("../../vm-images/packages.json");

/// Patches that a recipe may name, by file name in `vm-images/bochs/`.
const PATCHES: [(&str, &str); 4] = [
    ("load-ram-by-block.patch", include_str!("../../vm-images/bochs/load-ram-by-block.patch")),
    ("supervisor-protection-keys.patch", include_str!("../../vm-images/bochs/supervisor-protection-keys.patch")),
    ("xrstors-compacted-offset.patch", include_str!("../../vm-images/bochs/xrstors-compacted-offset.patch")),
    ("read-only-entry-stays-clean.patch", include_str!("../../vm-images/bochs/read-only-entry-stays-clean.patch")),
];

/// All recipes.
#[derive(Debug, Clone)]
pub struct Recipes {
    /// `kernels.json`.
    pub kernels: KernelsRecipe,
    /// `emulators.json`.
    pub emulators: EmulatorRecipes,
    /// `packages.json`.
    pub packages: PackageRecipe,
    /// `modules.json`.
    pub modules: ModuleRecipes,
    /// `selftests.json`.
    pub selftests: SelftestRecipes,
}

/// `emulators.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmulatorRecipes {
    schema: u32,
    /// The emulator that is built here.
    pub built_from_source: SourceRecipe,
    /// The one that the distribution built.
    pub taken_from_the_system: SystemRecipe,
    /// The one that is used where it is installed.
    pub qemu: QemuRecipe,
}

/// How to build Bochs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecipe {
    /// The name in the cache.
    pub name: String,
    /// The suite that has the source package.
    pub suite: String,
    /// The source package.
    pub source_package: String,
    /// The version without the distribution's revision must begin with this.
    pub upstream_version: String,
    /// System packages that the build needs.
    pub build_packages: Vec<String>,
    /// For the compilers of C and C++.
    pub compiler_flags: String,
    /// Arguments of `configure`.
    pub configure: Vec<String>,
    /// File names in `vm-images/bochs/`.
    pub patches: Vec<String>,
    /// Firmware from binary packages of the same suite.
    pub firmware: Vec<FirmwareFile>,
}

/// A file of a binary package and its place in the artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareFile {
    /// The package.
    pub package: String,
    /// The path in the package, without a leading slash.
    pub file: String,
    /// The path in the artifact.
    pub to: String,
}

/// An emulator that the system's packages bring.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemRecipe {
    /// The name in the cache.
    pub name: String,
    /// The suite that the packages belong to.
    pub suite: String,
    /// Packages to install; the first one's version is the emulator's.
    pub packages: Vec<String>,
    /// What the first package's version must begin with.
    pub required_version_prefix: String,
    /// Which files to copy, and to where.
    pub files: Vec<CopiedFile>,
}

/// A file of the system and its place in the artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopiedFile {
    /// Absolute path on this machine.
    pub from: String,
    /// The path in the artifact.
    pub to: String,
}

/// QEMU as the system's package.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QemuRecipe {
    /// The package.
    pub package: String,
    /// The suite to install it from.
    pub suite: String,
    /// The lowest upstream major version that will do.
    pub minimum_major_version: u32,
}

/// `packages.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageRecipe {
    schema: u32,
    /// What building the workspace needs.
    pub build: Vec<String>,
    /// What the tests need besides.
    pub test: Vec<String>,
    /// What the linters need besides.
    pub lint: Vec<String>,
    /// What building kernel modules needs besides.
    pub modules: Vec<String>,
    /// What building the kernel's selftests needs besides.
    pub selftests: Vec<String>,
}

/// `modules.json`: what our own kernel modules are built against.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleRecipes {
    schema: u32,
    /// The headers of each kernel.
    pub headers: Vec<HeadersRecipe>,
    /// Releases, all suites that add to them included, whose build tools run on this machine as they are.
    pub releases_with_tools_for_this_machine: Vec<String>,
    /// Packages of another suite with the libraries of its build tools.
    pub libraries_of_other_tools: Vec<String>,
    /// Which of another suite's build tools need them, below the folder of the kernel's scripts and tools.
    pub other_tools: Vec<String>,
    /// Options that headers ask for and this machine's compiler does not know; each is given with or without `=value`.
    pub options_of_newer_compilers: Vec<String>,
}

/// The headers of one kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadersRecipe {
    /// The kernel's name in the cache.
    pub kernel: String,
    /// Packages of the kernel's suite; `{release}` is what `uname -r` says, `{version}` the same without the flavour.
    pub packages: Vec<String>,
}

/// `selftests.json`: how the kernel's own selftests are built.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelftestRecipes {
    schema: u32,
    /// The source of each kernel that has selftests.
    pub sources: Vec<SelftestSource>,
    /// Folders of `tools/testing/selftests` that are built.
    pub targets: Vec<String>,
    /// Folders of the source that no selftest needs: they are not unpacked.
    pub left_out: Vec<String>,
}

/// The source of one kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SelftestSource {
    /// The kernel's name in the cache.
    pub kernel: String,
    /// A binary package of the kernel's suite, which has `usr/src/<package>.tar.xz` with the folder `<package>`.
    pub package: String,
}

impl Recipes {
    /// Reads the recipes that were compiled in.
    ///
    /// # Errors
    /// [`TaskError::Malformed`] if a file is not of the known form.
    pub fn load() -> Result<Self, TaskError> {
        let emulators: EmulatorRecipes = parse("vm-images/emulators.json", EMULATORS)?;
        let selftests: SelftestRecipes = parse("vm-images/selftests.json", SELFTESTS)?;
        let packages: PackageRecipe = parse("vm-images/packages.json", PACKAGES)?;
        let modules: ModuleRecipes = parse("vm-images/modules.json", MODULES)?;
        for schema in [emulators.schema, packages.schema, modules.schema, selftests.schema] {
            if schema != 1 {
                let reason = format!("schema {schema} is not 1");
                return Err(TaskError::Malformed { what: "a recipe in vm-images/".to_owned(), reason });
            }
        }
        Ok(Self { kernels: KernelsRecipe::load()?, emulators, packages, modules, selftests })
    }
}

impl SourceRecipe {
    /// Identifies the recipe with its patches.
    ///
    /// # Errors
    /// [`TaskError::Malformed`] if a patch does not exist.
    pub fn sha256(&self) -> Result<String, TaskError> {
        let patches = self.patch_texts()?;
        Ok(digest(self, &patches.concat()))
    }

    /// The patches in their order.
    ///
    /// # Errors
    /// [`TaskError::Malformed`] if a patch does not exist.
    pub fn patch_texts(&self) -> Result<Vec<&'static str>, TaskError> {
        let text = |name: &String| {
            let patch = PATCHES.iter().find(|(known, _)| known == name);
            patch.map(|(_, text)| *text).ok_or_else(|| TaskError::Malformed {
                what: "vm-images/emulators.json".to_owned(),
                reason: format!("there is no patch `{name}`"),
            })
        };
        self.patches.iter().map(text).collect()
    }
}

impl ModuleRecipes {
    /// The headers of a kernel.
    ///
    /// # Errors
    /// [`TaskError::UnknownName`] if there is no recipe for them.
    pub fn headers_of(&self, kernel: &str) -> Result<&HeadersRecipe, TaskError> {
        self.headers.iter().find(|headers| headers.kernel == kernel).ok_or_else(|| {
            let known: Vec<_> = self.headers.iter().map(|headers| headers.kernel.as_str()).collect();
            TaskError::UnknownName { kind: "the modules of kernel", name: kernel.to_owned(), known: known.join(", ") }
        })
    }

    /// Identifies the recipe together with what it is applied to.
    #[must_use]
    pub fn sha256_with(&self, attachments: &str) -> String {
        digest(self, attachments)
    }
}

impl SelftestRecipes {
    /// The source of a kernel's selftests.
    ///
    /// # Errors
    /// [`TaskError::UnknownName`] if there is no recipe for it.
    pub fn source_of(&self, kernel: &str) -> Result<&SelftestSource, TaskError> {
        self.sources.iter().find(|source| source.kernel == kernel).ok_or_else(|| {
            let known: Vec<_> = self.sources.iter().map(|source| source.kernel.as_str()).collect();
            TaskError::UnknownName { kind: "the selftests of kernel", name: kernel.to_owned(), known: known.join(", ") }
        })
    }

    /// Identifies the recipe together with the kernel that it is applied to.
    #[must_use]
    pub fn sha256_with(&self, kernel: &str) -> String {
        digest(self, kernel)
    }
}

impl SystemRecipe {
    /// Identifies the recipe.
    #[must_use]
    pub fn sha256(&self) -> String {
        digest(self, "")
    }
}

fn digest(recipe: &impl Serialize, attachments: &str) -> String {
    // A recipe is plain data: its serialisation cannot fail.
    let text = serde_json::to_string(recipe).unwrap_or_default();
    sha256_of_bytes((text + attachments).as_bytes())
}

fn parse<'text, T: Deserialize<'text>>(name: &str, text: &'text str) -> Result<T, TaskError> {
    serde_json::from_str(text)
        .map_err(|error| TaskError::Malformed { what: name.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipes_of_the_tree_are_sound() {
        let recipes = Recipes::load().expect("recipes");
        let names: Vec<_> = recipes.kernels.named.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, ["6.1", "6.12", "7.2"]);
        let bochs = &recipes.emulators.built_from_source;
        assert_eq!(bochs.patch_texts().expect("patches").len(), bochs.patches.len());
        assert!(bochs.configure.iter().any(|option| option == "--enable-cet"));
        for name in names {
            recipes.modules.headers_of(name).expect("headers for every kernel");
        }
    }

    #[test]
    fn a_changed_recipe_has_another_digest() {
        let recipes = Recipes::load().expect("recipes");
        let bochs = recipes.emulators.built_from_source;
        let mut changed = bochs.clone();
        changed.configure.pop();
        assert_ne!(bochs.sha256().expect("digest"), changed.sha256().expect("digest"));
        let mut unpatched = bochs.clone();
        unpatched.patches.clear();
        assert_ne!(bochs.sha256().expect("digest"), unpatched.sha256().expect("digest"));
        changed.patches = vec!["absent.patch".to_owned()];
        changed.sha256().expect_err("no such patch");
    }
}
