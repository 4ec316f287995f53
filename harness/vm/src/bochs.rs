//! Bochs. The one of the store is started without a disk: everything is in memory, see `direct_boot`. Another one
//! (a distribution's, version 2.7 included) reads the same from a disk, which takes longer.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::backend::{Backend, Folder, Start, text_of};
use crate::bare::BareSpec;
use crate::bzimage::BzImage;
use crate::direct_boot::{self, BOOT_PAGE_ADDRESS, KernelMemory, STUB_ADDRESS};
use crate::ending::restart_on_console;
use crate::entry_stub::{CHANNEL_OPENING, boot_sector};
use crate::store::Store;
use crate::{Ending, VmError, VmSpec};

/// The emulator's name in the store.
const NAME_IN_STORE: &str = "bochs-3.0";
const DEFAULT_CPU: &str = "arrow_lake";
/// Guest instructions in a second of guest time. About half of what the emulator executes in a second on an
/// idle host, so that guest time is near the host's. From 50 to 300 million a boot takes the same time.
const INSTRUCTIONS_PER_SECOND: u32 = 200_000_000;
/// The guest's clock starts here each time: 2026-01-01 00:00:00 UTC.
const CLOCK_START: u32 = 1_767_225_600;
const FLOPPY_SIZE: usize = 1_474_560;

#[derive(Debug)]
pub(crate) struct Bochs;

impl Backend for Bochs {
    fn prepare(&self, spec: &VmSpec, folder: &Folder) -> Result<Start, VmError> {
        let emulator = Emulator::find(spec.emulator.as_deref())?;
        let file =
            std::fs::read(&spec.kernel).map_err(VmError::io(format!("read the kernel {}", spec.kernel.display())))?;
        let in_kernel = |reason| VmError::Kernel { path: spec.kernel.clone(), reason };
        let image = BzImage::parse(&file).map_err(in_kernel)?;
        let kernel = KernelMemory::unpack(&image).map_err(in_kernel)?;
        let initramfs = spec.initramfs.build();
        let initramfs_address =
            direct_boot::initramfs_address(&image, kernel.address, spec.memory_mib, initramfs.len())?;
        let boot_page = direct_boot::boot_page(
            &image,
            &spec.whole_command_line(),
            spec.memory_mib,
            (initramfs_address, initramfs.len()),
            kernel.entry,
        )?;
        let pieces = [
            (kernel.bytes.as_slice(), kernel.address),
            (initramfs.as_slice(), initramfs_address),
            (boot_page.as_slice(), u64::from(BOOT_PAGE_ADDRESS)),
        ];
        let parts = Parts {
            cpu_model: spec.cpu_model.as_deref(),
            cpus: spec.cpus,
            memory_mib: spec.memory_mib,
            errors: "report",
        };
        emulator.start(&parts, folder, &pieces)
    }

    fn prepare_bare(&self, spec: &BareSpec, folder: &Folder) -> Result<Start, VmError> {
        let emulator = Emulator::find(spec.emulator.as_deref())?;
        let pieces = spec.pieces()?;
        let pieces = pieces.each_ref().map(|(bytes, address)| (bytes.as_slice(), *address));
        // A freestanding guest may be made of refused accesses, and a record of each takes time.
        let cpu_model = spec.cpu_model.as_deref();
        let parts = Parts { cpu_model, cpus: 1, memory_mib: spec.memory_mib, errors: "ignore" };
        emulator.start(&parts, folder, &pieces)
    }

    fn refusal(&self, folder: &Folder, messages: &str) -> Option<String> {
        // "/tmp/.../bochsrc:3: wrong value for parameter 'model'"
        let (_, rest) = messages.split_once("/bochsrc:")?;
        let (number, _) = rest.split_once(':')?;
        let configuration = text_of(&folder.path("bochsrc"));
        let line = configuration.lines().nth(number.parse::<usize>().ok()?.checked_sub(1)?)?;
        Some(format!("line {number} of its configuration is: {line}"))
    }

    fn ending(&self, records: &str, console: &str) -> Option<Ending> {
        // iodev/pci/acpi and iodev/unmapped: the two ways to power off. A boot sector that runs again uses the
        // second one, too.
        let powered_off = records.contains("shutdown requested") || records.contains("soft power off");
        let resets = records.matches("Reset(").count();
        // cpu/exception.cc
        let triple_fault = records.contains("3rd (") && records.contains("exception with no resolution");
        if triple_fault {
            Some(if restart_on_console(console) { Ending::Reset } else { Ending::TripleFault })
        } else if powered_off && resets > 1 {
            Some(Ending::Reset)
        } else if powered_off {
            Some(Ending::PoweredOff)
        } else {
            None
        }
    }
}

