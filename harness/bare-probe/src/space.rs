//! The spaces of cases: products of axes, each value of which sets bits in one entry and in the control word.
//!
//! Compiled into host and guest.

use crate::case::{Case, Machine, control as c};
use crate::processor::{ACCESSED, DIRTY, EXECUTE_DISABLE, KEY_SHIFT, LEVELS, PAGE_SIZE, PRESENT, USER, WRITABLE};

/// A value of an axis: bits of the entry at `level` (1 to 5), and of the control word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    level: u8,
    entry: u64,
    control: u32,
}

/// An axis: one of its values holds in each case.
pub type Axis = &'static [Value];

/// Which cases of the product count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Those that `access` of kvm-unit-tests calls legal: one reserved bit at most; bit 13 of a PDE only with PS.
    KvmUnitTests,
    /// Entries behind the one that maps the page are not varied, as nobody looks at them.
    NothingBehindThePage,
}

/// Which cases of each block are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All that count.
    All,
    /// So many, drawn by the block's number.
    Sample(u32),
}

/// A space of cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Control bits that the processor must have, else the space is not run on it.
    pub needs: u32,
    /// The processor's states, one block of cases each.
    pub states: &'static [Axis],
    /// What is varied within a block, the first axis fastest. The axes whose values decide which others count are last.
    pub axes: &'static [Axis],
    /// Bits of each entry that all cases share.
    pub common: [u64; LEVELS],
    /// Which cases count.
    pub filter: Filter,
    /// The number of levels of paging that it is meant for.
    pub levels: u8,
}

const fn of(control: u32) -> Value {
    Value { level: 1, entry: 0, control }
}

const fn at(level: u8, entry: u64) -> Value {
    Value { level, entry, control: 0 }
}

const NOTHING: Value = of(0);

macro_rules! bit_axis {
    ($name:ident, $level:expr, $bit:expr) => {
        const $name: Axis = &[NOTHING, at($level, $bit)];
    };
}

bit_axis!(PTE_P, 1, PRESENT);
bit_axis!(PTE_W, 1, WRITABLE);
bit_axis!(PTE_U, 1, USER);
bit_axis!(PTE_A, 1, ACCESSED);
bit_axis!(PTE_D, 1, DIRTY);
bit_axis!(PTE_NX, 1, EXECUTE_DISABLE);
bit_axis!(PTE_51, 1, 1 << 51);
bit_axis!(PDE_P, 2, PRESENT);
bit_axis!(PDE_W, 2, WRITABLE);
bit_axis!(PDE_U, 2, USER);
bit_axis!(PDE_A, 2, ACCESSED);
bit_axis!(PDE_D, 2, DIRTY);
bit_axis!(PDE_PS, 2, PAGE_SIZE);
bit_axis!(PDE_NX, 2, EXECUTE_DISABLE);
bit_axis!(PDE_51, 2, 1 << 51);
bit_axis!(PDE_13, 2, 1 << 13);
bit_axis!(PDPTE_P, 3, PRESENT);
bit_axis!(PDPTE_W, 3, WRITABLE);
bit_axis!(PDPTE_U, 3, USER);
bit_axis!(PDPTE_D, 3, DIRTY);
bit_axis!(PDPTE_NX, 3, EXECUTE_DISABLE);
bit_axis!(PML4E_P, 4, PRESENT);
bit_axis!(PML4E_W, 4, WRITABLE);
bit_axis!(PML4E_U, 4, USER);
bit_axis!(PML4E_NX, 4, EXECUTE_DISABLE);
bit_axis!(PML5E_P, 5, PRESENT);
bit_axis!(PML5E_W, 5, WRITABLE);
bit_axis!(PML5E_U, 5, USER);
bit_axis!(PML5E_NX, 5, EXECUTE_DISABLE);

const TWICE: Axis = &[NOTHING, of(c::TWICE)];
const ACCESS: Axis =
    &[NOTHING, of(c::WRITE), of(c::FETCH), of(c::USER), of(c::USER | c::WRITE), of(c::USER | c::FETCH)];
