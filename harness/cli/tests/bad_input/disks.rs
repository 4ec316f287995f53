//! Disks that are full or cannot be written.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use ptediff::exit_code::Exit;
use ptediff_vm::store::{ArtifactKind, Store};

use crate::case::{Case, Mount, words};
use crate::trace_maker::{Story, trace};

/// With this word and the cache's folder the test's own file stages an artifact, as set-up does.
pub(crate) const STAGE_WORD: &str = "--stage-an-artifact";

/// Writes a kernel of 64 KiB into the cache, or says why not.
pub(crate) fn stage(cache: &Path) -> ExitCode {
    let staged = Store::at(cache).stage(ArtifactKind::Kernel, "test").and_then(|staging| {
        let file = staging.path().join("vmlinuz");
        fs::write(&file, [1; 1 << 16]).map_err(|error| ptediff_vm::store::StoreError::from_io("write", &file, error))
    });
    match staged {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            Exit::Rig.into()
        }
    }
}

/// Judges a diverging trace, with the entry to be stored on the mount.
fn judge_and_save(folder: &Path) -> Vec<OsString> {
    let file = folder.join("a.trace");
    fs::write(&file, trace(Story::Diverges)).expect("the trace can be written");
    words([&"judge", &file, &"--save", &folder.join("mount")])
}

fn stage_on_mount(folder: &Path) -> Vec<OsString> {
    words([&STAGE_WORD, &folder.join("mount")])
}

pub(crate) fn cases() -> Vec<Case> {
    let on = |mount, case: Case| Case { mount: Some(mount), ..case };
    let staging = |case: Case| Case { program: std::env::current_exe().ok(), exit: Exit::Rig, ..case };
    // The divergence is not lost with its entry: it is printed, and the verdict stands.
    let saving = |case: Case| Case {
        exit: Exit::Diverge,
        prints: &[
            "DIVERGENCE   program 1",
            "stored       not mprotect-read-only-event-after-rw-test",
            "exit         1",
        ],
        ..case
    };
    // Looking at a cache needs no writing.
    let looking = |mount, name| {
        let doctor = |_: &Path| words([&"doctor", &"--host-only"]);
        let case = Case::new(name, doctor, &[]);
        Case { mount: Some(mount), cache: Some("mount"), exit: Exit::Agree, prints: &["cache: DIR/mount"], ..case }
    };
    vec![
        on(
            Mount::Full,
            saving(Case::new(
                "save-on-a-full-disk",
                judge_and_save,
                &["cannot write DIR/mount/mprotect-read-only-event-after-rw-test.json: the file system is full; nothing was changed"],
            )),
        )
        .kept(),
        on(
            Mount::ReadOnly,
            saving(Case::new(
                "save-on-a-read-only-disk",
                judge_and_save,
                &["cannot write DIR/mount/mprotect-read-only-event-after-rw-test.json: the folder is read-only"],
            )),
        ),
        on(
            Mount::Full,
            staging(Case::new(
                "cache-on-a-full-disk",
                stage_on_mount,
                &["no space left for the cache", "DIR/mount/kernels", "set PTEDIFF_CACHE"],
            )),
        ),
        on(
            Mount::ReadOnly,
            staging(Case::new(
                "cache-on-a-read-only-disk",
                stage_on_mount,
                &["the cache cannot be written", "DIR/mount/kernels", "set PTEDIFF_CACHE"],
            )),
        ),
        looking(Mount::Full, "doctor-of-a-cache-on-a-full-disk"),
        looking(Mount::ReadOnly, "doctor-of-a-cache-on-a-read-only-disk"),
    ]
}
