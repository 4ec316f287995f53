//! The cache of downloaded and built artifacts: kernels, emulators, kernel modules of ours, and kernels' selftests.
//!
//! `$PTEDIFF_CACHE`, else `$XDG_CACHE_HOME/ptediff`, else `~/.cache/ptediff` holds
//! `kernels/<release>/`, `emulators/<name>/`, `modules/<kernel's name>/` and `selftests/<kernel's name>/`. A name of a
//! kernel that is not its release (`6.12`) is a link to it; caches of old have a directory in its place. A directory
//! counts only with a `manifest.json` that names every file; set-up makes directories beside their final place and
//! renames them when they are complete. Using an artifact checks the sizes of its files; [`Store::verify`] also checks their
//! digests, which takes seconds.
//!
//! This module must not know how an artifact is made, nor reach for the network.

mod error;
mod kernel_name;
mod manifest;
mod staging;
#[cfg(test)]
mod tests;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{self, Component, Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use error::StoreError;
pub use kernel_name::{compare_releases, is_series, kernel_answers_to, upstream_version};
pub use manifest::{
    FileRecord, MANIFEST_FILE, MANIFEST_SCHEMA, Manifest, PackageOrigin, sha256_of_bytes, sha256_of_file,
};
pub use staging::{Origin, Staging};

/// What kind of thing a directory of the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ArtifactKind {
    /// A kernel image and its configuration.
    Kernel,
    /// An emulator with its firmware.
    Emulator,
    /// Our own kernel modules, built for the kernel of the same name.
    Modules,
    /// The selftests of the kernel of the same name, built from its own source.
    Selftests,
}

impl ArtifactKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Kernel, Self::Emulator, Self::Modules, Self::Selftests];

    /// The folder of the cache in which artifacts of this kind lie.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Kernel => "kernels",
            Self::Emulator => "emulators",
            Self::Modules => "modules",
            Self::Selftests => "selftests",
        }
    }

    /// The command that makes the artifact.
    #[must_use]
    pub fn set_up_command(self, name: &str) -> String {
        let option = match self {
            Self::Kernel => "--kernel",
            Self::Emulator => "--backend",
            Self::Modules => "--modules",
            Self::Selftests => "--selftests",
        };
        format!("cargo xtask setup {option} {name}")
    }
}

impl fmt::Display for ArtifactKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Kernel => "kernel",
            Self::Emulator => "emulator",
            Self::Modules => "modules for kernel",
            Self::Selftests => "selftests of kernel",
        })
    }
}

/// A kernel that is ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelArtifact {
    /// The compressed kernel image (bzImage).
    pub vmlinuz: PathBuf,
    /// The configuration it was built with, if the archive has it.
    pub config: Option<PathBuf>,
    /// Modules that a guest may load, in the order in which they are loaded.
    pub modules: Vec<PathBuf>,
    /// What it has not, and why, a sentence each.
    pub lacks: Vec<String>,
    /// The exact version of the distribution's package, "6.12.95-1~bpo12+1" say.
    pub package_version: String,
    /// What `uname -r` says in this kernel.
    pub release: String,
    /// The distribution's suite it came from.
    pub suite: String,
}

/// An emulator that is ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulatorArtifact {
    /// The program.
    pub program: PathBuf,
    /// The system firmware, `share/BIOS-bochs-latest`.
    pub system_bios: PathBuf,
    /// The graphics card's firmware, `share/VGABIOS-lgpl-latest`.
    pub vga_bios: PathBuf,
    /// The exact version of the distribution's (source) package.
    pub package_version: String,
    /// SHA-256 of the recipe it was made by.
    pub recipe_sha256: String,
}

/// One directory of the cache, sound or not.
#[derive(Debug)]
pub struct ListedArtifact {
    /// Kernel or emulator.
    pub kind: ArtifactKind,
    /// The directory's name.
    pub name: String,
    /// For a kernel's further name, the directory that it stands for.
    pub stands_for: Option<String>,
    /// Its manifest (sizes checked), or why it cannot be used.
    pub state: Result<Manifest, StoreError>,
}

