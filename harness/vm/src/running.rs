//! A machine while it lives: the emulator's process, the data channel, the watchdog, the end.

#![expect(unsafe_code, reason = "poll(2), a pipe's size and a child's tie to its parent have no safe interface in std")]

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Folder, Start, last_lines, text_of};
use crate::bare::BareSpec;
use crate::ending::death_on_console;
use crate::{Activity, Ending, VmError, VmSpec};

/// How often the console is looked at.
const CONSOLE_INTERVAL: Duration = Duration::from_millis(100);
/// Emulators write the channel a byte at a time. After the first one, wait this long, so that a read returns
/// many and the emulator need not wake us for each.
const GATHERING_TIME: Duration = Duration::from_millis(1);
const READ_SIZE: usize = 256 << 10;
const PIPE_SIZE: libc::c_int = 1 << 20;
/// How long an emulator that has closed its output may take to end.
const EXIT_TIME: Duration = Duration::from_secs(5);

/// Starts a machine.
///
/// The emulator is tied to the calling *thread*: should that thread end, the system kills the emulator. So the
/// thread that boots a machine is the one that reads it.
///
/// # Errors
/// Our rig failed: emulator, kernel or files are missing or unusable. Nothing was started.
pub fn boot(spec: &VmSpec) -> Result<Running, VmError> {
    if let Some(init) = spec.initramfs.file("init") {
        crate::require_static_elf(init)?;
    } else {
        return Err(VmError::Spec("the initramfs has no /init".to_owned()));
    }
    let backend = spec.backend.backend();
    let folder = Folder::new()?;
    let start = backend.prepare(spec, &folder)?;
    spawn(backend, folder, start, spec.silence, spec.limit)
}

/// Starts a machine with a guest that is no Linux. The thread's tie is that of [`boot`].
///
/// # Errors
/// As [`boot`].
pub fn boot_bare(spec: &BareSpec) -> Result<Running, VmError> {
    let backend = spec.backend.backend();
    let folder = Folder::new()?;
    let start = backend.prepare_bare(spec, &folder)?;
    spawn(backend, folder, start, spec.silence, spec.limit)
}

fn spawn(
    backend: Box<dyn Backend>,
    folder: Folder,
    start: Start,
    silence: Duration,
    limit: Option<Duration>,
) -> Result<Running, VmError> {
    let mut command = start.command;
    let program = command.get_program().display().to_string();
    let messages =
        File::create(folder.messages()).map_err(VmError::io(format!("write {}", folder.messages().display())))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(messages).process_group(0);
    die_with_parent(&mut command);
    let mut child = command.spawn().map_err(|error| VmError::EmulatorMissing { program, reason: error.to_string() })?;
    let output = child.stdout.take().ok_or_else(|| VmError::Spec("the emulator has no output".to_owned()))?;
    // SAFETY: the descriptor is open and owned by `output`; the call changes only the pipe's size. It may fail
    // (the system has a limit), and then the pipe stays smaller.
    unsafe { libc::fcntl(output.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_SIZE) };
    let now = Instant::now();
    Ok(Running {
        child,
        output,
        folder,
        backend,
        opening: Opening { mark: start.channel_opening, seen: Vec::new() },
        chunk: vec![0; READ_SIZE],
        silence,
        deadline: limit.map(|limit| now + limit),
        last_activity: now,
        last_console_look: now,
        console_size: 0,
        channel_used: false,
        decided: None,
        ended: None,
    })
}

/// A machine that was started. Dropping it kills the emulator and removes its files.
pub struct Running {
    child: Child,
    output: ChildStdout,
    folder: Folder,
    backend: Box<dyn Backend>,
    opening: Opening,
    chunk: Vec<u8>,
    silence: Duration,
    deadline: Option<Instant>,
    last_activity: Instant,
    last_console_look: Instant,
    console_size: u64,
    channel_used: bool,
    /// The ending that our own killing of the emulator stands for.
    decided: Option<Ending>,
    ended: Option<Ending>,
}

