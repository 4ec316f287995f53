//! The system's own packages: what is there, and how the rest comes.

use std::path::Path;
use std::process::Command;

use ptediff_archive::apt::Apt;
use ptediff_archive::archive_sources::Archive;

use crate::error::TaskError;
use crate::progress::step;
use crate::recipes::QemuRecipe;

/// The version of an installed package; `None` if it is not completely installed.
///
/// # Errors
/// [`TaskError::NotStarted`] if this is no Debian system.
pub fn installed_version(package: &str) -> Result<Option<String>, TaskError> {
    let output = Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status} ${Version}", package]).output();
    let output = output.map_err(|cause| TaskError::NotStarted {
        task: "looking for installed packages".to_owned(),
        program: "dpkg-query".to_owned(),
        cause,
        remedy: "ptediff is set up on Debian 12".to_owned(),
    })?;
    Ok(version_if_installed(&String::from_utf8_lossy(&output.stdout)))
}

fn version_if_installed(answer: &str) -> Option<String> {
    let version = answer.strip_prefix("installed ")?;
    Some(version.trim().to_owned())
}

/// The packages of a list that are not installed.
///
/// # Errors
/// As for [`installed_version`].
pub fn missing(packages: &[String]) -> Result<Vec<String>, TaskError> {
    let mut missing = Vec::new();
    for package in packages {
        if !missing.contains(package) && installed_version(package)?.is_none() {
            missing.push(package.clone());
        }
    }
    Ok(missing)
}

/// Whether QEMU is there in a version that will do.
///
/// # Errors
/// As for [`installed_version`].
pub fn has_qemu(recipe: &QemuRecipe) -> Result<bool, TaskError> {
    let version = installed_version(&recipe.package)?;
    Ok(version.is_some_and(|version| upstream_major(&version) >= Some(recipe.minimum_major_version)))
}

/// The upstream major number of a package version: 10 in "1:10.0.2+ds-2+deb13u1~bpo12+1".
fn upstream_major(version: &str) -> Option<u32> {
    let without_epoch = version.split_once(':').map_or(version, |(_, rest)| rest);
    without_epoch.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// What is to be installed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct MissingPackages {
    /// From the machine's own suites.
    pub ordinary: Vec<String>,
    /// A package from a further suite.
    pub from_suite: Option<(String, String)>,
}

impl MissingPackages {
    /// Nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ordinary.is_empty() && self.from_suite.is_none()
    }

    /// Installs all of it; only root can.
    ///
    /// # Errors
    /// [`TaskError::NotRoot`] with the exact lines for root, else apt's failure.
    pub fn install(&self, cache: &Path, archive: &Archive, is_root: bool) -> Result<(), TaskError> {
        if self.is_empty() {
            return Ok(());
        }
        if !is_root && self.from_suite.is_none() {
            let commands = vec![format!(
                "apt-get update && apt-get install --yes --no-install-recommends {}",
                self.ordinary.join(" ")
            )];
            return Err(TaskError::NotRoot { packages: self.ordinary.clone(), commands });
        }
        let suites: Vec<_> = self.from_suite.iter().map(|(_, suite)| suite.as_str()).collect();
        let apt = Apt::for_installing(cache, archive, &suites)?;
        if !is_root {
            return Err(self.not_root(&apt));
        }
        step("package indexes of this machine's suites", || apt.update())?;
        if !self.ordinary.is_empty() {
            step(&format!("installing {}", self.ordinary.join(" ")), || apt.install(&self.ordinary, None))?;
        }
        if let Some((package, suite)) = &self.from_suite {
            let wanted = [package.clone()];
            step(&format!("installing {package} from {suite}"), || apt.install(&wanted, Some(suite)))?;
        }
        Ok(())
    }

    fn not_root(&self, apt: &Apt) -> TaskError {
        let mut packages = self.ordinary.clone();
        let mut commands = Vec::new();
        if !self.ordinary.is_empty() {
            commands = apt.install_lines(&self.ordinary, None);
        }
        if let Some((package, suite)) = &self.from_suite {
            packages.push(package.clone());
            for line in apt.install_lines(std::slice::from_ref(package), Some(suite)) {
                if !commands.contains(&line) {
                    commands.push(line);
                }
            }
        }
        TaskError::NotRoot { packages, commands }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_installations_count() {
        let check = |answer: &str, expected: Option<&str>| {
            assert_eq!(version_if_installed(answer).as_deref(), expected, "{answer}");
        };
        check("installed 1:14.0-55.7~deb12u1", Some("1:14.0-55.7~deb12u1"));
        check("config-files 2.7", None);
        check("half-configured 2.7", None);
        check("not-installed ", None);
        check("", None);
    }

    #[test]
    fn upstream_major_numbers() {
        let check = |version: &str, expected: Option<u32>| assert_eq!(upstream_major(version), expected, "{version}");
        check("1:10.0.2+ds-2+deb13u1~bpo12+1", Some(10));
        check("1:7.2+dfsg-7+deb12u18+b3", Some(7));
        check("11.1", Some(11));
        check("unknown", None);
    }

    #[test]
    fn without_root_the_exact_line_is_given() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let archive =
            Archive { codename: "bookworm".to_owned(), own_sources: Vec::new(), main_uri: "mirror:/a".to_owned() };
        let mut wanted = MissingPackages { ordinary: vec!["clang".to_owned(), "make".to_owned()], from_suite: None };
        let lines = |wanted: &MissingPackages| match wanted.install(cache.path(), &archive, false) {
            Err(TaskError::NotRoot { commands, .. }) => commands,
            other => panic!("{other:?}"),
        };
        assert_eq!(lines(&wanted), ["apt-get update && apt-get install --yes --no-install-recommends clang make"]);
        wanted.from_suite = Some(("qemu-system-x86".to_owned(), "bookworm-backports".to_owned()));
        let lines = lines(&wanted);
        assert_eq!(lines.len(), 3, "one update, two installations: {lines:?}");
        assert!(lines[2].ends_with("-t bookworm-backports qemu-system-x86"), "{lines:?}");
    }
}
