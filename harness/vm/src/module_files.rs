//! For the host: kernel modules in a folder, and which of them, in which order, another one takes.
//!
//! Packages bring no `modules.dep`, and a folder of one's own need not have one: each module says in its
//! `.modinfo` section what it depends on (`scripts/mod/modpost.c: add_depends`) and which names it answers to.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::elf::section;

/// What the files of modules end with, by how they are packed.
const ENDINGS: [(&str, Packing); 3] =
    [(".ko", Packing::Plain), (".ko.xz", Packing::Xz), (".ko.zst", Packing::Zstandard)];

/// Endings of modules that cannot be unpacked here.
const FOREIGN_ENDINGS: [&str; 4] = [".ko.gz", ".ko.bz2", ".ko.lz4", ".ko.lzo"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Xz,
    Zstandard,
}

/// A kernel module, unpacked.
#[derive(Clone, PartialEq, Eq)]
pub struct ModuleFile {
    /// Its name as the kernel has it: `lzo_rle` of `lzo-rle.ko.xz`.
    pub name: String,
    /// The ELF file.
    pub content: Vec<u8>,
    /// Names of the modules that it needs.
    depends: Vec<String>,
    /// Names that it answers to besides.
    aliases: Vec<String>,
    /// The release that it was built for, and options that must match: `6.12.95+deb12-cloud-amd64 SMP ...`.
    version_magic: String,
}

impl std::fmt::Debug for ModuleFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ModuleFile({}, {} bytes)", self.name, self.content.len())
    }
}

impl ModuleFile {
    /// Reads a module out of its file's bytes.
    ///
    /// # Errors
    /// A sentence: packed in a way that is not known here, damaged, or no module.
    pub fn parse(file_name: &str, packed: &[u8]) -> Result<Self, String> {
        let (stem, packing) = split_ending(file_name).ok_or("its name does not end as a module's does")?;
        let content = unpack(packing, packed).map_err(|error| error.to_string())?;
        let information = section(&content, ".modinfo")?.ok_or("it has no .modinfo section")?.to_vec();
        let values = |key: &str| {
            let texts = information.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            let values = texts.filter_map(|text| text.strip_prefix(key)?.strip_prefix('=').map(str::to_owned));
            values.collect::<Vec<String>>()
        };
        let listed = values("depends").join(",");
        let depends = listed.split(',').filter(|name| !name.is_empty()).map(kernel_name).collect();
        Ok(Self {
            name: kernel_name(stem),
            depends,
            aliases: values("alias"),
            version_magic: values("vermagic").pop().unwrap_or_default(),
            content,
        })
    }

    /// What `uname -r` says in the kernel that it was built for; empty if it does not say.
    #[must_use]
    pub fn release(&self) -> &str {
        self.version_magic.split(' ').next().unwrap_or_default()
    }

    /// Whether it names this symbol: one that it takes from the kernel, or its own.
    fn names_symbol(&self, symbol: &str) -> bool {
        let wanted: Vec<u8> = [b"\0", symbol.as_bytes(), b"\0"].concat();
        self.content.windows(wanted.len()).any(|window| window == wanted)
    }
}

/// The modules of a folder and everything below it: flat, or a tree as below `/lib/modules`.
#[derive(Clone, Debug, Default)]
pub struct ModuleFolder {
    modules: Vec<ModuleFile>,
}

