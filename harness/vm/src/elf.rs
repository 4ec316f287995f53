//! The little of ELF64 that booting needs: segments, entry point, and whether a file is static.

use crate::VmError;

const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;
const MACHINE_X86_64: u16 = 62;

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Where its bytes begin in the file.
    pub(crate) file_offset: usize,
    /// How many bytes the file holds.
    pub(crate) file_size: usize,
    /// Where they belong in physical memory.
    pub(crate) physical_address: u64,
    /// How much memory they take, zeroes at the end included.
    pub(crate) memory_size: u64,
}

/// What the headers say. Every segment's bytes are known to lie inside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Elf {
    /// Entry point (for a Linux kernel, the physical address of `startup_64`).
    pub(crate) entry: u64,
    /// The PT_LOAD segments.
    pub(crate) segments: Vec<Segment>,
    /// Whether the file asks for a dynamic loader.
    pub(crate) has_interpreter: bool,
}

impl Elf {
    /// Reads the headers of an x86-64 ELF file; the error says what is wrong with it.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, String> {
        if file.get(..4) != Some(b"\x7fELF") {
            return Err("it is not an ELF file".to_owned());
        }
        if file.get(4..6) != Some(&[2, 1]) {
            return Err("it is not a 64-bit little-endian ELF file".to_owned());
        }
        let machine = u16_at(file, 18)?;
        if machine != MACHINE_X86_64 {
            return Err(format!("it is for another machine than x86-64 (ELF machine {machine})"));
        }
        let entry = u64_at(file, 24)?;
        let table = to_size(u64_at(file, 32)?)?;
        let entry_size = usize::from(u16_at(file, 54)?);
        let count = usize::from(u16_at(file, 56)?);
        let mut elf = Self { entry, segments: Vec::new(), has_interpreter: false };
        for index in 0..count {
            let header =
                table.checked_add(index * entry_size).and_then(|start| file.get(start..)).ok_or_else(truncated)?;
            match u32_at(header, 0)? {
                INTERPRETER => elf.has_interpreter = true,
                LOAD => {
                    let segment = Segment {
                        file_offset: to_size(u64_at(header, 8)?)?,
                        physical_address: u64_at(header, 24)?,
                        file_size: to_size(u64_at(header, 32)?)?,
                        memory_size: u64_at(header, 40)?,
                    };
                    let end = segment.file_offset.checked_add(segment.file_size);
                    if end.is_none_or(|end| end > file.len()) {
                        return Err(truncated());
                    }
                    elf.segments.push(segment);
                }
                _ => {}
            }
        }
        if elf.segments.is_empty() {
            return Err("it has no loadable segment".to_owned());
        }
        Ok(elf)
    }
}

/// Refuses a file that could not run alone in the guest: what is not an x86-64 ELF, and what asks for a
/// dynamic loader.
///
/// # Errors
/// [`VmError::NotStatic`], in one paragraph that names the likely cause.
pub fn require_static_elf(file: &[u8]) -> Result<(), VmError> {
    let elf = Elf::parse(file)
        .map_err(|reason| VmError::NotStatic(format!("the program for the guest cannot run there: {reason}")))?;
    if elf.has_interpreter {
        return Err(VmError::NotStatic(
            "the program for the guest is linked dynamically (it has a PT_INTERP header), and there is no \
             dynamic loader in the guest. The workspace's .cargo/config.toml asks for a static binary, but \
             RUSTFLAGS (or CARGO_ENCODED_RUSTFLAGS) in the environment silently replaces those flags: unset \
             it, or add `-C target-feature=+crt-static` to it, and build again for the target \
             x86_64-unknown-linux-gnu"
                .to_owned(),
        ));
    }
    Ok(())
}

/// A copy of an executable without its section headers and all that follows its segments (symbols, debug
/// information): it runs the same and costs the guest less to unpack. What is not an ELF comes back as it is.
#[must_use]
pub fn without_sections(file: &[u8]) -> Vec<u8> {
    let Ok(elf) = Elf::parse(file) else {
        return file.to_vec();
    };
    let (Ok(table), Ok(entry_size), Ok(count)) = (u64_at(file, 32), u16_at(file, 54), u16_at(file, 56)) else {
        return file.to_vec();
    };
    let headers_end = table as usize + usize::from(entry_size) * usize::from(count);
    let segments_end = elf.segments.iter().map(|segment| segment.file_offset + segment.file_size).max().unwrap_or(0);
    let mut shortened = file[..headers_end.max(segments_end).min(file.len())].to_vec();
    shortened[40..48].fill(0); // where the section headers are
    shortened[60..64].fill(0); // how many there are, and which holds their names
    shortened
}

