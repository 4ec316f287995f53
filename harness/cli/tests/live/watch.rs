//! `ptediff watch`: healthy kernels break no invariant, each invariant can be seen broken, and what is lost is said.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use libtest_mimic::{Failed, Trial};
use ptediff::exit_code::Exit;
use serde_json::Value;

use crate::machine::{Live, file, live, word};

/// A program of ours that makes an entry of every kind, compiled once.
static EVERY_KIND: LazyLock<Result<PathBuf, String>> = LazyLock::new(|| {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/harness/cli/tests/support/meets_every_kind.c");
    let program = file("meets-every-kind");
    let mut gcc = Command::new("gcc");
    let compiled = gcc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-static", "-o"]).arg(&program).arg(source).output();
    let compiled = compiled.map_err(|error| format!("gcc cannot be started: {error}"))?;
    match compiled.status.success() {
        true => Ok(program),
        false => Err(String::from_utf8_lossy(&compiled.stderr).into_owned()),
    }
});

/// A shell's subshells, as many as the number.
const FORKS: &str = "i=0; while [ $i -lt 300 ]; do ( : ); i=$((i+1)); done";

/// Bits that are flipped in what the probes read, the causes under which, and what must be found broken.
struct Planted {
    platform: &'static str,
    kernel: &'static str,
    bits: &'static str,
    causes: &'static str,
    broken: &'static [&'static str],
}

/// Causes by bit: 1 fault, 2 fork's parent, 4 its child, 8 protect, 16 clear_refs.
const PLANTED: [Planted; 7] = [
    // SavedDirty, a bit of the key, NX, Global, User and Write.
    Planted {
        platform: "qemu",
        kernel: "6.12",
        bits: "0x8c00000000000106",
        causes: "1",
        broken: &[
            "entry.executable",
            "entry.global",
            "entry.protection-key",
            "entry.user",
            "entry.writable",
            "private.writable-not-exclusive",
            "saved-dirty.write-1",
        ],
    },
    // Accessed and uffd-wp.
    Planted {
        platform: "qemu",
        kernel: "7.2",
        bits: "0x420",
        causes: "4",
        broken: &["fork.child-accessed", "fork.child-uffd-wp"],
    },
    // Write, in what mprotect and userfaultfd leave.
    Planted {
        platform: "qemu",
        kernel: "7.2",
        bits: "2",
        causes: "8",
        broken: &["entry.prot-none", "uffd-wp.write-1"],
    },
    // Present: what is left is no swap entry; a marker becomes present.
    Planted { platform: "qemu", kernel: "6.1", bits: "1", causes: "1", broken: &["swap.encoding"] },
    // A bit of a marker's offset.
    Planted { platform: "qemu", kernel: "6.12", bits: "0x2000", causes: "8", broken: &["marker.encoding"] },
    // Dirty, and Write in a shadow stack.
    Planted { platform: "bochs", kernel: "6.12", bits: "0x40", causes: "4", broken: &["entry.write-0-dirty-1"] },
    Planted { platform: "bochs", kernel: "7.2", bits: "2", causes: "1", broken: &["shadow-stack.write-1"] },
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("watch::bochs-6.12::every_kind", || every_kind_is_met("bochs", "6.12")),
        Trial::test("watch::bochs-7.2::every_kind", || every_kind_is_met("bochs", "7.2")),
        Trial::test("watch::qemu-6.1::forks_on_two_cpus", || forks_on_two_cpus("6.1")),
        Trial::test("watch::qemu-6.12::forks_on_two_cpus", || forks_on_two_cpus("6.12")),
        Trial::test("watch::qemu-7.2::forks_on_two_cpus", || forks_on_two_cpus("7.2")),
        Trial::test("watch::a_wrong_pagemap_is_found", a_wrong_pagemap_is_found),
        Trial::test("watch::qemu-6.12::a_killed_watch", || a_killed_watch_leaves_nothing("6.12")),
        Trial::test("watch::qemu-7.2::a_killed_watch", || a_killed_watch_leaves_nothing("7.2")),
        Trial::test("watch::what_is_lost_is_no_agreement", what_is_lost_is_no_agreement),
        Trial::test("watch::a_full_buffer_hides_no_violation", a_full_buffer_hides_no_violation),
        Trial::test("watch::a_command_that_is_not_there", a_command_that_is_not_there),
    ];
    trials.extend(PLANTED.iter().map(|planted| {
        let name = format!("watch::planted::{}-{}::{}", planted.platform, planted.kernel, planted.bits);
        Trial::test(name, || is_found(planted))
    }));
    trials
}

