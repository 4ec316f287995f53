//! Set-up: what a command needs, what of it is missing, and how the missing part comes.
//!
//! When nothing is missing, neither the network nor apt is asked. Otherwise one set-up at a time holds a
//! lock in the cache.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::Uid;
use ptediff_archive::archive_sources::Archive;
use ptediff_archive::{Kernels, SetUpLock};
use ptediff_vm::store::{ArtifactKind, KernelArtifact, Manifest, Store, StoreError, is_series, kernel_answers_to};

use crate::error::TaskError;
use crate::progress::{Terminal, note};
use crate::recipes::Recipes;
use crate::system_packages::{self, MissingPackages};
use crate::{bochs, modules, selftests};

/// Free space needed while a kernel is downloaded and unpacked, with the suite's index.
const KERNEL_MIB: u64 = 200;
/// Free space needed while our modules are built for a kernel: its headers, unpacked.
const MODULES_MIB: u64 = 150;
/// Free space needed while selftests are built: the kernel's source, packed twice and unpacked.
const SELFTESTS_MIB: u64 = 800;
/// Free space needed while Bochs is built, with the suite's indexes.
const BOCHS_BUILD_MIB: u64 = 250;
/// Free space needed for a copy of an installed emulator.
const COPY_MIB: u64 = 10;

/// An emulator that set-up can provide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Backend {
    /// Built from the source package, CPU with user shadow stacks.
    Bochs30,
    /// The distribution's own, whose shadow stacks are broken: for the test that it is refused.
    Bochs27,
    /// The distribution's QEMU, without shadow stacks.
    Qemu,
}

impl Backend {
    /// Every backend.
    pub const ALL: [Self; 3] = [Self::Bochs30, Self::Bochs27, Self::Qemu];

    /// A backend by the name that the user or an error's remedy gives it.
    ///
    /// # Errors
    /// [`TaskError::UnknownName`] with the names that exist.
    pub fn from_name(name: &str) -> Result<Self, TaskError> {
        match name {
            "bochs" | "bochs-3.0" => Ok(Self::Bochs30),
            "bochs-2.7" => Ok(Self::Bochs27),
            "qemu" => Ok(Self::Qemu),
            _ => {
                let known = "bochs (bochs-3.0), bochs-2.7, qemu".to_owned();
                Err(TaskError::UnknownName { kind: "backend", name: name.to_owned(), known })
            }
        }
    }
}

/// A kernel that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRequest {
    /// The name in the cache and on the command line.
    pub name: String,
    /// The kernel that it shall stand for, where the name itself does not say: series, version or release.
    pub wanted: Option<String>,
}

