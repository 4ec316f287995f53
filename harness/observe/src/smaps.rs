//! VMA flags by the kernel's other words: the `VmFlags` and `ProtectionKey` lines of `/proc/pid/smaps`.

use std::fs;

use ptediff_reference_model::arena::PageIndex;

use crate::error::ObserveError;

/// Number of each flag's bit in `vm_flags` and its code in smaps (`fs/proc/task_mmu.c: show_smap_vma_flags`;
/// `include/linux/mm.h`). The same in 6.12 and 7.2. Flags that smaps does not show, or whose number differs,
/// are left out.
const CODES: [(u32, &str); 30] = [
    (0, "rd"),
    (1, "wr"),
    (2, "ex"),
    (3, "sh"),
    (4, "mr"),
    (5, "mw"),
    (6, "me"),
    (7, "ms"),
    (8, "gd"),
    (9, "um"),
    (10, "pf"),
    (12, "uw"),
    (13, "lo"),
    (14, "io"),
    (15, "sr"),
    (16, "rr"),
    (17, "dc"),
    (18, "de"),
    (19, "lf"),
    (20, "ac"),
    (21, "nr"),
    (22, "ht"),
    (23, "sf"),
    (25, "wf"),
    (26, "dd"),
    (27, "sd"),
    (29, "hg"),
    (30, "nh"),
    (31, "mg"),
    (37, "ss"),
];

/// First of the four bits of the protection key in `vm_flags` (`VM_PKEY_SHIFT`). `ProtectionKey:` is not shown on a
/// machine without keys, where the bits are clear (`arch/x86/kernel/setup.c: arch_show_smap`).
const KEY_SHIFT: u32 = 32;

/// The bits of `vm_flags` that smaps shows.
pub(crate) fn shown_flags() -> u64 {
    CODES.iter().fold(0xf << KEY_SHIFT, |mask, (bit, _)| mask | 1 << bit)
}

/// The VMAs of a process with their flags.
#[derive(Debug, Default)]
pub struct Smaps {
    areas: Vec<(std::ops::Range<u64>, u64)>,
}

impl Smaps {
    /// As they are now.
    ///
    /// # Errors
    /// The process is gone.
    pub fn read(pid: u32) -> Result<Self, ObserveError> {
        let path = format!("/proc/{pid}/smaps");
        let text = fs::read_to_string(&path).map_err(ObserveError::system(format!("reading {path}")))?;
        Ok(Self { areas: areas(&text) })
    }

    /// Flags of the VMA that holds the page, if one does.
    pub(crate) fn flags(&self, page: PageIndex) -> Option<u64> {
        self.area(page.address()).map(|(_, flags)| *flags)
    }

    /// The VMA that holds an address, with the flags that smaps shows.
    #[must_use]
    pub fn area(&self, address: u64) -> Option<&(std::ops::Range<u64>, u64)> {
        self.areas.iter().find(|(range, _)| range.contains(&address))
    }
}

fn areas(text: &str) -> Vec<(std::ops::Range<u64>, u64)> {
    let mut areas = Vec::new();
    let mut range = 0..0;
    let mut key = 0;
    for line in text.lines() {
        if let Some(codes) = line.strip_prefix("VmFlags:") {
            let bit = |code: &str| CODES.iter().find(|(_, known)| *known == code).map_or(0, |(bit, _)| 1 << bit);
            areas.push((range.clone(), codes.split_whitespace().fold(key, |flags, code| flags | bit(code))));
            key = 0;
        } else if let Some(number) = line.strip_prefix("ProtectionKey:") {
            // A key that is no number would be a format that nobody knows: no VMA has all these bits set.
            key = number.trim().parse().map_or(!0, |number: u64| number << KEY_SHIFT);
        } else if let Some(found) = address_range(line) {
            range = found;
        }
    }
    areas
}

/// `start-end` in hexadecimal at the head of a VMA's first line.
fn address_range(line: &str) -> Option<std::ops::Range<u64>> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_found_by_any_address() {
        let text = "7f00-8f00 r--p 00000000 00:00 0   [vvar]\nRss: 4 kB\nVmFlags: rd mr pf io de dd \n\
                    9000-a000 rw-p 00000000 00:00 0\nVmFlags: rd wr mr\n";
        let smaps = Smaps { areas: areas(text) };
        let is_hole = |flags: u64| flags & 0x400 != 0;
        assert!(smaps.area(0x7f00).is_some_and(|(_, flags)| is_hole(*flags)));
        assert!(smaps.area(0x9fff).is_some_and(|(range, flags)| !is_hole(*flags) && range.start == 0x9000));
        assert!(smaps.area(0x8f00).is_none());
    }

    #[test]
    fn flags_are_found_by_address() {
        let text = "100000000000-100000002000 rw-p 00000000 00:00 0 \nSize: 8 kB\nProtectionKey:         5\nVmFlags: rd wr mr mw me ac sd \n\
                    100000002000-100000003000 r--p 00000000 00:00 0 \nVmFlags: rd ss zz\n";
        let smaps = Smaps { areas: areas(text) };
        let flags = |slot| smaps.flags(PageIndex::new(slot).expect("a slot"));
        assert_eq!(flags(1), Some(0x5_0810_0073));
        assert_eq!(flags(2), Some(1 << 37 | 1));
        assert_eq!(flags(3), None);
        assert_eq!(shown_flags() & 0x0810_0073, 0x0810_0073);
    }
}
