//! The full witness: page tables and `struct page`s read through `/proc/kcore`, without eBPF.

use std::fs::File;
use std::os::unix::fs::FileExt;

use ptediff_reference_model::arena::{ARENA_BASE, ARENA_PAGES, ActorId, PageIndex};
use ptediff_reference_model::entry::{FRAME, P};
use ptediff_reference_model::observation::{RawArena, WitnessField, WitnessMismatch};

use crate::error::ObserveError;
use crate::geometry::Geometry;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Physical address of a segment that is not physical memory (`fs/proc/kcore.c`).
const NO_PHYSICAL_ADDRESS: u64 = u64::MAX;
/// `_PAGE_PSE`: a PMD or PUD that maps a huge page.
pub(crate) const HUGE: u64 = 1 << 7;

/// A program header of `/proc/kcore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) kind: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) physical: Option<u64>,
    pub(crate) bytes: u64,
}

/// The kernel's memory, as an ELF core file.
#[derive(Debug)]
pub struct Kcore {
    file: File,
    segments: Vec<Segment>,
}

impl Kcore {
    /// Opens `/proc/kcore` and reads its program headers.
    ///
    /// # Errors
    /// The file cannot be read, or is no 64-bit ELF core file.
    pub fn open() -> Result<Self, ObserveError> {
        let file = File::open("/proc/kcore").map_err(ObserveError::system("opening /proc/kcore"))?;
        let mut header = [0; 64];
        file.read_exact_at(&mut header, 0).map_err(ObserveError::system("reading /proc/kcore"))?;
        let count = segment_count(&header)
            .ok_or_else(|| ObserveError::Geometry("/proc/kcore is no 64-bit ELF core file".to_owned()))?;
        let mut table = vec![0; count * PROGRAM_HEADER];
        file.read_exact_at(&mut table, word(&header, 32)).map_err(ObserveError::system("reading /proc/kcore"))?;
        Ok(Self { file, segments: table.chunks_exact(PROGRAM_HEADER).map(segment).collect() })
    }

    /// Segments of kernel memory.
    pub(crate) fn loads(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD)
    }

    /// The notes, whole.
    pub(crate) fn notes(&self) -> Result<Vec<u8>, ObserveError> {
        let mut notes = Vec::new();
        for segment in self.segments.iter().filter(|segment| segment.kind == PT_NOTE) {
            let start = notes.len();
            notes.resize(start + segment.bytes as usize, 0);
            self.file
                .read_exact_at(&mut notes[start..], segment.offset)
                .map_err(ObserveError::system("reading the notes of /proc/kcore"))?;
        }
        Ok(notes)
    }

    /// Reads kernel memory at a virtual address.
    ///
    /// # Errors
    /// No segment holds the address, or the kernel refuses.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), ObserveError> {
        let end = address.saturating_add(bytes.len() as u64);
        let segment = self
            .loads()
            .find(|segment| segment.address <= address && end - segment.address <= segment.bytes)
            .ok_or_else(|| ObserveError::Geometry(format!("/proc/kcore has no segment for {address:#x}")))?;
        self.file
            .read_exact_at(bytes, segment.offset + (address - segment.address))
            .map_err(ObserveError::system(format!("reading kernel memory at {address:#x} through /proc/kcore")))
    }

    /// Reads one 64-bit word.
    ///
    /// # Errors
    /// As for [`Kcore::read`].
    pub fn read_word(&self, address: u64) -> Result<u64, ObserveError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Size of an ELF64 program header.
const PROGRAM_HEADER: usize = 56;

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The 64-bit words in these bytes.
pub(crate) fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

/// Number of program headers, if this is an ELF header as `/proc/kcore` has one.
fn segment_count(header: &[u8; 64]) -> Option<usize> {
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let is_core = header.starts_with(b"\x7fELF\x02\x01") && half(16) == 4;
    (is_core && usize::from(half(54)) == PROGRAM_HEADER).then(|| usize::from(half(56)))
}

