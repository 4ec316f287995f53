//! The kernel's own view of an arena: `/proc/pid/pagemap`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use ptediff_reference_model::arena::{ACTORS, ARENA_BASE, ARENA_PAGES, ActorId, PAGE_SIZE, PageIndex};
use ptediff_reference_model::entry::Entry;
use ptediff_reference_model::observation::{PagemapView, RawArena};

use crate::error::ObserveError;
use crate::kcore::words;

/// Bits 0..=54 of a word: the frame number where bit 63 is set, swap details where bit 62 is.
const DETAILS: u64 = (1 << 55) - 1;
/// Bit 63: `pte_present`, so PROT_NONE entries too.
const PRESENT: u64 = 1 << 63;

/// Reads actors' pagemaps; needs CAP_SYS_ADMIN, else frame numbers read as 0.
#[derive(Debug, Default)]
pub struct PagemapReader {
    open: [Option<(u32, File)>; ACTORS],
}

impl PagemapReader {
    /// A reader that has opened nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The words of an actor's arena, and the pages whose frame is not the one that the probe saw.
    ///
    /// # Errors
    /// The process is gone or its pagemap cannot be read.
    pub fn read(&mut self, actor: ActorId, pid: u32, probe: &RawArena) -> Result<PagemapView, ObserveError> {
        let place = &mut self.open[actor.index()];
        if place.as_ref().is_none_or(|(opened, _)| *opened != pid) {
            let path = format!("/proc/{pid}/pagemap");
            let file = File::open(&path).map_err(ObserveError::system(format!("opening {path}")))?;
            *place = Some((pid, file));
        }
        let (_, file) = place.as_ref().expect("opened above");
        let mut bytes = [0; ARENA_PAGES * 8];
        file.read_exact_at(&mut bytes, ARENA_BASE / PAGE_SIZE * 8)
            .map_err(ObserveError::system(format!("reading /proc/{pid}/pagemap")))?;
        Ok(view(actor, &words(&bytes), probe))
    }

    /// Closes the actor's pagemap. To be called when it exits, as process identifiers come back.
    pub fn forget(&mut self, actor: ActorId) {
        self.open[actor.index()] = None;
    }
}

/// The pagemap of any process.
#[derive(Debug)]
pub struct PagemapWords {
    file: File,
}

impl PagemapWords {
    /// Opens it; needs CAP_SYS_ADMIN, else frame numbers read as 0.
    ///
    /// # Errors
    /// The process is gone.
    pub fn open(process: u32) -> Result<Self, ObserveError> {
        let path = format!("/proc/{process}/pagemap");
        File::open(&path).map(|file| Self { file }).map_err(ObserveError::system(format!("opening {path}")))
    }

    /// The words of so many pages from an address on; of pages behind the end of user space, which pagemap does not
    /// have, zeroes.
    ///
    /// # Errors
    /// The process is gone.
    pub fn read(&self, address: u64, pages: usize) -> Result<Vec<u64>, ObserveError> {
        let mut bytes = vec![0; pages * 8];
        let mut have = 0;
        while have < bytes.len() {
            let answer = self.file.read_at(&mut bytes[have..], address / PAGE_SIZE * 8 + have as u64);
            match answer.map_err(ObserveError::system("reading a pagemap"))? {
                0 => break,
                length => have += length,
            }
        }
        Ok(words(&bytes))
    }
}

fn view(actor: ActorId, words: &[u64], probe: &RawArena) -> PagemapView {
    let frame_of = |word: u64| (word & PRESENT != 0).then_some(word & DETAILS);
    let frame_mismatches = words
        .iter()
        .zip(probe)
        .enumerate()
        .filter(|(_, (word, raw))| frame_of(**word) != Entry(**raw).frame_number())
        .map(|(slot, _)| PageIndex::new(slot).expect("a slot of the arena"))
        .collect();
    PagemapView { actor, words: words.iter().map(|word| word & !DETAILS).collect(), frame_mismatches }
}

/// Frame number of a page of this process.
pub(crate) fn own_frame(address: u64) -> Result<u64, ObserveError> {
    let mut word = [0; 8];
    File::open("/proc/self/pagemap")
        .and_then(|file| file.read_exact_at(&mut word, address / PAGE_SIZE * 8))
        .map_err(ObserveError::system("reading /proc/self/pagemap"))?;
    let word = u64::from_le_bytes(word);
    if word & PRESENT == 0 || word & DETAILS == 0 {
        return Err(ObserveError::Geometry(format!(
            "pagemap shows no frame for a page of our own ({word:#x}): CAP_SYS_ADMIN is needed"
        )));
    }
    Ok(word & DETAILS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_compared_and_then_cleared() {
        let mut probe = [0; ARENA_PAGES];
        let mut words = [0; ARENA_PAGES];
        (probe[0], words[0]) = (0x8000_0000_0123_4867, PRESENT | 1 << 55 | 0x1234);
        (probe[1], words[1]) = (0x8000_0000_0123_4867, PRESENT | 0x1235);
        (probe[2], words[2]) = (0, PRESENT | 0x1234);
        (probe[3], words[3]) = (0x8000_0000_0123_4867, 0);
        (probe[4], words[4]) = (!0x0123_4000 & 0x000f_ffff_ffff_f000 | 0x120, PRESENT | 0x1234);
        let seen = view(ActorId::FIRST, &words, &probe);
        assert_eq!(seen.words[..3], [PRESENT | 1 << 55, PRESENT, PRESENT]);
        let pages: Vec<usize> = seen.frame_mismatches.iter().map(|page| page.index()).collect();
        assert_eq!(pages, [1, 2, 3]);
    }
}
