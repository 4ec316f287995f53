//! Booting by RAM image: the unpacked kernel, the initramfs and a boot page are put into guest memory before
//! the machine starts, as a boot loader would leave them, so that no disk is read and nothing is unpacked.
//!
//! Memory, besides the kernel at the addresses it was linked for and the initramfs below the top:
//!
//! | address | what |
//! | --- | --- |
//! | 0x60000 | `boot_params` |
//! | 0x61000 | command line |
//! | 0x61800 | the seed of the kernel's random numbers |
//! | 0x62000 | page tables: the first 4 GiB, identity, 2 MiB pages |
//! | 0x68000 | the entry stub |
//!
//! The BIOS uses 0x10000 to 0x4ffff, so nothing may lie there.

use crate::bzimage::BzImage;
use crate::elf::Elf;
use crate::entry_stub;
use crate::error::VmError;

/// Where the boot page begins.
pub(crate) const BOOT_PAGE_ADDRESS: u32 = 0x6_0000;
const COMMAND_LINE_ADDRESS: u32 = 0x6_1000;
/// In the command line's page, behind the longest line.
const RANDOM_SEED_ADDRESS: u32 = 0x6_1800;
const PAGE_TABLES_ADDRESS: u32 = 0x6_2000;
/// Where the boot sector jumps to.
pub(crate) const STUB_ADDRESS: u32 = 0x6_8000;

const PAGE_SIZE: u64 = 0x1000;
const MIB: u64 = 1 << 20;
/// The BIOS of Bochs keeps its ACPI tables in the last 64 KiB of memory.
const ACPI_TABLES_SIZE: u64 = 0x1_0000;
/// Above it lie devices.
const HIGHEST_MEMORY: u64 = 0xc000_0000;

/// `boot_params.e820_table[].type`
const MEMORY_USABLE: u32 = 1;
const MEMORY_RESERVED: u32 = 2;
const MEMORY_ACPI_TABLES: u32 = 3;

/// A kernel's segments as one piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelMemory {
    /// Where the piece begins.
    pub(crate) address: u64,
    /// Where the kernel is entered.
    pub(crate) entry: u64,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
}

impl KernelMemory {
    /// Unpacks a kernel and lays its segments out as they lie in memory. What a segment has in memory and not
    /// in the file need not be written: guest memory begins as zeroes.
    pub(crate) fn unpack(image: &BzImage<'_>) -> Result<Self, String> {
        Self::lay_out(&image.unpack()?).map_err(|reason| format!("the kernel inside the bzImage is unusable: {reason}"))
    }

    /// Lays the segments of an ELF file out as they lie in memory.
    pub(crate) fn lay_out(file: &[u8]) -> Result<Self, String> {
        let elf = Elf::parse(file)?;
        let start = elf.segments.iter().map(|segment| segment.physical_address).min().unwrap_or(0);
        let end = elf
            .segments
            .iter()
            .map(|segment| segment.physical_address.saturating_add(segment.file_size as u64))
            .max()
            .unwrap_or(0);
        if start < MIB || end > HIGHEST_MEMORY {
            return Err(format!("the kernel's segments lie at {start:#x} to {end:#x}, where no memory can be"));
        }
        let mut bytes = vec![0; (end - start) as usize];
        for segment in &elf.segments {
            let place = (segment.physical_address - start) as usize;
            bytes[place..place + segment.file_size]
                .copy_from_slice(&file[segment.file_offset..segment.file_offset + segment.file_size]);
        }
        if !(start..end).contains(&elf.entry) {
            return Err(format!("the kernel's entry point {:#x} is outside its segments", elf.entry));
        }
        Ok(Self { address: start, entry: elf.entry, bytes })
    }
}

/// How much memory a piece takes at most: what is read from a disk comes in whole chunks.
pub(crate) fn room_for(size: usize) -> usize {
    size.next_multiple_of(entry_stub::CHUNK_SECTORS as usize * 512)
}

