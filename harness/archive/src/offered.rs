//! Which kernels a suite's packages make.

use std::collections::BTreeMap;

use ptediff_vm::store::{compare_releases, kernel_answers_to, upstream_version};

use crate::apt::{OfferedPackage, escape_pattern};
use crate::recipe::{KernelsRecipe, PlaceInPackage, RELEASE};

/// A kernel that a suite serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedKernel {
    /// What `uname -r` says in it.
    pub release: String,
    /// Its own version: `6.1.192` of release `6.1.0-57-cloud-amd64`.
    pub version: String,
    /// The suite.
    pub suite: String,
    /// The image's package and path.
    pub(crate) image: OfferedFile,
    /// The configuration's, if the suite has the package.
    pub(crate) config: Option<OfferedFile>,
    /// The modules', if the suite has the package.
    pub(crate) modules: Option<OfferedFile>,
    /// What the suite has not, a sentence each.
    pub lacks: Vec<String>,
}

/// A file or folder in a package of the suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfferedFile {
    pub(crate) package: OfferedPackage,
    pub(crate) path: String,
}

impl OfferedKernel {
    /// The image package's whole version, `6.1.192-3`.
    #[must_use]
    pub fn package_version(&self) -> &str {
        &self.image.package.version
    }
}

/// An extended regular expression for the names of all packages that kernels are made of.
pub(crate) fn package_pattern(recipe: &KernelsRecipe) -> String {
    let mut prefixes: Vec<String> = Vec::new();
    for layout in &recipe.layouts {
        for place in [&layout.image, &layout.config, &layout.modules] {
            let prefix = escape_pattern(&place.package.replace(RELEASE, ""));
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
    }
    // A package of a whole series (`linux-image-6.12-cloud-amd64`) depends on the newest and has no files.
    format!(r"({})[0-9]+\.[0-9]+\.[0-9].*-{}", prefixes.join("|"), escape_pattern(&recipe.flavour))
}

/// The kernels of a suite, the newest first.
pub(crate) fn kernels_of(recipe: &KernelsRecipe, suite: &str, packages: &[OfferedPackage]) -> Vec<OfferedKernel> {
    let by_name: BTreeMap<&str, &OfferedPackage> = packages.iter().map(|one| (one.name.as_str(), one)).collect();
    let mut kernels: BTreeMap<&str, OfferedKernel> = BTreeMap::new();
    for layout in &recipe.layouts {
        let prefix = layout.image.package.replace(RELEASE, "");
        for image in packages {
            let Some(release) = image.name.strip_prefix(&prefix) else { continue };
            // `linux-binary-` is a prefix of `linux-binary-unsigned-`, too.
            if !release.starts_with(|letter: char| letter.is_ascii_digit()) || kernels.contains_key(release) {
                continue;
            }
            let mut lacks = Vec::new();
            let mut find = |what: &str, place: &PlaceInPackage| {
                let name = place.package_of(release);
                match by_name.get(name.as_str()) {
                    Some(package) => Some(OfferedFile { package: (*package).clone(), path: place.path_of(release) }),
                    None => {
                        lacks.push(format!("no {what}: {suite} does not serve the package {name}"));
                        None
                    }
                }
            };
            let config = find("configuration", &layout.config);
            let modules = find("modules", &layout.modules);
            let kernel = OfferedKernel {
                release: release.to_owned(),
                version: upstream_version(&image.version).to_owned(),
                suite: suite.to_owned(),
                image: OfferedFile { package: image.clone(), path: layout.image.path_of(release) },
                config,
                modules,
                lacks,
            };
            kernels.insert(release, kernel);
        }
    }
    let mut kernels: Vec<_> = kernels.into_values().collect();
    sort(&mut kernels);
    kernels
}

/// The kernels of all suites, the newest first. Of a release in several suites the first suite's stays.
pub(crate) fn merge(suites: Vec<Vec<OfferedKernel>>) -> Vec<OfferedKernel> {
    let mut all: Vec<OfferedKernel> = Vec::new();
    for kernel in suites.into_iter().flatten() {
        if !all.iter().any(|known| known.release == kernel.release) {
            all.push(kernel);
        }
    }
    sort(&mut all);
    all
}

fn sort(kernels: &mut [OfferedKernel]) {
    let newest_first = |left: &OfferedKernel, right: &OfferedKernel| {
        compare_releases(&right.version, &left.version).then_with(|| compare_releases(&right.release, &left.release))
    };
    kernels.sort_by(newest_first);
}

/// The newest kernel that answers to a name.
#[must_use]
pub fn newest_of_name<'a>(kernels: &'a [OfferedKernel], name: &str) -> Option<&'a OfferedKernel> {
    kernels.iter().find(|kernel| kernel_answers_to(name, &kernel.release, kernel.package_version()))
}