/// The emulator's files, and what it can do.
struct Emulator {
    program: PathBuf,
    system_bios: PathBuf,
    vga_bios: PathBuf,
    /// Built by our recipe: loads files of any size into guest memory, and has the display library `nogui`.
    loads_memory: bool,
    /// Version 3 knows options that version 2 refuses.
    is_version_2: bool,
    /// Built with Bochs's own debugger, which waits for a command.
    has_debugger: bool,
}

/// What the configuration says of the machine itself.
struct Parts<'a> {
    cpu_model: Option<&'a str>,
    cpus: u32,
    memory_mib: u32,
    /// What becomes of its records of refused accesses and the like: `report` or `ignore`.
    errors: &'static str,
}

/// A message of the patched `BX_MEM_C::load_RAM` of our recipe, by which it is known.
const PATCH_MARK: &[u8] = b"does not fit into guest memory";

impl Emulator {
    /// The way to start it with these pieces in memory.
    fn start(&self, parts: &Parts<'_>, folder: &Folder, pieces: &[Piece<'_>]) -> Result<Start, VmError> {
        let media = if self.loads_memory { memory_images(folder, pieces)? } else { disk(folder, pieces)? };
        let configuration = configuration(parts, folder, self) + &media;
        let configuration = folder.write("bochsrc", configuration.as_bytes())?;
        let mut command = Command::new(&self.program);
        command.args(["-q", "-f"]).arg(configuration);
        if self.has_debugger {
            command.arg("-rc").arg(folder.write("debugger", b"continue\n")?);
        }
        if !self.loads_memory {
            // For the display library, which wants a terminal.
            command.env("TERM", "dumb");
        }
        Ok(Start { command, channel_opening: CHANNEL_OPENING })
    }

    /// The one of the store, or a given program with the BIOS files that belong to it.
    fn find(program: Option<&Path>) -> Result<Self, VmError> {
        let Some(program) = program else {
            let artifact = Store::open()?.emulator(NAME_IN_STORE)?;
            return Ok(Self {
                program: artifact.program,
                system_bios: artifact.system_bios,
                vga_bios: artifact.vga_bios,
                loads_memory: true,
                is_version_2: false,
                has_debugger: false,
            });
        };
        let missing = |error: std::io::Error| VmError::EmulatorMissing {
            program: program.display().to_string(),
            reason: error.to_string(),
        };
        let program = program.canonicalize().map_err(missing)?;
        let content = std::fs::read(&program).map_err(missing)?;
        let help = Command::new(&program).arg("--help").stdin(Stdio::null()).output().map_err(missing)?;
        let help = [help.stdout, help.stderr].concat();
        let help = String::from_utf8_lossy(&help);
        let Some((_, version)) = help.split_once("Bochs x86 Emulator ") else {
            return Err(missing(std::io::Error::other("it is not a Bochs: `--help` does not say so")));
        };
        let prefix = program.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let folders = [prefix.join("share"), prefix.join("share/bochs"), "/usr/share/bochs".into()];
        let find = |file: &'static str| {
            folders.iter().map(|folder| folder.join(file)).find(|path| path.is_file()).ok_or_else(|| {
                VmError::EmulatorFileMissing {
                    emulator: program.clone(),
                    file,
                    looked_in: folders.each_ref().map(|folder| folder.display().to_string()).join(", "),
                }
            })
        };
        let (system_bios, vga_bios) = (find("BIOS-bochs-latest")?, find("VGABIOS-lgpl-latest")?);
        Ok(Self {
            loads_memory: content.windows(PATCH_MARK.len()).any(|window| window == PATCH_MARK),
            is_version_2: version.starts_with("2."),
            has_debugger: help.contains("-rc filename"),
            program,
            system_bios,
            vga_bios,
        })
    }
}

/// A piece of guest memory: its bytes and its address.
type Piece<'a> = (&'a [u8], u64);

