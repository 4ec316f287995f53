//! The machine that a program runs on: its kernel and the CPU's features.

use serde::{Deserialize, Serialize};

use crate::kernel::{CALIBRATED, Facts, Kernel, KernelVersion, NEWEST_KNOWN, OLDEST_KNOWN};

/// Everything about a machine that the rules depend on. It stands at the head of every trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -r`, whole.
    pub release: String,
    /// The kernel's version, from `uname -r` and `uname -v`.
    pub version: KernelVersion,
    /// The version that the user asked to judge by, whatever the kernel calls itself.
    pub judged_as: Option<KernelVersion>,
    /// What besides the version decides what the kernel does.
    pub facts: Facts,
    /// User shadow stacks work: seen in CPUID and /proc/cpuinfo, and a push was carried out.
    pub shadow_stack: bool,
    /// Protection keys for user pages are on.
    pub protection_keys: bool,
    /// There is a swap file that pages can be swapped out to.
    pub swap: bool,
    /// ksmd can be told to scan.
    pub merging: bool,
    /// The CPU is an emulator that sets Accessed only for translations that an access needs. On hardware
    /// a prefetch may set it early, and a clear Accessed bit cannot be demanded (SDM 3A 4.8).
    pub exact_accessed: bool,
    /// What runs the guest: `bochs`, `qemu`, `native`. Only for reports.
    pub platform: String,
    /// Model name from /proc/cpuinfo. Only for reports.
    pub cpu_model: String,
}

impl Machine {
    /// A machine that nobody has run: what expectations are told of where no machine is asked. `shadow_stack` counts
    /// only where the kernel has user shadow stacks.
    #[must_use]
    pub fn imagined(version: KernelVersion, shadow_stack: bool, protection_keys: bool) -> Self {
        use crate::kernel::Change;
        let facts = Facts::usual(version);
        let has_shadow_stacks = Kernel::intended(version, facts).has(Change::UserShadowStacks);
        Self {
            release: version.to_string(),
            version,
            judged_as: None,
            facts,
            shadow_stack: shadow_stack && has_shadow_stacks,
            protection_keys,
            swap: true,
            merging: true,
            exact_accessed: true,
            platform: "none".to_owned(),
            cpu_model: "none".to_owned(),
        }
    }

    /// The version whose changes the kernel is taken to have.
    #[must_use]
    pub fn judged_version(&self) -> KernelVersion {
        self.judged_as.unwrap_or(self.version)
    }

    /// The kernel that the model judges by: it has no defect.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        Kernel::intended(self.judged_version(), self.facts)
    }

    /// The kernel as the table says that it is, its defects included.
    #[must_use]
    pub fn kernel_as_released(&self) -> Kernel {
        Kernel::as_released(self.judged_version(), self.facts)
    }

    /// Whether a matrix was run on this very version and had nothing unexplained.
    #[must_use]
    pub fn is_calibrated(&self) -> bool {
        self.judged_as.is_none() && CALIBRATED.contains(&self.version)
    }

    /// Where the kernel is beyond the table, what it is judged as, in a sentence.
    #[must_use]
    pub fn caveat(&self) -> Option<String> {
        let version = self.judged_version();
        if version < OLDEST_KNOWN {
            Some(format!("Linux {version} is older than {OLDEST_KNOWN}, the oldest that the table of changes knows"))
        } else if NEWEST_KNOWN < version {
            Some(format!("Linux {version} is newer than the table of changes; it is judged as {NEWEST_KNOWN}"))
        } else {
            None
        }
    }
}