/// With shadow stacks: those, and the four shadow-stack accesses that an instruction makes at an address of one's choice.
const ACCESS_AND_SHADOW: Axis = &[
    NOTHING,
    of(c::WRITE),
    of(c::FETCH),
    of(c::USER),
    of(c::USER | c::WRITE),
    of(c::USER | c::FETCH),
    of(c::SHADOW | c::USER),
    of(c::SHADOW | c::USER | c::WRITE),
    of(c::SHADOW | c::WRITE),
    of(c::SHADOW | c::WRITE | c::WRUSS),
];
const KVM_KEY: Axis = &[NOTHING, at(1, 1 << KEY_SHIFT)];
/// The page's key; an entry that maps no page has key 2, which is closed and must not count.
const KEY: Axis = &[NOTHING, at(1, 1 << KEY_SHIFT), at(1, 2 << KEY_SHIFT), at(1, 15 << KEY_SHIFT)];
const ALIGNMENT_CHECK: Axis = &[NOTHING, of(c::AC)];
/// Which entry maps the page: PTE, PDE, PDPTE.
const PAGE: Axis = &[NOTHING, at(2, PAGE_SIZE), at(3, PAGE_SIZE)];
const FOUR_KIB_AND_TWO_MIB: Axis = &[NOTHING, at(2, PAGE_SIZE)];

const STATE_NXE: Axis = &[NOTHING, of(c::NXE)];
const STATE_WP: Axis = &[NOTHING, of(c::WP)];
const STATE_SMEP: Axis = &[NOTHING, of(c::SMEP)];
const STATE_SMAP: Axis = &[NOTHING, of(c::SMAP)];
const STATE_SMAP_ALWAYS_WP: Axis = &[of(c::WP | c::CET | c::NXE), of(c::WP | c::CET | c::NXE | c::SMAP)];
const STATE_USER_KEYS: Axis =
    &[NOTHING, of(c::PKE), of(c::PKE | c::PKRU_AD), of(c::PKE | c::PKRU_WD), of(c::PKE | c::PKRU_AD | c::PKRU_WD)];
const STATE_SUPERVISOR_KEYS: Axis =
    &[NOTHING, of(c::PKS), of(c::PKS | c::PKRS_AD), of(c::PKS | c::PKRS_WD), of(c::PKS | c::PKRS_AD | c::PKRS_WD)];
/// Rights of both registers at once, for the space of shadow stacks.
const STATE_KEYS: Axis = &[
    NOTHING,
    of(c::PKE | c::PKRU_AD),
    of(c::PKE | c::PKRU_WD),
    of(c::PKS | c::PKRS_AD),
    of(c::PKS | c::PKRS_WD),
    of(c::PKE | c::PKS | c::PKRU_AD | c::PKRS_WD),
    of(c::PKE | c::PKS | c::PKRU_WD | c::PKRS_AD),
];

/// One reserved bit, or none. Bits from 13 up are reserved in large pages only, bit 7 in PML4E and PML5E.
const RESERVED: Axis = &[
    NOTHING,
    at(1, 1 << 51),
    at(1, 1 << 48),
    at(1, EXECUTE_DISABLE),
    at(2, 1 << 51),
    at(2, 1 << 48),
    at(2, EXECUTE_DISABLE),
    at(2, 1 << 13),
    at(2, 1 << 16),
    at(2, 1 << 20),
    at(3, 1 << 51),
    at(3, 1 << 48),
    at(3, EXECUTE_DISABLE),
    at(3, 1 << 13),
    at(3, 1 << 20),
    at(3, 1 << 21),
    at(3, 1 << 29),
    at(4, 1 << 51),
    at(4, 1 << 48),
    at(4, EXECUTE_DISABLE),
    at(4, PAGE_SIZE),
];

const OPEN: u64 = PRESENT | WRITABLE | USER;

