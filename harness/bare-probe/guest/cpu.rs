//! Control registers, model-specific registers and CPUID.

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

use crate::case::{Case, Machine, RIGHTS_WHILE_OFF, control as c, key_rights};
use crate::processor::Paging;

/// IA32_EFER.
pub const EFER: u32 = 0xc000_0080;
/// IA32_PKRS.
pub const PKRS: u32 = 0x6e1;
/// IA32_U_CET.
pub const U_CET: u32 = 0x6a0;
/// IA32_PL0_SSP.
pub const PL0_SSP: u32 = 0x6a4;
/// IA32_PL3_SSP.
pub const PL3_SSP: u32 = 0x6a7;

const CR0_WP: u64 = 1 << 16;
const EFER_NXE: u64 = 1 << 11;
const CR4_BITS: [(u32, u64); 5] =
    [(c::SMEP, 1 << 20), (c::SMAP, 1 << 21), (c::PKE, 1 << 22), (c::CET, 1 << 23), (c::PKS, 1 << 24)];
const CR4_PKE: u64 = 1 << 22;
const CR4_CHANGED: u64 = 0x1f << 20;
/// SH_STK_EN and WR_SHSTK_EN.
const SHADOW_STACKS_AND_WRSS: u64 = 3;

/// Writes a model-specific register.
pub fn write_msr(register: u32, value: u64) {
    // SAFETY: the guest has no memory safety to lose by the registers that it writes: its own code and data lie in
    // supervisor pages with key 0, which none of them closes. A refused value is an exception, which is reported.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

/// Reads a model-specific register.
pub fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register that CPUID says is there.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

fn write_pkru(value: u32) {
    // SAFETY: CR4.PKE is set by the caller.
    unsafe { asm!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags)) };
}

fn cr0() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr0", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn cr4() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

fn write_cr0(value: u64) {
    // SAFETY: only WP differs from what runs already.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack, preserves_flags)) };
}

fn write_cr4(value: u64) {
    // SAFETY: only SMEP, SMAP, PKE, CET and PKS differ, none of which touches the guest's own pages.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Loads the page tables.
///
/// # Safety
/// They map the guest to itself.
pub unsafe fn load_tables(address: u64) {
    // SAFETY: the caller's.
    unsafe { asm!("mov cr3, {}", in(reg) address, options(nostack, preserves_flags)) };
}

/// Forgets the translation of an address.
#[inline(always)]
pub fn forget(address: u64) {
    // SAFETY: drops a cached translation; the page tables say the same or more.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// What processor this is, and the two words of its vendor's name.
pub fn machine() -> (Machine, [u64; 2]) {
    let basic = __cpuid_count(0, 0);
    let extended = __cpuid_count(0x8000_0001, 0);
    let features = __cpuid_count(7, 0);
    let sizes = __cpuid_count(0x8000_0008, 0);
    let bit = |register: u32, bit: u32, feature: u32| if register >> bit & 1 != 0 { feature } else { 0 };
    let machine = Machine {
        paging: Paging {
            levels: if cr4() & 1 << 12 != 0 { 5 } else { 4 },
            physical_address_bits: sizes.eax as u8,
            gigabyte_pages: extended.edx >> 26 & 1 != 0,
        },
        features: c::AC
            | c::WP
            | bit(extended.edx, 20, c::NXE)
            | bit(features.ebx, 7, c::SMEP)
            | bit(features.ebx, 20, c::SMAP)
            | bit(features.ecx, 3, c::PKE)
            | bit(features.ecx, 31, c::PKS)
            | bit(features.ecx, 7, c::CET),
    };
    let vendor = [u64::from(basic.ebx) | u64::from(basic.edx) << 32, u64::from(basic.ecx)];
    (machine, vendor)
}

/// Whether there can be five levels.
pub fn has_five_levels() -> bool {
    __cpuid_count(7, 0).ecx >> 16 & 1 != 0
}

/// Brings the processor into the state of a block of cases.
pub fn enter_state(machine: &Machine, control: u32) {
    let base = cr4() & !CR4_CHANGED;
    let has = |bit: u32| control & bit != 0;
    if machine.features & c::PKE != 0 {
        write_cr4(base | CR4_PKE);
        let open = key_rights(has(c::PKRU_AD), has(c::PKRU_WD));
        write_pkru(if has(c::PKE) { open } else { RIGHTS_WHILE_OFF });
    } else {
        write_cr4(base);
    }
    if machine.features & c::PKS != 0 {
        let open = key_rights(has(c::PKRS_AD), has(c::PKRS_WD));
        write_msr(PKRS, u64::from(if has(c::PKS) { open } else { RIGHTS_WHILE_OFF }));
    }
    // CR4.CET is clear here, as it must be while CR0.WP is.
    write_cr0(if has(c::WP) { cr0() | CR0_WP } else { cr0() & !CR0_WP });
    let efer = read_msr(EFER) & !EFER_NXE;
    write_msr(EFER, if has(c::NXE) { efer | EFER_NXE } else { efer });
    let bits = CR4_BITS.iter().filter(|(feature, _)| has(*feature)).fold(0, |bits, (_, bit)| bits | bit);
    write_cr4(base | bits);
    if has(c::CET) {
        write_msr(U_CET, SHADOW_STACKS_AND_WRSS);
    }
}

/// The shadow-stack pointer of ring 3 from the next IRETQ on.
pub fn set_user_shadow_stack(address: u64) {
    write_msr(PL3_SSP, address);
}

/// The state in which `case` is run, EFLAGS included.
pub fn flags_of(case: &Case) -> u64 {
    const ALIGNMENT_CHECK: u64 = 1 << 18;
    const ALWAYS: u64 = 2;
    if case.control & c::AC != 0 { ALWAYS | ALIGNMENT_CHECK } else { ALWAYS }
}
