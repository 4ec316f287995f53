//! Private apt configurations: other suites of the machine's own mirror, without touching the machine's set-up.
//!
//! Sources, lists and caches lie under the ptediff cache; the network settings and the mirror's address are the
//! machine's. Every index is verified against the distribution's keyring.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ptediff_vm::store::{StoreError, sha256_of_file};

use crate::archive_sources::{ARCHIVE_KEYRING, Archive};
use crate::control_file::{Paragraph, paragraphs};
use crate::error::ArchiveError;
use crate::tool::{Tool, command_line};

const SOURCES: &str = "sources.list";
const CONFIGURATION: &str = "apt.conf";
const NO_PACKAGES: &str = "no-packages";

/// A private apt configuration.
#[derive(Debug)]
pub struct Apt {
    folder: PathBuf,
    logs: PathBuf,
    /// What is shown as the subject of a failure.
    title: String,
}

/// A package that an index offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedPackage {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the archive.
    pub sha256: String,
}

impl Apt {
    /// For installing packages: the machine's own suites and further ones of the same mirror.
    ///
    /// # Errors
    /// [`ArchiveError`] if the configuration cannot be written.
    pub fn for_installing(cache: &Path, archive: &Archive, further_suites: &[&str]) -> Result<Self, ArchiveError> {
        let mut lines = String::new();
        for source in &archive.own_sources {
            lines += &source_line("deb", &source.uri, &source.suite);
        }
        for suite in further_suites {
            lines += &source_line("deb", archive.uri_of(suite), suite);
        }
        Self::write(cache, "system", lines, true)
    }

    /// For downloads from one suite and the release that it stands on, `trixie` under `trixie-backports`: what a suite of
    /// additions does not have comes from there.
    ///
    /// # Errors
    /// [`ArchiveError`] if the configuration cannot be written.
    pub fn for_downloads_with_release(cache: &Path, archive: &Archive, suite: &str) -> Result<Self, ArchiveError> {
        let release = release_below(suite);
        if release == suite {
            return Self::for_downloads(cache, archive, suite, false);
        }
        let lines = [suite, release].map(|suite| source_line("deb", archive.uri_of(suite), suite));
        Self::write(cache, &format!("{suite}-with-{release}"), lines.concat(), false)
    }

    /// For downloads from one suite, whatever is installed.
    ///
    /// # Errors
    /// [`ArchiveError`] if the configuration cannot be written.
    pub fn for_downloads(
        cache: &Path,
        archive: &Archive,
        suite: &str,
        with_sources: bool,
    ) -> Result<Self, ArchiveError> {
        let mut lines = source_line("deb", archive.uri_of(suite), suite);
        if with_sources {
            lines += &source_line("deb-src", archive.uri_of(suite), suite);
        }
        let name = if with_sources { format!("{suite}-with-sources") } else { suite.to_owned() };
        Self::write(cache, &name, lines, false)
    }

