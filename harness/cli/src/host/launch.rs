//! Starts a machine with a request in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, io};

use ptediff_vm::in_place::may_run_in_place;
use ptediff_vm::store::{Store, sha256_of_bytes};
use ptediff_vm::swap::MODULES_DIRECTORY;
use ptediff_vm::{
    BackendKind, Initramfs, ModuleError, ModuleFile, ModuleFiles, VmSpec, require_static_elf, without_sections,
};

use crate::error::Failure;
use crate::guest::init::SESSION_ARGUMENT;
use crate::guest::{GuestRequest, REQUEST_PATH};

use super::channel::Channel;

/// What the page walk reads. Of all that a session needs it asks for the most rights.
const KERNEL_MEMORY: &str = "/proc/kcore";

/// What runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Platform {
    /// Bochs 3.0: a CPU with user shadow stacks and protection keys.
    Bochs,
    /// QEMU's translator: protection keys, no shadow stacks.
    Qemu,
    /// This machine itself. Needs `ptediff.vm=1` on the kernel's command line or `PTEDIFF_NATIVE=1`.
    Native,
}

impl Platform {
    /// Its name in requests and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bochs => "bochs",
            Self::Qemu => "qemu",
            Self::Native => "native",
        }
    }

    /// CPU features that the platform is used for: without them a run refuses to go on.
    #[must_use]
    pub fn required_features(self) -> Vec<String> {
        let names: &[&str] = match self {
            Self::Bochs => &["user_shstk", "ospke"],
            Self::Qemu => &["ospke"],
            Self::Native => &[],
        };
        names.iter().map(|name| (*name).to_owned()).collect()
    }
}

/// What machine to start.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// What runs the guest.
    pub platform: Platform,
    /// A kernel's name in the cache (`6.12`, `6.12.113`), or the path of a bzImage.
    pub kernel: String,
    /// A folder of the kernel's modules, in place of the cache's.
    pub modules: Option<PathBuf>,
    /// Another emulator program than the cache's.
    pub emulator: Option<PathBuf>,
    /// Another CPU model than the platform's.
    pub cpu_model: Option<String>,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Number of CPUs.
    pub cpus: u32,
    /// Words for the kernel's command line, behind the usual ones.
    pub command_line: Vec<String>,
    /// Files for the initramfs: path and content.
    pub files: Vec<(String, Vec<u8>)>,
    /// Symbolic links for the initramfs: path and target.
    pub links: Vec<(String, String)>,
    /// Silence after which the guest counts as hung.
    pub silence: Duration,
    /// Time after which the machine is stopped.
    pub limit: Option<Duration>,
}

/// This very file, as it runs in the guest.
///
/// # Errors
/// It cannot be read, or is linked dynamically.
pub fn own_executable() -> Result<Vec<u8>, Failure> {
    let path = Path::new("/proc/self/exe");
    let bytes = fs::read(path).map_err(|source| Failure::File { path: path.to_owned(), source })?;
    require_static_elf(&bytes)?;
    Ok(bytes)
}

/// SHA-256 of a file's bytes, in hexadecimal.
#[must_use]
pub fn digest_text(bytes: &[u8]) -> String {
    sha256_of_bytes(bytes)
}

/// The kernel image of a name or a path. A name without `/` that the cache knows is the cache's.
///
/// # Errors
/// No such kernel.
pub fn kernel_image(kernel: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(kernel);
    if kernel.contains('/') || path.is_file() {
        return if path.is_file() {
            Ok(path.to_owned())
        } else {
            Err(Failure::usage(
                format!("there is no kernel image at {kernel}"),
                "--kernel takes a name of the cache (6.12, 6.12.113; 6.1 with QEMU) or the path of a bzImage",
            ))
        };
    }
    let store = Store::open()?;
    Ok(store.kernel(kernel)?.vmlinuz)
}

/// What a machine gets for its swap file.
#[derive(Debug, Default)]
struct SwapModules {
    /// By the paths that they get in the guest, in the order in which they are loaded.
    files: Vec<(String, Vec<u8>)>,
    /// Why there are none, where there are none.
    without: Option<String>,
}