impl Running {
    /// The emulator's process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for something to happen and tells what: bytes of the data channel, appended to `buffer`, or the
    /// end (by itself, by the watchdog or by the limit of time). After the end it returns the same end again.
    ///
    /// An emulator built with a debugger (a distribution's Bochs) may add a line of its own behind the guest's
    /// last byte, so the guest should say where its bytes end.
    ///
    /// # Errors
    /// [`VmError::EmulatorRefused`]: the emulator gave up before the guest ran. [`VmError::Io`]: the channel
    /// cannot be read.
    pub fn read(&mut self, buffer: &mut Vec<u8>) -> Result<Activity, VmError> {
        loop {
            if let Some(ending) = &self.ended {
                return Ok(Activity::Ended(ending.clone()));
            }
            if self.decided.is_none() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.kill_for(Ending::TimeLimit);
            }
            if !self.wait_for_output()? {
                self.look_at_console();
                let silent_for = self.last_activity.elapsed();
                if self.decided.is_none() && silent_for >= self.silence {
                    let ending = death_on_console(&self.console()).unwrap_or(Ending::Hang { silent_for });
                    self.kill_for(ending);
                }
                continue;
            }
            let count = match self.output.read(&mut self.chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(VmError::Io { action: "read the data channel".to_owned(), source });
                }
            };
            if count == 0 {
                self.ended = Some(self.end()?);
                continue;
            }
            self.last_activity = Instant::now();
            let bytes = self.opening.pass(&self.chunk[..count]);
            if !bytes.is_empty() {
                self.channel_used = true;
                buffer.extend_from_slice(&bytes);
                return Ok(Activity::Bytes(bytes.len()));
            }
        }
    }

    /// Kills the emulator; [`Self::read`] then gives the bytes that are left, and the end.
    pub fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
    }

    /// All that the guest wrote to its console so far.
    #[must_use]
    pub fn console(&self) -> String {
        text_of(&self.folder.console())
    }

    /// The last lines of the console.
    #[must_use]
    pub fn console_tail(&self, lines: usize) -> String {
        last_lines(&self.console(), lines)
    }

    /// The last lines that the emulator itself wrote, its log first.
    #[must_use]
    pub fn emulator_tail(&self, lines: usize) -> String {
        let records = last_lines(&text_of(&self.folder.records()), lines);
        let messages = last_lines(&text_of(&self.folder.messages()), lines);
        [records, messages].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
    }

    fn kill_for(&mut self, ending: Ending) {
        self.decided = Some(ending);
        self.kill();
    }

    /// Waits at most until the next look at the console is due. True if the output can be read, or has ended.
    fn wait_for_output(&mut self) -> Result<bool, VmError> {
        if poll_readable(&self.output, Duration::ZERO)? {
            return Ok(true);
        }
        let mut wait = CONSOLE_INTERVAL.min(self.silence.saturating_sub(self.last_activity.elapsed()));
        if let Some(deadline) = self.deadline {
            wait = wait.min(deadline.saturating_duration_since(Instant::now()));
        }
        let readable = poll_readable(&self.output, wait.max(Duration::from_millis(1)))?;
        if readable {
            thread::sleep(GATHERING_TIME);
        }
        Ok(readable)
    }

    fn look_at_console(&mut self) {
        if self.last_console_look.elapsed() < CONSOLE_INTERVAL / 2 {
            return;
        }
        self.last_console_look = Instant::now();
        let size = std::fs::metadata(self.folder.console()).map_or(0, |data| data.len());
        if size != self.console_size {
            self.console_size = size;
            self.last_activity = self.last_console_look;
        }
    }

    /// What the end of the output means.
    fn end(&mut self) -> Result<Ending, VmError> {
        let status = self.wait_for_exit()?;
        if let Some(decided) = self.decided.take() {
            return Ok(decided);
        }
        let console = self.console();
        if let Some(death) = death_on_console(&console) {
            return Ok(death);
        }
        if let Some(signal) = status.signal() {
            return Ok(Ending::EmulatorKilled { signal });
        }
        let code = status.code().unwrap_or(-1);
        let guest_ran = self.opening.is_open() && (self.channel_used || !console.is_empty());
        let by_records = self.backend.ending(&text_of(&self.folder.records()), &console);
        match by_records {
            Some(ending) if guest_ran || code == 0 => Ok(ending),
            Some(ending) if self.opening.is_open() && !self.opening.mark.is_empty() => Ok(ending),
            None if guest_ran => Ok(Ending::EmulatorExited { code }),
            _ => {
                let mut messages = self.emulator_tail(12);
                if let Some(more) = self.backend.refusal(&self.folder, &messages) {
                    messages.push('\n');
                    messages.push_str(&more);
                }
                Err(VmError::EmulatorRefused { status: status.to_string(), messages })
            }
        }
    }

    /// The exit status of an emulator that has closed its output.
    fn wait_for_exit(&mut self) -> Result<ExitStatus, VmError> {
        let failed = VmError::io("wait for the emulator");
        let patience = Instant::now() + EXIT_TIME;
        while Instant::now() < patience {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Err(error) => return Err(failed(error)),
            }
        }
        self.kill();
        self.child.wait().map_err(failed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        // Without this the process would stay as a zombie; that it cannot be waited for would mean that it
        // already was.
        let _ = self.child.wait();
    }
}