    fn write(cache: &Path, name: &str, sources: String, uses_installed_packages: bool) -> Result<Self, ArchiveError> {
        let folder = cache.join("apt").join(name);
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).map_err(|error| StoreError::from_io("create directory", &path, error))?;
        }
        let configuration = configuration(&folder, uses_installed_packages);
        for (file, text) in [(SOURCES, sources.as_str()), (CONFIGURATION, &configuration), (NO_PACKAGES, "")] {
            let path = folder.join(file);
            fs::write(&path, text).map_err(|error| StoreError::from_io("write", &path, error))?;
        }
        Ok(Self { folder, logs: cache.join("logs"), title: name.to_owned() })
    }

    /// One of apt's programs under this configuration.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        command.arg("-c").arg(self.folder.join(CONFIGURATION));
        command
    }

    fn tool(&self, action: &str, remedy: &str) -> Tool {
        let log = self.logs.join(format!("apt-{}-{action}.log", self.title));
        let task = format!("apt ({}): {action}", self.title);
        Tool { task, log, remedy: remedy.to_owned() }
    }

    /// Fetches the package indexes.
    ///
    /// # Errors
    /// [`ArchiveError::Tool`] if the mirror cannot be reached or a signature is wrong.
    pub fn update(&self) -> Result<(), ArchiveError> {
        let remedy = "check the network and the machine's package sources, then repeat the command";
        self.tool("update", remedy).run(self.command("apt-get").arg("update"))
    }

    /// Every package whose whole name matches the extended regular expression, in its newest version.
    ///
    /// # Errors
    /// [`ArchiveError`] if apt fails.
    pub fn find(&self, name_pattern: &str) -> Result<Vec<OfferedPackage>, ArchiveError> {
        let tool = self.tool("search", "see the log");
        let pattern = format!("^{name_pattern}$");
        let found = tool.capture(self.command("apt-cache").args(["search", "--names-only", &pattern]))?;
        let names: Vec<_> = found.lines().filter_map(|line| line.split_whitespace().next()).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let shown = tool.capture(self.command("apt-cache").args(["show", "--no-all-versions"]).args(&names))?;
        paragraphs(&shown).iter().map(offered_package).collect()
    }

    /// A package by its exact name.
    ///
    /// # Errors
    /// [`ArchiveError::NotOffered`] if the suite has none of that name.
    pub fn find_one(&self, name: &str) -> Result<OfferedPackage, ArchiveError> {
        let mut found = self.find(&escape_pattern(name))?;
        found.pop().ok_or_else(|| ArchiveError::NotOffered {
            task: format!("getting package {name}"),
            tried: self.title.clone(),
        })
    }

    /// The paragraphs of a source package, newest version last or first as the index has them.
    ///
    /// # Errors
    /// [`ArchiveError`] if apt fails.
    pub fn source_paragraphs(&self, package: &str) -> Result<Vec<Paragraph>, ArchiveError> {
        let tool = self.tool("showsrc", "see the log");
        let shown = tool.capture(self.command("apt-cache").args(["showsrc", "--only-source", package]))?;
        Ok(paragraphs(&shown))
    }

    /// Downloads a binary package and returns the archive, verified against the index.
    ///
    /// # Errors
    /// [`ArchiveError`] if the download fails or the digest is wrong.
    pub fn download(&self, package: &OfferedPackage, into: &Path) -> Result<PathBuf, ArchiveError> {
        let folder = tempfile::tempdir_in(into).map_err(ArchiveError::io("create a directory in", into))?.keep();
        let remedy = "check the network and the free space of the cache, then repeat the command";
        let tool = self.tool(&format!("download-{}", package.name), remedy);
        let wanted = format!("{}={}", package.name, package.version);
        tool.run(self.command("apt-get").args(["download", &wanted]).current_dir(&folder))?;
        let file = only_file(&folder)?;
        verify(&tool.task, &file, &package.sha256)?;
        Ok(file)
    }

    /// Downloads a file of a source package. The mirror need not have the package's other files.
    ///
    /// # Errors
    /// [`ArchiveError`] if the file did not arrive or its digest is wrong.
    pub fn download_source_file(
        &self,
        package: &str,
        version: &str,
        file: &SourceFile,
        into: &Path,
    ) -> Result<PathBuf, ArchiveError> {
        let remedy = "check the network and the free space of the cache, then repeat the command";
        let tool = self.tool(&format!("source-{package}"), remedy);
        let wanted = format!("{package}={version}");
        let mut command = self.command("apt-get");
        command.args(["source", "--download-only", "--only-source", &wanted]).current_dir(into);
        let outcome = tool.run(&mut command);
        let path = into.join(&file.name);
        // apt-get fails when any file of the package is gone from the mirror; only this one matters.
        if !path.exists() {
            outcome?;
        }
        verify(&tool.task, &path, &file.sha256)?;
        Ok(path)
    }

    /// Installs packages, the first of two lists as they come, the second from a named suite.
    ///
    /// # Errors
    /// [`ArchiveError::Tool`] if apt fails.
    pub fn install(&self, packages: &[String], suite: Option<&str>) -> Result<(), ArchiveError> {
        let remedy = "see the log; if apt reports conflicts, mend them by hand and repeat the command";
        let action = suite.map_or_else(|| "install".to_owned(), |suite| format!("install-from-{suite}"));
        self.tool(&action, remedy).run(&mut self.install_command(packages, suite))
    }

    /// The lines that root can type instead of [`Apt::update`] and [`Apt::install`].
    #[must_use]
    pub fn install_lines(&self, packages: &[String], suite: Option<&str>) -> Vec<String> {
        let update = command_line(self.command("apt-get").arg("update"));
        vec![update, command_line(&self.install_command(packages, suite))]
    }

    fn install_command(&self, packages: &[String], suite: Option<&str>) -> Command {
        let mut command = self.command("apt-get");
        command.args(["install", "--yes", "--no-install-recommends"]);
        if let Some(suite) = suite {
            command.args(["-t", suite]);
        }
        command.args(packages);
        command
    }
}

