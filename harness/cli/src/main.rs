//! Entry point: the same file is the command, the guest's init, and the actors' nursery.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == ptediff_execute::ACTOR_ARGUMENT) {
        ptediff_execute::actor_main()
    }
    if ptediff_vm::guest::is_init() {
        return ptediff::guest::init::run();
    }
    ptediff::commands::main()
}
