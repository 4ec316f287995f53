//! The rig itself: each way to fail is reported as itself, with the program that was running, and what was judged
//! before stays.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use libtest_mimic::{Completion, Failed, Trial};
use ptediff::exit_code::Exit;
use ptediff_vm::store::Store;

use crate::command::{PTEDIFF, Ran, run, tidy};
use crate::machine::{Live, command, live, require};
use crate::repository::Repository;

/// What a plant in program 1 of 3 must give.
struct Planted {
    plant: &'static str,
    platform: &'static str,
    exit: Exit,
    /// The report's field that tells, and what it must say.
    says: (&'static str, &'static str),
    /// Whether program 1 must be named as the one that was running, and program 0 as judged.
    cuts_program_1: bool,
}

const PLANTED: [Planted; 11] = [
    cut("panic@1", "qemu", Exit::KernelDied, "/ending/kernel-died", "the kernel panicked: "),
    cut("panic@1", "bochs", Exit::KernelDied, "/ending/kernel-died", "the kernel panicked: "),
    cut("hang@1", "qemu", Exit::KernelDied, "/ending/kernel-died", "the guest hung: "),
    cut("triple-fault@1", "qemu", Exit::KernelDied, "/ending/kernel-died", "triple fault"),
    cut("triple-fault@1", "bochs", Exit::KernelDied, "/ending/kernel-died", "triple fault"),
    cut("power-off@1", "qemu", Exit::Rig, "/ending/rig-failed", "powered off before its last frame"),
    cut("abort@1", "qemu", Exit::Rig, "/ending/rig-failed", "the session in the guest ended badly: signal: 6"),
    whole("verdict@1", Exit::Rig, "/disagreements/0", "program 1: the guest says "),
    whole("lie:event.drop", Exit::CannotTell, "/inconclusive/0/reason", "events lost"),
    whole("lie:entry.RW", Exit::Rig, "/inconclusive/0/reason", "probe contradicted"),
    whole("lie:event.mapcount", Exit::CannotTell, "/inconclusive/0/reason", "events lost"),
];

const fn cut(
    plant: &'static str,
    platform: &'static str,
    exit: Exit,
    pointer: &'static str,
    says: &'static str,
) -> Planted {
    Planted { plant, platform, exit, says: (pointer, says), cuts_program_1: true }
}

const fn whole(plant: &'static str, exit: Exit, pointer: &'static str, says: &'static str) -> Planted {
    Planted { plant, platform: "qemu", exit, says: (pointer, says), cuts_program_1: false }
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = PLANTED
        .iter()
        .map(|planted| Trial::test(format!("rig::{}::{}", planted.platform, planted.plant), || check(planted)))
        .collect();
    for (platform, program) in [("qemu", "qemu-system"), ("bochs", "bochs")] {
        trials.push(Trial::test(format!("rig::{platform}::emulator_killed"), || emulator_killed(platform, program)));
    }
    for lie in ["event.drop", "event.mapcount", "event.reorder", "before.D", "entry.RW"] {
        trials.push(Trial::test(format!("rig::qemu::two_loaders::{lie}"), move || a_loader_lies(lie)));
    }
    trials.push(Trial::test("rig::qemu::either_loader_alone", either_loader_alone));
    trials.push(Trial::test("rig::qemu::a_renamed_function_is_named", a_renamed_function));
    trials.push(Trial::test("rig::bochs_2.7_is_refused", bochs_of_debian_12_is_refused));
    trials.push(Trial::test("rig::lacking_features_are_refused", lacking_features_are_refused));
    trials.push(Trial::test("rig::a_changed_kernel_is_found_shrunk_and_stored", a_changed_kernel_is_found));
    trials.push(Trial::test("rig::a_known_divergence_is_no_agreement", a_known_divergence));
    trials.push(Trial::test("rig::a_deadly_program_is_made_smaller", a_deadly_program_is_made_smaller));
    trials.push(Trial::test("rig::an_unstable_divergence_is_a_class_of_its_own", an_unstable_divergence));
    trials.push(Trial::test("rig::a_wrong_cpu_is_blamed_by_the_other_emulator", a_wrong_cpu_is_blamed));
    trials.push(Trial::test("rig::unknown_cpu_model", unknown_cpu_model));
    trials.push(Trial::test("rig::what_an_entry_needs_is_inconclusive", what_an_entry_needs_is_inconclusive));
    trials.push(Trial::ignorable_test("rig::trace_on_a_full_disk", trace_on_a_full_disk));
    for (what, memory, says) in TOO_LITTLE_MEMORY {
        let name = format!("rig::qemu::a_boot_that_never_begins::{what}");
        trials.push(Trial::test(name, move || a_boot_with_little_memory(memory, says)));
    }
    trials.push(Trial::test("rig::qemu::a_boot_that_never_begins::hang", a_boot_that_hangs));
    trials.push(Trial::test("rig::native_needs_leave", native_needs_leave));
    trials.push(Trial::test("rig::bisect_blames_the_commit_that_kills_the_kernel", bisect_over_a_dying_kernel));
    trials
}