/// The release that a suite adds to; itself, where it is one.
#[must_use]
pub fn release_below(suite: &str) -> &str {
    ["-backports", "-security", "-updates"].iter().find_map(|ending| suite.strip_suffix(ending)).unwrap_or(suite)
}

/// What differs from the machine's own configuration, which apt reads first.
fn configuration(folder: &Path, uses_installed_packages: bool) -> String {
    let at = |part: &str| folder.join(part).display().to_string();
    let mut options = vec![
        ("Dir::Etc::sourcelist", at(SOURCES)),
        ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
        ("Dir::Etc::preferences", "/dev/null".to_owned()),
        ("Dir::Etc::preferencesparts", "/dev/null".to_owned()),
        ("Dir::State::lists", at("lists")),
        ("Dir::Cache", at("cache")),
        // The unprivileged user of apt cannot reach a cache in root's home.
        ("APT::Sandbox::User", "root".to_owned()),
        // A list that failed to arrive must not pass for an empty one.
        ("APT::Update::Error-Mode", "any".to_owned()),
        ("Acquire::Retries", "2".to_owned()),
        ("Acquire::Languages", "none".to_owned()),
        ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".to_owned()),
    ];
    if !uses_installed_packages {
        options.push(("Dir::State::status", at(NO_PACKAGES)));
        // A mirror that is a snapshot serves an index past its date. Its signature is checked all the same, and
        // nothing from here is installed: an old kernel is as good to test as a new one.
        options.push(("Acquire::Check-Valid-Until", "false".to_owned()));
    }
    options.iter().map(|(name, value)| format!("{name} \"{value}\";\n")).collect()
}

/// A file of a source package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The file's name.
    pub name: String,
    /// SHA-256 from the signed index.
    pub sha256: String,
}

/// The upstream tarball of a source package's paragraph.
#[must_use]
pub fn upstream_tarball(source: &Paragraph) -> Option<SourceFile> {
    let sums = source.get("Checksums-Sha256")?;
    sums.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (sha256, _size, name) = (words.next()?, words.next()?, words.next()?);
        let wanted = name.contains(".orig.tar.") && !name.ends_with(".asc");
        wanted.then(|| SourceFile { name: name.to_owned(), sha256: sha256.to_owned() })
    })
}

/// Whether the mirror does not have the suite at all, as opposed to any other failure of an update.
#[must_use]
pub fn is_unknown_suite(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Tool(failure)
        if failure.tail.contains("does not have a Release file") && failure.tail.contains("404"))
}

fn source_line(kind: &str, uri: &str, suite: &str) -> String {
    format!("{kind} [signed-by={ARCHIVE_KEYRING}] {uri} {suite} main\n")
}

fn offered_package(paragraph: &Paragraph) -> Result<OfferedPackage, ArchiveError> {
    let field = |name: &str| {
        paragraph.get(name).map(str::to_owned).ok_or_else(|| ArchiveError::Malformed {
            what: "the package index".to_owned(),
            reason: format!("a paragraph has no field {name}"),
        })
    };
    Ok(OfferedPackage { name: field("Package")?, version: field("Version")?, sha256: field("SHA256")? })
}

fn only_file(folder: &Path) -> Result<PathBuf, ArchiveError> {
    let mut entries = fs::read_dir(folder).map_err(ArchiveError::io("read", folder))?;
    match entries.next() {
        Some(entry) => Ok(entry.map_err(ArchiveError::io("read", folder))?.path()),
        None => Err(ArchiveError::Malformed {
            what: "apt-get download".to_owned(),
            reason: "it succeeded and left no file".to_owned(),
        }),
    }
}

fn verify(task: &str, file: &Path, expected: &str) -> Result<(), ArchiveError> {
    let found = sha256_of_file(file).map_err(ArchiveError::io("read", file))?;
    if found == expected {
        return Ok(());
    }
    Err(ArchiveError::WrongDigest {
        task: task.to_owned(),
        file: file.to_path_buf(),
        expected: expected.to_owned(),
        found,
    })
}

