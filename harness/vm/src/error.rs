//! Failures of the rig: nothing here says anything about the kernel under test.

use std::io;
use std::path::PathBuf;

/// Our rig failed: the guest was not started, or can no longer be observed.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The emulator's program file is not there or not executable.
    #[error("the emulator {program} cannot be used: {reason}. `cargo xtask setup` installs what is missing")]
    EmulatorMissing {
        /// The program that was looked for.
        program: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// A file that belongs to the emulator (its BIOS, say) is in none of the usual places.
    #[error("{emulator} needs the file {file}, which is in none of: {looked_in}. `cargo xtask setup` installs it")]
    EmulatorFileMissing {
        /// The emulator.
        emulator: PathBuf,
        /// The file's name.
        file: &'static str,
        /// The folders that were looked into, separated by commas.
        looked_in: String,
    },
    /// The emulator gave up before the guest executed anything: bad option, unknown CPU model, no memory.
    #[error("the emulator refused to start the machine ({status}):\n{messages}")]
    EmulatorRefused {
        /// How the emulator ended.
        status: String,
        /// The last lines that it wrote.
        messages: String,
    },
    /// The kernel file is not a bzImage, or not one that can be booted this way.
    #[error("{path}: {reason}")]
    Kernel {
        /// The kernel file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file for the guest is not a static x86-64 ELF.
    #[error("{0}")]
    NotStatic(String),
    /// The machine that was asked for cannot be built: too little memory, say.
    #[error("the machine cannot be built: {0}")]
    Spec(String),
    /// The store of kernels and emulators has not what is needed.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A file or process of the host could not be used.
    #[error("{action}: {source}")]
    Io {
        /// What was being done, with the path.
        action: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl VmError {
    /// For `map_err`: an I/O failure with what was being done.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
