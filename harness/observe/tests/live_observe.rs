//! The observer, its witnesses and its liars on live kernels.
//!
//! On the host this binary boots virtual machines with itself as `/init`; inside ([`guest`]) it forks actors,
//! looks at them and prints what it sees to the data channel; the host ([`host`]) asserts. Where programs may run in
//! place the guest's part runs here too, as another process, and the tests that boot machines are ignored, by name.
#![expect(unsafe_code, reason = "actors are processes made and driven by system calls")]

#[path = "live/actor.rs"]
mod actor;
#[path = "live/crash.rs"]
mod crash;
#[path = "live/expected.rs"]
mod expected;
#[path = "live/guest.rs"]
mod guest;
#[path = "live/host.rs"]
mod host;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, what] = arguments.as_slice()
        && word == crash::ATTACH_ARGUMENT
    {
        crash::attach(what);
    } else if ptediff_vm::guest::is_init() {
        guest::run();
    } else if std::env::args().nth(1).as_deref() == Some(host::GUEST_ARGUMENT) {
        guest::run_here();
    } else {
        host::run();
    }
}
