//! Where the kernel keeps physical memory and its `struct page`s.
//!
//! Everything comes from `/proc/kcore`: the direct map's base from the segments of RAM, the number of levels
//! and the layout of `struct page` from the vmcoreinfo note. The base of vmemmap is not said anywhere; the
//! segments leave few candidates, and the one that describes two known pages rightly is it. (`/proc/kallsyms`
//! would say it too, and takes seconds to read in an emulator.)

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::ptr::{self, NonNull};

use crate::error::ObserveError;
use crate::kcore::{Kcore, Segment};
use crate::pagemap;

/// Kernel text lies above this address (`__START_KERNEL_map`); the direct map and vmemmap below.
const KERNEL_TEXT: u64 = 0xffff_ffff_8000_0000;
/// vmemmap begins at a multiple of this (`arch/x86/mm/kaslr.c`: regions are moved by whole PUDs).
const PUD_SIZE: u64 = 1 << 30;
/// `KPF_ZERO_PAGE` of `/proc/kpageflags`.
const KPF_ZERO_PAGE: u64 = 1 << 24;
/// `PAGE_MAPPING_ANON` in `page->mapping`.
const PAGE_MAPPING_ANON: u64 = 1;

/// Where the kernel keeps things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    /// Virtual address of physical address 0.
    pub page_offset_base: u64,
    /// Virtual address of the `struct page` of frame 0.
    pub vmemmap_base: u64,
    /// Page tables have five levels.
    pub five_level: bool,
    /// Frame number of the zero page.
    pub zero_frame: u64,
    /// Layout of `struct page`.
    pub struct_page: StructPage,
}

/// Layout of `struct page`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StructPage {
    /// Size of the structure.
    pub size: u64,
    /// Offset of the flags word.
    pub flags: u64,
    /// Offset of `mapping`.
    pub mapping: u64,
    /// Offset of `_mapcount`.
    pub mapcount: u64,
}

impl Geometry {
    /// Shift of the entries of the uppermost page table.
    pub(crate) fn top_shift(&self) -> u32 {
        if self.five_level { 48 } else { 39 }
    }

    /// Asks the running kernel.
    ///
    /// # Errors
    /// Not root, no `/proc/kcore`, or answers that contradict one another.
    pub fn measure() -> Result<Self, ObserveError> {
        let kcore = Kcore::open()?;
        let notes = kcore.notes()?;
        let info = VmcoreInfo::of_notes(&notes)?;
        let five_level = info.number("NUMBER(pgtable_l5_enabled)")? != 0;
        let struct_page = StructPage {
            size: info.number("SIZE(page)")?,
            flags: info.number("OFFSET(page.flags)")?,
            mapping: info.number("OFFSET(page.mapping)")?,
            mapcount: info.number("OFFSET(page._mapcount)")?,
        };
        let loads: Vec<Segment> = kcore.loads().copied().collect();
        let page_offset_base = direct_map_base(&loads)?;
        let known = KnownPages::make()?;
        let candidates = vmemmap_candidates(&loads, struct_page.size);
        let mut fitting = candidates.iter().filter(|&&base| known.fit(&kcore, base, &struct_page));
        match (fitting.next(), fitting.next()) {
            (Some(&vmemmap_base), None) => {
                Ok(Self { page_offset_base, vmemmap_base, five_level, zero_frame: known.zero_frame, struct_page })
            }
            (first, _) => Err(ObserveError::Geometry(format!(
                "of {} candidates for the base of vmemmap {} describe two known pages rightly",
                candidates.len(),
                if first.is_some() { "several" } else { "none" },
            ))),
        }
    }
}

impl Geometry {
    /// The constants of the probes.
    pub(crate) fn record(&self) -> ptediff_bpf::Geometry {
        ptediff_bpf::Geometry {
            page_offset_base: self.page_offset_base,
            vmemmap_base: self.vmemmap_base,
            five_level: u32::from(self.five_level),
            reserved: 0,
        }
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "direct map at {:#x}, vmemmap at {:#x}, {} levels, zero page is frame {:#x}, struct page of {} bytes",
            self.page_offset_base,
            self.vmemmap_base,
            if self.five_level { 5 } else { 4 },
            self.zero_frame,
            self.struct_page.size,
        )
    }
}