/// Where the initramfs goes: as high as the kernel, the memory and the ACPI tables allow.
///
/// # Errors
/// It does not fit above the memory that the kernel needs for itself.
pub(crate) fn initramfs_address(
    image: &BzImage<'_>,
    kernel_address: u64,
    memory_mib: u32,
    initramfs_size: usize,
) -> Result<u64, VmError> {
    let top = u64::from(memory_mib) * MIB;
    if top > HIGHEST_MEMORY {
        return Err(VmError::Spec(format!("{memory_mib} MiB of memory are too much, Bochs gets at most 3072")));
    }
    let highest = (top.saturating_sub(ACPI_TABLES_SIZE)).min(image.initramfs_address_limit() + 1);
    let lowest = kernel_address + image.init_size();
    let size = room_for(initramfs_size) as u64;
    highest.checked_sub(size).map(|address| address & !(PAGE_SIZE - 1)).filter(|&address| address >= lowest).ok_or_else(
        || {
            VmError::Spec(format!(
                "{memory_mib} MiB of memory are too little: the kernel takes the first {} MiB, the initramfs {} MiB",
                lowest.div_ceil(MIB),
                size.div_ceil(MIB)
            ))
        },
    )
}

/// The boot page: `boot_params`, command line, page tables and stub.
///
/// # Errors
/// The command line is longer than this kernel reads.
pub(crate) fn boot_page(
    image: &BzImage<'_>,
    command_line: &str,
    memory_mib: u32,
    (initramfs_address, initramfs_size): (u64, usize),
    kernel_entry: u64,
) -> Result<Vec<u8>, VmError> {
    let limit = image.command_line_limit().min((RANDOM_SEED_ADDRESS - COMMAND_LINE_ADDRESS) as usize - 1);
    if command_line.len() > limit {
        return Err(VmError::Spec(format!(
            "the kernel's command line is {} bytes long, this kernel reads {limit}",
            command_line.len()
        )));
    }
    let mut page = vec![0; (STUB_ADDRESS - BOOT_PAGE_ADDRESS) as usize];
    fill_boot_params(&mut page, image, memory_mib, initramfs_address, initramfs_size);
    let place = (COMMAND_LINE_ADDRESS - BOOT_PAGE_ADDRESS) as usize;
    page[place..place + command_line.len()].copy_from_slice(command_line.as_bytes());
    let place = (RANDOM_SEED_ADDRESS - BOOT_PAGE_ADDRESS) as usize;
    fill_random_seed(&mut page[place..]);
    fill_page_tables(&mut page[(PAGE_TABLES_ADDRESS - BOOT_PAGE_ADDRESS) as usize..]);
    page.extend(entry_stub::stub(STUB_ADDRESS, PAGE_TABLES_ADDRESS, BOOT_PAGE_ADDRESS, kernel_entry as u32));
    Ok(page)
}

/// The boot page of a guest that is no Linux: `argument` where a kernel has its `boot_params`, page tables and stub.
///
/// # Errors
/// The argument is longer than a page.
pub(crate) fn bare_boot_page(argument: &[u8], entry: u64) -> Result<Vec<u8>, VmError> {
    if argument.len() as u64 > PAGE_SIZE {
        return Err(VmError::Spec(format!("the argument is {} bytes long, a page is the most", argument.len())));
    }
    let mut page = argument.to_vec();
    page.resize((STUB_ADDRESS - BOOT_PAGE_ADDRESS) as usize, 0);
    fill_page_tables(&mut page[(PAGE_TABLES_ADDRESS - BOOT_PAGE_ADDRESS) as usize..]);
    page.extend(entry_stub::stub(STUB_ADDRESS, PAGE_TABLES_ADDRESS, BOOT_PAGE_ADDRESS, entry as u32));
    Ok(page)
}