/// All spaces.
pub const SPACES: [Space; 7] = [
    Space {
        name: "kvm-unit-tests",
        purpose: "every legal combination of x86/access.c of kvm-unit-tests, 19,169,280 of them",
        needs: c::WP | c::NXE | c::PKE,
        states: &[STATE_NXE, STATE_WP, STATE_USER_KEYS],
        axes: &[
            TWICE, ACCESS, KVM_KEY, PTE_W, PTE_U, PTE_A, PTE_D, PTE_P, PDE_W, PDE_U, PDE_A, PDE_D, PDE_P, PDPTE_W,
            PTE_NX, PTE_51, PDE_NX, PDE_51, PDE_13, PDE_PS,
        ],
        common: [0, 0, PRESENT | USER, OPEN, OPEN],
        filter: Filter::KvmUnitTests,
        levels: 4,
    },
    Space {
        name: "supervisor-modes",
        purpose: "SMEP and SMAP with EFLAGS.AC, which the test of kvm-unit-tests leaves out",
        needs: c::WP | c::NXE | c::SMEP | c::SMAP,
        states: &[STATE_SMEP, STATE_SMAP, STATE_NXE, STATE_WP],
        axes: &[
            ALIGNMENT_CHECK,
            ACCESS,
            PDE_W,
            PDE_U,
            PDE_D,
            PDE_NX,
            PDPTE_W,
            PDPTE_U,
            PTE_W,
            PTE_U,
            PTE_A,
            PTE_D,
            PTE_NX,
            FOUR_KIB_AND_TWO_MIB,
        ],
        common: [PRESENT, PRESENT, PRESENT, OPEN, OPEN],
        filter: Filter::NothingBehindThePage,
        levels: 4,
    },
    Space {
        name: "keys",
        purpose: "PKRU and IA32_PKRS together, for four keys, pages of both modes, with SMAP and without",
        needs: c::WP | c::NXE | c::PKE | c::PKS | c::SMAP,
        states: &[STATE_USER_KEYS, STATE_SUPERVISOR_KEYS, STATE_WP, STATE_SMAP],
        axes: &[
            ALIGNMENT_CHECK,
            ACCESS,
            KEY,
            PDE_W,
            PDE_U,
            PDPTE_W,
            PDPTE_U,
            PTE_W,
            PTE_U,
            PTE_D,
            FOUR_KIB_AND_TWO_MIB,
        ],
        common: [PRESENT, PRESENT, PRESENT, OPEN, OPEN],
        filter: Filter::NothingBehindThePage,
        levels: 4,
    },
    Space {
        name: "levels",
        purpose: "P, R/W, U/S and XD at every level, pages of 4 KiB, 2 MiB and 1 GiB",
        needs: c::WP | c::NXE,
        states: &[STATE_NXE, STATE_WP],
        axes: &[
            ACCESS, PML4E_W, PML4E_U, PML4E_NX, PML4E_P, PDPTE_W, PDPTE_U, PDPTE_NX, PDPTE_P, PDE_W, PDE_U, PDE_NX,
            PDE_P, PTE_W, PTE_U, PTE_NX, PTE_P, PAGE,
        ],
        common: [0, 0, 0, 0, OPEN],
        filter: Filter::NothingBehindThePage,
        levels: 4,
    },
    Space {
        name: "reserved-bits",
        purpose: "one reserved bit at each level, before and behind entries that are not present",
        needs: c::WP | c::NXE | c::SMEP,
        states: &[STATE_NXE, STATE_SMEP],
        axes: &[ACCESS, PML4E_P, PDPTE_P, PDPTE_D, PDE_P, PDE_D, PTE_P, PTE_U, RESERVED, PAGE],
        common: [WRITABLE, WRITABLE | USER, WRITABLE | USER, WRITABLE | USER, OPEN],
        filter: Filter::NothingBehindThePage,
        levels: 4,
    },
    Space {
        name: "shadow-stacks",
        purpose: "shadow-stack reads and writes of both modes and WRUSS beside the ordinary accesses, with keys and SMAP",
        needs: c::WP | c::NXE | c::CET | c::PKE | c::PKS | c::SMAP,
        states: &[STATE_SMAP_ALWAYS_WP, STATE_KEYS],
        axes: &[
            ACCESS_AND_SHADOW,
            TWICE,
            ALIGNMENT_CHECK,
            KVM_KEY,
            PDE_W,
            PDE_D,
            PDE_U,
            PDPTE_W,
            PTE_W,
            PTE_D,
            PTE_U,
            PTE_A,
            PTE_P,
            PTE_NX,
            FOUR_KIB_AND_TWO_MIB,
        ],
        common: [0, PRESENT, PRESENT | USER, OPEN, OPEN],
        filter: Filter::NothingBehindThePage,
        levels: 4,
    },
    Space {
        name: "five-levels",
        purpose: "CR4.LA57: P, R/W, U/S and XD of the PML5E with those of the entries below",
        needs: c::WP | c::NXE,
        states: &[STATE_NXE, STATE_WP],
        axes: &[
            ACCESS, PML5E_W, PML5E_U, PML5E_NX, PML5E_P, PML4E_W, PML4E_U, PML4E_P, PDPTE_W, PDPTE_U, PDPTE_P, PDE_W,
            PDE_U, PTE_W, PTE_U, PTE_NX, PAGE,
        ],
        common: [PRESENT, PRESENT, 0, 0, 0],
        filter: Filter::NothingBehindThePage,
        levels: 5,
    },
];

/// More axes than any space has.
const MOST_AXES: usize = 24;