impl StructPage {
    /// Mapcount (`_mapcount` + 1, 0 for a page that is of a type) and `PageAnonExclusive` of a frame.
    pub(crate) fn read(
        &self,
        kcore: &Kcore,
        vmemmap_base: u64,
        frame: u64,
        anon_exclusive: u32,
    ) -> Result<(u16, bool), ObserveError> {
        let page = vmemmap_base + frame * self.size;
        let mut mapcount = [0; 4];
        kcore.read(page + self.mapcount, &mut mapcount)?;
        let mapcount = (i64::from(i32::from_le_bytes(mapcount)) + 1).clamp(0, i64::from(u16::MAX)) as u16;
        let is_anon = kcore.read_word(page + self.mapping)? & PAGE_MAPPING_ANON != 0;
        let flags = kcore.read_word(page + self.flags)?;
        Ok((mapcount, is_anon && flags >> anon_exclusive & 1 != 0))
    }
}

/// The direct map's base: virtual minus physical address, the same for every segment of RAM.
fn direct_map_base(loads: &[Segment]) -> Result<u64, ObserveError> {
    let mut bases = loads
        .iter()
        .filter(|segment| segment.address < KERNEL_TEXT)
        .filter_map(|segment| Some(segment.address.wrapping_sub(segment.physical?)));
    let base = bases
        .next()
        .ok_or_else(|| ObserveError::Geometry("/proc/kcore has no segment of physical memory".to_owned()))?;
    match bases.find(|&other| other != base) {
        None => Ok(base),
        Some(other) => Err(ObserveError::Geometry(format!(
            "the segments of /proc/kcore put physical address 0 at {base:#x} and at {other:#x}"
        ))),
    }
}

/// Addresses at which vmemmap may begin: a segment that is not physical memory may be the part of vmemmap
/// that describes some segment of RAM (`fs/proc/kcore.c: get_sparsemem_vmemmap_info`).
fn vmemmap_candidates(loads: &[Segment], struct_page: u64) -> Vec<u64> {
    let mut candidates = Vec::new();
    for part in loads.iter().filter(|segment| segment.physical.is_none()) {
        for physical in loads.iter().filter_map(|segment| segment.physical) {
            let offset = ((physical >> 12) * struct_page) & !0xfff;
            let base = part.address.wrapping_sub(offset);
            if base.is_multiple_of(PUD_SIZE) && !candidates.contains(&base) {
                candidates.push(base);
            }
        }
    }
    candidates
}

/// The text of the vmcoreinfo note: lines `KEY=value`.
struct VmcoreInfo<'a> {
    text: &'a str,
}

impl<'a> VmcoreInfo<'a> {
    /// Finds the note by its name.
    fn of_notes(notes: &'a [u8]) -> Result<Self, ObserveError> {
        let mut rest = notes;
        while let Some((header, after)) = rest.split_first_chunk::<12>() {
            let half = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes")) as usize;
            let (name_bytes, text_bytes) = (half(0), half(4));
            let name_end = name_bytes.next_multiple_of(4);
            let (Some(name), Some(text)) = (after.get(..name_bytes), after.get(name_end..name_end + text_bytes)) else {
                break;
            };
            if name == b"VMCOREINFO\0" {
                return str::from_utf8(text)
                    .map(|text| Self { text })
                    .map_err(|error| ObserveError::Geometry(format!("vmcoreinfo is no text: {error}")));
            }
            rest = after.get(name_end + text_bytes.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Err(ObserveError::Geometry("/proc/kcore has no vmcoreinfo note (CONFIG_VMCORE_INFO)".to_owned()))
    }

    fn number(&self, key: &str) -> Result<u64, ObserveError> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('=')?.trim_end_matches('\0').parse().ok())
            .ok_or_else(|| ObserveError::Geometry(format!("vmcoreinfo has no number {key}")))
    }
}

/// Two pages of this process of which everything is known: one that it wrote, and the zero page.
struct KnownPages {
    address: NonNull<u8>,
    own_frame: u64,
    zero_frame: u64,
}

/// Pages of the mapping: one is written, one is read.
const KNOWN_BYTES: usize = 2 * 4096;

