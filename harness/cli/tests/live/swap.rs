//! Swap on a kernel that is given by its path.

use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};
use ptediff::exit_code::Exit;
use ptediff_vm::store::Store;
use tempfile::TempDir;

use crate::machine::{Live, live, require};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("swap::qemu::no_modules", no_modules),
        Trial::test("swap::qemu::modules_of_a_folder", modules_of_a_folder),
        Trial::test("swap::qemu::modules_of_another_kernel", modules_of_another_kernel),
        Trial::test("swap::qemu::a_folder_without_zram", a_folder_without_zram),
    ]
}

/// A folder as `make modules_install` leaves it, with what the cache has for this kernel.
fn tree_of(kernel: &str) -> Result<TempDir, Failed> {
    let tree = tempfile::tempdir()?;
    let folder = tree.path().join("lib/modules/release/kernel/drivers");
    fs::create_dir_all(&folder)?;
    for module in Store::open()?.kernel(kernel)?.modules {
        let name = module.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('-'));
        let (_, name) = name.ok_or("a module's number and name")?;
        fs::copy(&module, folder.join(name))?;
    }
    Ok(tree)
}

/// Replays an entry that needs swap on 6.12 by its path.
fn replay(modules: Option<&Path>) -> Result<Live, Failed> {
    require("6.12", None)?;
    let image = Store::open()?.kernel("6.12")?.vmlinuz;
    let path = image.to_str().ok_or("a path that is no text")?;
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    let mut words = vec![
        "replay",
        "--platform",
        "qemu",
        "--corpus",
        corpus,
        "swap-dontneed",
        "--dialect",
        "6.12",
        "--kernel",
        path,
    ];
    if let Some(modules) = modules {
        words.extend(["--modules", modules.to_str().ok_or("a path that is no text")?]);
    }
    live(&words)
}

fn must_have_none(ran: &Live, because: &str) -> Result<(), Failed> {
    ran.must_exit(Exit::CannotTell)?;
    ran.must_be("/machine/swap", "false")?;
    ran.must_say("/no_swap", because)?;
    ran.must_say("/entries/0/verdict", "the machine lacks a swap file")
}

fn no_modules() -> Result<(), Failed> {
    must_have_none(&replay(None)?, "zram is not built into the kernel; no modules were given (--modules DIR)")
}

fn modules_of_a_folder() -> Result<(), Failed> {
    require("6.12", None)?;
    let ran = replay(Some(tree_of("6.12")?.path()))?;
    ran.must_exit(Exit::Agree)?;
    ran.must_be("/machine/swap", "true")?;
    ran.must_be("/no_swap", "null")
}

fn modules_of_another_kernel() -> Result<(), Failed> {
    require("7.2", None)?;
    let release = Store::open()?.kernel("7.2")?.release;
    must_have_none(&replay(Some(tree_of("7.2")?.path()))?, &format!("built for {release}: "))
}

fn a_folder_without_zram() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    must_have_none(&replay(Some(folder.path()))?, "there is no zram.ko in ")
}
