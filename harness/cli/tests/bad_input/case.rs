//! One case and its check.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;
use ptediff::exit_code::Exit;

use crate::command::{PTEDIFF, Ran, run, tidy};

/// A file system of 1 MiB that is mounted on the case's folder `mount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mount {
    /// No byte fits.
    Full,
    /// Nothing can be written.
    ReadOnly,
}

/// Wrong input, and what must come of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Makes the files in the case's folder and gives the arguments.
    pub(crate) prepare: fn(&Path) -> Vec<OsString>,
    pub(crate) exit: Exit,
    /// What standard error must say, among other things. `DIR` stands for the case's folder.
    pub(crate) says: &'static [&'static str],
    /// What standard output must say: empty where the command must not get that far.
    pub(crate) prints: &'static [&'static str],
    pub(crate) mount: Option<Mount>,
    /// The cache is this folder of the case's; the user's own where there is none.
    pub(crate) cache: Option<&'static str>,
    /// Another program than `ptediff`.
    pub(crate) program: Option<PathBuf>,
    /// Standard error is kept as a snapshot.
    pub(crate) snapshot: bool,
    /// It is wrong only where programs may not run in place; elsewhere it would start a campaign.
    pub(crate) needs_no_leave: bool,
}

impl Case {
    pub(crate) fn new(name: &'static str, prepare: fn(&Path) -> Vec<OsString>, says: &'static [&'static str]) -> Self {
        Self {
            name,
            prepare,
            exit: Exit::Usage,
            says,
            prints: &[],
            mount: None,
            cache: None,
            program: None,
            snapshot: false,
            needs_no_leave: false,
        }
    }

    pub(crate) fn kept(self) -> Self {
        Self { snapshot: true, ..self }
    }
}

/// Arguments from words and paths.
pub(crate) fn words<const COUNT: usize>(words: [&dyn AsRef<std::ffi::OsStr>; COUNT]) -> Vec<OsString> {
    words.into_iter().map(|word| word.as_ref().to_owned()).collect()
}

/// Whether mounts can be made in a namespace of our own.
pub(crate) fn may_mount() -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new("unshare");
    command.args(["--mount", "mount", "-t", "tmpfs", "tmpfs"]).arg(folder.path());
    command.output().is_ok_and(|output| output.status.success())
}

pub(crate) fn check(case: &Case) -> Result<(), Failed> {
    let temporary = tempfile::Builder::new().prefix("bad-input-").tempdir()?;
    let folder = temporary.path();
    let mount_point = folder.join("mount");
    fs::create_dir(&mount_point)?;
    let arguments = (case.prepare)(folder);
    let before = listing(folder)?;
    let mut command = command_of(case, folder, &arguments);
    tidy(&mut command);
    if let Some(cache) = case.cache {
        command.env("PTEDIFF_CACHE", folder.join(cache));
    }
    let ran = run(command);
    judge(case, folder, &ran)?;
    let left = folder.join("left");
    if case.mount.is_some() {
        let names = fs::read_to_string(&left)?;
        fs::remove_file(&left)?;
        let expected = if case.mount == Some(Mount::Full) { "./filler\n" } else { "" };
        if names != expected {
            return Err(format!("the mount holds {names:?} afterwards").into());
        }
    }
    let after = listing(folder)?;
    if before != after {
        return Err(format!("files before: {before:#?}\nand after: {after:#?}").into());
    }
    if case.snapshot {
        snapshot(case.name, folder, &ran.stderr);
    }
    Ok(())
}

fn command_of(case: &Case, folder: &Path, arguments: &[OsString]) -> Command {
    let program = case.program.as_deref().unwrap_or(Path::new(PTEDIFF));
    let Some(mount) = case.mount else {
        let mut command = Command::new(program);
        command.args(arguments);
        return command;
    };
    // The mount is gone with the namespace, so what is left on it is looked at from inside.
    let make = match mount {
        Mount::Full => {
            "mount -t tmpfs -o size=1m tmpfs \"$DIR/mount\"; head -c 2M /dev/zero > \"$DIR/mount/filler\" 2> /dev/null"
        }
        Mount::ReadOnly => "mount -t tmpfs -o size=1m,ro tmpfs \"$DIR/mount\"",
    };
    let script =
        format!("{make}; \"$0\" \"$@\"; code=$?; (cd \"$DIR/mount\" && find . -type f) > \"$DIR/left\"; exit $code");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(program).args(arguments).env("DIR", folder);
    command
}

fn judge(case: &Case, folder: &Path, ran: &Ran) -> Result<(), Failed> {
    let complain = |what: String| Err(Failed::from(format!("{what}\n{ran:#?}")));
    if ran.code != i32::from(case.exit as u8) {
        return complain(format!("exit code {} instead of {}", ran.code, case.exit as u8));
    }
    for (stream, expected) in [(&ran.stderr, case.says), (&ran.stdout, case.prints)] {
        for text in expected {
            let text = text.replace("DIR", &folder.display().to_string());
            if !stream.contains(&text) {
                return complain(format!("`{text}` is not said"));
            }
        }
        if expected.is_empty() && !stream.is_empty() {
            return complain("something is said where nothing should be".to_owned());
        }
    }
    for word in ["panicked", "bug in ptediff", "Os {", "Error("] {
        if ran.stderr.contains(word) {
            return complain(format!("`{word}` in an error message"));
        }
    }
    // A paragraph, or the text with its place: never a page.
    let lines = ran.stderr.lines().filter(|line| !line.trim().is_empty()).count();
    if lines > 12 || ran.stderr.len() > 3000 {
        return complain(format!("{lines} lines of {} bytes are no paragraph", ran.stderr.len()));
    }
    Ok(())
}

/// Every file below the folder with its contents.
fn listing(folder: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, Failed> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mut bytes = fs::read(&path)?;
                // Enough to tell a change; the rest of a large file would only fill the message.
                bytes.truncate(4096);
                files.push((path, bytes));
            }
        }
    }
    files.sort();
    Ok(files)
}

fn snapshot(name: &str, folder: &Path, stderr: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(&folder.display().to_string(), "DIR");
    settings.add_filter(r"at byte \d+", "at byte N");
    settings.add_filter(r"\.entry-\w+", ".entry-RANDOM");
    settings.add_filter(r"(?m)[ \t]+$", "");
    settings.bind(|| insta::assert_snapshot!(format!("error-{name}"), stderr));
}