/// A folder of modules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModuleFolderError {
    /// A file or folder cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is no module that can be used.
    #[error("{}: {reason}", path.display())]
    Module {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl ModuleFolder {
    /// Reads every module whose path, below the folder, `wanted` takes.
    ///
    /// # Errors
    /// [`ModuleFolderError`]: something cannot be read or unpacked.
    pub fn read(folder: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Self, ModuleFolderError> {
        let mut paths = Vec::new();
        list(folder, &mut paths)?;
        paths.sort();
        let mut modules = Vec::new();
        for path in paths.into_iter().filter(|path| wanted(path.strip_prefix(folder).unwrap_or(path))) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if FOREIGN_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
                let reason = "only .ko, .ko.xz and .ko.zst can be unpacked: unpack it first".to_owned();
                return Err(ModuleFolderError::Module { path, reason });
            }
            if split_ending(&name).is_none() {
                continue;
            }
            let packed = fs::read(&path).map_err(|source| ModuleFolderError::Io { path: path.clone(), source })?;
            match ModuleFile::parse(&name, &packed) {
                Ok(module) => modules.push(module),
                Err(reason) => return Err(ModuleFolderError::Module { path, reason }),
            }
        }
        Ok(Self { modules })
    }

    /// Of modules that were read already.
    #[must_use]
    pub fn of(modules: Vec<ModuleFile>) -> Self {
        Self { modules }
    }

    /// The modules that a swap file in compressed memory takes, in the order in which they are loaded. None where the
    /// folder has no zram.
    ///
    /// Until 6.11 zram packs by the kernel's crypto API, which finds a compressor by its alias
    /// (`drivers/block/zram/zcomp.c: zcomp_create`, `crypto/api.c: crypto_larval_lookup`); since then by itself.
    #[must_use]
    pub fn for_swap(&self) -> Vec<&ModuleFile> {
        /// In the order of what zram prefers by default in one kernel or another.
        const COMPRESSORS: [&str; 5] = ["lzo-rle", "lzo", "lz4", "zstd", "842"];
        let mut ordered = Vec::new();
        let Some(zram) = self.find("zram") else { return ordered };
        if zram.names_symbol("crypto_has_alg") {
            let named = |name: &&str| {
                let alias = format!("crypto-{name}");
                self.modules.iter().find(|module| module.aliases.contains(&alias))
            };
            if let Some(compressor) = COMPRESSORS.iter().find_map(named) {
                self.add(compressor, &mut ordered);
            }
        }
        self.add(zram, &mut ordered);
        ordered
    }

    fn find(&self, name: &str) -> Option<&ModuleFile> {
        self.modules.iter().find(|module| module.name == name)
    }

    /// Adds a module behind what it depends on. What the folder has not may be in the kernel itself.
    fn add<'a>(&'a self, module: &'a ModuleFile, ordered: &mut Vec<&'a ModuleFile>) {
        let mut waiting = vec![(module, 0)];
        while let Some((module, next)) = waiting.pop() {
            match module.depends.get(next) {
                Some(needed) => {
                    waiting.push((module, next + 1));
                    // One that waits already would depend on itself: the kernel cannot load such either.
                    let is_new = |needed: &&ModuleFile| {
                        !ordered.iter().chain(waiting.iter().map(|(one, _)| one)).any(|known| known.name == needed.name)
                    };
                    if let Some(needed) = self.find(needed).filter(is_new) {
                        waiting.push((needed, 0));
                    }
                }
                None if ordered.iter().any(|known| known.name == module.name) => {}
                None => ordered.push(module),
            }
        }
    }
}

fn list(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), ModuleFolderError> {
    let failed = |source| ModuleFolderError::Io { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        // Links (`build`, `source`) lead out of the tree.
        if kind.is_dir() {
            list(&entry.path(), paths)?;
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
    Ok(())
}

fn split_ending(file_name: &str) -> Option<(&str, Packing)> {
    ENDINGS.iter().find_map(|(ending, packing)| Some((file_name.strip_suffix(ending)?, *packing)))
}

/// The kernel's spelling of a module's name (`scripts/Makefile.lib: name-fix-token`).
fn kernel_name(name: &str) -> String {
    name.replace('-', "_")
}

fn unpack(packing: Packing, packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    match packing {
        Packing::Plain => content.extend_from_slice(packed),
        Packing::Xz => drop(lzma_rust2::XzReader::new(packed, true).read_to_end(&mut content)?),
        Packing::Zstandard => {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(packed).map_err(io::Error::other)?;
            decoder.read_to_end(&mut content)?;
        }
    }
    Ok(content)
}
