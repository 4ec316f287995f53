//! Where the machine's own package sources say that the distribution's archive is.
//!
//! Other suites are served by the same mirror as the machine's own, so its address is taken from there, in
//! both forms in which apt keeps it, and only the suite changes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::control_file::paragraphs;
use crate::error::ArchiveError;

/// The keyring that signs every suite of the distribution.
pub const ARCHIVE_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One binary package source: a single address and a single suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSource {
    /// The archive's address.
    pub uri: String,
    /// The suite, "bookworm-updates" say.
    pub suite: String,
}

/// The distribution's archive as this machine uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The release's code name, "bookworm" say.
    pub codename: String,
    /// The release itself, its updates and its security fixes.
    pub own_sources: Vec<ArchiveSource>,
    /// The address that serves the release and all other suites.
    pub main_uri: String,
}

impl Archive {
    /// Reads the machine's own configuration.
    ///
    /// # Errors
    /// [`ArchiveError::NoArchive`] if it does not say where the release comes from.
    pub fn of_this_machine() -> Result<Self, ArchiveError> {
        let release = Path::new("/etc/os-release");
        let text = fs::read_to_string(release).map_err(ArchiveError::io("read", release))?;
        let codename = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename = codename.unwrap_or_default().trim_matches('"').to_owned();
        let mut sources = Vec::new();
        for path in source_files(Path::new("/etc/apt"))? {
            let text = fs::read_to_string(&path).map_err(ArchiveError::io("read", &path))?;
            if path.extension().is_some_and(|extension| extension == "sources") {
                sources.extend(parse_deb822(&text));
            } else {
                sources.extend(parse_one_line(&text));
            }
        }
        Self::from_sources(codename, &sources)
    }

    /// Picks the distribution's own sources out of all: third parties have other suite names.
    ///
    /// # Errors
    /// [`ArchiveError::NoArchive`] if no source has the release's code name as its suite.
    pub fn from_sources(codename: String, sources: &[ArchiveSource]) -> Result<Self, ArchiveError> {
        let of_release = |suite: &str| {
            let ending = suite.strip_prefix(&codename);
            matches!(ending, Some("" | "-updates" | "-security"))
        };
        let mut own_sources: Vec<ArchiveSource> = Vec::new();
        for source in sources {
            let readable = !source.uri.starts_with("cdrom:");
            if readable && of_release(&source.suite) && !own_sources.contains(source) {
                own_sources.push(source.clone());
            }
        }
        match own_sources.iter().find(|source| source.suite == codename) {
            Some(source) if !codename.is_empty() => {
                let main_uri = source.uri.clone();
                Ok(Self { codename, own_sources, main_uri })
            }
            _ => {
                let suites: Vec<_> = sources.iter().map(|source| source.suite.as_str()).collect();
                let detail = format!("suites named: [{}]", suites.join(", "));
                Err(ArchiveError::NoArchive { codename, detail })
            }
        }
    }
}

impl Archive {
    /// The address that serves a suite. Security suites lie in an archive of their own, that of the machine's own one.
    #[must_use]
    pub fn uri_of(&self, suite: &str) -> &str {
        let security = |suite: &str| suite.ends_with("-security");
        let source = self.own_sources.iter().find(|source| security(suite) && security(&source.suite));
        source.map_or(&self.main_uri, |source| &source.uri)
    }
}

/// `sources.list` and every list of `sources.list.d`, in apt's order.
fn source_files(configuration: &Path) -> Result<Vec<PathBuf>, ArchiveError> {
    let mut files = Vec::new();
    let folder = configuration.join("sources.list.d");
    if folder.is_dir() {
        for entry in fs::read_dir(&folder).map_err(ArchiveError::io("read", &folder))? {
            let path = entry.map_err(ArchiveError::io("read", &folder))?.path();
            if path.extension().is_some_and(|extension| extension == "list" || extension == "sources") {
                files.push(path);
            }
        }
        files.sort();
    }
    let list = configuration.join("sources.list");
    if list.is_file() {
        files.insert(0, list);
    }
    Ok(files)
}

/// The one-line form: `deb [options] uri suite component...`.
#[must_use]
pub fn parse_one_line(text: &str) -> Vec<ArchiveSource> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else {
            continue;
        };
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']').map_or("", |(_, after)| after),
            None => rest,
        };
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            sources.push(ArchiveSource { uri: uri.to_owned(), suite: suite.to_owned() });
        }
    }
    sources
}

/// The deb822 form: paragraphs with `Types`, `URIs` and `Suites`.
#[must_use]
pub fn parse_deb822(text: &str) -> Vec<ArchiveSource> {
    let mut sources = Vec::new();
    for paragraph in paragraphs(text) {
        let disabled = paragraph.get("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if disabled || !paragraph.words("Types").any(|word| word == "deb") {
            continue;
        }
        for uri in paragraph.words("URIs") {
            for suite in paragraph.words("Suites") {
                sources.push(ArchiveSource { uri: uri.to_owned(), suite: suite.to_owned() });
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both parsers and the choice, in one helper: `expected` is "uri suite" lines, the main one first.
    fn check(sources: Vec<ArchiveSource>, expected: Option<(&str, &[&str])>) {
        let archive = Archive::from_sources("bookworm".to_owned(), &sources);
        match (archive, expected) {
            (Ok(archive), Some((main_uri, own))) => {
                assert_eq!(archive.main_uri, main_uri);
                let found: Vec<_> =
                    archive.own_sources.iter().map(|source| format!("{} {}", source.uri, source.suite)).collect();
                assert_eq!(found, own);
            }
            (Err(ArchiveError::NoArchive { .. }), None) => {}
            (archive, expected) => panic!("{archive:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn one_line_form() {
        check(
            parse_one_line(
                "# deb mirror:/old/debian bookworm main\n\
                 deb-src mirror:/src/debian bookworm main\n\
                 deb mirror:/vendor/apt cloud-sdk-bookworm main\n\
                 deb cdrom:[Debian]/ bookworm main\n\
                 deb [arch=amd64 signed-by=/x.gpg] mirror:/a/debian bookworm main contrib # own\n\
                 deb mirror:/a/debian bookworm-updates main\n\
                 deb\tmirror:/s/security bookworm-security main\n\
                 deb mirror:/a/debian bookworm-backports main\n",
            ),
            Some((
                "mirror:/a/debian",
                &[
                    "mirror:/a/debian bookworm",
                    "mirror:/a/debian bookworm-updates",
                    "mirror:/s/security bookworm-security",
                ],
            )),
        );
    }

    #[test]
    fn deb822_form() {
        check(
            parse_deb822(
                "Types: deb deb-src\n# a comment\nURIs: mirror:/a/debian\nSuites: bookworm bookworm-updates\n\
                 Components: main\n\nTypes: deb\nEnabled: no\nURIs: mirror:/b/debian\nSuites: bookworm\n\n\
                 Types: deb-src\nURIs: mirror:/c/debian\nSuites: bookworm\n",
            ),
            Some(("mirror:/a/debian", &["mirror:/a/debian bookworm", "mirror:/a/debian bookworm-updates"])),
        );
    }

    #[test]
    fn a_machine_without_the_release_is_refused() {
        check(parse_one_line("deb mirror:/a/ubuntu noble main\n"), None);
        check(Vec::new(), None);
    }
}