/// The modules of the folder that was named, else those that the cache has for the kernel. A kernel given by its path
/// has none but those of the folder.
fn swap_modules(options: &LaunchOptions) -> Result<SwapModules, Failure> {
    let without = |why: String| Ok(SwapModules { files: Vec::new(), without: Some(why) });
    let kernel = &options.kernel;
    if let Some(folder) = &options.modules {
        let unusable = |error: ModuleError| {
            Failure::usage(
                format!("--modules {}: {error}", folder.display()),
                "name a folder with this kernel's modules",
            )
        };
        let ordered = ModuleFiles::of_folder(folder).and_then(|modules| modules.for_swap()).map_err(unusable)?;
        if ordered.is_empty() {
            return without(format!("there is no zram.ko in {}", folder.display()));
        }
        let place = |(index, module): (usize, ModuleFile)| {
            (format!("{MODULES_DIRECTORY}/{index:02}-{}.ko", module.name), module.content)
        };
        return Ok(SwapModules { files: ordered.into_iter().enumerate().map(place).collect(), without: None });
    }
    if kernel.contains('/') || Path::new(kernel).is_file() {
        return without("no modules were given (--modules DIR)".to_owned());
    }
    let artifact = Store::open()?.kernel(kernel)?;
    if artifact.modules.is_empty() {
        let lacks = artifact.lacks.into_iter().find(|lack| lack.starts_with("no modules"));
        return without(lacks.unwrap_or_else(|| "the cache has no modules of it".to_owned()));
    }
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match fs::read(&path) {
            Ok(content) => Ok((format!("{MODULES_DIRECTORY}/{name}"), content)),
            Err(source) => Err(Failure::File { path, source }),
        }
    };
    let files = artifact.modules.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(SwapModules { files, without: None })
}

/// Starts the machine (or the session in place) with this request.
///
/// # Errors
/// The rig is not fit: no kernel, no emulator, a dynamic executable, or in place without leave.
pub fn launch(request: &GuestRequest, options: &LaunchOptions) -> Result<Channel, Failure> {
    let text = |request| serde_json::to_vec(request).map_err(|error| Failure::rig(&error));
    if options.platform == Platform::Native {
        return launch_in_place(&text(request)?);
    }
    let executable = own_executable()?;
    let kernel = kernel_image(&options.kernel)?;
    if let Some(emulator) = &options.emulator
        && !emulator.is_file()
    {
        return Err(Failure::usage(
            format!("there is no emulator at {}", emulator.display()),
            "leave --emulator out to use the one of the cache",
        ));
    }
    let mut initramfs = Initramfs::with_init(without_sections(&executable));
    let SwapModules { files, without } = swap_modules(options)?;
    let request = GuestRequest { without_modules: without, ..request.clone() };
    initramfs.add_file(REQUEST_PATH.trim_start_matches('/'), 0o644, text(&request)?);
    for (path, content) in files {
        initramfs.add_file(&path, 0o644, content);
    }
    for (path, content) in &options.files {
        initramfs.add_file(path, 0o755, content.clone());
    }
    for (path, target) in &options.links {
        initramfs.add_link(path, target);
    }
    let backend = if options.platform == Platform::Bochs { BackendKind::Bochs } else { BackendKind::Qemu };
    let mut spec = VmSpec::new(backend, kernel, initramfs);
    spec.emulator.clone_from(&options.emulator);
    spec.cpu_model.clone_from(&options.cpu_model);
    spec.memory_mib = options.memory_mib;
    spec.cpus = options.cpus;
    spec.command_line.clone_from(&options.command_line);
    spec.silence = options.silence;
    spec.limit = options.limit;
    Ok(Channel::Machine(Box::new(ptediff_vm::boot(&spec)?)))
}

fn launch_in_place(request: &[u8]) -> Result<Channel, Failure> {
    if !may_run_in_place() {
        return Err(Failure::usage(
            "programs are not run on this machine itself: neither `ptediff.vm=1` is on the kernel's command line nor PTEDIFF_NATIVE=1 in the environment",
            "use --platform bochs or qemu, or run inside a machine that is meant for it",
        ));
    }
    if let Err(error) = fs::File::open(KERNEL_MEMORY)
        && error.kind() == io::ErrorKind::PermissionDenied
    {
        return Err(Failure::usage(
            format!("programs cannot be observed in place: {KERNEL_MEMORY} cannot be opened: {error}"),
            "call it as root",
        ));
    }
    let failed = |source| Failure::Rig { message: format!("the session cannot be started: {source}"), help: None };
    let file = tempfile::NamedTempFile::new().map_err(failed)?;
    fs::write(file.path(), request).map_err(failed)?;
    let (_, path) = file.keep().map_err(|error| failed(error.error))?;
    let mut child = Command::new("/proc/self/exe")
        .arg(SESSION_ARGUMENT)
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    match child.stdout.take() {
        Some(stream) => Ok(Channel::Native { child, stream }),
        None => Err(Failure::Rig { message: "the session has no output".to_owned(), help: None }),
    }
}