fn check(planted: &Planted) -> Result<(), Failed> {
    require("6.12", (planted.platform == "bochs").then_some("bochs-3.0"))?;
    let words = ["run", "--platform", planted.platform, "--cases", "3", "--silence", "20", "--plant", planted.plant];
    let ran = live(&words)?;
    ran.must_exit(planted.exit)?;
    ran.must_say(planted.says.0, planted.says.1)?;
    if planted.cuts_program_1 {
        ran.must_be("/running/index", "1")?;
        ran.must_be("/agree", "1")?;
        ran.must_be("/programs", "1")?;
        if ran.json["running"]["program"].as_array().is_none_or(Vec::is_empty) {
            return Err(ran.wrong("the program that was running is not shown"));
        }
    } else {
        ran.must_be("/programs", "3")?;
        ran.must_be("/running", "null")?;
    }
    Ok(())
}

/// One of two loaders loses or alters a record, which the other has: the rig has failed, and says in which program.
fn a_loader_lies(lie: &str) -> Result<(), Failed> {
    require("6.12", None)?;
    let plant = format!("lie:{lie}");
    let ran = live(&["run", "--platform", "qemu", "--cases", "3", "--loader", "both", "--plant", &plant])?;
    ran.must_exit(Exit::Rig)?;
    ran.must_say("/ending/rig-failed", "the loaders disagree: libbpf v")?;
    ran.must_be("/running/index", "0")
}

/// Either loader alone gives the same records, byte for byte, and so do both by kprobes.
fn either_loader_alone() -> Result<(), Failed> {
    require("6.12", None)?;
    let campaign = ["run", "--platform", "qemu", "--cases", "40", "--seed", "5", "--loader"];
    let by_libbpf = live(&[&campaign[..], &["libbpf"]].concat())?;
    let by_aya = live(&[&campaign[..], &["aya"]].concat())?;
    by_libbpf.must_exit(Exit::Agree)?;
    by_aya.must_exit(Exit::Agree)?;
    by_aya.must_be("/observed_sha256", &by_libbpf.text("/observed_sha256"))?;
    let by_kprobes = live(&[&campaign[..], &["both", "--hooks", "kprobes"]].concat())?;
    by_kprobes.must_exit(Exit::Agree)?;
    by_kprobes.must_be("/observed_sha256", &by_libbpf.text("/observed_sha256"))?;
    match by_aya.text("/trace_sha256") == by_libbpf.text("/trace_sha256") {
        true => Err(by_aya.wrong("the trace's head does not name the loader")),
        false => Ok(()),
    }
}

/// A function that the kernel does not have under this name: refused, named, and looked up.
fn a_renamed_function() -> Result<(), Failed> {
    require("6.12", None)?;
    let words = ["--platform", "qemu", "--renamed", "copy_page_range=copy_page_strange"];
    let refused = live(&[&["run", "--cases", "3"], &words[..]].concat())?;
    refused.must_exit(Exit::CannotTell)?;
    refused.must_say("/refused/missing/0", "no hook at `copy_page_strange`")?;
    let ran = run(command(&[&["doctor"], &words[..]].concat()));
    for said in
        ["hook copy_page_strange: BTF no, kallsyms no", "CANNOT BE HOOKED", "Similar names: copy_page_from_iter, "]
    {
        if ran.code != i32::from(Exit::CannotTell as u8) || !ran.stdout.contains(said) {
            return Err(format!("the doctor does not say `{said}`: {ran:#?}").into());
        }
    }
    Ok(())
}