impl Space {
    /// How many blocks it has: states of the processor.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.states.iter().map(|axis| axis.len() as u32).product()
    }

    /// The control bits of a block.
    #[must_use]
    pub fn state(&self, block: u32) -> u32 {
        let mut rest = block;
        let mut word = 0;
        for axis in self.states {
            let length = axis.len() as u32;
            word |= axis[(rest % length) as usize].control;
            rest /= length;
        }
        word
    }

    /// Whether this processor, in its mode of paging, can run the space.
    #[must_use]
    pub fn runs_on(&self, machine: &Machine) -> bool {
        machine.features & self.needs == self.needs && machine.paging.levels == self.levels
    }

    /// Calls `run` for the cases of a block, in order. Returns how many there are, if all of them were run.
    pub fn for_each(&self, block: u32, part: Part, run: impl FnMut(&Case)) -> u64 {
        match part {
            Part::All => self.for_all(block, run),
            Part::Sample(count) => {
                self.for_sample(block, count, run);
                0
            }
        }
    }

    /// Draws cases of a block, the same each time. One may be drawn twice.
    fn for_sample(&self, block: u32, count: u32, mut run: impl FnMut(&Case)) {
        let mut state = u64::from(block) << 32 ^ u64::from(count);
        let mut drawn = 0;
        while drawn != count {
            let mut case = Case { control: self.state(block), entries: self.common };
            for axis in self.axes {
                // SplitMix64
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                let value = axis[(((mixed >> 32) * axis.len() as u64) >> 32) as usize];
                case.control |= value.control;
                case.entries[usize::from(value.level) - 1] |= value.entry;
            }
            if self.filter.counts(&case, &self.common) {
                drawn += 1;
                self.filter.place_key(&mut case);
                run(&case);
            }
        }
    }

    fn for_all(&self, block: u32, mut run: impl FnMut(&Case)) -> u64 {
        let axes = self.axes;
        let mut digits = [0_usize; MOST_AXES];
        // For each axis, the case that it and the axes behind it make.
        let mut partial = [Case { control: self.state(block), entries: self.common }; MOST_AXES + 1];
        let mut changed = axes.len();
        let mut legal = 0;
        loop {
            'fill: {
                while changed > 0 {
                    changed -= 1;
                    let value = axes[changed][digits[changed]];
                    let mut case = partial[changed + 1];
                    case.control |= value.control;
                    case.entries[usize::from(value.level) - 1] |= value.entry;
                    partial[changed] = case;
                    // Bits are only added, so what does not count now will not count later.
                    if value.entry != 0 && !self.filter.counts(&case, &self.common) {
                        break 'fill;
                    }
                }
                legal += 1;
                let mut case = partial[0];
                self.filter.place_key(&mut case);
                run(&case);
            }
            loop {
                if changed == axes.len() {
                    return legal;
                }
                digits[changed] += 1;
                if digits[changed] < axes[changed].len() {
                    break;
                }
                digits[changed] = 0;
                changed += 1;
            }
            changed += 1;
        }
    }
}

const KEY_BITS: u64 = 0xf << KEY_SHIFT;

impl Filter {
    /// Whether a case counts, or one to which bits are still added can come to count. What decides on other axes'
    /// bits (PS, say) stands behind them in [`Space::axes`].
    #[inline(always)]
    fn counts(self, case: &Case, common: &[u64; LEVELS]) -> bool {
        match self {
            Self::KvmUnitTests => {
                let [pte, pde, ..] = case.entries;
                let nx = if case.control & c::NXE == 0 { EXECUTE_DISABLE } else { 0 };
                let pte = pte & (1 << 51 | nx);
                let reserved = pde & (1 << 51 | 1 << 13 | nx);
                let one_at_most = (reserved & reserved.wrapping_sub(1) | pte & pte.wrapping_sub(1)) == 0
                    && (reserved == 0 || pte == 0);
                one_at_most && (pde & PAGE_SIZE != 0 || pde & 1 << 13 == 0)
            }
            Self::NothingBehindThePage => {
                let [_, pde, pdpte, ..] = case.entries;
                let large_twice = pde & pdpte & PAGE_SIZE != 0;
                let last = case.last_level();
                let same_as_common = |level: usize| case.entries[level - 1] & !KEY_BITS == common[level - 1];
                // The address bits that a large page does not have are the table's address otherwise.
                let page_bits = |level: usize| case.entries[level - 1] & ((1 << 30) - (1 << 13)) != 0;
                let misplaced = page_bits(2) && last != 2 || page_bits(3) && last != 3;
                !misplaced && !large_twice && (last < 2 || same_as_common(1)) && (last < 3 || same_as_common(2))
            }
        }
    }

    /// Axes set the key in the PTE. It belongs to the entry that maps the page; the one above a PTE gets key 2.
    #[inline(always)]
    fn place_key(self, case: &mut Case) {
        let key = case.entries[0] & KEY_BITS;
        if key != 0 {
            let last = case.last_level();
            if last > 1 {
                case.entries[0] &= !KEY_BITS;
                case.entries[last - 1] |= key;
            } else {
                case.entries[1] |= 2 << KEY_SHIFT;
            }
        }
    }
}
