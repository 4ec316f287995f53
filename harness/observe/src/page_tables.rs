//! All page tables of a process, through `/proc/kcore`. It may run meanwhile: what is read twice alike counts.

use ptediff_reference_model::entry::{FRAME, P};

use crate::error::ObserveError;
use crate::geometry::Geometry;
use crate::kcore::{HUGE, Kcore, words};

/// Entries of a table.
const ENTRIES: usize = 512;
/// Shift of the entries of the lowest table, and of the highest that can map a huge page.
const PTE_SHIFT: u32 = 12;
const HUGEST_SHIFT: u32 = 30;

/// A table of ptes, or the entry of a huge page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// First address that it maps.
    pub address: u64,
    /// What an entry of it maps: 2 to this, in bytes.
    pub shift: u32,
    /// Where its entries lie, in the kernel's memory.
    place: u64,
    /// Number of its entries: 512, or one.
    pub length: usize,
}

/// Reads page tables.
#[derive(Debug)]
pub struct PageTables {
    kcore: Kcore,
    geometry: Geometry,
}

impl PageTables {
    /// A reader that believes `geometry`.
    ///
    /// # Errors
    /// As for [`Kcore::open`].
    pub fn open(geometry: &Geometry) -> Result<Self, ObserveError> {
        Ok(Self { kcore: Kcore::open()?, geometry: geometry.clone() })
    }

    /// The leaves of user space under the uppermost table at this address, in the order of addresses, at
    /// most so many; and whether there were more. Tables of nothing but zeroes are left out.
    ///
    /// # Errors
    /// Memory that cannot be read.
    pub fn leaves(&self, table: u64, most: usize) -> Result<(Vec<Leaf>, bool), ObserveError> {
        let top = self.geometry.top_shift();
        let mut leaves = Vec::new();
        // The upper half of the uppermost table is the kernel's.
        let mut open: Vec<(u64, u32, u64)> = vec![(table, top, 0)];
        while let Some((table, shift, start)) = open.pop() {
            let entries = self.read(table, ENTRIES)?;
            if shift == PTE_SHIFT {
                if entries.iter().any(|&entry| entry != 0) {
                    leaves.push(Leaf { address: start, shift, place: table, length: ENTRIES });
                }
            } else {
                let users = if shift == top { ENTRIES / 2 } else { ENTRIES };
                for (index, &entry) in entries[..users].iter().enumerate().rev() {
                    let address = start + ((index as u64) << shift);
                    if entry & P != 0 && !(shift <= HUGEST_SHIFT && entry & HUGE != 0) {
                        open.push((self.geometry.page_offset_base + (entry & FRAME), shift - 9, address));
                    } else if entry != 0 && shift <= HUGEST_SHIFT {
                        leaves.push(Leaf { address, shift, place: table + index as u64 * 8, length: 1 });
                    }
                }
            }
            if leaves.len() > most {
                leaves.truncate(most);
                leaves.sort_unstable_by_key(|leaf| leaf.address);
                return Ok((leaves, true));
            }
        }
        // A table's huge pages came before the tables beneath it.
        leaves.sort_unstable_by_key(|leaf| leaf.address);
        Ok((leaves, false))
    }

    /// What lies at the place of a leaf now, in the order of addresses: its entries, while it is one.
    ///
    /// # Errors
    /// Memory that cannot be read.
    pub fn entries(&self, leaf: &Leaf) -> Result<Vec<u64>, ObserveError> {
        self.read(leaf.place, leaf.length)
    }

    /// The entry of an address under the uppermost table at `table`, and its shift: the one that ends the walk.
    ///
    /// # Errors
    /// Memory that cannot be read.
    pub fn entry(&self, table: u64, address: u64) -> Result<(u64, u32), ObserveError> {
        let (mut table, mut shift) = (table, self.geometry.top_shift());
        loop {
            let entry = self.kcore.read_word(table + (address >> shift & 511) * 8)?;
            if shift == PTE_SHIFT || entry & P == 0 || (shift <= HUGEST_SHIFT && entry & HUGE != 0) {
                return Ok((entry, shift));
            }
            table = self.geometry.page_offset_base + (entry & FRAME);
            shift -= 9;
        }
    }

    fn read(&self, address: u64, length: usize) -> Result<Vec<u64>, ObserveError> {
        let mut bytes = vec![0; length * 8];
        self.kcore.read(address, &mut bytes)?;
        Ok(words(&bytes))
    }
}