impl KernelRequest {
    /// By its name alone.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        Self { name: name.to_owned(), wanted: None }
    }

    /// As the command line has it: `NAME`, or `NAME=KERNEL`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((name, wanted)) => Self { name: name.to_owned(), wanted: Some(wanted.to_owned()) },
            None => Self::of_name(text),
        }
    }

    /// Whether the cache has it, made by the recipe of today.
    fn is_ready(&self, store: &Store, recipe_sha256: &str, announce: impl Fn(&str)) -> Result<bool, TaskError> {
        // Which kernel of a series was chosen must not change with the next one that is fetched.
        let must_be_named = self.wanted.is_some() || is_series(&self.name);
        if must_be_named && !store.has_name(ArtifactKind::Kernel, &self.name) {
            return Ok(false);
        }
        let Some(wanted) = &self.wanted else {
            return is_ready(store, ArtifactKind::Kernel, &self.name, recipe_sha256, announce);
        };
        match store.manifest(ArtifactKind::Kernel, &self.name) {
            Ok(manifest) => {
                let release = manifest.release.as_deref().unwrap_or_default();
                Ok(manifest.recipe_sha256 == recipe_sha256
                    && kernel_answers_to(wanted, release, manifest.package_version()))
            }
            Err(error) if error.is_mended_by_set_up() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a command needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// The packages that building the workspace needs.
    pub build: bool,
    /// The packages that the tests need.
    pub test: bool,
    /// The packages that the linters need.
    pub lint: bool,
    /// Kernels.
    pub kernels: Vec<KernelRequest>,
    /// Emulators.
    pub backends: Vec<Backend>,
    /// Kernels, by name, that our modules are built for; those kernels are needed too.
    pub modules: Vec<String>,
    /// Kernels, by name, whose own selftests are built; those kernels are needed too.
    pub selftests: Vec<String>,
}

impl Needs {
    /// For the main job: the default kernel in the default emulator.
    #[must_use]
    pub fn of_run() -> Self {
        let kernels = vec![KernelRequest::of_name("6.12")];
        Self { build: true, kernels, backends: vec![Backend::Bochs30], ..Self::default() }
    }

    /// For all tests: every kernel and every emulator, without the kernel's own selftests.
    #[must_use]
    pub fn of_tests(recipes: &Recipes) -> Self {
        let modules: Vec<_> = recipes.kernels.named.iter().map(|kernel| kernel.name.clone()).collect();
        let kernels = modules.iter().map(|name| KernelRequest::of_name(name)).collect();
        Self { build: true, test: true, kernels, backends: Backend::ALL.to_vec(), modules, ..Self::default() }
    }
}

/// What of it is not there yet.
#[derive(Debug)]
struct Missing {
    packages: MissingPackages,
    kernels: Vec<KernelRequest>,
    build_bochs: bool,
    take_bochs: bool,
    /// Kernels that lack our modules.
    modules: Vec<String>,
    /// Kernels that lack their selftests.
    selftests: Vec<String>,
}

impl Missing {
    fn is_empty(&self) -> bool {
        self.packages.is_empty()
            && self.kernels.is_empty()
            && !self.build_bochs
            && !self.take_bochs
            && self.modules.is_empty()
            && self.selftests.is_empty()
    }

    fn needed_mib(&self) -> u64 {
        let kernels = self.kernels.iter().map(|_| KERNEL_MIB).sum::<u64>();
        let build = if self.build_bochs { BOCHS_BUILD_MIB } else { 0 };
        let copy = if self.take_bochs { COPY_MIB } else { 0 };
        let indexes = if self.packages.is_empty() { 0 } else { COPY_MIB };
        let modules = if self.modules.is_empty() { 0 } else { MODULES_MIB };
        let selftests = if self.selftests.is_empty() { 0 } else { SELFTESTS_MIB };
        kernels + build + copy + indexes + modules + selftests
    }
}

/// Provides what is needed and not there.
///
/// # Errors
/// [`TaskError`] with the step that failed; whatever was completed before it stays.
pub fn provide(recipes: &Recipes, needs: &Needs) -> Result<(), TaskError> {
    let store = Store::open()?;
    if find_missing(&store, recipes, needs, |_| ())?.is_empty() {
        return Ok(());
    }
    note(&format!("setting up in {}", store.root().display()));
    let terminal = Terminal::default();
    let lock = SetUpLock::take(&store, &terminal)?;
    // Another set-up may have finished while this one waited for the lock.
    let missing = find_missing(&store, recipes, needs, note)?;
    check_space(store.root(), missing.needed_mib())?;
    for leftover in store.remove_leftovers()? {
        note(&format!("removed what an interrupted set-up left: {}", leftover.display()));
    }
    let archive = Archive::of_this_machine()?;
    missing.packages.install(store.root(), &archive, Uid::effective().is_root())?;
    let kernels = Kernels::new(&store, &archive, &recipes.kernels, &lock, &terminal);
    for KernelRequest { name, wanted } in &missing.kernels {
        let manifest = kernels.fetch_as(name, wanted.as_ref().unwrap_or(name))?;
        report("kernel", name, &manifest);
    }
    if missing.build_bochs {
        let recipe = &recipes.emulators.built_from_source;
        let manifest = bochs::build(&store, &archive, recipe)?;
        report("emulator", &recipe.name, &manifest);
    }
    for name in &missing.modules {
        let manifest = modules::make(&store, &archive, &recipes.modules, name)?;
        note(&format!("modules for kernel {name} are built for {}", manifest.release.as_deref().unwrap_or_default()));
    }
    for name in &missing.selftests {
        let manifest = selftests::make(&store, &archive, &recipes.selftests, name)?;
        report("selftests of kernel", name, &manifest);
    }
    if missing.take_bochs {
        let recipe = &recipes.emulators.taken_from_the_system;
        let manifest = bochs::take_from_system(&store, recipe)?;
        report("emulator", &recipe.name, &manifest);
    }
    Ok(())
}

fn report(kind: &str, name: &str, manifest: &Manifest) {
    note(&format!("{kind} {name} is {} from {}", manifest.package_version(), manifest.suite));
}

fn find_missing(
    store: &Store,
    recipes: &Recipes,
    needs: &Needs,
    announce: impl Fn(&str),
) -> Result<Missing, TaskError> {
    let is_ready = |kind, name: &str, recipe_sha256: &str| is_ready(store, kind, name, recipe_sha256, &announce);
    let emulators = &recipes.emulators;
    let mut wanted_packages = Vec::new();
    if needs.build {
        wanted_packages.extend_from_slice(&recipes.packages.build);
    }
    if needs.test {
        wanted_packages.extend_from_slice(&recipes.packages.test);
    }
    if needs.lint {
        wanted_packages.extend_from_slice(&recipes.packages.lint);
    }

    let mut kernels = Vec::new();
    let built_for = needs.modules.iter().chain(&needs.selftests).map(|name| KernelRequest::of_name(name));
    let asked_for = |request: &KernelRequest| needs.kernels.iter().any(|kernel| kernel.name == request.name);
    let mut wanted_kernels = needs.kernels.clone();
    wanted_kernels.extend(built_for.filter(|request| !asked_for(request)));
    wanted_kernels.sort();
    wanted_kernels.dedup();
    for request in wanted_kernels {
        if !request.is_ready(store, &recipes.kernels.sha256(), &announce)? {
            kernels.push(request);
        }
    }

    let source = &emulators.built_from_source;
    let build_bochs = needs.backends.contains(&Backend::Bochs30)
        && !is_ready(ArtifactKind::Emulator, &source.name, &source.sha256()?)?;
    if build_bochs {
        wanted_packages.extend_from_slice(&source.build_packages);
    }
    let system = &emulators.taken_from_the_system;
    let wants_system_bochs = needs.backends.contains(&Backend::Bochs27);
    let take_bochs = wants_system_bochs && !is_ready(ArtifactKind::Emulator, &system.name, &system.sha256())?;
    if wants_system_bochs {
        // Its plug-ins and libraries stay where the packages put them.
        wanted_packages.extend_from_slice(&system.packages);
    }

    let needs_qemu = needs.backends.contains(&Backend::Qemu) && !system_packages::has_qemu(&emulators.qemu)?;
    let from_suite = needs_qemu.then(|| (emulators.qemu.package.clone(), emulators.qemu.suite.clone()));
    // What is made for one kernel is made anew for another.
    let is_ready_for =
        |kind, name: &String, wanted: &dyn Fn(&KernelArtifact) -> Result<String, TaskError>| match store.kernel(name) {
            _ if kernels.iter().any(|kernel| kernel.name == *name) => Ok(false),
            Ok(kernel) => is_ready(kind, name, &wanted(&kernel)?),
            Err(_) => Ok(false),
        };
    let mut without_modules = Vec::new();
    for name in &needs.modules {
        let wanted = |kernel: &KernelArtifact| modules::recipe_sha256(&recipes.modules, kernel);
        if !is_ready_for(ArtifactKind::Modules, name, &wanted)? {
            without_modules.push(name.clone());
        }
    }
    if !without_modules.is_empty() {
        wanted_packages.extend_from_slice(&recipes.packages.modules);
    }
    let mut without_selftests = Vec::new();
    for name in &needs.selftests {
        // A kernel without a recipe is refused before anything is fetched.
        recipes.selftests.source_of(name)?;
        let wanted = |kernel: &KernelArtifact| Ok(selftests::recipe_sha256(&recipes.selftests, kernel));
        if !is_ready_for(ArtifactKind::Selftests, name, &wanted)? {
            without_selftests.push(name.clone());
        }
    }
    if !without_selftests.is_empty() {
        wanted_packages.extend_from_slice(&recipes.packages.selftests);
    }
    let packages = MissingPackages { ordinary: system_packages::missing(&wanted_packages)?, from_suite };
    Ok(Missing { packages, kernels, build_bochs, take_bochs, modules: without_modules, selftests: without_selftests })
}

/// Whether an artifact is in the cache, sound, and made by the recipe of today.
fn is_ready(
    store: &Store,
    kind: ArtifactKind,
    name: &str,
    recipe_sha256: &str,
    announce: impl Fn(&str),
) -> Result<bool, TaskError> {
    match store.manifest(kind, name) {
        Ok(manifest) if manifest.recipe_sha256 == recipe_sha256 => Ok(true),
        Ok(_) => {
            announce(&format!("{kind} {name}: the recipe has changed, making it anew"));
            Ok(false)
        }
        Err(StoreError::Missing { .. }) => Ok(false),
        Err(error) if error.is_mended_by_set_up() => {
            announce(&format!("{error}; making it anew"));
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

fn check_space(cache: &Path, needed_mib: u64) -> Result<(), TaskError> {
    let failed = TaskError::io("ask for the free space of", cache);
    let space = statvfs(cache).map_err(|error| failed(error.into()))?;
    let available_mib = (space.blocks_available() * space.fragment_size()) >> 20;
    if available_mib >= needed_mib {
        return Ok(());
    }
    Err(TaskError::LittleSpace { cache: cache.to_path_buf(), available_mib, needed_mib })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_of_the_store_are_commands_that_set_up_knows() {
        for name in ["bochs-3.0", "bochs-2.7"] {
            let command = ArtifactKind::Emulator.set_up_command(name);
            let given = command.strip_prefix("cargo xtask setup --backend ").expect("a backend");
            Backend::from_name(given).expect("known");
        }
        Backend::from_name("vmware").expect_err("unknown");
    }

    #[test]
    fn a_cache_disk_that_is_too_small_is_named_before_anything_is_fetched() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        check_space(directory.path(), 0).expect("nothing needed");
        let error = check_space(directory.path(), u64::MAX).expect_err("more than any disk has");
        assert!(error.to_string().contains("MiB left"), "{error}");
    }

    #[test]
    fn an_artifact_of_another_recipe_is_made_anew() {
        use ptediff_vm::store::{Origin, PackageOrigin};

        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::at(directory.path());
        let kind = ArtifactKind::Emulator;
        let ready = |recipe: &str| is_ready(&store, kind, "bochs-3.0", recipe, |_| ()).expect("a sound cache");
        assert!(!ready("recipe of today"));
        let packages = vec![PackageOrigin { package: "bochs".to_owned(), version: "3.0".to_owned(), sha256: None }];
        let origin = Origin {
            suite: "trixie".to_owned(),
            packages,
            release: None,
            recipe_sha256: "recipe of today".to_owned(),
            lacks: Vec::new(),
        };
        store.stage(kind, "bochs-3.0").expect("staging").publish(origin).expect("published");
        assert!(ready("recipe of today"));
        assert!(!ready("recipe of tomorrow"));
    }

    #[test]
    fn a_kernel_is_ready_when_it_is_the_one_that_is_wanted() {
        use ptediff_vm::store::{Origin, PackageOrigin};

        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Store::at(directory.path());
        let release = "6.12.118+deb13-cloud-amd64";
        let package = "linux-image".to_owned();
        let packages = vec![PackageOrigin { package, version: "6.12.118-1".to_owned(), sha256: None }];
        let origin = Origin {
            suite: "trixie-security".to_owned(),
            packages,
            release: Some(release.to_owned()),
            recipe_sha256: "recipe of today".to_owned(),
            lacks: Vec::new(),
        };
        store.stage(ArtifactKind::Kernel, release).expect("staging").publish(origin).expect("published");
        let check = |request: &str, recipe: &str, expected: bool| {
            let ready = KernelRequest::parse(request).is_ready(&store, recipe, |_| ()).expect("a sound cache");
            assert_eq!(ready, expected, "{request}");
        };
        check("6.12.118", "recipe of today", true);
        check("6.12.118", "recipe of tomorrow", false);
        check("6.12", "recipe of today", false);
        check("6.12=6.12.118", "recipe of today", false);
        store.name_kernel("6.12", release).expect("a name");
        check("6.12", "recipe of today", true);
        check("6.12", "recipe of tomorrow", false);
        check("6.12=6.12.118", "recipe of today", true);
        check("6.12=6.12.118", "recipe of tomorrow", false);
        check("6.12=6.12.95", "recipe of today", false);
        check("lts=6.12.118", "recipe of today", false);
        check("7.2", "recipe of today", false);
    }

    #[test]
    fn the_main_job_needs_less_than_the_tests() {
        let recipes = Recipes::load().expect("recipes");
        let (run, tests) = (Needs::of_run(), Needs::of_tests(&recipes));
        assert!(run.kernels.iter().all(|name| tests.kernels.contains(name)));
        assert!(run.backends.iter().all(|backend| tests.backends.contains(backend)));
        assert!(run.modules.is_empty());
        assert!(tests.kernels.iter().map(|kernel| &kernel.name).eq(&tests.modules));
        assert!(tests.selftests.is_empty(), "they take longer than the rest of set-up");
        assert!(run.kernels.len() < tests.kernels.len() && run.backends.len() < tests.backends.len());
    }
}
