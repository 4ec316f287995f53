//! The manifest: the proof that an artifact's directory is complete, and its origin.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The file in every artifact's directory without which the directory does not count.
pub const MANIFEST_FILE: &str = "manifest.json";

/// The version of the manifest's own form. A reader refuses any other.
pub const MANIFEST_SCHEMA: u32 = 1;

/// What a directory of the cache holds and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_SCHEMA`] at the time of writing.
    pub schema: u32,
    /// The distribution's suite that the packages were taken from, "bookworm-backports" say.
    pub suite: String,
    /// The packages, the one that names the artifact first.
    pub packages: Vec<PackageOrigin>,
    /// For a kernel, what `uname -r` says in it; absent for an emulator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// SHA-256 of the recipe (suites, build options, patches) that made the artifact: another
    /// recipe makes another artifact. Lower-case hexadecimal.
    pub recipe_sha256: String,
    /// For a kernel, what the archive did not have of it, and why, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<String>,
    /// Every file of the artifact but the manifest, sorted by path.
    pub files: Vec<FileRecord>,
}

/// A package of the distribution and the exact version that was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageOrigin {
    /// The package's name.
    pub package: String,
    /// The package's full version, "6.12.95-1~bpo12+1" say.
    pub version: String,
    /// SHA-256 of the archive as it was downloaded, from the signed index; absent where the files
    /// come from a package that the system itself installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// One file of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Path within the artifact's directory.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// Reads a manifest's text.
    ///
    /// # Errors
    /// A sentence that says what is wrong: not JSON, another schema, an unknown field, no package,
    /// or a path that leads out of the artifact's directory.
    pub fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct SchemaOnly {
            schema: u32,
        }
        let SchemaOnly { schema } = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if schema != MANIFEST_SCHEMA {
            return Err(format!("schema {schema} is not {MANIFEST_SCHEMA}, the one known to this version"));
        }
        let manifest: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if manifest.packages.is_empty() {
            return Err("no package is named".to_owned());
        }
        let outside = manifest.files.iter().find(|file| {
            !Path::new(&file.path).components().all(|component| matches!(component, Component::Normal(_)))
        });
        match outside {
            Some(file) => Err(format!("path `{}` is not within the artifact", file.path)),
            None => Ok(manifest),
        }
    }

    /// The version of the package that names the artifact.
    #[must_use]
    pub fn package_version(&self) -> &str {
        // `parse` and `publish` refuse an empty list.
        self.packages.first().map_or("", |origin| &origin.version)
    }
}

/// SHA-256 of a file as lower-case hexadecimal.
///
/// # Errors
/// The system's error on opening or reading the file.
pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// SHA-256 of some bytes as lower-case hexadecimal.
#[must_use]
pub fn sha256_of_bytes(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