/// Fields as in `arch/x86/include/uapi/asm/bootparam.h: struct boot_params`.
fn fill_boot_params(
    page: &mut [u8],
    image: &BzImage<'_>,
    memory_mib: u32,
    initramfs_address: u64,
    initramfs_size: usize,
) {
    let mut put = |offset: usize, bytes: &[u8]| page[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, image.setup_header());
    put(0x1fa, &0xffff_u16.to_le_bytes()); // vid_mode: normal
    put(0x210, &[0xff]); // type_of_loader: not registered
    put(0x218, &(initramfs_address as u32).to_le_bytes()); // ramdisk_image
    put(0x21c, &(initramfs_size as u32).to_le_bytes()); // ramdisk_size
    put(0x228, &COMMAND_LINE_ADDRESS.to_le_bytes()); // cmd_line_ptr
    put(0x250, &u64::from(RANDOM_SEED_ADDRESS).to_le_bytes()); // setup_data
    let top = u64::from(memory_mib) * MIB;
    let regions = [
        (0, 0x9_f000, MEMORY_USABLE),
        (0x9_f000, 0xa_0000, MEMORY_RESERVED), // extended BIOS data
        (0xf_0000, MIB, MEMORY_RESERVED),      // BIOS
        (MIB, top - ACPI_TABLES_SIZE, MEMORY_USABLE),
        (top - ACPI_TABLES_SIZE, top, MEMORY_ACPI_TABLES),
    ];
    put(0x1e8, &[regions.len() as u8]); // e820_entries
    for (index, (start, end, kind)) in regions.into_iter().enumerate() {
        let offset = 0x2d0 + 20 * index; // e820_table
        put(offset, &u64::to_le_bytes(start));
        put(offset + 8, &u64::to_le_bytes(end - start));
        put(offset + 16, &kind.to_le_bytes());
    }
}

/// A `struct setup_data` of type SETUP_RNG_SEED, the same each time: the CPU offers no random numbers, and
/// without a seed the kernel would make its programs wait until it had gathered some.
fn fill_random_seed(place: &mut [u8]) {
    const SETUP_RNG_SEED: u32 = 9;
    const SEED: [u8; 32] = *b"the same machine each time, dice";
    place[..8].fill(0); // next: none
    place[8..12].copy_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    place[12..16].copy_from_slice(&(SEED.len() as u32).to_le_bytes());
    place[16..16 + SEED.len()].copy_from_slice(&SEED);
}

/// Top level, one table of the second, four of the third; entries Present and Writable, the last ones Large.
fn fill_page_tables(tables: &mut [u8]) {
    let mut put = |index: usize, entry: u64| tables[8 * index..8 * index + 8].copy_from_slice(&entry.to_le_bytes());
    let table = |number: u64| u64::from(PAGE_TABLES_ADDRESS) + number * PAGE_SIZE;
    put(0, table(1) | 0x3);
    for quarter in 0..4 {
        put(512 + quarter, table(2 + quarter as u64) | 0x3);
    }
    for index in 0..4 * 512 {
        put(2 * 512 + index, (index as u64 * 2 * MIB) | 0x83);
    }
}