/// The emulator is killed by its process identifier in the middle of a campaign.
fn emulator_killed(platform: &str, program: &str) -> Result<(), Failed> {
    require("6.12", (platform == "bochs").then_some("bochs-3.0"))?;
    let mut command = command(&["run", "--platform", platform, "--cases", "1000", "--format", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
    let mut seen = String::new();
    // The second line of progress: at least a tenth is done, and most is not.
    while !seen.contains("1/1000") || seen.matches("/1000 programs").count() < 2 {
        match lines.next() {
            Some(line) => seen += &(line? + "\n"),
            None => return Err(format!("the campaign ended by itself: {seen}").into()),
        }
    }
    let emulator = child_named(&child, program)?;
    let killed = Command::new("kill").args(["-KILL", &emulator.to_string()]).status()?;
    if !killed.success() {
        return Err(format!("process {emulator} could not be killed").into());
    }
    let output = child.wait_with_output()?;
    let ran = Live::of(&Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: seen,
    })?;
    ran.must_exit(Exit::Rig)?;
    ran.must_say("/ending/rig-failed", "the emulator was killed by signal 9")?;
    // One in 500 programs meets the known divergence.
    let known = ran.json["divergences"]
        .as_array()
        .map_or(0, |found| found.iter().filter(|one| one["explanation"]["known-defects"].is_array()).count());
    let (agreed, programs) = (ran.json["agree"].as_u64().unwrap_or(0), ran.json["programs"].as_u64());
    match programs {
        Some(judged @ 100..1000) if agreed + known as u64 == judged => Ok(()),
        _ => Err(ran.wrong("the results from before are lost")),
    }
}

/// The child of this process whose program's name begins so.
fn child_named(parent: &Child, program: &str) -> Result<u32, Failed> {
    let mut seen = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", parent.id()))? {
        for child in fs::read_to_string(task?.path().join("children"))?.split_whitespace() {
            let name = fs::read_to_string(format!("/proc/{child}/comm"))?;
            if name.starts_with(program) {
                return Ok(child.parse()?);
            }
            seen.push(name);
        }
    }
    Err(format!("none of the children is {program}: {seen:?}").into())
}

/// Debian 12's own Bochs: its `tigerlake` has the CET flag and an XSAVE area that the kernel rejects.
fn bochs_of_debian_12_is_refused() -> Result<(), Failed> {
    require("6.12", Some("bochs-2.7"))?;
    let emulator = Store::open()?.emulator("bochs-2.7")?.program;
    let emulator = emulator.to_str().ok_or("a path that is no text")?;
    let ran = live(&["run", "--cases", "3", "--emulator", emulator, "--cpu-model", "tigerlake"])?;
    ran.must_exit(Exit::CannotTell)?;
    ran.must_be("/ending", "refused")?;
    ran.must_be("/programs", "0")?;
    ran.must_say("/refused/missing", "\"xsaves\"")?;
    ran.must_say("/refused/missing", "a consistent XSAVE area")
}

fn lacking_features_are_refused() -> Result<(), Failed> {
    require("6.12", None)?;
    let ran = live(&["run", "--platform", "qemu", "--cases", "3", "--require", "user_shstk,no_such_feature"])?;
    ran.must_exit(Exit::CannotTell)?;
    for missing in ["\"user_shstk\"", "\"no_such_feature\""] {
        ran.must_say("/refused/missing", missing)?;
    }
    ran.must_be("/programs", "0")
}

fn unknown_cpu_model() -> Result<(), Failed> {
    require("6.12", Some("bochs-3.0"))?;
    for platform in ["qemu", "bochs"] {
        let ran = run(command(&["run", "--platform", platform, "--cpu-model", "abacus"]));
        if ran.code != i32::from(Exit::Rig as u8) || !ran.stderr.contains("abacus") {
            return Err(format!("{platform}: {ran:#?}").into());
        }
    }
    Ok(())
}

/// mprotect gives the wrong errno: a stable divergence, shrunk to the one step that shows it, and stored as an
/// entry that diverges again on that kernel and agrees on an honest one.
fn a_changed_kernel_is_found() -> Result<(), Failed> {
    require("6.12", None)?;
    let folder = tempfile::tempdir()?;
    let save = folder.path().display().to_string();
    let campaign = ["run", "--platform", "qemu", "--cases", "200", "--stop-after", "1", "--save", &save];
    let ran = live(&[&campaign[..], &["--plant", "errno"]].concat())?;
    ran.must_exit(Exit::Diverge)?;
    ran.must_be("/divergences/0/stable", "true")?;
    ran.must_say("/divergences/0/headline", "from rule mprotect.hole")?;
    // A hole at the range's begin takes one step, one further on two.
    if ran.json["divergences"][0]["program"].as_array().is_none_or(|steps| steps.len() > 2) {
        return Err(ran.wrong("the program is not shrunk"));
    }
    // The other emulator shows it too, with the same kernel; another kernel does not.
    ran.must_be("/divergences/0/blame", "kernel")?;
    let entry = ran.text("/stored/0");
    let again = live(&["replay", "--platform", "qemu", "--plant", "errno", &entry])?;
    again.must_exit(Exit::Diverge)?;
    let honest = live(&["replay", "--platform", "qemu", &entry])?;
    honest.must_exit(Exit::Agree)
}