fn watch(words: &[&str], command: &[&str]) -> Result<Live, Failed> {
    live(&[&["watch", "--silence", "400"], words, &["--format", "json", "--"], command].concat())
}

/// Of an invariant: entries about which it says something, and violations.
fn counts(run: &Live, invariant: &str) -> (u64, u64) {
    let rows = run.json["invariants"].as_array().into_iter().flatten();
    let row = rows.into_iter().find(|row| row["invariant"] == invariant).cloned().unwrap_or_default();
    let count = |name: &str| row[name].as_u64().unwrap_or(0);
    (count("checked"), count("violations"))
}

/// Looks at pagemaps, and pages compared in them.
fn pagemaps(run: &Live) -> (u64, u64) {
    let count = |name: &str| run.json["pagemap"][name].as_u64().unwrap_or(0);
    (count("looks"), count("compared"))
}

fn lost(run: &Live) -> u64 {
    run.json["lost"].as_array().into_iter().flatten().filter_map(|pair| pair[1].as_u64()).sum()
}

fn every_kind_is_met(platform: &str, kernel: &str) -> Result<(), Failed> {
    let program = EVERY_KIND.as_ref()?;
    let run = watch(&["--platform", platform, "--kernel", kernel, "--pagemap-every", "0.1"], &[word(program)])?;
    run.must_exit(Exit::Agree)?;
    // It stands still four times, once with a huge page.
    let (looks, compared) = pagemaps(&run);
    if looks < 3 || compared < 1000 {
        return Err(run.wrong(&format!("{compared} pages were compared with their pagemap in {looks} looks")));
    }
    if !run.stderr.contains("met every kind") || run.stderr.contains("no ") {
        return Err(run.wrong("the command could not do everything"));
    }
    // Nothing of this program is swapped out, or marked in a child without being registered there.
    let not_met = ["fork.child-uffd-wp", "fork.swap-exclusive"];
    for row in run.json["invariants"].as_array().into_iter().flatten() {
        if row["checked"] == 0 && !not_met.iter().any(|name| row["invariant"] == *name) {
            return Err(run.wrong(&format!("{} was not checked", row["invariant"])));
        }
    }
    Ok(())
}

/// All children are followed, on whatever CPU they run, and nothing is lost.
fn forks_on_two_cpus(kernel: &str) -> Result<(), Failed> {
    let run = watch(&["--platform", "qemu", "--kernel", kernel, "--cpus", "2"], &["sh", "-c", FORKS])?;
    run.must_exit(Exit::Agree)?;
    run.must_be("/processes", "301")?;
    if pagemaps(&run).1 < 50 {
        return Err(run.wrong("no pagemap was compared"));
    }
    if run.json["events"][2]["events"].as_u64().is_none_or(|forks| forks < 300) {
        return Err(run.wrong("fewer forks were seen than made"));
    }
    Ok(())
}

