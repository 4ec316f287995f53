//! The corpus on each kernel against its snapshots: one boot a kernel, one test an entry and kernel. The guest
//! only streams; this side owns the snapshots, and `cargo insta review` accepts changed ones. Where programs may run
//! in place, the tests that boot are ignored, by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use ptediff::host::session::judge_bytes;
use ptediff::report::snapshots::{Replayed, complaints, read_snapshots, recorded_on, timelines};
use ptediff_corpus::{Corpus, StoredEntry};
use ptediff_vm::in_place::may_run_in_place;

/// Kernels that are run, and where: with shadow stacks where the kernel has them. Folders of other names are named
/// as not run.
const KERNELS: [(&str, &str); 3] = [("6.1", "qemu"), ("6.12", "bochs"), ("7.2", "bochs")];

/// Each kernel's replay, made when it is first asked for.
static REPLAYS: [OnceLock<Result<Replayed, String>>; 3] = [const { OnceLock::new() }; 3];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The trials of a kernel wait for its one boot, and two machines at once make each other's watchdogs bark.
    arguments.test_threads.get_or_insert(1);
    let mut trials = vec![Trial::test("host::planted_changes_are_noticed", planted_changes_are_noticed)];
    let entries = match entries() {
        Ok(entries) => entries,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    };
    let mut on_machines = Vec::new();
    for (index, (kernel, _)) in KERNELS.into_iter().enumerate() {
        for stored in &entries {
            let name = stored.entry.name.clone();
            on_machines
                .push(Trial::ignorable_test(format!("{kernel}::{name}"), move || is_as_the_snapshot(index, &name)));
        }
        on_machines.push(Trial::test(format!("{kernel}::nothing_else_is_there"), move || nothing_else_is_there(index)));
    }
    let in_place = may_run_in_place();
    trials.extend(on_machines.into_iter().map(|trial| trial.with_ignored_flag(in_place)));
    if !arguments.list {
        for name in kernels_not_run() {
            println!("not run: the snapshots of {name}");
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder_of(kernel: &str) -> PathBuf {
    root().join("snapshots").join(kernel)
}

fn entries() -> Result<Vec<StoredEntry>, String> {
    let corpus = Corpus::open(&root().join("corpus")).map_err(|error| error.to_string())?;
    let entries: Result<Vec<_>, _> = corpus.entries().collect();
    entries.map_err(|error| error.to_string())
}

fn kernels_not_run() -> Vec<String> {
    let folders = fs::read_dir(root().join("snapshots")).into_iter().flatten().flatten();
    let names = folders.map(|folder| folder.file_name().to_string_lossy().into_owned());
    names.filter(|name| KERNELS.iter().all(|(kernel, _)| kernel != name)).collect()
}

fn replay(index: usize) -> Result<&'static Replayed, String> {
    REPLAYS[index].get_or_init(|| boot(KERNELS[index].0, KERNELS[index].1)).as_ref().map_err(Clone::clone)
}

/// A Bochs that falls silent for no cause in the guest has been seen, once in some hundred boots (docs/emulators.md).
/// It is said, and another machine started; a hang that is the kernel's comes again.
fn boot(kernel: &str, platform: &str) -> Result<Replayed, String> {
    boot_once(kernel, platform).or_else(|first| {
        if !first.contains("the guest hung") {
            return Err(first);
        }
        println!("{kernel}: the guest hung; another machine is started. It had said:\n{first}");
        boot_once(kernel, platform)
    })
}

/// Runs the command as a user would, and reads the trace that it kept.
fn boot_once(kernel: &str, platform: &str) -> Result<Replayed, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let trace = folder.path().join("trace");
    let output = Command::new(env!("CARGO_BIN_EXE_ptediff"))
        .args(["replay", "--all", "--platform", platform, "--kernel", kernel, "--corpus"])
        .arg(root().join("corpus"))
        .arg("--trace")
        .arg(&trace)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let recorded = recorded_on(&folder_of(kernel)).map_err(|error| error.to_string())?;
    let bytes = fs::read(&trace).map_err(|error| error.to_string())?;
    let results = judge_bytes(&bytes);
    let said = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    timelines(&results, &entries()?, recorded).ok_or_else(said)
}

fn is_as_the_snapshot(index: usize, name: &str) -> Result<Completion, Failed> {
    let replayed = replay(index)?;
    if let Some(missing) = replayed.not_run.get(name) {
        return Ok(Completion::ignored_with(format!("the machine lacks {missing}")));
    }
    let timeline = replayed.timelines.get(name).ok_or("the entry was not replayed")?;
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(folder_of(KERNELS[index].0));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, timeline));
    Ok(Completion::Completed)
}

/// The whole difference in one place, for people; stale snapshots are seen here alone.
fn nothing_else_is_there(index: usize) -> Result<(), Failed> {
    let snapshots = read_snapshots(&folder_of(KERNELS[index].0))?;
    let complaints = complaints(&snapshots, replay(index)?);
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n").into()) }
}

/// With the tree's own snapshots: as they are nothing is found; with one changed, one stale and one missing all
/// three are named.
fn planted_changes_are_noticed() -> Result<(), Failed> {
    for (kernel, _) in KERNELS {
        let timelines = read_snapshots(&folder_of(kernel))?;
        let replayed = Replayed { timelines, ..Replayed::default() };
        let planted = tempfile::tempdir()?;
        for file in fs::read_dir(folder_of(kernel))? {
            let file = file?;
            fs::copy(file.path(), planted.path().join(file.file_name()))?;
        }
        let expect = |wanted: &[&str]| {
            let found = complaints(&read_snapshots(planted.path())?, &replayed);
            let agree =
                found.len() == wanted.len() && found.iter().zip(wanted).all(|(one, head)| one.starts_with(head));
            if agree { Ok(()) } else { Err(Failed::from(format!("{kernel}: expected {wanted:?}, found {found:#?}"))) }
        };
        expect(&[])?;
        let changed = planted.path().join("first-write.snap");
        let text = fs::read_to_string(&changed)?;
        let other = text.replacen("-> stored", "-> SIGSEGV(11)", 1);
        if other == text {
            return Err("first-write has no store to change".into());
        }
        fs::write(&changed, other)?;
        let head = "first-write: changed\n--- snapshot\n+++ seen\n";
        expect(&[head])?;
        fs::copy(&changed, planted.path().join("of-an-entry-that-is-gone.snap"))?;
        let gone = "of-an-entry-that-is-gone: a snapshot that no entry refers to";
        expect(&[head, gone])?;
        fs::remove_file(planted.path().join("munmap-over-hole.snap"))?;
        expect(&[head, "munmap-over-hole: an entry without a snapshot", gone])?;
    }
    Ok(())
}
