//! A process with probes attached is killed: nothing stays attached or loaded.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ptediff_observe::{Attachment, Hooking, Loader, ObserverOptions, ProbeObserver, ProgramWatch, WatchSettings};

/// Has this binary attach what the next argument names, say so, and wait to be killed.
pub(crate) const ATTACH_ARGUMENT: &str = "__attach";

/// Everything of this crate that attaches probes.
pub(crate) const ATTACHED: [&str; 6] =
    ["libbpf trampolines", "libbpf kprobes", "aya trampolines", "aya kprobes", "watch trampolines", "watch graph"];

/// The kernel frees programs after a grace period, by a worker.
const PATIENCE: Duration = Duration::from_secs(20);

const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;

/// The child's part.
pub(crate) fn attach(what: &str) {
    let (of, how) = what.split_once(' ').expect("an entry of ATTACHED");
    // Kept until the process is killed.
    let mut observer = None;
    let mut watch = None;
    match of.parse::<Loader>() {
        Ok(loader) => {
            let hooking = Some(how.parse::<Hooking>().expect("a way to attach"));
            let options = ObserverOptions { hooking, ..ObserverOptions::default() };
            observer = Some(ProbeObserver::open(loader, &options).expect("the probes"));
        }
        Err(_) => {
            let attachment = if how == "graph" { Attachment::FunctionGraph } else { Attachment::Trampolines };
            let mut opened = ProgramWatch::load(&WatchSettings::default(), attachment, 4096).expect("the watch");
            opened.attach().expect("its hooks");
            watch = Some(opened);
        }
    }
    println!("attached");
    loop {
        std::hint::black_box((&observer, &watch));
        std::thread::park();
    }
}

/// Starts a process that attaches, kills it, and waits until all is as before.
pub(crate) fn leaves_nothing(what: &str) -> Result<String, String> {
    let said = |error: std::io::Error| error.to_string();
    let before = Held::look()?;
    let mut child =
        Command::new("/proc/self/exe").args([ATTACH_ARGUMENT, what]).stdout(Stdio::piped()).spawn().map_err(said)?;
    let mut line = String::new();
    let output = child.stdout.take().ok_or("no output")?;
    BufReader::new(output).read_line(&mut line).map_err(said)?;
    let during = Held::look()?;
    child.kill().map_err(said)?;
    let status = child.wait().map_err(said)?;
    if line.trim() != "attached" {
        return Err(format!("it did not attach and ended with {status}"));
    }
    let (programs, links) = during.besides(&before);
    if programs < 5 {
        return Err(format!("only {programs} programs were loaded: nothing could stay"));
    }
    let start = Instant::now();
    loop {
        let (left_programs, left_links) = Held::look()?.besides(&before);
        if (left_programs, left_links) == (0, 0) {
            return Ok(format!("{programs} programs and {links} links went"));
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("{left_programs} programs and {left_links} links of a dead process stay"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the kernel holds: identifiers, which it does not use again soon.
struct Held {
    programs: BTreeSet<u32>,
    links: BTreeSet<u32>,
}

impl Held {
    fn look() -> Result<Self, String> {
        Ok(Self { programs: identifiers(BPF_PROG_GET_NEXT_ID)?, links: identifiers(BPF_LINK_GET_NEXT_ID)? })
    }

    fn besides(&self, other: &Self) -> (usize, usize) {
        (self.programs.difference(&other.programs).count(), self.links.difference(&other.links).count())
    }
}

fn identifiers(command: libc::c_int) -> Result<BTreeSet<u32>, String> {
    /// The member of `union bpf_attr` for these commands (`include/uapi/linux/bpf.h`).
    #[repr(C)]
    struct NextIdentifier {
        start: u32,
        next: u32,
        flags: u32,
    }
    let mut found = BTreeSet::new();
    let mut asked = NextIdentifier { start: 0, next: 0, flags: 0 };
    loop {
        // SAFETY: the kernel reads and writes the 12 bytes of `asked` only.
        let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut asked, size_of::<NextIdentifier>()) };
        if answer != 0 {
            let error = std::io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ENOENT) { Ok(found) } else { Err(error.to_string()) };
        }
        found.insert(asked.next);
        asked.start = asked.next;
    }
}
