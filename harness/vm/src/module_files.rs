//! Kernel modules as files, and which of them, in which order, a swap file takes.
//!
//! Packages bring no `modules.dep`, and a folder of one's own need not have one: each module says in its
//! `.modinfo` section what it depends on (`scripts/mod/modpost.c: add_depends`).

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::elf::section;

/// A kernel module, unpacked.
#[derive(Clone, PartialEq, Eq)]
pub struct ModuleFile {
    /// Its name as the kernel has it: `lzo_rle` of `lzo-rle.ko.xz`.
    pub name: String,
    /// The ELF file.
    pub content: Vec<u8>,
    /// Names of the modules that it needs.
    depends: Vec<String>,
    /// The release that it was built for, and options that must match: `6.12.95+deb12-cloud-amd64 SMP ...`.
    version_magic: String,
}

impl std::fmt::Debug for ModuleFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "ModuleFile({}, {} bytes)", self.name, self.content.len())
    }
}

impl ModuleFile {
    /// Reads a module out of its file's bytes, which `path`'s ending says how to unpack: `.ko`, `.ko.xz`, `.ko.zst`.
    ///
    /// # Errors
    /// A sentence: packed in a way that is not known here, damaged, or no module.
    pub fn parse(path: &Path, packed: &[u8]) -> Result<Self, String> {
        let name = module_name(path).ok_or("its name does not end as a module's does")?;
        let content = unpack(path, packed)?;
        let information = section(&content, ".modinfo")?.ok_or("it has no .modinfo section")?;
        let values = |key: &str| {
            let texts = information.split(|byte| *byte == 0).map(String::from_utf8_lossy);
            texts.filter_map(|text| Some(text.strip_prefix(key)?.strip_prefix('=')?.to_owned())).collect::<Vec<_>>()
        };
        let listed = values("depends").join(",");
        let depends = listed.split(',').filter(|name| !name.is_empty()).map(kernel_name).collect();
        let version_magic = values("vermagic").pop().unwrap_or_default();
        Ok(Self { name, depends, version_magic, content })
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

/// Modules that are at hand, still packed: of a folder, flat or a tree as below `/lib/modules`, or of a package.
#[derive(Debug, Default)]
pub struct ModuleFiles {
    /// By their names as the kernel has them.
    files: BTreeMap<String, Packed>,
}

#[derive(Debug)]
enum Packed {
    File(PathBuf),
    Bytes { path: PathBuf, content: Vec<u8> },
}

/// Modules cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
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
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl ModuleFiles {
    /// The modules of a folder and everything below it. Links are not followed: `build` and `source` lead elsewhere.
    ///
    /// # Errors
    /// [`ModuleError::Io`] if a folder cannot be read.
    pub fn of_folder(folder: &Path) -> Result<Self, ModuleError> {
        let mut paths = Vec::new();
        list(folder, &mut paths)?;
        paths.sort();
        let mut modules = Self::default();
        for path in paths {
            if let Some(name) = module_name(&path) {
                modules.files.entry(name).or_insert(Packed::File(path));
            }
        }
        Ok(modules)
    }

    /// Adds a file of a package. What is no module by its name is passed over, as is a second one of the same name.
    pub fn add(&mut self, path: &Path, content: Vec<u8>) {
        if let Some(name) = module_name(path) {
            self.files.entry(name).or_insert(Packed::Bytes { path: path.to_owned(), content });
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The modules that a swap file in compressed memory takes, in the order in which they are loaded. None where
    /// there is no zram.
    ///
    /// Until 6.11 zram packs by the kernel's crypto API, which finds a compressor by its alias, `crypto-lzo-rle` of
    /// `lzo-rle.ko` (`drivers/block/zram/zcomp.c: zcomp_create`, `crypto/api.c: crypto_larval_lookup`); since then by
    /// itself.
    ///
    /// # Errors
    /// [`ModuleError`] if one of them cannot be read or unpacked.
    pub fn for_swap(&self) -> Result<Vec<ModuleFile>, ModuleError> {
        /// In the order of what zram prefers by default in one kernel or another.
        const COMPRESSORS: [&str; 5] = ["lzo_rle", "lzo", "lz4", "zstd", "842"];
        let mut ordered = Vec::new();
        let Some(zram) = self.read("zram")? else { return Ok(ordered) };
        if zram.names_symbol("crypto_has_alg") {
            for compressor in COMPRESSORS {
                if let Some(module) = self.read(compressor)? {
                    self.order(module, &mut ordered)?;
                    break;
                }
            }
        }
        self.order(zram, &mut ordered)?;
        Ok(ordered)
    }

    /// Adds a module behind what it depends on. What is not at hand may be in the kernel itself.
    fn order(&self, module: ModuleFile, ordered: &mut Vec<ModuleFile>) -> Result<(), ModuleError> {
        let mut waiting = vec![module];
        while let Some(module) = waiting.last() {
            let is_known = |name: &String| ordered.iter().chain(&waiting).any(|known| known.name == *name);
            // One that waits already would depend on itself: the kernel could not load such either.
            let missing = module.depends.iter().find(|name| !is_known(name) && self.files.contains_key(*name)).cloned();
            match missing.map(|name| self.read(&name)).transpose()?.flatten() {
                Some(needed) => waiting.push(needed),
                None => ordered.extend(waiting.pop()),
            }
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Option<ModuleFile>, ModuleError> {
        let Some(packed) = self.files.get(name) else { return Ok(None) };
        let (path, parsed) = match packed {
            Packed::Bytes { path, content } => (path, ModuleFile::parse(path, content)),
            Packed::File(path) => {
                let content = fs::read(path).map_err(|source| ModuleError::Io { path: path.clone(), source })?;
                (path, ModuleFile::parse(path, &content))
            }
        };
        parsed.map(Some).map_err(|reason| ModuleError::Unusable { path: path.clone(), reason })
    }
}

fn list(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), ModuleError> {
    let failed = |source| ModuleError::Io { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            list(&entry.path(), paths)?;
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
    Ok(())
}

/// The name of a module by its file's, however that is packed.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, packing) = name.split_once(".ko")?;
    (packing.is_empty() || packing.starts_with('.')).then(|| kernel_name(stem))
}

/// The kernel's spelling of a module's name (`scripts/Makefile.lib: name-fix-token`).
fn kernel_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Unpacks a module, as far as can be done here.
fn unpack(path: &Path, packed: &[u8]) -> Result<Vec<u8>, String> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let mut content = Vec::new();
    let result = match ending.as_str() {
        "ko" => return Ok(packed.to_vec()),
        "xz" => lzma_rust2::XzReader::new(packed, true).read_to_end(&mut content),
        "zst" => ruzstd::decoding::StreamingDecoder::new(packed)
            .map_err(io::Error::other)
            .and_then(|mut decoder| decoder.read_to_end(&mut content)),
        _ => {
            return Err(format!(
                "modules packed as .{ending} cannot be unpacked here, .xz and .zst can: unpack it first"
            ));
        }
    };
    result.map(|_| content).map_err(|error| format!("it cannot be unpacked: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with this .modinfo section and a text behind it.
    fn module(information: &str, text: &str) -> Vec<u8> {
        let names = b"\0.names\0.modinfo\0";
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let place = |file: &mut Vec<u8>, bytes: &[u8]| {
            let start = file.len() as u64;
            file.extend_from_slice(bytes);
            (start, bytes.len() as u64)
        };
        let sections = [(1u32, place(&mut file, names)), (8, place(&mut file, information.as_bytes()))];
        place(&mut file, text.as_bytes());
        let table = file.len() as u64;
        for (name, (start, size)) in sections {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&start.to_le_bytes());
            header[32..40].copy_from_slice(&size.to_le_bytes());
            file.extend_from_slice(&header);
        }
        file[40..48].copy_from_slice(&table.to_le_bytes());
        file[58..64].copy_from_slice(&[64, 0, 2, 0, 0, 0]);
        file
    }

    fn check(files: &[(&str, &str, &str)], expected: &[&str]) {
        let mut modules = ModuleFiles::default();
        for (path, information, text) in files {
            modules.add(Path::new(path), module(information, text));
        }
        let ordered = modules.for_swap().expect("modules");
        assert_eq!(ordered.iter().map(|module| module.name.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn modules_come_behind_what_they_depend_on() {
        let zram = ("drivers/block/zram/zram.ko", "depends=lz4_compress,zsmalloc\0", "");
        let lz4 = ("lib/lz4-compress.ko", "license=GPL\0depends=\0", "");
        check(
            &[zram, lz4, ("mm/zsmalloc.ko", "depends=\0", ""), ("x.ko", "", "")],
            &["lz4_compress", "zsmalloc", "zram"],
        );
        // What is not at hand is in the kernel.
        check(&[zram, lz4], &["lz4_compress", "zram"]);
        check(&[lz4], &[]);
        check(&[("zram.ko", "depends=zram,a\0", ""), ("a.ko", "depends=zram\0", "")], &["a", "zram"]);
    }

    #[test]
    fn an_old_zram_takes_a_compressor_along() {
        let compressors = [("lz4.ko", "depends=lz4_compress\0", ""), ("lz4_compress.ko", "", ""), ("842.ko", "", "")];
        let with = |text| [&[("zram.ko", "", text)][..], &compressors].concat();
        check(&with("\0crypto_has_alg\0"), &["lz4_compress", "lz4", "zram"]);
        check(&with("\0crypto_has_algorithm\0"), &["zram"]);
    }

    #[test]
    fn packed_modules_are_unpacked_or_refused_by_name() {
        let plain = module("depends=a\0vermagic=6.12.1 SMP\0", "");
        let zstandard = ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest);
        for (path, packed) in [("zram.ko", &plain), ("zram.ko.zst", &zstandard)] {
            let module = ModuleFile::parse(Path::new(path), packed).expect(path);
            assert_eq!((module.name.as_str(), module.release(), &module.content), ("zram", "6.12.1", &plain), "{path}");
        }
        let refused = |path: &str, packed: &[u8], expected: &str| {
            let mut modules = ModuleFiles::default();
            modules.add(Path::new(path), packed.to_vec());
            let error = modules.for_swap().expect_err(path).to_string();
            assert!(error.contains(path) && error.contains(expected), "{error}");
        };
        refused("zram.ko.gz", &plain, "unpack it first");
        refused("zram.ko.xz", &plain, "cannot be unpacked");
        refused("zram.ko", b"#!/bin/sh", "not a 64-bit");
        refused("zram.ko", &plain[..80], "truncated");
    }

    #[test]
    fn a_folder_may_be_flat_or_a_tree() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let tree = folder.path().join("kernel/drivers/block");
        fs::create_dir_all(&tree).expect("folders");
        fs::write(tree.join("zram.ko"), module("depends=zsmalloc\0", "")).expect("write");
        fs::write(folder.path().join("zsmalloc.ko"), module("", "")).expect("write");
        fs::write(folder.path().join("modules.dep"), "").expect("write");
        let modules = ModuleFiles::of_folder(folder.path()).expect("a folder");
        let ordered = modules.for_swap().expect("modules");
        assert_eq!(ordered.iter().map(|module| module.name.as_str()).collect::<Vec<_>>(), ["zsmalloc", "zram"]);
        ModuleFiles::of_folder(Path::new("/nowhere")).expect_err("no folder");
    }
}
