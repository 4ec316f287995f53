//! The bare probe by the command: the representative part of every claim of the processor's side, on both emulators.

use std::process::Command;

use libtest_mimic::{Failed, Trial};

use crate::command::{PTEDIFF, run, tidy};

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("processor::claims", claims)]
}

fn claims() -> Result<(), Failed> {
    let mut command = Command::new(PTEDIFF);
    command.args(["claims", "--run", "processor"]);
    tidy(&mut command);
    let ran = run(command);
    let fail = |what: &str| Err(Failed::from(format!("{what}\n{}{}", ran.stdout, ran.stderr)));
    if ran.code != 0 {
        return fail("exit code");
    }
    // Two live spaces on both CPUs, one of them counted with its known deviation.
    for words in [
        "holds    bare, bochs arrow_lake: 200000 accesses",
        "holds    bare, qemu max: 200000 accesses",
        "holds    bare, qemu max, five levels: ",
        "known deviation qemu-reserved-without-present: ",
        "known deviation bochs-pkrs-reserved-bits",
    ] {
        if !ran.stdout.contains(words) {
            return fail(words);
        }
    }
    Ok(())
}
