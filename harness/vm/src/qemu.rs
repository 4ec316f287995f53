//! QEMU's translator (TCG), started with its own kernel loader.
//!
//! The guest's clock follows the host's, so two runs differ in time and in what hangs on it. Counting instructions
//! instead (`-icount`, automatic or fixed with `sleep=off`) was measured to cost 50 to 65 % more processor time over a
//! boot and 16 MiB of output, and is therefore not used; Bochs is the one that repeats itself exactly.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::backend::{Backend, Folder, Start};
use crate::bare::BareSpec;
use crate::bzimage::BzImage;
use crate::direct_boot;
use crate::ending::restart_on_console;
use crate::entry_stub::CHANNEL_OPENING;
use crate::{Ending, VmError, VmSpec};

const PROGRAM: &str = "qemu-system-x86_64";
const DEFAULT_CPU: &str = "max";
/// A disk is so many bytes or a multiple.
const DISK_MULTIPLE: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Qemu;

impl Backend for Qemu {
    fn prepare(&self, spec: &VmSpec, folder: &Folder) -> Result<Start, VmError> {
        let program = find_program(spec.emulator.as_deref())?;
        let file =
            std::fs::read(&spec.kernel).map_err(VmError::io(format!("read the kernel {}", spec.kernel.display())))?;
        BzImage::parse(&file).map_err(|reason| VmError::Kernel { path: spec.kernel.clone(), reason })?;
        let initramfs = folder.write("initramfs.cpio", &spec.initramfs.build())?;

        let mut command = machine(&program, folder, spec.cpu_model.as_deref(), spec.memory_mib, spec.cpus);
        command.arg("-kernel").arg(&spec.kernel).arg("-initrd").arg(initramfs);
        command.args(["-append", &spec.whole_command_line()]);
        Ok(Start { command, channel_opening: b"" })
    }

    /// The firmware boots from a disk whose boot sector fills the memory. (Memory that is filled before the firmware
    /// runs, by QEMU's loader device, would do above 1 MiB; below it the firmware clears it.)
    fn prepare_bare(&self, spec: &BareSpec, folder: &Folder) -> Result<Start, VmError> {
        let program = find_program(spec.emulator.as_deref())?;
        let pieces = spec.pieces()?;
        let pieces = pieces.each_ref().map(|(bytes, address)| (bytes.as_slice(), *address));
        let disk = folder.write("disk.img", &direct_boot::disk_image(&pieces, DISK_MULTIPLE))?;
        let mut command = machine(&program, folder, spec.cpu_model.as_deref(), spec.memory_mib, 1);
        command.arg("-drive").arg(prefixed("if=ide,format=raw,file=", &disk));
        command.args(["-boot", "order=c"]);
        Ok(Start { command, channel_opening: CHANNEL_OPENING })
    }

    fn ending(&self, records: &str, console: &str) -> Option<Ending> {
        // target/i386/tcg/seg_helper: a triple fault asks for a reset, and `-no-reboot` makes it an exit. Of a
        // reset there is no record, of a power-off there is one.
        let triple_fault = records.contains("Triple fault");
        let powered_off = records.contains("qemu_system_shutdown_request");
        let restarted = restart_on_console(console);
        Some(match (triple_fault, powered_off, restarted) {
            (true, _, false) => Ending::TripleFault,
            (true, _, true) => Ending::Reset,
            (false, true, _) => Ending::PoweredOff,
            (false, false, _) => Ending::Reset,
        })
    }
}

/// What every machine has: the processor, memory, the data channel, the console, records, and nothing by default.
fn machine(program: &Path, folder: &Folder, cpu_model: Option<&str>, memory_mib: u32, cpus: u32) -> Command {
    let mut command = Command::new(program);
    command.args(["-no-user-config", "-nodefaults", "-display", "none", "-machine", "pc"]);
    command.args(["-accel", "tcg,thread=single"]);
    command.args(["-cpu", cpu_model.unwrap_or(DEFAULT_CPU)]);
    command.args(["-m", &format!("{memory_mib}M"), "-smp", &cpus.to_string()]);
    command.arg("-serial").arg(prefixed("file:", &folder.console()));
    command.args(["-debugcon", "stdio"]);
    command.args(["-no-reboot", "-action", "panic=exit-failure"]);
    // The guest's clock starts at the same second each time, and the CPU's random numbers are the same.
    command.args(["-rtc", "base=2026-01-01T00:00:00,clock=vm", "-seed", "1"]);
    command.args(["-d", "cpu_reset,trace:qemu_system_shutdown_request"]);
    command.arg("-D").arg(folder.records());
    command
}

/// The given program, or the one of `PATH`.
fn find_program(program: Option<&Path>) -> Result<PathBuf, VmError> {
    let missing = |program: &Path, reason: &str| VmError::EmulatorMissing {
        program: program.display().to_string(),
        reason: reason.to_owned(),
    };
    match program {
        Some(program) if program.is_file() => Ok(program.to_owned()),
        Some(program) => Err(missing(program, "there is no such file")),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .map(|folder| folder.join(PROGRAM))
                .find(|program| program.is_file())
                .ok_or_else(|| missing(Path::new(PROGRAM), "it is in no folder of PATH"))
        }
    }
}

fn prefixed(prefix: &str, path: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(prefix);
    text.push(path);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(records: &str, console: &str, expected: Ending) {
        assert_eq!(Qemu.ending(records, console), Some(expected));
    }

    #[test]
    fn the_emulators_log_tells_the_ending() {
        let started = "CPU Reset (CPU 0)\nEAX=00000000\n";
        let restarting = "[    2.1] reboot: Restarting system\r\n";
        check(&format!("{started}qemu_system_shutdown_request reason=5\n"), "", Ending::PoweredOff);
        check(&format!("{started}Triple fault\n"), "", Ending::TripleFault);
        check(&format!("{started}Triple fault\n"), restarting, Ending::Reset);
        check(started, restarting, Ending::Reset);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = find_program(Some(Path::new("/nowhere/qemu"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/qemu"), "{error}");
    }
}
