//! What decides where no version does: configuration and parameters, read in the guest.

use super::version::KernelVersion;
use serde::{Deserialize, Serialize};

/// A question about a running kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// `CONFIG_X86_USER_SHADOW_STACK`: the kernel has `map_shadow_stack`.
    UserShadowStacks,
    /// A write to /proc/pid/mem goes through protections without a tracer (`CONFIG_PROC_MEM_ALWAYS_FORCE`, or the
    /// parameter `proc_mem.force_override=always`; up to 6.11 nothing hinders it).
    ForcedStores,
}

impl Fact {
    /// Every fact.
    pub const ALL: [Self; 2] = [Self::UserShadowStacks, Self::ForcedStores];

    /// What it says of a kernel for which it holds.
    #[must_use]
    pub fn statement(self) -> &'static str {
        match self {
            Self::UserShadowStacks => "built with CONFIG_X86_USER_SHADOW_STACK",
            Self::ForcedStores => "writes to /proc/pid/mem are forced without a tracer",
        }
    }
}

/// From here on Debian builds with CONFIG_PROC_MEM_FORCE_PTRACE.
const FORCED_BY_TRACERS_ALONE: KernelVersion = KernelVersion::new(7, 0, 0);

/// The answers, as the guest found them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Facts {
    /// [`Fact::UserShadowStacks`].
    pub user_shadow_stacks: bool,
    /// [`Fact::ForcedStores`].
    pub forced_stores: bool,
}

impl Facts {
    /// All that widen what programs can do: what a kernel is imagined with.
    pub const ALL: Self = Self { user_shadow_stacks: true, forced_stores: true };

    /// What Debian's kernels of a version say.
    #[must_use]
    pub fn usual(version: KernelVersion) -> Self {
        Self { forced_stores: version < FORCED_BY_TRACERS_ALONE, ..Self::ALL }
    }

    /// The answer.
    #[must_use]
    pub fn has(self, fact: Fact) -> bool {
        match fact {
            Fact::UserShadowStacks => self.user_shadow_stacks,
            Fact::ForcedStores => self.forced_stores,
        }
    }
}