impl KnownPages {
    fn make() -> Result<Self, ObserveError> {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                KNOWN_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let address = match NonNull::new(address.cast::<u8>()) {
            Some(address) if address.as_ptr().cast() != libc::MAP_FAILED => address,
            _ => return Err(ObserveError::last_os_error("mapping two pages to learn the zero page's frame")),
        };
        let mut pages = Self { address, own_frame: 0, zero_frame: 0 };
        // SAFETY: both bytes lie in the mapping just made, which is readable and writable.
        unsafe {
            pages.address.as_ptr().write_volatile(1);
            pages.address.as_ptr().add(4096).read_volatile();
        }
        pages.own_frame = pagemap::own_frame(pages.address.as_ptr() as u64)?;
        pages.zero_frame = pagemap::own_frame(pages.address.as_ptr() as u64 + 4096)?;
        let mut flags = [0; 8];
        File::open("/proc/kpageflags")
            .and_then(|file| file.read_exact_at(&mut flags, pages.zero_frame * 8))
            .map_err(ObserveError::system("reading /proc/kpageflags"))?;
        if u64::from_le_bytes(flags) & KPF_ZERO_PAGE == 0 {
            return Err(ObserveError::Geometry(format!(
                "a page that was only read has frame {:#x}, which is not the zero page",
                pages.zero_frame
            )));
        }
        Ok(pages)
    }

    /// Whether `struct page`s found from this base describe both pages rightly: the first is anonymous and
    /// mapped once, the second is neither.
    fn fit(&self, kcore: &Kcore, base: u64, layout: &StructPage) -> bool {
        let describe = |frame: u64| {
            let mapping = kcore.read_word(base + frame * layout.size + layout.mapping).ok()?;
            let (mapcount, _) = layout.read(kcore, base, frame, 0).ok()?;
            Some((mapping & PAGE_MAPPING_ANON, mapcount))
        };
        describe(self.own_frame) == Some((1, 1)) && describe(self.zero_frame) == Some((0, 0))
    }
}

impl Drop for KnownPages {
    fn drop(&mut self) {
        // SAFETY: `make` made exactly this mapping.
        unsafe { libc::munmap(self.address.as_ptr().cast(), KNOWN_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(address: u64, physical: Option<u64>) -> Segment {
        Segment { kind: 1, offset: 0, address, physical, bytes: 0x1000 }
    }

    #[test]
    fn the_direct_map_begins_where_all_ram_says_it_does() {
        let ram = [0x1000, 0x10_0000].map(|physical| load(0xffff_8880_0000_0000 + physical, Some(physical)));
        let text = load(0xffff_ffff_8100_0000, Some(0x100_0000));
        assert_eq!(direct_map_base(&[text, ram[0], ram[1]]).ok(), Some(0xffff_8880_0000_0000));
        assert!(direct_map_base(&[text]).is_err(), "no RAM");
        let other = load(0xffff_8890_0000_0000, Some(0x1000));
        assert!(direct_map_base(&[ram[0], other]).is_err(), "a contradiction");
    }

    #[test]
    fn vmemmap_candidates_are_whole_gigabytes() {
        let base = 0xffff_ea00_0000_0000;
        let loads = [
            load(0xffff_8880_0010_0000, Some(0x10_0000)),
            load(base + (0x100 * 64), None),
            load(0xffff_c900_0000_1000, None),
        ];
        assert_eq!(vmemmap_candidates(&loads, 64), [base]);
    }

    #[test]
    fn numbers_are_found_in_the_right_note() {
        let note = |name: &[u8], text: &[u8]| {
            let mut bytes = Vec::new();
            for number in [name.len() as u32, text.len() as u32, 0] {
                bytes.extend(number.to_le_bytes());
            }
            for part in [name, text] {
                bytes.extend(part);
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            bytes
        };
        let notes = [note(b"CORE\0", b"SIZE(page)=1\n"), note(b"VMCOREINFO\0", b"A=x\nSIZE(page)=64\n")].concat();
        let info = VmcoreInfo::of_notes(&notes).expect("the second note");
        assert_eq!(info.number("SIZE(page)").ok(), Some(64));
        assert!(info.number("SIZE(pag").is_err());
        assert!(VmcoreInfo::of_notes(&notes[..30]).is_err());
    }
}
