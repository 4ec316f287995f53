//! Runs every operation in a machine of ours and checks what it gave back.
//!
//! This one binary is three things. On the host it boots machines with itself as their init and reports
//! their results as its own, one test for each machine and case. In the guest it is the init that runs the
//! cases. And it is the executable that actors are started from.

mod case;
mod cases;
mod figures;
mod guest;
mod host;
mod process_cases;
mod shadow_stack_cases;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(ptediff_execute::ACTOR_ARGUMENT) {
        ptediff_execute::actor_main();
    }
    if ptediff_vm::guest::is_init() {
        guest::run();
        return ExitCode::SUCCESS;
    }
    host::run()
}