fn segment(header: &[u8]) -> Segment {
    let physical = word(header, 24);
    Segment {
        kind: u32::from_le_bytes(header[0..4].try_into().expect("four bytes")),
        offset: word(header, 8),
        address: word(header, 16),
        physical: (physical != NO_PHYSICAL_ADDRESS).then_some(physical),
        bytes: word(header, 32),
    }
}

/// Walks actors' page tables through `/proc/kcore`.
#[derive(Debug)]
pub struct KcoreWitness {
    kcore: Kcore,
    geometry: Geometry,
    pgd_offset: u32,
}

impl KcoreWitness {
    /// A witness that believes `geometry`, and that `mm_struct` holds `pgd` at `pgd_offset` bytes
    /// (see [`crate::Description`]).
    ///
    /// # Errors
    /// As for [`Kcore::open`].
    pub fn open(geometry: &Geometry, pgd_offset: u32) -> Result<Self, ObserveError> {
        Ok(Self { kcore: Kcore::open()?, geometry: geometry.clone(), pgd_offset })
    }

    /// The arena's entries in the page tables of the `mm_struct` at `mm`; all zero without a page table.
    ///
    /// # Errors
    /// Memory that cannot be read, or a huge page in the arena.
    pub fn walk(&self, actor: ActorId, mm: u64) -> Result<RawArena, ObserveError> {
        let mut table = self.kcore.read_word(mm + u64::from(self.pgd_offset))?;
        for shift in (21..=self.geometry.top_shift()).rev().step_by(9) {
            let entry = self.kcore.read_word(table + (ARENA_BASE >> shift & 511) * 8)?;
            if entry == 0 {
                return Ok([0; ARENA_PAGES]);
            }
            if entry & P == 0 || (shift <= 30 && entry & HUGE != 0) {
                let reason = format!("the table entry at shift {shift} is {entry:#x}, no pointer to a table");
                return Err(ObserveError::Arena { actor, reason });
            }
            table = self.geometry.page_offset_base + (entry & FRAME);
        }
        let mut bytes = [0; ARENA_PAGES * 8];
        self.kcore.read(table + (ARENA_BASE >> 12 & 511) * 8, &mut bytes)?;
        Ok(std::array::from_fn(|slot| word(&bytes, slot * 8)))
    }

    /// Mapcount and `PageAnonExclusive` of a frame, from its `struct page`, as [`RawTransition`] gives them.
    ///
    /// [`RawTransition`]: ptediff_reference_model::observation::RawTransition
    ///
    /// # Errors
    /// The `struct page` cannot be read.
    pub fn frame(&self, frame: u64, anon_exclusive: u32) -> Result<(u16, bool), ObserveError> {
        self.geometry.struct_page.read(&self.kcore, self.geometry.vmemmap_base, frame, anon_exclusive)
    }
}

/// The entries on which the probe and the witness disagree. A bit that the CPU may set at any time is no
/// exception: no actor runs between the two.
#[must_use]
pub fn compare(actor: ActorId, probe: &RawArena, witness: &RawArena) -> Vec<WitnessMismatch> {
    let slots = (0..ARENA_PAGES).map(|slot| PageIndex::new(slot).expect("a slot of the arena"));
    slots
        .zip(probe.iter().zip(witness))
        .filter(|(_, (probe, witness))| probe != witness)
        .map(|(page, (&probe, &witness))| WitnessMismatch { actor, page, field: WitnessField::Entry, probe, witness })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_file_is_told_from_others() {
        let mut header = [0; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (header[16], header[54], header[56]) = (4, 56, 7);
        assert_eq!(segment_count(&header), Some(7));
        for at in [0, 4, 16, 54] {
            let mut wrong = header;
            wrong[at] ^= 1;
            assert_eq!(segment_count(&wrong), None, "byte {at}");
        }
    }

    #[test]
    fn every_differing_entry_is_named() {
        let probe = [5; ARENA_PAGES];
        let mut witness = probe;
        (witness[0], witness[31]) = (4, 7);
        let seen = compare(ActorId::FIRST, &probe, &witness);
        let pages: Vec<usize> = seen.iter().map(|mismatch| mismatch.page.index()).collect();
        assert_eq!(pages, [0, 31]);
        assert_eq!((seen[1].probe, seen[1].witness), (5, 7));
    }
}
