//! What decides, besides the version, how the kernel behaves: looked at, never assumed.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem;
use ptediff_reference_model::kernel::Facts;

/// The kernel's type information, which names its functions.
const BTF: &str = "/sys/kernel/btf/vmlinux";
/// A function that is built with CONFIG_X86_USER_SHADOW_STACK alone (`arch/x86/kernel/shstk.c`).
const SHADOW_STACK_FUNCTION: &[u8] = b"\0shstk_alloc_thread_stack\0";

/// A page that this process may not write.
static READ_ONLY: [u8; 16] = *b"ptediff: a fact\n";

/// Asks the kernel.
pub(super) fn gather() -> Facts {
    Facts { user_shadow_stacks: has_user_shadow_stacks(), forced_stores: forces_stores().is_ok() }
}

/// Without type information nothing can be told, and the session refuses the kernel before it matters.
fn has_user_shadow_stacks() -> bool {
    fs::read(BTF).map_or(true, |types| memmem::find(&types, SHADOW_STACK_FUNCTION).is_some())
}

/// Writes to read-only memory of this process what stands there, as no tracer would.
fn forces_stores() -> io::Result<()> {
    let memory = fs::OpenOptions::new().write(true).open("/proc/self/mem")?;
    memory.write_all_at(&READ_ONLY, std::ptr::from_ref(&READ_ONLY) as u64)
}