/// Holds back what an emulator prints before the data channel begins.
struct Opening {
    mark: &'static [u8],
    /// What came so far, until the mark is seen. Then empty, and so is `mark`'s use.
    seen: Vec<u8>,
}

/// Whoever prints so much without the mark is not about to send it.
const LONGEST_BANNER: usize = 64 << 10;

impl Opening {
    fn is_open(&self) -> bool {
        self.mark.is_empty() || self.seen == self.mark
    }

    /// Of `bytes`, those that belong to the channel.
    fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.is_open() {
            return bytes.to_vec();
        }
        self.seen.extend_from_slice(bytes);
        let place = self.seen.windows(self.mark.len()).position(|window| window == self.mark);
        match place {
            Some(place) => {
                let channel = self.seen.split_off(place + self.mark.len());
                self.seen.clear();
                self.seen.extend_from_slice(self.mark);
                channel
            }
            None => {
                let excess = self.seen.len().saturating_sub(LONGEST_BANNER);
                self.seen.drain(..excess);
                Vec::new()
            }
        }
    }
}

/// Makes the system kill the child when this thread ends, however it ends.
fn die_with_parent(command: &mut Command) {
    // SAFETY: getpid has no preconditions.
    let parent = unsafe { libc::getpid() };
    let tie = move || {
        // SAFETY: prctl with these arguments touches no memory; prctl and getppid may be called after fork.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the tie was made.
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure makes only async-signal-safe calls and allocates nothing.
    unsafe { command.pre_exec(tie) };
}

/// Whether a read would return at once, waiting for that at most so long.
fn poll_readable(output: &ChildStdout, wait: Duration) -> Result<bool, VmError> {
    let mut request = libc::pollfd { fd: output.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let milliseconds = libc::c_int::try_from(wait.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: `request` is one valid pollfd, and lives through the call.
    let result = unsafe { libc::poll(&raw mut request, 1, milliseconds) };
    if result < 0 {
        let source = io::Error::last_os_error();
        if source.kind() == io::ErrorKind::Interrupted {
            return Ok(false);
        }
        return Err(VmError::Io { action: "wait for the data channel".to_owned(), source });
    }
    Ok(result > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: &[u8] = b"<mark>";

    /// Feeds the pieces one by one and compares all that came through.
    #[track_caller]
    fn check(mark: &'static [u8], pieces: &[&[u8]], expected: &[u8], open: bool) {
        let mut opening = Opening { mark, seen: Vec::new() };
        let through: Vec<u8> = pieces.iter().flat_map(|piece| opening.pass(piece)).collect();
        assert_eq!(through, expected);
        assert_eq!(opening.is_open(), open);
    }

    #[test]
    fn only_what_follows_the_mark_comes_through() {
        check(b"", &[b"all", b" of it"], b"all of it", true);
        check(MARK, &[], b"", false);
        check(MARK, &[b"banner"], b"", false);
        check(MARK, &[b"banner<mark>data", b"more"], b"datamore", true);
        check(MARK, &[b"banner<ma", b"rk>", b"data"], b"data", true);
        check(MARK, &[b"<mark><mark>"], b"<mark>", true);
        check(MARK, &[b"x", b"<", b"m", b"a", b"r", b"k", b">", b"d"], b"d", true);
    }

    #[test]
    fn a_long_banner_is_not_kept() {
        let mut opening = Opening { mark: MARK, seen: Vec::new() };
        for _ in 0..10 {
            assert!(opening.pass(&vec![b'x'; LONGEST_BANNER]).is_empty());
            assert!(opening.seen.len() <= LONGEST_BANNER);
        }
        assert_eq!(opening.pass(b"<mark>d"), b"d");
    }
}