/// Writes the pieces as memory images; returns the lines that the configuration needs for them.
fn memory_images(folder: &Folder, pieces: &[Piece<'_>]) -> Result<String, VmError> {
    let mut floppy = boot_sector(STUB_ADDRESS);
    floppy.resize(FLOPPY_SIZE, 0);
    let floppy = folder.write("floppy.img", &floppy)?;
    let mut text = format!(
        "floppya: 1_44={}, status=inserted, write_protected=1\n\
         boot: floppy\n\
         ata0: enabled=0\n\
         ata1: enabled=0\n",
        floppy.display()
    );
    for (number, (bytes, address)) in (1..).zip(pieces) {
        let path = folder.write(&format!("memory-{number}.img"), bytes)?;
        let _ = writeln!(text, "optramimage{number}: file={}, address={address:#x}", path.display());
    }
    Ok(text)
}

/// Writes the pieces to a disk; returns the lines that the configuration needs for it.
fn disk(folder: &Folder, pieces: &[Piece<'_>]) -> Result<String, VmError> {
    const HEADS: usize = 16;
    const SECTORS: usize = 63;
    const CYLINDER: usize = HEADS * SECTORS * 512;
    let disk = direct_boot::disk_image(pieces, CYLINDER);
    let cylinders = disk.len() / CYLINDER;
    let path = folder.write("disk.img", &disk)?;
    Ok(format!(
        "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=disk, path={}, mode=flat, cylinders={cylinders}, heads={HEADS}, spt={SECTORS}\n\
         ata1: enabled=0\n\
         boot: disk\n",
        path.display()
    ))
}

/// The text of the configuration file, media aside. Nothing in it follows the host's clock, and the CPU has no
/// random numbers (Bochs would seed them from the host's clock): the same machine runs the same way again.
fn configuration(parts: &Parts<'_>, folder: &Folder, emulator: &Emulator) -> String {
    let cpu = parts.cpu_model.unwrap_or(DEFAULT_CPU);
    let (cpu_more, memory_more) =
        if emulator.is_version_2 { ("", "") } else { (", exclude_features=\"rdrand rdseed\"", ", block_size=512") };
    format!(
        "config_interface: textconfig\n\
         display_library: {display}\n\
         cpu: model={cpu}, count={cpus}, quantum=5, ips={INSTRUCTIONS_PER_SECOND}, reset_on_triple_fault=0, \
         ignore_bad_msrs=1{cpu_more}\n\
         memory: guest={memory}, host={memory}{memory_more}\n\
         romimage: file={system_bios}, options=fastboot\n\
         vgaromimage: file={vga_bios}\n\
         vga: realtime=0\n\
         clock: sync=none, time0={CLOCK_START}\n\
         com1: enabled=1, mode=file, dev={console}\n\
         port_e9_hack: enabled=1\n\
         log: {records}\n\
         panic: action=fatal\n\
         error: action={errors}\n\
         info: action=report\n\
         debug: action=ignore\n\
         mouse: enabled=0\n",
        display = if emulator.loads_memory { "nogui" } else { "term" },
        cpus = parts.cpus,
        errors = parts.errors,
        memory = parts.memory_mib,
        system_bios = emulator.system_bios.display(),
        vga_bios = emulator.vga_bios.display(),
        console = folder.console().display(),
        records = folder.records().display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(records: &str, console: &str, expected: Option<Ending>) {
        assert_eq!(Bochs.ending(records, console), expected);
    }

    #[test]
    fn the_emulators_log_tells_the_ending() {
        let started = "00000000000i[SYS   ] bx_pc_system_c::Reset(HARDWARE) called\n";
        let again = format!("{started}00123i[SYS   ] bx_pc_system_c::Reset(HARDWARE) called\n");
        let power_off = "0099p[UNMAP ] >>PANIC<< Shutdown port: shutdown requested\n";
        let triple = "0099p[CPU0  ] >>PANIC<< exception(): 3rd (13) exception with no resolution\n";
        check(started, "", None);
        check(&format!("{started}{power_off}"), "", Some(Ending::PoweredOff));
        check(
            &format!("{started}0099p[ACPI  ] >>PANIC<< ACPI control: soft power off\n"),
            "",
            Some(Ending::PoweredOff),
        );
        check(&format!("{again}{power_off}"), "", Some(Ending::Reset));
        check(&format!("{started}{triple}"), "", Some(Ending::TripleFault));
        check(&format!("{started}{triple}"), "[ 1.0] reboot: Restarting system\n", Some(Ending::Reset));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Emulator::find(Some(Path::new("/nowhere/bochs"))).err().unwrap();
        assert!(error.to_string().contains("/nowhere/bochs"), "{error}");
    }
}
