//! Command lines that ask for what cannot be.

use std::fs;

use ptediff::exit_code::Exit;

use crate::case::{Case, words};

pub(crate) fn cases() -> Vec<Case> {
    let rig = |case: Case| Case { exit: Exit::Rig, ..case };
    vec![
        Case::new(
            "kernel-missing-file",
            |folder| words([&"run", &"--kernel", &folder.join("bzImage"), &"--trace", &folder.join("a.trace")]),
            &["there is no kernel image at DIR/bzImage", "--kernel takes"],
        )
        .kept(),
        Case::new(
            "kernel-not-a-bzimage",
            |folder| {
                let kernel = folder.join("bzImage");
                fs::write(&kernel, "This is a letter, not a kernel.\n".repeat(1000)).expect("the file can be written");
                // An older trace must not be lost to a machine that cannot start.
                fs::write(folder.join("a.trace"), "precious").expect("the file can be written");
                let trace = folder.join("a.trace");
                words([&"run", &"--platform", &"qemu", &"--kernel", &kernel, &"--trace", &trace])
            },
            &["DIR/bzImage", "bzImage"],
        )
        .kept(),
        rig(Case {
            cache: Some("mount"),
            ..Case::new(
                "cache-without-the-kernel",
                |_| words([&"run", &"--platform", &"qemu"]),
                &["kernel `6.12` is not in the cache (DIR/mount/kernels/6.12", "cargo xtask setup --kernel 6.12"],
            )
            .kept()
        }),
        rig(Case {
            cache: Some("cache"),
            ..Case::new(
                "cache-with-half-a-kernel",
                |folder| {
                    let kernel = folder.join("cache/kernels/6.12");
                    fs::create_dir_all(&kernel).expect("a folder can be made");
                    fs::write(kernel.join("vmlinuz"), "half").expect("the file can be written");
                    words([&"run", &"--platform", &"qemu"])
                },
                &["has no manifest", "cargo xtask setup --kernel 6.12"],
            )
        }),
        Case::new("unknown-version", |_| words([&"run", &"--judge-as", &"hurd"]), &["`hurd`", "MAJOR.MINOR"]),
        Case::new("unknown-profile", |_| words([&"run", &"--profile", &"everything"]), &["everything"]),
        Case::new("unknown-plant", |_| words([&"run", &"--plant", &"weeds@1"]), &["`weeds@1` is not a plant"]),
        Case::new("plant-without-an-index", |_| words([&"run", &"--plant", &"panic"]), &["`panic` is not a plant"]),
        Case::new("unknown-lie", |_| words([&"run", &"--plant", &"lie:white"]), &["`lie:white` is not a plant"]),
        Case::new("unknown-platform", |_| words([&"run", &"--platform", &"vax"]), &["vax", "bochs"]),
        Case::new("unknown-command", |_| words([&"walk"]), &["unrecognized subcommand 'walk'"]),
        Case::new(
            "save-is-a-file",
            |folder| {
                let file = folder.join("file");
                fs::write(&file, "precious").expect("the file can be written");
                words([&"run", &"--save", &file])
            },
            &["DIR/file is not a folder"],
        ),
        Case::new(
            "ring-of-no-size",
            |_| words([&"run", &"--ring-bytes", &"5000"]),
            &["--ring-bytes 5000 is not a power of two"],
        ),
        Case::new(
            "memory-too-small",
            |_| words([&"run", &"--platform", &"qemu", &"--memory", &"1"]),
            &["1 is not in 64..=65536"],
        ),
        Case::new("steps-of-none", |_| words([&"run", &"--steps", &"0"]), &["--steps"]),
        Case::new("steps-too-many", |_| words([&"run", &"--steps", &"257"]), &["--steps"]),
        Case::new("cases-of-none", |_| words([&"run", &"--cases", &"0"]), &["--cases"]),
        Case::new(
            "emulator-missing-file",
            |folder| words([&"run", &"--emulator", &folder.join("bochs")]),
            &["there is no emulator at DIR/bochs"],
        ),
        Case {
            needs_no_leave: true,
            ..Case::new(
                "native-without-leave",
                |_| words([&"run", &"--platform", &"native"]),
                &["ptediff.vm=1", "PTEDIFF_NATIVE=1"],
            )
            .kept()
        },
        Case::new("explain-nonsense", |_| words([&"explain", &"0xnonsense"]), &["`n` is no hexadecimal digit"]).kept(),
        Case::new("explain-nothing", |_| words([&"explain", &""]), &["is not a page-table entry"]),
        Case::new("explain-sign", |_| words([&"explain", &"+865"]), &["`+` is no hexadecimal digit"]),
        Case::new("explain-two-prefixes", |_| words([&"explain", &"0x0x865"]), &["`x` is no hexadecimal digit"]),
        Case::new("explain-too-long", |_| words([&"explain", &"0x18400000000000865"]), &["too large"]),
    ]
}
