//! The processor's side of every check: whether an access is allowed, and what it leaves in the entries.
//!
//! A pure function from paging-structure entries, control registers, key rights and the access to a
//! [`Decision`]: allowed, or a page fault with its error code, and the Accessed and Dirty flags after it.
//! Source: Intel SDM volume 3, chapter "Paging" (4.5 IA-32e translation, 4.6 access rights, 4.7 page faults,
//! 4.8 accessed and dirty flags), and volume 1, chapter "Control-flow Enforcement Technology". Each [`Rule`] cites
//! its section.
//!
//! It uses nothing but `core` and no other module of this crate: the bare probe compiles the same files, so
//! that guest and host judge with the same code.

mod decide;
mod error_code;
mod mutant;
mod rule;
#[cfg(test)]
mod tests;

pub use decide::{decide, decide_as};
pub use error_code::ErrorCode;
pub use mutant::Mutant;
pub use rule::Rule;

/// Levels of paging structures that there can be: level 1 is the page table, 5 the PML5 table.
pub const LEVELS: usize = 5;

/// Bit 0 of an entry: present.
pub const PRESENT: u64 = 1 << 0;
/// Bit 1: writes allowed (R/W).
pub const WRITABLE: u64 = 1 << 1;
/// Bit 2: user-mode accesses allowed (U/S).
pub const USER: u64 = 1 << 2;
/// Bit 5: accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Bit 6: dirty, in an entry that maps a page; ignored in others.
pub const DIRTY: u64 = 1 << 6;
/// Bit 7: page size, at levels 2 and 3; reserved above.
pub const PAGE_SIZE: u64 = 1 << 7;
/// The lowest bit of the protection key (bits 59 to 62) of an entry that maps a page.
pub const KEY_SHIFT: u32 = 59;
/// Bit 63: execute-disable, reserved without IA32_EFER.NXE.
pub const EXECUTE_DISABLE: u64 = 1 << 63;

/// The entries that translate one linear address, by level less one: `[0]` is the PTE, `[4]` the PML5E. Those
/// that the walk does not reach are not looked at.
pub type Entries = [u64; LEVELS];

/// The address translation in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// 4, or 5 with CR4.LA57.
    pub levels: u8,
    /// MAXPHYADDR: address bits from here to 51 are reserved (CPUID.80000008H:EAX[7:0]).
    pub physical_address_bits: u8,
    /// Whether a PDPTE may map a page of 1 GiB (CPUID.80000001H:EDX.Page1GB); else its bit 7 is reserved.
    pub gigabyte_pages: bool,
}

/// The state of the processor that access rights depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The address translation in force.
    pub paging: Paging,
    /// CR0.WP: supervisor-mode writes need R/W too. Set whenever CR4.CET is.
    pub write_protect: bool,
    /// CR4.SMEP: no supervisor-mode fetches from user-mode addresses.
    pub smep: bool,
    /// CR4.SMAP: supervisor-mode data accesses to user-mode addresses only with EFLAGS.AC.
    pub smap: bool,
    /// EFLAGS.AC.
    pub alignment_check: bool,
    /// CR4.PKE: PKRU is obeyed.
    pub user_keys: bool,
    /// CR4.PKS: IA32_PKRS is obeyed.
    pub supervisor_keys: bool,
    /// CR4.CET: there are shadow-stack accesses.
    pub shadow_stacks: bool,
    /// Whether the processor supports shadow stacks, switched on or not (CPUID.7.0:ECX.CET_SS): see
    /// [`Rule::CleanWithoutWritable`].
    pub supports_shadow_stacks: bool,
    /// IA32_EFER.NXE.
    pub execute_disable: bool,
    /// PKRU: for key i, bit 2i disables access, bit 2i+1 writes.
    pub pkru: u32,
    /// IA32_PKRS, laid out as PKRU.
    pub pkrs: u32,
}

/// Whose access it is (SDM 4.6): CPL 3 gives user mode, lower ones supervisor mode, with the exceptions named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// CPL 3; and WRUSS, at any CPL.
    User,
    /// CPL below 3, by an instruction's own operand.
    Supervisor,
    /// A system data structure (descriptor tables, TSS), whatever the CPL.
    Implicit,
}

/// What is done at the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch.
    Fetch,
    /// A read of the shadow stack, by RET or INCSSP, say.
    ShadowStackRead,
    /// A write to the shadow stack, by CALL, WRSS or WRUSS, say.
    ShadowStackWrite,
}

/// An access to a linear address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Whose.
    pub mode: Mode,
    /// Of what kind.
    pub kind: Kind,
}

/// What the processor does about an access whose translation is in no TLB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The page fault's error code; `None`: the access is made.
    pub fault: Option<ErrorCode>,
    /// The rule that decided. If several rules refuse, the first in the order of [`Rule::ALL`].
    pub rule: Rule,
    /// The entries after it.
    pub after: Entries,
    /// Accessed flags that may or may not be set after it, in spite of `after`: see
    /// [`Rule::AccessedOnFaultUnspecified`].
    pub unspecified: Entries,
    /// Bits of the error code that may or may not be set, and are clear in `fault`: see
    /// [`Rule::SupervisorKeyOfUserAccessUnspecified`].
    pub unspecified_code: u32,
}