/// A disk from which `disk_boot_sector` fills the memory: for emulators that cannot load pieces larger than a
/// block of theirs. Each piece is padded to whole chunks, so what lies behind it in memory is overwritten.
pub(crate) fn disk_image(pieces: &[(&[u8], u64)], whole_multiple: usize) -> Vec<u8> {
    const CHUNK: usize = entry_stub::CHUNK_SECTORS as usize * 512;
    let table: Vec<(u32, u32)> =
        pieces.iter().map(|(bytes, address)| (bytes.len().div_ceil(CHUNK) as u32, *address as u32)).collect();
    let mut disk = entry_stub::disk_boot_sector(STUB_ADDRESS, &table);
    disk.resize(entry_stub::DISK_START as usize * 512, 0);
    for (bytes, _) in pieces {
        disk.extend_from_slice(bytes);
        disk.resize(disk.len().next_multiple_of(CHUNK), 0);
    }
    disk.resize(disk.len().next_multiple_of(whole_multiple), 0);
    disk
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bzimage::tests::bzimage_file;
    use crate::elf::tests::elf_file;

    const LOAD: u32 = 1;

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    #[track_caller]
    fn check_layout(elf: &[u8], expected: Result<(u64, u64, usize), &str>) {
        let file = bzimage_file(elf);
        let found = KernelMemory::unpack(&BzImage::parse(&file).unwrap());
        match (found, expected) {
            (Ok(found), Ok(expected)) => {
                assert_eq!((found.address, found.entry, found.bytes.len()), expected);
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{found:?} where {expected:?} was expected"),
        }
    }

    #[test]
    fn segments_are_laid_out_with_their_gaps() {
        let two = [(LOAD, 256, 0x100_0000, 16), (LOAD, 272, 0x100_1000, 8)];
        check_layout(&elf_file(0x100_0000, &two, 512), Ok((0x100_0000, 0x100_0000, 0x1008)));
        check_layout(&elf_file(0x90_0000, &two, 512), Err("entry point"));
        check_layout(&elf_file(0, &[(LOAD, 256, 0x1000, 16)], 512), Err("no memory"));
        check_layout(&elf_file(0, &[(LOAD, 256, u64::MAX, 16)], 512), Err("no memory"));
        check_layout(b"\x7fELF but nothing else", Err("unusable"));
    }

    #[track_caller]
    fn check_place(memory_mib: u32, size: usize, expected: Result<u64, &str>) {
        let file = bzimage_file(b"\x7fELF....");
        let found = initramfs_address(&BzImage::parse(&file).unwrap(), 0x100_0000, memory_mib, size);
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{found}"),
            (found, expected) => panic!("{found:?} where {expected:?} was expected"),
        }
    }

    #[test]
    fn the_initramfs_goes_to_the_top_or_is_refused() {
        check_place(64, 1, Ok(0x3fe_8000));
        check_place(64, 0x8000, Ok(0x3fe_8000));
        check_place(64, 0x8001, Ok(0x3fe_0000));
        check_place(17, 0x1000, Err("too little"));
        check_place(64, 60 << 20, Err("initramfs 60 MiB"));
        check_place(0, 1, Err("too little"));
        check_place(4096, 1, Err("at most 3072"));
    }

    #[test]
    fn the_boot_page_says_where_everything_is() {
        let file = bzimage_file(b"\x7fELF....");
        let image = BzImage::parse(&file).unwrap();
        let page = boot_page(&image, "quiet", 64, (0x300_0000, 5000), 0x100_0000).unwrap();
        assert_eq!(&page[0x202..0x206], b"HdrS");
        assert_eq!(page[0x1ef], 0, "sentinel");
        assert_eq!(&page[0x218..0x220], &[0, 0, 0, 3, 0x88, 0x13, 0, 0]);
        assert_eq!(&page[0x228..0x22c], &[0, 0x10, 6, 0]);
        assert_eq!(&page[0x1000..0x1006], b"quiet\0");
        let map: Vec<_> = (0..usize::from(page[0x1e8]))
            .map(|index| (u64_at(&page, 0x2d0 + 20 * index), u64_at(&page, 0x2d8 + 20 * index)))
            .collect();
        assert_eq!(map[3], (MIB, 63 * MIB - ACPI_TABLES_SIZE));
        assert_eq!(map[4], (64 * MIB - ACPI_TABLES_SIZE, ACPI_TABLES_SIZE));
    }

    #[test]
    fn the_page_tables_map_four_gib_to_themselves() {
        let file = bzimage_file(b"\x7fELF....");
        let page = boot_page(&BzImage::parse(&file).unwrap(), "", 64, (0, 0), 0x100_0000).unwrap();
        let entry = |table: u64, index: u64| u64_at(&page, (table - 0x6_0000 + 8 * index) as usize);
        for address in [0, 0x6_8000, 0x100_0000, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff_u64] {
            let second = entry(PAGE_TABLES_ADDRESS.into(), address >> 39) & !0xfff;
            let third = entry(second, address >> 30 & 511) & !0xfff;
            let last = entry(third, address >> 21 & 511);
            assert_eq!(last & 0xfff, 0x83);
            assert_eq!(last & !0xfff, address & !0x1f_ffff, "{address:#x}");
        }
    }

    #[test]
    fn a_disk_holds_its_pieces_in_whole_chunks() {
        let disk = disk_image(&[(&[1; 40_000], 0x100_0000), (&[2; 5], 0x6_0000)], 1000);
        assert_eq!(disk.len() % 1000, 0);
        let (first, second) = (0x8000, 0x8000 + 0x1_0000);
        assert_eq!((disk[first - 1], disk[first], disk[first + 39_999], disk[first + 40_000]), (0, 1, 1, 0));
        assert_eq!((disk[second - 1], disk[second], disk[second + 4], disk[second + 5]), (0, 2, 2, 0));
        assert_eq!(disk[0x180], 2, "chunks of the first piece");
    }

    #[test]
    fn a_long_command_line_is_refused() {
        let file = bzimage_file(b"\x7fELF....");
        let image = BzImage::parse(&file).unwrap();
        let error = boot_page(&image, &"x".repeat(2048), 64, (0, 0), 0x100_0000).unwrap_err();
        assert!(error.to_string().contains("this kernel reads 2047"), "{error}");
    }
}
