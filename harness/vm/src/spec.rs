//! What machine to build.

use std::path::PathBuf;
use std::time::Duration;

use crate::Initramfs;

/// Which emulator runs the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// Bochs 3.0: has user shadow stacks (CET), and is the default.
    Bochs,
    /// QEMU's own translator (TCG): quicker, no CET.
    Qemu,
}

/// A machine to be started with [`crate::boot`].
#[derive(Clone, Debug)]
pub struct VmSpec {
    /// The emulator's kind.
    pub backend: BackendKind,
    /// Its program; by default the Bochs of the store, or the `qemu-system-x86_64` of `PATH`.
    pub emulator: Option<PathBuf>,
    /// The emulator's name for the CPU; by default `arrow_lake` (Bochs), `max` (QEMU).
    pub cpu_model: Option<String>,
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// The first file system; the kernel starts its `/init`.
    pub initramfs: Initramfs,
    /// Words for the kernel's command line, behind those of [`default_command_line`].
    pub command_line: Vec<String>,
    /// Guest memory in MiB. Debian's kernels with an initramfs of 3 MiB begin to work at 80 (Bochs, 6.12) and 96
    /// (QEMU); Bochs takes at most 3072.
    pub memory_mib: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// The watchdog: so long without a byte of data or console, and the guest is taken to hang.
    pub silence: Duration,
    /// How long the machine may live at all.
    pub limit: Option<Duration>,
}

impl VmSpec {
    /// A machine with one CPU, 512 MiB, a watchdog of a minute and no limit of time.
    #[must_use]
    pub fn new(backend: BackendKind, kernel: PathBuf, initramfs: Initramfs) -> Self {
        Self {
            backend,
            emulator: None,
            cpu_model: None,
            kernel,
            initramfs,
            command_line: Vec::new(),
            memory_mib: 512,
            cpus: 1,
            silence: Duration::from_secs(60),
            limit: None,
        }
    }

    /// The whole command line: the defaults, then this machine's own words.
    pub(crate) fn whole_command_line(&self) -> String {
        default_command_line()
            .iter()
            .copied()
            .chain(self.command_line.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The words that begin every machine's command line:
///
/// - `console=ttyS0,115200 quiet`: the console goes to the host, and only what matters, at the highest rate,
///   for its emulated slowness costs time;
/// - `panic=-1 oops=panic reboot=t`: a dying kernel ends the machine at once, by the shortest way;
/// - `mitigations=off nokaslr norandmaps no5lvl`: the same code at the same addresses each time, four levels;
/// - `tsc=reliable no_timer_check`: no watching of clocks that are a fiction here;
/// - `rdinit=/init ptediff.vm=1`: the init of the initramfs, and the word by which it knows where it is.
#[must_use]
pub fn default_command_line() -> &'static [&'static str] {
    &[
        "console=ttyS0,115200",
        "quiet",
        "panic=-1",
        "oops=panic",
        "reboot=t",
        "mitigations=off",
        "nokaslr",
        "norandmaps",
        "no5lvl",
        "tsc=reliable",
        "no_timer_check",
        "rdinit=/init",
        "ptediff.vm=1",
    ]
}
