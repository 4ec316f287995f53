//! Stops a command and all its children at once, without their knowledge: a control group that is frozen.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use ptediff_vm::guest::{CONTROL_GROUPS, mount_control_groups};

/// A process that sleeps in the kernel, uninterruptibly, stops when it wakes.
const PATIENCE: Duration = Duration::from_secs(2);

/// A control group of our own. Whoever is in it, and what they start, can be frozen.
#[derive(Debug)]
pub(super) struct Freezer {
    folder: PathBuf,
}

impl Freezer {
    /// Makes the group.
    pub(super) fn new() -> io::Result<Self> {
        mount_control_groups()?;
        let folder = Path::new(CONTROL_GROUPS).join(format!("ptediff-watch-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Takes a process in, with the children that it will have.
    pub(super) fn take(&self, process: u32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), process.to_string())
    }

    /// Does something while all stand still; `None` if they did not stop in time.
    pub(super) fn while_frozen<T>(&self, look: impl FnOnce() -> T) -> io::Result<Option<T>> {
        fs::write(self.folder.join("cgroup.freeze"), "1")?;
        let looked = self.is_frozen().map(|frozen| frozen.then(look));
        fs::write(self.folder.join("cgroup.freeze"), "0")?;
        looked
    }

    fn is_frozen(&self) -> io::Result<bool> {
        let start = Instant::now();
        loop {
            if fs::read_to_string(self.folder.join("cgroup.events"))?.lines().any(|line| line == "frozen 1") {
                return Ok(true);
            }
            if start.elapsed() > PATIENCE {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // Refused while somebody is in it; the group does no harm then.
        let _ = fs::remove_dir(&self.folder);
    }
}