/// Debian's 6.12.95 diverges as is known, which decides the exit code only where it is asked to; 7.2 agrees.
fn a_known_divergence() -> Result<(), Failed> {
    let entry = concat!(env!("CARGO_MANIFEST_DIR"), "/known-divergences/cve-2026-68166.json");
    for (kernel, options, exit, known) in [
        ("6.12", &[][..], Exit::Agree, true),
        ("6.12", &["--count-known"][..], Exit::Diverge, true),
        ("7.2", &["--count-known"][..], Exit::Agree, false),
    ] {
        require(kernel, Some("bochs-3.0"))?;
        let ran = live(&[&["replay", "--kernel", kernel, entry][..], options].concat())?;
        ran.must_exit(exit)?;
        if known {
            ran.must_be("/divergences/0/explanation/known-defects/0", "uffd.takes-shadow-stacks")?;
        } else {
            ran.must_be("/agree", "1")?;
        }
    }
    Ok(())
}

/// The kernel panics at every exit: the program that was running is made smaller by the host, boot by boot.
fn a_deadly_program_is_made_smaller() -> Result<(), Failed> {
    require("6.12", None)?;
    let folder = tempfile::tempdir()?;
    let save = folder.path().display().to_string();
    let campaign = ["run", "--platform", "qemu", "--cases", "20", "--shrink-boots", "8", "--save", &save];
    let ran = live(&[&campaign[..], &["--plant", "panic-at-exit"]].concat())?;
    ran.must_exit(Exit::KernelDied)?;
    let steps = ran.json["running"]["alone"]["dies"]["program"].as_array().map_or(usize::MAX, Vec::len);
    let met = ran.json["running"]["steps_done"].as_u64().map_or(0, |done| done as usize + 1);
    // One step would be enough, with more boots.
    if steps.saturating_mul(2) > met {
        return Err(ran.wrong("the program is not made smaller"));
    }
    let entry = ran.text("/stored/0");
    live(&["replay", "--platform", "qemu", "--plant", "panic-at-exit", &entry])?.must_exit(Exit::KernelDied)?;
    live(&["replay", "--platform", "qemu", &entry])?.must_exit(Exit::Agree)
}

/// The CPU reports a wrong error code, whatever the kernel: the other emulator gives it away.
fn a_wrong_cpu_is_blamed() -> Result<(), Failed> {
    require("6.12", Some("bochs-3.0"))?;
    let folder = tempfile::tempdir()?;
    let save = folder.path().display().to_string();
    let campaign = ["run", "--platform", "qemu", "--cases", "200", "--stop-after", "1", "--save", &save];
    let ran = live(&[&campaign[..], &["--plant", "error-code"]].concat())?;
    ran.must_exit(Exit::Diverge)?;
    ran.must_be("/divergences/0/blame", "emulated-cpu")?;
    let report = fs::read_to_string(ran.text("/stored/2"))?;
    let words: Vec<&str> = report.split_whitespace().collect();
    let blamed = words.join(" ").contains("the emulated CPU: the same kernel agrees with the model on another one");
    if blamed { Ok(()) } else { Err(report.into()) }
}

/// The errno is wrong only the first time that a program runs.
fn an_unstable_divergence() -> Result<(), Failed> {
    require("6.12", None)?;
    let folder = tempfile::tempdir()?;
    let save = folder.path().display().to_string();
    let campaign = ["run", "--platform", "qemu", "--cases", "200", "--stop-after", "1", "--save", &save];
    let ran = live(&[&campaign[..], &["--plant", "errno-once"]].concat())?;
    ran.must_exit(Exit::CannotTell)?;
    ran.must_be("/divergences/0/stable", "false")?;
    ran.must_say("/stored/0", "/unstable-")
}

