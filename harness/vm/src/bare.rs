//! A machine whose guest is a freestanding program, not a Linux kernel.

use std::path::PathBuf;
use std::time::Duration;

use crate::direct_boot::{self, BOOT_PAGE_ADDRESS, KernelMemory};
use crate::{BackendKind, VmError};

/// A machine to be started with [`crate::boot_bare`].
///
/// The guest is entered in 64-bit mode at the ELF file's entry point: CPL 0, flat segments, interrupts off, no
/// interrupt table, the first 4 GiB mapped to themselves by four levels of paging with 2 MiB pages, RSI at the
/// argument. Memory from 0x10000 to 0x4ffff is the firmware's, that from 0x60000 to 0x69000 holds argument, page
/// tables and stub, until the guest has its own. Writes to port 0xE9 are the data channel.
#[derive(Clone, Debug)]
pub struct BareSpec {
    /// The emulator's kind.
    pub backend: BackendKind,
    /// Its program; by default as in [`crate::VmSpec`].
    pub emulator: Option<PathBuf>,
    /// The emulator's name for the CPU; by default as in [`crate::VmSpec`].
    pub cpu_model: Option<String>,
    /// The guest, a static ELF file whose segments lie at 1 MiB or above.
    pub image: Vec<u8>,
    /// Bytes for the guest, at most a page.
    pub argument: Vec<u8>,
    /// Guest memory in MiB; Bochs takes at most 3072.
    pub memory_mib: u32,
    /// The watchdog: so long without a byte of data, and the guest is taken to hang.
    pub silence: Duration,
    /// How long the machine may live at all.
    pub limit: Option<Duration>,
}

impl BareSpec {
    /// A machine of 64 MiB with a watchdog of a minute and no limit of time.
    #[must_use]
    pub fn new(backend: BackendKind, image: Vec<u8>, argument: Vec<u8>) -> Self {
        Self {
            backend,
            emulator: None,
            cpu_model: None,
            image,
            argument,
            memory_mib: 64,
            silence: Duration::from_secs(60),
            limit: None,
        }
    }

    /// What lies in memory when the machine starts: bytes and their address.
    pub(crate) fn pieces(&self) -> Result<[(Vec<u8>, u64); 2], VmError> {
        let guest = KernelMemory::lay_out(&self.image)
            .map_err(|reason| VmError::Spec(format!("the guest's image is unusable: {reason}")))?;
        let end = guest.address + guest.bytes.len() as u64;
        if end > u64::from(self.memory_mib) << 20 {
            return Err(VmError::Spec(format!(
                "the guest ends at {end:#x}, there are {} MiB of memory",
                self.memory_mib
            )));
        }
        let page = direct_boot::bare_boot_page(&self.argument, guest.entry)?;
        Ok([(guest.bytes, guest.address), (page, u64::from(BOOT_PAGE_ADDRESS))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elf::tests::elf_file;

    #[track_caller]
    fn check(image: Vec<u8>, argument: &[u8], expected: Result<usize, &str>) {
        let found = BareSpec::new(BackendKind::Bochs, image, argument.to_vec()).pieces();
        match (found, expected) {
            (Ok([(guest, 0x10_0000), (page, 0x6_0000)]), Ok(size)) => {
                assert_eq!(guest.len(), size);
                assert_eq!(&page[..argument.len()], argument);
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?} where {expected:?} was expected"),
        }
    }

    #[test]
    fn a_guest_and_its_argument_lie_in_memory_or_are_refused() {
        let good = elf_file(0x10_0000, &[(1, 256, 0x10_0000, 16)], 512);
        check(good.clone(), b"argument", Ok(16));
        check(good.clone(), &[1; 4096], Ok(16));
        check(good, &[1; 4097], Err("a page is the most"));
        check(b"text".to_vec(), b"", Err("not an ELF"));
        check(elf_file(0x400_0000, &[(1, 256, 0x400_0000, 16)], 512), b"", Err("64 MiB"));
        check(elf_file(0x1000, &[(1, 256, 0x1000, 16)], 512), b"", Err("no memory"));
    }
}