/// A name as a regular expression that matches just this name.
#[must_use]
pub fn escape_pattern(name: &str) -> String {
    let mut pattern = String::new();
    for letter in name.chars() {
        if !letter.is_ascii_alphanumeric() && letter != '-' {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive_sources::ArchiveSource;

    fn archive() -> Archive {
        let source = |suite: &str| ArchiveSource { uri: "mirror:/a".to_owned(), suite: suite.to_owned() };
        Archive {
            codename: "bookworm".to_owned(),
            own_sources: vec![source("bookworm"), source("bookworm-security")],
            main_uri: "mirror:/a".to_owned(),
        }
    }

    #[test]
    fn only_the_suite_changes_and_the_keyring_is_named() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let list = |apt: &Apt| fs::read_to_string(apt.folder.join("sources.list")).expect("sources.list");

        let system = Apt::for_installing(cache.path(), &archive(), &["bookworm-backports"]).expect("apt");
        assert_eq!(
            list(&system),
            format!(
                "deb [signed-by={ARCHIVE_KEYRING}] mirror:/a bookworm main\n\
                 deb [signed-by={ARCHIVE_KEYRING}] mirror:/a bookworm-security main\n\
                 deb [signed-by={ARCHIVE_KEYRING}] mirror:/a bookworm-backports main\n"
            )
        );
        let line = system.install_lines(&["qemu-system-x86".to_owned()], Some("bookworm-backports")).pop();
        let line = line.expect("a line");
        assert!(line.ends_with("--no-install-recommends -t bookworm-backports qemu-system-x86"), "{line}");
        let configuration = |apt: &Apt| fs::read_to_string(apt.folder.join(CONFIGURATION)).expect("apt.conf");
        assert!(!configuration(&system).contains("Dir::State::status"), "what is installed counts");

        let sid = Apt::for_downloads(cache.path(), &archive(), "sid", true).expect("apt");
        assert!(list(&sid).contains("deb-src [") && !list(&sid).contains("bookworm"), "{}", list(&sid));
        assert!(!configuration(&system).contains("Check-Valid-Until"), "what is installed must be of today");
        assert!(configuration(&sid).contains("Dir::State::status \""));
    }

    #[test]
    fn suites_of_additions_are_asked_with_their_release_and_in_their_own_archive() {
        let cache = tempfile::tempdir().expect("a temporary directory");
        let mut archive = archive();
        archive.own_sources[1].uri = "mirror:/s".to_owned();
        let check = |suite: &str, expected: &[&str]| {
            let apt = Apt::for_downloads_with_release(cache.path(), &archive, suite).expect("apt");
            let list = fs::read_to_string(apt.folder.join(SOURCES)).expect("sources.list");
            let sources: Vec<_> = list.lines().filter_map(|line| line.split_once("] ")).map(|(_, rest)| rest).collect();
            assert_eq!(sources, expected, "{suite}");
        };
        check("sid", &["mirror:/a sid main"]);
        check("trixie-backports", &["mirror:/a trixie-backports main", "mirror:/a trixie main"]);
        check("trixie-security", &["mirror:/s trixie-security main", "mirror:/a trixie main"]);
        check("bookworm-security", &["mirror:/s bookworm-security main", "mirror:/a bookworm main"]);
    }

    #[test]
    fn the_tarball_and_its_digest_are_found() {
        let text = "Package: bochs\nChecksums-Sha256: \n aa 2554 bochs_3.0+dfsg-1.dsc\n \
                    cc 9 bochs_3.0+dfsg.orig.tar.xz.asc\n bb 3896488 bochs_3.0+dfsg.orig.tar.xz\n";
        let tarball = upstream_tarball(&paragraphs(text)[0]).expect("a tarball");
        assert_eq!(tarball, SourceFile { name: "bochs_3.0+dfsg.orig.tar.xz".to_owned(), sha256: "bb".to_owned() });
        assert_eq!(upstream_tarball(&paragraphs("Package: bochs\n")[0]), None);
    }

    #[test]
    fn a_wrong_digest_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("x.deb");
        fs::write(&file, "other bytes").expect("write");
        let error = verify("getting x", &file, "00").expect_err("wrong digest");
        assert!(matches!(error, ArchiveError::WrongDigest { .. }), "{error}");
    }

    #[test]
    fn names_match_only_themselves() {
        assert_eq!(escape_pattern("linux-base-7.2.13+deb14"), r"linux-base-7\.2\.13\+deb14");
    }
}
