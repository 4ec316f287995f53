//! The guest's page tables, descriptor tables, and the place where accesses are made.

use core::cell::UnsafeCell;
use core::ptr;

use crate::cpu;
use crate::processor::{ACCESSED, DIRTY, PAGE_SIZE, PRESENT, USER, WRITABLE};

/// Physical and, in the guest's own mapping, linear address of what the tested page maps: code at its beginning,
/// data at [`DATA`]. A multiple of 2 MiB, and the same modulo 1 GiB as the tested address.
pub const TARGET: u64 = 32 << 20;
/// Where the data lie in it.
pub const DATA: u64 = 0x800;
/// The page behind it is fetched from: writes beside code that an emulator translated are slow.
pub const CODE: u64 = 0x1000;

/// The guest's own pages for ring 3, and its supervisor shadow stack: the second entry of the PML4 table.
const OWN: u64 = 1 << 39;
/// The tested address: the third entry of the PML4 table; with five levels, of that of the second PML5 entry.
const TESTED: u64 = 2 << 39 | TARGET;
const TESTED_FIVE: u64 = 1 << 48 | TESTED;
const TESTED_PDE: usize = (TARGET >> 21) as usize;

/// Code of ring 3.
pub const USER_CODE: u64 = OWN;
/// The top of the stack of ring 3, on which nothing is put.
pub const USER_STACK: u64 = OWN + 0x2000;
/// The token of the supervisor shadow stack.
const SHADOW_TOKEN: u64 = OWN + 0x3000 - 8;

/// A paging structure.
#[repr(C, align(4096))]
pub struct Table(UnsafeCell<[u64; 512]>);

// SAFETY: there is one thread, and interrupts are off.
unsafe impl Sync for Table {}

impl Table {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; 512]))
    }

    /// Its address, physical and linear: the guest is mapped to itself.
    pub fn address(&self) -> u64 {
        self.0.get() as u64
    }

    /// An entry. The processor changes it, too.
    #[inline(always)]
    pub fn get(&self, index: usize) -> u64 {
        // SAFETY: the index is below 512 (masked), the place is ours.
        unsafe { self.0.get().cast::<u64>().add(index & 511).read_volatile() }
    }

    /// Writes an entry.
    #[inline(always)]
    pub fn set(&self, index: usize, entry: u64) {
        // SAFETY: as in `get`.
        unsafe { self.0.get().cast::<u64>().add(index & 511).write_volatile(entry) }
    }
}

static PML5: Table = Table::new();
static PML4: Table = Table::new();
static IDENTITY_PDPT: Table = Table::new();
static IDENTITY_PD: Table = Table::new();
static OWN_PDPT: Table = Table::new();
static OWN_PD: Table = Table::new();
static OWN_PT: Table = Table::new();
static USER_STACK_PAGE: Table = Table::new();
static SHADOW_STACK_PAGE: Table = Table::new();
static TESTED_PML4: Table = Table::new();
static TESTED_PDPT: Table = Table::new();
static TESTED_PD: Table = Table::new();
static TESTED_PT: Table = Table::new();
static IDT: Table = Table::new();
static TSS: Table = Table::new();
static INTERRUPT_STACK: Table = Table::new();

unsafe extern "C" {
    static mut gdt: [u64; 8];
    static exceptions: u8;
    static user_code_begin: u8;
    fn gate_from_user();
    fn enter_five_levels(pml5: u64);
}

