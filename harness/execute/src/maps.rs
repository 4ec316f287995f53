//! Which mappings the nursery inherited from its executable and gives up.

use crate::area;

/// A mapping to unmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Surplus {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The kernel's own (vdso and its data), which some kernels seal against unmapping.
    pub(crate) kernels_own: bool,
}

/// What `/proc/pid/maps` lists outside the actor's own area. The vsyscall page belongs to the kernel's half.
pub(crate) fn surplus(maps: &str) -> Vec<Surplus> {
    maps.lines().filter_map(surplus_of_line).collect()
}

fn surplus_of_line(line: &str) -> Option<Surplus> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let in_user_half = end <= 1 << 63;
    let kernels_own = fields.nth(4).is_some_and(|name| name.starts_with("[vdso") || name.starts_with("[vvar"));
    (in_user_half && !area::holds(start, end)).then_some(Surplus { start, end, kernels_own })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_only_the_area() {
        let maps = "\
            100020000000-100020001000 r-xp 00000000 00:00 0 \n\
            100020010000-100020025000 rw-s 00000000 00:01 5                          /memfd:mailbox (deleted)\n\
            555555554000-555555600000 r-xp 00000000 00:02 12                         /init\n\
            7ffff7ff9000-7ffff7ffd000 r--p 00000000 00:00 0                          [vvar]\n\
            7ffff7ffd000-7ffff7fff000 r-xp 00000000 00:00 0                          [vdso]\n\
            7ffffffde000-7ffffffff000 rw-p 00000000 00:00 0                          [stack]\n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
        let expected = [
            (0x5555_5555_4000, 0x5555_5560_0000, false),
            (0x7fff_f7ff_9000, 0x7fff_f7ff_d000, true),
            (0x7fff_f7ff_d000, 0x7fff_f7ff_f000, true),
            (0x7fff_fffd_e000, 0x7fff_ffff_f000, false),
        ];
        let expected = expected.map(|(start, end, kernels_own)| Surplus { start, end, kernels_own });
        assert_eq!(surplus(maps), expected);
    }

    #[test]
    fn ignores_lines_that_are_no_mappings() {
        assert_eq!(surplus("\nnot a line\nzz-yy r--p\n"), []);
    }
}