/// An entry that needs shadow stacks, on a machine without.
fn what_an_entry_needs_is_inconclusive() -> Result<(), Failed> {
    require("6.12", None)?;
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");
    let words = ["replay", "--platform", "qemu", "--corpus", corpus, "first-write", "shadow-stack-first-write"];
    let ran = live(&[&words[..], &["shadow-stack-dontneed"]].concat())?;
    ran.must_exit(Exit::CannotTell)?;
    ran.must_be("/entries/0/verdict", "agree")?;
    for entry in ["/entries/1/verdict", "/entries/2/verdict"] {
        ran.must_say(entry, "inconclusive: the machine lacks user shadow stacks")?;
    }
    ran.must_be("/agree", "1")
}

/// The trace does not fit: the campaign is judged all the same, and no half trace is left.
fn trace_on_a_full_disk() -> Result<Completion, Failed> {
    require("6.12", None)?;
    let folder = tempfile::tempdir()?;
    let mut mount = Command::new("unshare");
    mount.args(["--mount", "mount", "-t", "tmpfs", "tmpfs"]).arg(folder.path());
    if !mount.output()?.status.success() {
        return Ok(Completion::ignored_with("inconclusive: no mounts can be made here; it needs root"));
    }
    let script = "mount -t tmpfs -o size=8k tmpfs \"$DIR\" && \"$0\" run --platform qemu --cases 60 --trace \"$DIR/a.trace\"; \
                  code=$?; ls -A \"$DIR\" | sed 's/^/left: /'; exit $code";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script, PTEDIFF]).env("DIR", folder.path());
    tidy(&mut unshare);
    let ran = run(unshare);
    let path = folder.path().join("a.trace");
    let says = format!("cannot write {}: No space left on device", path.display());
    if ran.code != i32::from(Exit::Rig as u8)
        || !ran.stderr.contains(&says)
        || !ran.stdout.contains("60 judged by guest and host: 60 agree")
        || ran.stdout.contains("left: ")
    {
        return Err(format!("{ran:#?}").into());
    }
    Ok(Completion::Completed)
}

/// Machines with too little memory for Debian's 6.12: the kernel does not get to unpack itself, or its init.
const TOO_LITTLE_MEMORY: [(&str, &str, &str); 2] =
    [("triple_fault", "64", "triple fault"), ("panic", "80", "the kernel panicked: ")];

/// The boot ends before the guest's first frame, which says nothing about entries.
fn a_boot_with_little_memory(memory: &str, says: &str) -> Result<(), Failed> {
    require("6.12", None)?;
    let ran = live(&["run", "--platform", "qemu", "--cases", "3", "--memory", memory, "--silence", "20"])?;
    ran.must_exit(Exit::CannotTell)?;
    ran.must_say("/ending/never-began", says)?;
    ran.must_be("/programs", "0")?;
    if memory == "80" {
        ran.must_say("/console", "Kernel panic")?;
    }
    Ok(())
}

/// The kernel's own image is damaged: it stops while it unpacks itself, in silence.
fn a_boot_that_hangs() -> Result<(), Failed> {
    require("6.12", None)?;
    let mut image = fs::read(Store::open()?.kernel("6.12")?.vmlinuz)?;
    let middle = image.len() / 2;
    image[middle..middle + 4096].fill(0xff);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("bzImage");
    fs::write(&path, image)?;
    let path = path.to_str().ok_or("a path that is no text")?;
    let ran = live(&["run", "--platform", "qemu", "--kernel", path, "--cases", "3", "--silence", "10"])?;
    ran.must_exit(Exit::CannotTell)?;
    ran.must_say("/ending/never-began", "the guest hung")
}

fn native_needs_leave() -> Result<(), Failed> {
    let ran = run(command(&["run", "--platform", "native"]));
    if ran.code == i32::from(Exit::Usage as u8) && ran.stderr.contains("PTEDIFF_NATIVE=1") {
        Ok(())
    } else {
        Err(format!("{ran:#?}").into())
    }
}

/// A bisection with real machines: in each commit lies what is to be planted. Exit 2 counts as bad.
fn bisect_over_a_dying_kernel() -> Result<(), Failed> {
    require("6.12", None)?;
    // Of three programs the one with index 9 is none: the plant never strikes.
    let (sound, deadly) = ("panic@9", "panic@1");
    let plants: [&str; 4] = [sound, sound, deadly, deadly];
    let repository = Repository::new("plant", plants.iter().map(|plant| plant.as_bytes().to_vec()));
    let said = repository.bisect(&format!("{PTEDIFF} run --platform qemu --cases 3 --plant $(cat plant)"));
    if repository.first_bad() != Some(2) || !said.contains("KERNEL DIED") {
        return Err(format!("blamed: {:?}\n{said}", repository.first_bad()).into());
    }
    Ok(())
}