/// The bytes of a section by its name, if an ELF file has one.
pub(crate) fn section<'file>(file: &'file [u8], name: &str) -> Result<Option<&'file [u8]>, String> {
    if file.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err("it is not a 64-bit little-endian ELF file".to_owned());
    }
    let table = to_size(u64_at(file, 40)?)?;
    let (size, count, names) = (u16_at(file, 58)?, u16_at(file, 60)?, u16_at(file, 62)?);
    let header = |index: u16| {
        let start = table.checked_add(usize::from(index) * usize::from(size));
        start.and_then(|start| file.get(start..)).ok_or_else(truncated)
    };
    let bytes = |header: &[u8]| {
        let (start, length) = (to_size(u64_at(header, 24)?)?, to_size(u64_at(header, 32)?)?);
        let end = start.checked_add(length).ok_or_else(truncated)?;
        file.get(start..end).ok_or_else(truncated)
    };
    let names = bytes(header(names)?)?;
    for index in 0..count {
        let header = header(index)?;
        let found = names.get(u32_at(header, 0)? as usize..).and_then(|rest| rest.split(|byte| *byte == 0).next());
        if found == Some(name.as_bytes()) {
            return bytes(header).map(Some);
        }
    }
    Ok(None)
}

fn truncated() -> String {
    "it is truncated".to_owned()
}

fn to_size(value: u64) -> Result<usize, String> {
    usize::try_from(value).map_err(|_| truncated())
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16, String> {
    array_at(bytes, offset).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, String> {
    array_at(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, String> {
    array_at(bytes, offset).map(u64::from_le_bytes)
}

fn array_at<const SIZE: usize>(bytes: &[u8], offset: usize) -> Result<[u8; SIZE], String> {
    bytes.get(offset..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(truncated)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An ELF file with these program headers (type, file offset, physical address, file size) and a tail.
    pub(crate) fn elf_file(entry: u64, headers: &[(u32, u64, u64, u64)], total: usize) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        file.extend(2_u16.to_le_bytes()); // executable
        file.extend(MACHINE_X86_64.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        file.extend(entry.to_le_bytes());
        file.extend(64_u64.to_le_bytes()); // program headers
        file.extend(999_u64.to_le_bytes()); // section headers
        file.extend(0_u32.to_le_bytes());
        for field in [64_u16, 56, headers.len() as u16, 64, 7, 6] {
            file.extend(field.to_le_bytes());
        }
        for &(kind, offset, address, size) in headers {
            file.extend(kind.to_le_bytes());
            file.extend(5_u32.to_le_bytes());
            for field in [offset, address, address, size, size + 16, 4096] {
                file.extend(field.to_le_bytes());
            }
        }
        assert!(file.len() <= total, "the headers need room");
        file.resize(total, 0xcc);
        file
    }

    #[track_caller]
    fn check(file: &[u8], expected: Result<(), &str>) {
        match (require_static_elf(file), expected) {
            (Ok(()), Ok(())) => {}
            (Err(VmError::NotStatic(message)), Err(part)) => {
                assert!(message.contains(part), "{message}");
                assert!(!message.contains('\n'), "one paragraph: {message}");
            }
            (found, expected) => panic!("{found:?} where {expected:?} was expected"),
        }
    }

    #[test]
    fn only_static_x86_64_files_may_travel() {
        let good = elf_file(0x1000, &[(LOAD, 0, 0x1000, 256)], 256);
        check(&good, Ok(()));
        check(&elf_file(0, &[(LOAD, 0, 0, 256), (INTERPRETER, 200, 0, 8)], 256), Err("RUSTFLAGS"));
        check(b"", Err("not an ELF"));
        check(b"#!/bin/sh\n", Err("not an ELF"));
        check(&good[..20], Err("truncated"));
        check(&good[..100], Err("truncated"));
        check(&elf_file(0, &[(LOAD, 0, 0, 300)], 256), Err("truncated"));
        check(&elf_file(0, &[], 256), Err("no loadable segment"));
        let mut other = good.clone();
        other[18] = 183;
        check(&other, Err("another machine"));
        other[4] = 1;
        check(&other, Err("64-bit"));
    }

    #[test]
    fn the_running_test_binary_is_static() {
        check(&std::fs::read("/proc/self/exe").unwrap(), Ok(()));
    }

    #[test]
    fn segments_and_entry_are_read() {
        let file = elf_file(0x100_0000, &[(LOAD, 128, 0x100_0000, 100), (4, 0, 0, 4)], 256);
        let elf = Elf::parse(&file).unwrap();
        let segment = Segment { file_offset: 128, file_size: 100, physical_address: 0x100_0000, memory_size: 116 };
        assert_eq!(elf, Elf { entry: 0x100_0000, segments: vec![segment], has_interpreter: false });
    }

    #[test]
    fn what_follows_the_segments_is_cut_off() {
        let file = elf_file(0x1000, &[(LOAD, 128, 0x1000, 72)], 4096);
        let shortened = without_sections(&file);
        assert_eq!(shortened.len(), 200);
        assert_eq!(Elf::parse(&shortened), Elf::parse(&file));
        assert_eq!(&shortened[40..48], &[0; 8]);
        assert_eq!(without_sections(b"text"), b"text");
    }
}
