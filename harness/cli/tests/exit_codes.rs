//! The exit codes, and that `git bisect run` understands them: each bisection here is a real one, in a repository
//! made for it, and drives `ptediff judge` on a trace that lies in the tree.
//!
//! Code 2 says that the kernel died. Only a live run can see that: it is bisected in the live tests.

#[path = "support/command.rs"]
mod command;
#[path = "support/repository.rs"]
mod repository;
#[path = "support/traces.rs"]
mod traces;

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Stdio};

use ptediff::exit_code::Exit;

use command::{PTEDIFF, run, tidy};
use repository::Repository;
use traces::{Story, trace};

/// The command with these arguments.
fn ptediff<Argument: AsRef<OsStr>>(arguments: &[Argument]) -> Command {
    let mut command = Command::new(PTEDIFF);
    command.args(arguments);
    tidy(&mut command);
    command
}

#[test]
fn a_trace_gives_each_code_that_it_can() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("a.trace");
    for (bytes, exit) in [
        (trace(Story::Agrees), Exit::Agree),
        (trace(Story::Diverges), Exit::Diverge),
        (trace(Story::Uncalibrated), Exit::CannotTell),
        (trace(Story::GuestDisagrees), Exit::Rig),
        (cut(), Exit::Usage),
    ] {
        fs::write(&file, bytes).expect("the trace can be written");
        let ran = run(ptediff(&["judge".as_ref(), "--strict".as_ref(), file.as_os_str()]));
        assert_eq!(ran.code, i32::from(exit as u8), "{ran:#?}");
        assert!(exit == Exit::Usage || ran.stdout.contains(exit.meaning()), "{ran:#?}");
    }
}

#[test]
fn a_panic_is_an_internal_error() {
    let mut command = ptediff(&["rules"]);
    command.env("PTEDIFF_PLANT_PANIC", "1");
    let ran = run(command);
    assert_eq!(ran.code, i32::from(Exit::Internal as u8), "{ran:#?}");
    assert!(ran.stderr.contains("a bug in ptediff itself"), "{ran:#?}");
}

#[test]
fn help_is_no_error_and_clap_has_no_codes_of_its_own() {
    assert_eq!(run(ptediff::<&str>(&[])).code, i32::from(Exit::Usage as u8));
    for (arguments, exit) in [
        (["--help"], Exit::Agree),
        (["--version"], Exit::Agree),
        (["--nonsense"], Exit::Usage),
        (["run2"], Exit::Usage),
    ] {
        let ran = run(ptediff(&arguments));
        assert_eq!(ran.code, i32::from(exit as u8), "{ran:#?}");
    }
    let help = run(ptediff(&["--help"])).stdout;
    for code in ["0 agree", "1 diverge", "2 the kernel died", "125 cannot tell", "129", "130", "131"] {
        assert!(help.contains(code), "{code}: {help}");
    }
}

#[test]
fn a_closed_output_ends_every_command_quietly() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("a.trace");
    fs::write(&file, trace(Story::Diverges)).expect("the trace can be written");
    let file = file.to_str().expect("a path that is text");
    let mut commands: Vec<Vec<&str>> =
        vec![vec!["claims"], vec!["rules"], vec!["explain", "0x8000000000000867"], vec!["report", file]];
    commands.push(vec!["judge", file]);
    commands.push(vec!["diff", "6.1", "6.12"]);
    for words in commands {
        for format in ["human", "json"] {
            let mut command = ptediff(&words);
            // Whoever read it is gone before the first word.
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            let child = command.args(["--format", format]).stdout(writer).stderr(Stdio::piped()).spawn();
            drop(command);
            let output = child.and_then(|child| child.wait_with_output()).expect("the command can be started");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), said.as_str()), (Some(141), ""), "{words:?} {format}");
        }
    }
}

#[test]
fn bisect_finds_the_first_bad_commit() {
    check_bisect(&[GOOD, GOOD, GOOD, GOOD, BAD, BAD, BAD], Some(4));
    check_bisect(&[GOOD, BAD, BAD, BAD], Some(1));
    check_bisect(&[GOOD, GOOD, GOOD, BAD], Some(3));
}

#[test]
fn bisect_skips_what_cannot_be_told() {
    check_bisect(&[GOOD, SKIP, GOOD, GOOD, BAD, SKIP, BAD], Some(4));
    check_bisect(&[GOOD, GOOD, SKIP, GOOD, SKIP, GOOD, BAD, BAD, SKIP, BAD], Some(6));
}

#[test]
fn bisect_blames_nobody_between_two_skipped_commits() {
    let said = check_bisect(&[GOOD, SKIP, SKIP, BAD], None);
    assert!(said.contains("only 'skip'ped commits left"), "{said}");
}

#[test]
fn bisect_stops_where_the_rig_fails() {
    for failure in [RIG, CUT] {
        let said = check_bisect(&[GOOD, GOOD, failure, failure, failure, BAD, BAD], None);
        assert!(said.contains("exit code"), "{said}");
    }
}

#[test]
fn bisect_stops_at_a_panic() {
    let repository = repository(&[GOOD, GOOD, BAD, BAD]);
    let said = repository.bisect(&format!("PTEDIFF_PLANT_PANIC=1 {PTEDIFF} judge --strict trace"));
    assert_eq!(repository.first_bad(), None, "{said}");
    assert!(said.contains("exit code 131"), "{said}");
}

fn cut() -> Vec<u8> {
    let mut bytes = trace(Story::Agrees);
    bytes.truncate(bytes.len() / 2);
    bytes
}

/// What lies in a commit.
type Tree = fn() -> Vec<u8>;
const GOOD: Tree = || trace(Story::Agrees);
const BAD: Tree = || trace(Story::Diverges);
const SKIP: Tree = || trace(Story::Uncalibrated);
const RIG: Tree = || trace(Story::GuestDisagrees);
const CUT: Tree = cut;

fn repository(trees: &[Tree]) -> Repository {
    Repository::new("trace", trees.iter().map(|tree| tree()))
}

#[track_caller]
fn check_bisect(trees: &[Tree], expected: Option<usize>) -> String {
    let repository = repository(trees);
    let said = repository.bisect(&format!("{PTEDIFF} judge --strict trace"));
    assert_eq!(repository.first_bad(), expected, "{said}");
    said
}
