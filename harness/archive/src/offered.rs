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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the suites served on 1 December 2026: the packages that [`package_pattern`] finds, and their versions.
    const RECORDED: [(&str, &str); 7] = [
        ("bookworm", include_str!("../tests/suites/bookworm.txt")),
        ("bookworm-security", include_str!("../tests/suites/bookworm-security.txt")),
        ("bookworm-backports", include_str!("../tests/suites/bookworm-backports.txt")),
        ("trixie", include_str!("../tests/suites/trixie.txt")),
        ("trixie-security", include_str!("../tests/suites/trixie-security.txt")),
        ("trixie-backports", include_str!("../tests/suites/trixie-backports.txt")),
        ("sid", include_str!("../tests/suites/sid.txt")),
    ];

    fn packages(text: &str) -> Vec<OfferedPackage> {
        let package = |line: &str| {
            let (name, version) = line.split_once(' ').expect("a name and a version");
            OfferedPackage { name: name.to_owned(), version: version.to_owned(), sha256: String::new() }
        };
        text.lines().map(package).collect()
    }

    fn recorded() -> Vec<OfferedKernel> {
        let recipe = KernelsRecipe::load().expect("a recipe");
        assert!(RECORDED.iter().map(|(suite, _)| *suite).eq(recipe.suites.iter().map(String::as_str)));
        merge(RECORDED.iter().map(|(suite, text)| kernels_of(&recipe, suite, &packages(text))).collect())
    }

    #[test]
    fn names_mean_the_newest_that_answers() {
        let kernels = recorded();
        let check = |name: &str, expected: Option<(&str, &str, &str)>| {
            let found = newest_of_name(&kernels, name);
            let found = found.map(|kernel| (kernel.release.as_str(), kernel.version.as_str(), kernel.suite.as_str()));
            assert_eq!(found, expected, "{name}");
        };
        check("6.1", Some(("6.1.0-57-cloud-amd64", "6.1.192", "bookworm-security")));
        check("6.1.0-50", Some(("6.1.0-50-cloud-amd64", "6.1.176", "bookworm")));
        check("6.1.190", Some(("6.1.0-54-cloud-amd64", "6.1.190", "bookworm-security")));
        check("6.12", Some(("6.12.118+deb13-cloud-amd64", "6.12.118", "trixie-security")));
        check("6.12.43", Some(("6.12.43+deb12-cloud-amd64", "6.12.43", "bookworm-backports")));
        check("6.12.95+deb12", Some(("6.12.95+deb12-cloud-amd64", "6.12.95", "bookworm-backports")));
        check("6.12.95", Some(("6.12.95+deb13-cloud-amd64", "6.12.95", "trixie-security")));
        check("6.12.115", Some(("6.12.115+deb13.1-cloud-amd64", "6.12.115", "trixie-security")));
        check("6.18", Some(("6.18.15+deb13-cloud-amd64", "6.18.15", "trixie-backports")));
        check("7.2", Some(("7.2.13+deb14-cloud-amd64", "7.2.13", "sid")));
        check("7.3", Some(("7.3.4+deb13-cloud-amd64", "7.3.4", "trixie-backports")));
        for absent in ["6", "6.11", "6.12.5", "6.1.0-5", "cloud", ""] {
            check(absent, None);
        }
    }

    #[test]
    fn every_point_release_is_there_once_and_the_newest_first() {
        let kernels = recorded();
        assert_eq!(kernels.len(), 76);
        let series: Vec<_> = ["7.3", "7.2", "7.1", "7.0", "6.19", "6.18", "6.17", "6.16", "6.12", "6.1"].into();
        let counted = series.iter().map(|name| {
            kernels.iter().filter(|one| kernel_answers_to(name, &one.release, one.package_version())).count()
        });
        assert_eq!(counted.collect::<Vec<_>>(), [1, 5, 4, 6, 6, 4, 2, 2, 35, 11]);
        for pair in kernels.windows(2) {
            assert!(compare_releases(&pair[0].version, &pair[1].version).is_ge(), "{pair:?}");
            assert_ne!(pair[0].release, pair[1].release);
        }
    }

    #[test]
    fn each_series_is_laid_out_as_its_packages_are() {
        let kernels = recorded();
        let check = |name: &str, image: &str, others: Option<(&str, &str)>, lacks: usize| {
            let kernel = newest_of_name(&kernels, name).expect(name);
            let package = |file: &OfferedFile| file.package.name.replace(&kernel.release, "");
            assert_eq!(package(&kernel.image), image, "{name}");
            let found = kernel.config.as_ref().map(package).zip(kernel.modules.as_ref().map(package));
            let found = found.as_ref().map(|(config, modules)| (config.as_str(), modules.as_str()));
            assert_eq!((found, kernel.lacks.len()), (others, lacks), "{name}: {:?}", kernel.lacks);
        };
        for old in ["6.1", "6.12", "6.16", "6.17", "6.18"] {
            check(old, "linux-image-", Some(("linux-image-", "linux-image-")), 0);
        }
        // The image of their name is an empty package, and their other packages have left the archive.
        for torn in ["6.19", "7.0", "7.1"] {
            check(torn, "linux-binary-", None, 2);
        }
        for new in ["7.2", "7.3"] {
            check(new, "linux-binary-unsigned-", Some(("linux-base-", "linux-modules-")), 0);
        }
        let lacks = &newest_of_name(&kernels, "7.1").expect("7.1").lacks[1];
        assert!(lacks.contains("trixie-backports does not serve the package linux-modules-7.1.13"), "{lacks}");
    }

    #[test]
    fn the_pattern_takes_what_kernels_are_made_of() {
        let pattern = package_pattern(&KernelsRecipe::load().expect("a recipe"));
        assert_eq!(
            pattern,
            r"(linux-binary-unsigned-|linux-base-|linux-modules-|linux-binary-|linux-image-)[0-9]+\.[0-9]+\.[0-9].*-cloud-amd64"
        );
    }
}