/// The cache.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Finds the cache as the environment says. The directory need not exist yet.
    ///
    /// # Errors
    /// [`StoreError::NoHome`] if the environment does not say where.
    pub fn open() -> Result<Self, StoreError> {
        let root = cache_directory(|variable| env::var_os(variable)).ok_or(StoreError::NoHome)?;
        let root = path::absolute(&root)
            .map_err(|error| StoreError::from_io("find the current directory for", &root, error))?;
        Ok(Self { root })
    }

    /// The cache in a given directory.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cache's own directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A kernel by its name: what was set up by this name, else the newest of the cache that answers to it
    /// ([`kernel_answers_to`]).
    ///
    /// # Errors
    /// [`StoreError`] if it is missing, incomplete or damaged.
    pub fn kernel(&self, name: &str) -> Result<KernelArtifact, StoreError> {
        let kind = ArtifactKind::Kernel;
        let manifest = self.manifest(kind, name)?;
        let name = &self.located(kind, name)?;
        let file = |path: &str| self.listed_file(kind, name, &manifest, path);
        let release = manifest.release.clone();
        let modules = manifest.files.iter().filter(|file| file.path.starts_with("modules/"));
        Ok(KernelArtifact {
            vmlinuz: file("vmlinuz")?,
            config: manifest.files.iter().any(|file| file.path == "config").then(|| file("config")).transpose()?,
            lacks: manifest.lacks.clone(),
            modules: modules.map(|module| file(&module.path)).collect::<Result<_, _>>()?,
            package_version: manifest.package_version().to_owned(),
            release: release.ok_or_else(|| self.bad_manifest(kind, name, "no kernel release"))?,
            suite: manifest.suite.clone(),
        })
    }

    /// An emulator by its name in the cache, "bochs-3.0" say.
    ///
    /// # Errors
    /// [`StoreError`] if it is missing, incomplete or damaged.
    pub fn emulator(&self, name: &str) -> Result<EmulatorArtifact, StoreError> {
        let kind = ArtifactKind::Emulator;
        let manifest = self.manifest(kind, name)?;
        let file = |path| self.listed_file(kind, name, &manifest, path);
        Ok(EmulatorArtifact {
            program: file("bin/bochs")?,
            system_bios: file("share/BIOS-bochs-latest")?,
            vga_bios: file("share/VGABIOS-lgpl-latest")?,
            package_version: manifest.package_version().to_owned(),
            recipe_sha256: manifest.recipe_sha256.clone(),
        })
    }

    /// One of our own kernel modules, `helper-oracle` say, built for the kernel of this name.
    ///
    /// # Errors
    /// [`StoreError`] if it is missing, incomplete or damaged, or built for another kernel than the cache has now.
    pub fn module(&self, kernel: &str, module: &str) -> Result<PathBuf, StoreError> {
        let kind = ArtifactKind::Modules;
        let manifest = self.manifest(kind, kernel)?;
        let release = self.kernel(kernel)?.release;
        if manifest.release.as_deref() != Some(release.as_str()) {
            let built_for = manifest.release.as_deref().unwrap_or("no kernel");
            return Err(self.bad_manifest(kind, kernel, &format!("built for {built_for}, the kernel is {release}")));
        }
        self.listed_file(kind, kernel, &manifest, &format!("{module}.ko"))
    }

    /// The manifest of an artifact whose files all exist and have the right size.
    ///
    /// # Errors
    /// [`StoreError`] if the artifact is missing, incomplete or damaged.
    pub fn manifest(&self, kind: ArtifactKind, name: &str) -> Result<Manifest, StoreError> {
        let directory = self.directory(kind, &self.located(kind, name)?)?;
        let manifest = self.read_manifest(kind, name, &directory)?;
        for file in &manifest.files {
            let path = directory.join(&file.path);
            let size = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(damaged(kind, name, path, "the file is missing".to_owned()));
                }
                Err(error) => return Err(StoreError::from_io("read", &path, error)),
            };
            if size != file.size {
                let reason = format!("{size} bytes instead of {}", file.size);
                return Err(damaged(kind, name, path, reason));
            }
        }
        Ok(manifest)
    }

    /// As [`Store::manifest`], and every file's digest is compared too.
    ///
    /// # Errors
    /// [`StoreError`] if the artifact is missing, incomplete or damaged.
    pub fn verify(&self, kind: ArtifactKind, name: &str) -> Result<Manifest, StoreError> {
        let manifest = self.manifest(kind, name)?;
        let directory = self.directory(kind, &self.located(kind, name)?)?;
        for file in &manifest.files {
            let path = directory.join(&file.path);
            let found = sha256_of_file(&path).map_err(|error| StoreError::from_io("read", &path, error))?;
            if found != file.sha256 {
                let reason = format!("SHA-256 {found} instead of {}", file.sha256);
                return Err(damaged(kind, name, path, reason));
            }
        }
        Ok(manifest)
    }

    /// Everything in the cache, by kind and name. Unfinished directories are not listed.
    ///
    /// # Errors
    /// [`StoreError::Io`] if a folder exists and cannot be read.
    pub fn list(&self) -> Result<Vec<ListedArtifact>, StoreError> {
        let mut listed = Vec::new();
        for kind in ArtifactKind::ALL {
            for name in self.names(kind)? {
                if !name.starts_with('.') {
                    let state = self.manifest(kind, &name);
                    let target = fs::read_link(self.root.join(kind.folder()).join(&name));
                    let stands_for = target.ok().map(|target| target.to_string_lossy().into_owned());
                    listed.push(ListedArtifact { kind, name, stands_for, state });
                }
            }
        }
        Ok(listed)
    }

    /// A fresh directory in which to make an artifact.
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] or [`StoreError::NotWritable`] if the cache cannot be written.
    pub fn stage(&self, kind: ArtifactKind, name: &str) -> Result<Staging, StoreError> {
        Staging::new(self, kind, name)
    }

    /// Removes what a set-up that was killed left behind. Only for the holder of the set-up lock: it
    /// would remove another set-up's work.
    ///
    /// # Errors
    /// [`StoreError`] if a leftover cannot be removed.
    pub fn remove_leftovers(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut removed = Vec::new();
        for kind in ArtifactKind::ALL {
            for name in self.names(kind)? {
                if name.starts_with(staging::STAGING_PREFIX) {
                    let path = self.root.join(kind.folder()).join(name);
                    remove_tree(&path).map_err(|error| StoreError::from_io("remove", &path, error))?;
                    removed.push(path);
                }
            }
        }
        Ok(removed)
    }

    /// Gives a kernel of the cache, named by its release, a further name. The name's former kernel loses it.
    ///
    /// # Errors
    /// [`StoreError`] if the name is none, or the cache cannot be written.
    pub fn name_kernel(&self, name: &str, release: &str) -> Result<(), StoreError> {
        let kind = ArtifactKind::Kernel;
        let path = self.directory(kind, name)?;
        if !self.directory(kind, release)?.is_dir() {
            return Err(self.missing(kind, release));
        }
        let failed = |error| StoreError::from_io("link", &path, error);
        // Removed on return, with what had the name before.
        let aside = tempfile::Builder::new()
            .prefix(staging::STAGING_PREFIX)
            .tempdir_in(self.root.join(kind.folder()))
            .map_err(failed)?;
        let link = aside.path().join("name");
        symlink(release, &link).map_err(failed)?;
        if path.is_dir() && !path.is_symlink() {
            fs::rename(&path, aside.path().join("former")).map_err(failed)?;
        }
        fs::rename(&link, &path).map_err(failed)
    }

    /// Whether something was set up by this very name: it does not only answer to it.
    #[must_use]
    pub fn has_name(&self, kind: ArtifactKind, name: &str) -> bool {
        self.directory(kind, name).is_ok_and(|directory| directory.exists())
    }

    /// Removes a kernel, its further names with it. What was built for it stays, and is refused for any other.
    /// Returns its release.
    ///
    /// # Errors
    /// [`StoreError`] if there is none of that name or it cannot be removed.
    pub fn drop_kernel(&self, name: &str) -> Result<String, StoreError> {
        let kind = ArtifactKind::Kernel;
        let located = self.located(kind, name)?;
        let mut directory = self.directory(kind, &located)?;
        if let Ok(target) = fs::read_link(&directory) {
            directory = self.directory(kind, &target.to_string_lossy())?;
        }
        if !directory.is_dir() {
            return Err(self.missing(kind, name));
        }
        let release = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let failed = |error| StoreError::from_io("remove", &directory, error);
        for further in self.names(kind)? {
            let path = self.root.join(kind.folder()).join(further);
            if fs::read_link(&path).is_ok_and(|target| target == Path::new(&release)) {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        // It is no kernel any more from the moment when its manifest is gone.
        match fs::remove_file(directory.join(MANIFEST_FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        remove_tree(&directory).map_err(failed)?;
        Ok(release)
    }

    /// The directory that a name means. For a kernel of which no directory and no link has the name, the newest that
    /// answers to it. A name that means nothing means itself.
    fn located(&self, kind: ArtifactKind, name: &str) -> Result<String, StoreError> {
        let own = self.directory(kind, name)?;
        if kind != ArtifactKind::Kernel || own.exists() {
            return Ok(name.to_owned());
        }
        let mut best: Option<String> = None;
        for directory in self.names(kind)?.into_iter().filter(|directory| !directory.starts_with('.')) {
            let path = self.directory(kind, &directory)?;
            if path.is_symlink() {
                continue;
            }
            let Ok(manifest) = self.read_manifest(kind, &directory, &path) else { continue };
            let release = manifest.release.as_deref().unwrap_or_default();
            let newer = best.as_ref().is_none_or(|best| compare_releases(best, &directory).is_lt());
            if newer && kernel_answers_to(name, release, manifest.package_version()) {
                best = Some(directory);
            }
        }
        Ok(best.unwrap_or_else(|| name.to_owned()))
    }

    fn missing(&self, kind: ArtifactKind, name: &str) -> StoreError {
        StoreError::Missing { kind, name: name.to_owned(), path: self.root.join(kind.folder()).join(name) }
    }

    fn directory(&self, kind: ArtifactKind, name: &str) -> Result<PathBuf, StoreError> {
        let mut components = Path::new(name).components();
        let plain = matches!(components.next(), Some(Component::Normal(_)));
        if plain && components.next().is_none() && !name.starts_with('.') {
            Ok(self.root.join(kind.folder()).join(name))
        } else {
            let name = name.to_owned();
            Err(StoreError::BadName { kind, name })
        }
    }

    fn read_manifest(&self, kind: ArtifactKind, name: &str, directory: &Path) -> Result<Manifest, StoreError> {
        let path = directory.join(MANIFEST_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Manifest::parse(&text).map_err(|reason| self.bad_manifest(kind, name, &reason)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = name.to_owned();
                Err(if directory.exists() {
                    StoreError::NoManifest { kind, name, path }
                } else {
                    let path = directory.to_path_buf();
                    StoreError::Missing { kind, name, path }
                })
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(self.bad_manifest(kind, name, "not UTF-8")),
            Err(error) => Err(StoreError::from_io("read", &path, error)),
        }
    }

    fn listed_file(
        &self,
        kind: ArtifactKind,
        name: &str,
        manifest: &Manifest,
        path: &str,
    ) -> Result<PathBuf, StoreError> {
        if manifest.files.iter().any(|file| file.path == path) {
            Ok(self.root.join(kind.folder()).join(name).join(path))
        } else {
            Err(self.bad_manifest(kind, name, &format!("no file `{path}`")))
        }
    }

    fn bad_manifest(&self, kind: ArtifactKind, name: &str, reason: &str) -> StoreError {
        StoreError::BadManifest {
            kind,
            name: name.to_owned(),
            path: self.root.join(kind.folder()).join(name).join(MANIFEST_FILE),
            reason: reason.to_owned(),
        }
    }

    /// Names in one folder of the cache, sorted; none if the folder does not exist.
    fn names(&self, kind: ArtifactKind) -> Result<Vec<String>, StoreError> {
        let folder = self.root.join(kind.folder());
        let failed = |error| StoreError::from_io("read", &folder, error);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            names.push(name.to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

fn damaged(kind: ArtifactKind, name: &str, path: PathBuf, reason: String) -> StoreError {
    let name = name.to_owned();
    StoreError::Damaged { kind, name, path, reason }
}

/// Removes a directory into which a compiler, orphaned by a killed set-up, may still be writing: it fails
/// soon for want of its files.
fn remove_tree(path: &Path) -> io::Result<()> {
    for _ in 0..20 {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                thread::sleep(Duration::from_millis(100));
            }
            result => return result,
        }
    }
    fs::remove_dir_all(path)
}

/// Where the environment puts the cache. Empty variables count as unset.
fn cache_directory(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("PTEDIFF_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|base| base.join("ptediff")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/ptediff")))
}