/// Builds page tables and descriptor tables and loads them.
pub fn set_up(five_levels: bool) {
    const OPEN: u64 = PRESENT | WRITABLE | ACCESSED;
    const OPEN_TO_ALL: u64 = OPEN | USER;
    PML4.set(0, IDENTITY_PDPT.address() | OPEN);
    IDENTITY_PDPT.set(0, IDENTITY_PD.address() | OPEN);
    for index in 0..512 {
        IDENTITY_PD.set(index, (index as u64) << 21 | OPEN | DIRTY | PAGE_SIZE);
    }
    PML4.set(1, OWN_PDPT.address() | OPEN_TO_ALL);
    OWN_PDPT.set(0, OWN_PD.address() | OPEN_TO_ALL);
    OWN_PD.set(0, OWN_PT.address() | OPEN_TO_ALL);
    let user_code = &raw const user_code_begin as u64;
    OWN_PT.set(0, user_code | PRESENT | USER | ACCESSED);
    OWN_PT.set(1, USER_STACK_PAGE.address() | OPEN_TO_ALL | DIRTY);
    OWN_PT.set(2, SHADOW_STACK_PAGE.address() | PRESENT | ACCESSED | DIRTY);
    PML5.set(0, PML4.address() | OPEN_TO_ALL);

    let handlers = &raw const exceptions as u64;
    for vector in 0..32 {
        set_gate(vector, handlers + 16 * vector as u64, 0);
    }
    set_gate(0x20, gate_from_user as *const () as u64, 3);
    // TSS: RSP0 stands at offset 4, the offset of the permission map (none) at 102.
    let top = INTERRUPT_STACK.address() + 4096;
    let tss = TSS.address();
    // SAFETY: `TSS` is ours and nobody reads it before it is loaded below; the GDT has room for its descriptor.
    unsafe {
        ptr::write_unaligned((tss + 4) as *mut u64, top);
        ptr::write_unaligned((tss + 102) as *mut u16, 104);
        let descriptor = 0x0000_8900_0000_0067 | (tss & 0xff_ffff) << 16 | (tss >> 24 & 0xff) << 56;
        (&raw mut gdt).cast::<u64>().add(5).write(descriptor);
        (&raw mut gdt).cast::<u64>().add(6).write(tss >> 32);
    }
    let pointer = Pointer { limit: 0x21 * 16 - 1, address: IDT.address() };
    // SAFETY: the tables are whole, map the guest to itself, and live for ever.
    unsafe {
        core::arch::asm!("lidt [{}]", "ltr {:x}", in(reg) &pointer, in(reg) 0x28_u16, options(nostack));
        cpu::load_tables(PML4.address());
        if five_levels {
            enter_five_levels(PML5.address());
        }
    }
    // SAFETY: the target lies in guest memory above the image, mapped to itself: `int 0x20` for a fetch of ring 3,
    // `ret` behind it for one of ring 0.
    unsafe {
        ((TARGET + CODE) as *mut [u8; 3]).write([0xcd, 0x20, 0xc3]);
    }
}

/// A fetch of ring 0 begins here in the code page, one of ring 3 at its beginning.
pub const SUPERVISOR_CODE: u64 = 2;

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    address: u64,
}

fn set_gate(vector: usize, handler: u64, privilege: u64) {
    let low = handler & 0xffff | 0x08 << 16 | (0x8e | privilege << 5) << 40 | (handler >> 16 & 0xffff) << 48;
    IDT.set(2 * vector, low);
    IDT.set(2 * vector + 1, handler >> 32);
}

/// A free token at the top of the supervisor shadow stack, so that SETSSBSY can take it.
#[inline(always)]
pub fn free_shadow_stack() {
    SHADOW_STACK_PAGE.set(511, SHADOW_TOKEN);
}

/// The address of the token, for IA32_PL0_SSP.
pub const fn shadow_stack() -> u64 {
    SHADOW_TOKEN
}

/// The tested address, and the entries that translate it.
pub struct Tested {
    five_levels: bool,
    /// The linear address.
    pub address: u64,
}

impl Tested {
    /// With the levels that were set up.
    pub fn new(five_levels: bool) -> Self {
        Self { five_levels, address: if five_levels { TESTED_FIVE } else { TESTED } }
    }

    /// Puts the entries in their places, with the frames that they lead to: the tables, and the target.
    #[inline(always)]
    pub fn set(&self, entries: &[u64; 5], is_fetch: bool) -> [u64; 5] {
        let large = |level: usize| entries[level - 1] & PAGE_SIZE != 0;
        let pdpte = if large(3) { entries[2] } else { entries[2] | TESTED_PD.address() };
        let pde = entries[1] | if large(2) { TARGET } else { TESTED_PT.address() };
        let pte = entries[0] | if is_fetch { TARGET + CODE } else { TARGET };
        let pml4e = entries[3] | TESTED_PDPT.address();
        let pml5e = entries[4] | TESTED_PML4.address();
        TESTED_PT.set(usize::from(is_fetch), pte);
        TESTED_PD.set(TESTED_PDE, pde);
        TESTED_PDPT.set(0, pdpte);
        if self.five_levels {
            TESTED_PML4.set(2, pml4e);
            PML5.set(1, pml5e);
        } else {
            PML4.set(2, pml4e);
        }
        [pte, pde, pdpte, pml4e, pml5e]
    }

    /// The entries as they are now. With four levels the fifth is what was set.
    #[inline(always)]
    pub fn get(&self, is_fetch: bool, before: &[u64; 5]) -> [u64; 5] {
        let (pml4e, pml5e) =
            if self.five_levels { (TESTED_PML4.get(2), PML5.get(1)) } else { (PML4.get(2), before[4]) };
        [TESTED_PT.get(usize::from(is_fetch)), TESTED_PD.get(TESTED_PDE), TESTED_PDPT.get(0), pml4e, pml5e]
    }
}

/// The word that reads and writes go to.
#[inline(always)]
pub fn data() -> u64 {
    // SAFETY: the target is guest memory, mapped to itself.
    unsafe { ((TARGET + DATA) as *const u64).read_volatile() }
}

/// Puts a word there.
#[inline(always)]
pub fn set_data(word: u64) {
    // SAFETY: as in `data`.
    unsafe { ((TARGET + DATA) as *mut u64).write_volatile(word) }
}
