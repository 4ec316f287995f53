//! What a processor answered once: the digest of each block. Kept in `recorded/`, so that the model and its planted
//! mistakes are judged without a machine.

use std::fmt::Write as _;

use crate::block::run_block;
use crate::case::Machine;
use crate::deviation::Processor;
use crate::processor::{Mutant, Paging};
use crate::session::{Answer, Request};
use crate::space::{Part, SPACES};

/// A block that was run once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedBlock {
    /// The space's number.
    pub space: usize,
    /// The block's number in it.
    pub block: u32,
    /// Cases that were run.
    pub run: u64,
    /// Their digest.
    pub digest: u64,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// The processor's features.
    pub machine: Machine,
    /// Whose deviations are known.
    pub processor: Processor,
    /// Cases of each block.
    pub sample: u32,
    /// The blocks, in order.
    pub blocks: Vec<RecordedBlock>,
}

/// A recording cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the recording: {what}")]
pub struct RecordingError {
    /// The line, from 1 on.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl Recording {
    /// Of an answer to a request for samples; `None` if all cases were asked for.
    #[must_use]
    pub fn of(request: &Request, answer: &Answer) -> Option<Self> {
        let Part::Sample(sample) = request.part else { return None };
        let block = |answer: &crate::session::BlockAnswer| RecordedBlock {
            space: answer.space,
            block: answer.block,
            run: answer.record.run,
            digest: answer.record.digest,
        };
        Some(Self {
            machine: answer.machine,
            processor: request.processor,
            sample,
            blocks: answer.blocks.iter().map(block).collect(),
        })
    }

    /// As text: a line for the machine, one for each block.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Paging { levels, physical_address_bits, gigabyte_pages } = self.machine.paging;
        let mut text = format!(
            "processor {} levels {levels} address-bits {physical_address_bits} gigabyte-pages {} features {:#x} sample {}\n",
            self.processor as u64,
            u8::from(gigabyte_pages),
            self.machine.features,
            self.sample
        );
        for RecordedBlock { space, block, run, digest } in &self.blocks {
            let _ = writeln!(text, "{} {block} {run} {digest:016x}", SPACES[*space].name);
        }
        text
    }

    /// From text.
    ///
    /// # Errors
    /// A line is not as [`Self::to_text`] writes it.
    pub fn from_text(text: &str) -> Result<Self, RecordingError> {
        let wrong = |line: usize| RecordingError { line, what: "not as it is written".to_owned() };
        let mut lines = (1..).zip(text.lines());
        let (_, head) = lines.next().ok_or_else(|| wrong(1))?;
        let numbers: Option<Vec<u64>> = head.split_whitespace().skip(1).step_by(2).map(number).collect();
        let numbers = numbers.ok_or_else(|| wrong(1))?;
        let &[processor, levels, bits, gigabyte_pages, features, sample] = numbers.as_slice() else {
            return Err(wrong(1));
        };
        let paging =
            Paging { levels: levels as u8, physical_address_bits: bits as u8, gigabyte_pages: gigabyte_pages != 0 };
        let mut blocks = Vec::new();
        for (line, text) in lines {
            let words: Vec<&str> = text.split_whitespace().collect();
            let &[name, block, run, digest] = words.as_slice() else { return Err(wrong(line)) };
            let space = SPACES
                .iter()
                .position(|space| space.name == name)
                .ok_or_else(|| RecordingError { line, what: format!("there is no space `{name}`") })?;
            let block = number(block).ok_or_else(|| wrong(line))? as u32;
            let run = number(run).ok_or_else(|| wrong(line))?;
            let digest = u64::from_str_radix(digest, 16).map_err(|_| wrong(line))?;
            blocks.push(RecordedBlock { space, block, run, digest });
        }
        let machine = Machine { paging, features: features as u32 };
        Ok(Self { machine, processor: Processor::of(processor), sample: sample as u32, blocks })
    }

    /// The first block on which the model, with a planted mistake or without, does not say what the processor did.
    #[must_use]
    pub fn first_disagreement(&self, mutant: Option<Mutant>) -> Option<&RecordedBlock> {
        self.blocks.iter().find(|recorded| {
            let cases = (&SPACES[recorded.space], recorded.block, Part::Sample(self.sample));
            let record = run_block(&self.machine, self.processor, mutant, cases, |_, wanted| wanted, |_| ());
            (record.run, record.digest) != (recorded.run, recorded.digest)
        })
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