/// In a machine: a watch in place, killed when its command runs, leaves none of its programs in the kernel; the command
/// goes on, and can be watched again, by its process.
const KILLED: &str = r#"
    export PTEDIFF_NATIVE=1
    programs() { grep -c ' bpf_prog_.*\[bpf\]' /proc/kallsyms; }
    before=$(programs)
    /init watch --platform native -- sh -c 'echo $$ >/started; while :; do (exit 0); done' >/dev/null 2>&1 &
    watch=$!
    until [ -s /started ]; do sleep 0.1; done
    during=$(programs)
    kill -9 $watch
    left=100
    while [ "$(programs)" -ne "$before" ] && [ $left -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
    after=$(programs)
    [ "$during" -gt "$before" ] && [ "$after" -eq "$before" ] && echo "nothing is left"
    read -r command </started
    /init watch --platform native --time 3 --pid "$command" && echo "watched by its process"
    kill -9 "$command"
"#;

fn a_killed_watch_leaves_nothing(kernel: &str) -> Result<(), Failed> {
    let files = ["--file", "/usr/bin/grep", "--file", "/usr/bin/sleep"];
    // A watch that does not come to start its command must not hold up the tests.
    let words = [&["--platform", "qemu", "--kernel", kernel, "--cpus", "2", "--time", "300"], &files[..]].concat();
    let run = watch(&words, &["sh", "-c", KILLED])?;
    run.must_exit(Exit::Agree)?;
    match run.stderr.contains("nothing is left") && run.stderr.contains("watched by its process") {
        true => Ok(()),
        false => Err(run.wrong("a killed watch leaves something, or a process cannot be watched")),
    }
}

/// A violation that is planted is found, with what is needed to understand it; and nothing else is.
fn is_found(planted: &Planted) -> Result<(), Failed> {
    let program = EVERY_KIND.as_ref()?;
    let words = ["--platform", planted.platform, "--kernel", planted.kernel];
    let run = watch(&[&words[..], &["--plant-bits", planted.bits, planted.causes]].concat(), &[word(program)])?;
    run.must_exit(Exit::Diverge)?;
    for invariant in planted.broken {
        if counts(&run, invariant).1 == 0 {
            return Err(run.wrong(&format!("{invariant} was not found broken")));
        }
    }
    let told = run.json["violations"].as_array().cloned().unwrap_or_default();
    let function = match planted.causes {
        "1" => "handle_mm_fault",
        "4" => "copy_page_range",
        _ => "change_protection",
    };
    // `exe` is ptediff itself, before it becomes the command.
    let is_whole = |violation: &Value| {
        let stack = violation["stack"].to_string();
        violation["contradiction"].is_null()
            && violation["task"] == "meets-every-kin"
            && violation["history"].as_array().is_some_and(|history| !history.is_empty())
            // By trampolines the function itself stands there; by the function graph it has returned.
            && (stack.contains(function) || planted.kernel == "7.2" && stack.contains("+0x"))
    };
    match told.iter().find(|violation| violation["task"] != "exe" && !is_whole(violation)) {
        None if !told.is_empty() => Ok(()),
        odd => Err(run.wrong(&format!("a violation is not told as it must be: {odd:?}"))),
    }
}

/// A pagemap that gives another frame than the entry has.
fn a_wrong_pagemap_is_found() -> Result<(), Failed> {
    let run = watch(&["--platform", "qemu", "--plant-pagemap", "1"], &["sh", "-c", FORKS])?;
    run.must_exit(Exit::Diverge)?;
    run.must_say("/violations/0/pagemap/1", "pagemap says frame 0x")?;
    run.must_be("/violations/0/broken/0", "pagemap.agrees")
}

/// 7.2 preempts its own code. A program that is attached by a trampoline and preempted is left out by the kernel when
/// another process comes to it meanwhile.
fn what_is_lost_is_no_agreement() -> Result<(), Failed> {
    let words = ["--platform", "qemu", "--kernel", "7.2", "--probes", "trampolines"];
    let run = watch(&words, &["sh", "-c", &FORKS.replace("300", "1000")])?;
    if lost(&run) == 0 {
        return Err(run.wrong("nothing was lost, so that this test shows nothing"));
    }
    run.must_exit(Exit::CannotTell)
}

fn a_full_buffer_hides_no_violation() -> Result<(), Failed> {
    let words = ["--platform", "qemu", "--ring-bytes", "4096", "--plant-bits", "0x400000000000000", "31"];
    let run = watch(&words, &["sh", "-c", FORKS])?;
    run.must_exit(Exit::Diverge)?;
    let (counted, told) =
        (counts(&run, "saved-dirty.write-1").1, run.json["violations"].as_array().map_or(0, Vec::len));
    if counted > 300 && (told as u64) < counted && run.json["unreported"].as_u64() > Some(0) {
        Ok(())
    } else {
        Err(run.wrong("a full buffer does not hide what it should"))
    }
}

fn a_command_that_is_not_there() -> Result<(), Failed> {
    let command = crate::machine::command(&["watch", "--platform", "qemu", "--", "/no/such/command"]);
    let ran = crate::command::run(command);
    match ran.code == i32::from(Exit::Usage as u8) && ran.stderr.contains("/no/such/command") {
        true => Ok(()),
        false => Err(format!("{ran:#?}").into()),
    }
}
