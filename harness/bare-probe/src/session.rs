//! The host's side of a run: the request, the guest's messages, and the judgement on them.

use std::time::{Duration, Instant};

use crate::block::{BlockRecord, Mismatch, RECORD_WORDS, run_block};
use crate::case::{Case, Machine, Outcome};
use crate::deviation::{KNOWN_FACT_DEVIATIONS, Processor};
use crate::fact::{FACTS, Fact};
use crate::message::{ARGUMENT_MAGIC, ARGUMENT_WORDS, Tag};
use crate::processor::{Mutant, Paging};
use crate::space::{Part, SPACES};

/// What the guest is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Whose known deviations are counted as such.
    pub processor: Processor,
    /// Whether to switch to five levels of paging.
    pub five_levels: bool,
    /// Bit n: the space of number n. Those that the processor cannot run are left out by the guest.
    pub spaces: u64,
    /// Which cases of them.
    pub part: Part,
    /// Whether to establish the facts.
    pub facts: bool,
    /// How many mismatches of a block are sent in full.
    pub most_mismatches: u64,
}

impl Request {
    /// The argument for the guest.
    #[must_use]
    pub fn argument(&self) -> Vec<u8> {
        let words: [u64; ARGUMENT_WORDS] = [
            ARGUMENT_MAGIC,
            self.processor as u64,
            u64::from(self.five_levels),
            self.spaces,
            match self.part {
                Part::All => 0,
                Part::Sample(count) => u64::from(count),
            },
            u64::from(self.facts),
            self.most_mismatches,
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// What the guest said of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockAnswer {
    /// The space's number.
    pub space: usize,
    /// The block's number in it.
    pub block: u32,
    /// The guest's record.
    pub record: BlockRecord,
    /// The first mismatches.
    pub mismatches: Vec<Mismatch>,
    /// From the block's first message to its last.
    pub time: Duration,
}

/// All that the guest said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The processor.
    pub machine: Machine,
    /// The name that its CPUID gives.
    pub vendor: String,
    /// The blocks, in order.
    pub blocks: Vec<BlockAnswer>,
    /// Facts: number and words.
    pub facts: Vec<(u64, Vec<u64>)>,
}

/// The guest's bytes cannot be used. This says nothing about the processor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// A byte that begins no message.
    #[error("the bare probe sent a message of unknown kind ({0:#04x})")]
    UnknownMessage(u8),
    /// A message in the wrong place or of the wrong length.
    #[error("the bare probe's message {tag:?} of {words} words has no sense here")]
    Misplaced {
        /// The message.
        tag: Tag,
        /// Its words.
        words: usize,
    },
    /// The guest's code met an exception that it did not ask for.
    #[error("the bare probe met exception {vector} at {instruction:#x} (error code {code:#x}, address {address:#x})")]
    Stray {
        /// The vector.
        vector: u64,
        /// The error code.
        code: u64,
        /// CR2.
        address: u64,
        /// RIP.
        instruction: u64,
    },
    /// The guest's code gave up.
    #[error("the bare probe gave up at line {0} of its source")]
    Panicked(u64),
    /// The bytes ended before the end.
    #[error("the bare probe's bytes ended early")]
    EndedEarly,
}

/// Takes the guest's bytes as they come.
#[derive(Debug)]
pub struct Session {
    bytes: Vec<u8>,
    machine: Option<(Machine, String)>,
    open: Option<(usize, u32, Instant, Vec<Mismatch>)>,
    blocks: Vec<BlockAnswer>,
    facts: Vec<(u64, Vec<u64>)>,
    ended: bool,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// Nothing was heard yet.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: Vec::new(), machine: None, open: None, blocks: Vec::new(), facts: Vec::new(), ended: false }
    }

    /// The buffer to which bytes are appended, before [`Self::advance`].
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// How many blocks are complete.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Reads the messages that are complete.
    ///
    /// # Errors
    /// [`SessionError`].
    pub fn advance(&mut self) -> Result<(), SessionError> {
        let mut start = 0;
        while let [tag, count, rest @ ..] = &self.bytes[start..] {
            let length = 8 * usize::from(*count);
            let tag = Tag::of(*tag).ok_or(SessionError::UnknownMessage(*tag))?;
            let Some(body) = rest.get(..length) else { break };
            let words: Vec<u64> = body
                .chunks_exact(8)
                .map(|bytes| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
                .collect();
            start += 2 + length;
            self.take(tag, &words)?;
        }
        self.bytes.drain(..start);
        Ok(())
    }

    fn take(&mut self, tag: Tag, words: &[u64]) -> Result<(), SessionError> {
        let misplaced = SessionError::Misplaced { tag, words: words.len() };
        match (tag, words) {
            (Tag::Hello, &[levels, bits, gigabyte_pages, features, first, second]) if self.machine.is_none() => {
                let paging = Paging {
                    levels: levels as u8,
                    physical_address_bits: bits as u8,
                    gigabyte_pages: gigabyte_pages != 0,
                };
                let name: Vec<u8> = [first, second].iter().flat_map(|word| word.to_le_bytes()).collect();
                let vendor = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
                self.machine = Some((Machine { paging, features: features as u32 }, vendor));
            }
            (Tag::BlockBegin, &[space, block]) if self.open.is_none() && (space as usize) < SPACES.len() => {
                self.open = Some((space as usize, block as u32, Instant::now(), Vec::new()));
            }
            (Tag::Mismatch, &[control, pte, pde, pdpte, pml4e, pml5e, expected, mask, observed]) => {
                let (.., mismatches) = self.open.as_mut().ok_or(misplaced)?;
                let case = Case { control: control as u32, entries: [pte, pde, pdpte, pml4e, pml5e] };
                let (expected, observed) = (Outcome(expected), Outcome(observed));
                mismatches.push(Mismatch { case, expected, mask, observed });
            }
            (Tag::BlockEnd, words) => {
                let words: &[u64; RECORD_WORDS] = words.try_into().map_err(|_| misplaced.clone())?;
                let (space, block, begun, mismatches) = self.open.take().ok_or(misplaced)?;
                let record = BlockRecord::from_words(words);
                self.blocks.push(BlockAnswer { space, block, record, mismatches, time: begun.elapsed() });
            }
            (Tag::Fact, [number, rest @ ..]) => self.facts.push((*number, rest.to_vec())),
            (Tag::Stray, &[vector, code, address, instruction]) => {
                return Err(SessionError::Stray { vector, code, address, instruction });
            }
            (Tag::Panic, &[line]) => return Err(SessionError::Panicked(line)),
            (Tag::End, []) => self.ended = true,
            _ => return Err(misplaced),
        }
        Ok(())
    }

    /// All that was said, once the guest is gone.
    ///
    /// # Errors
    /// [`SessionError::EndedEarly`].
    pub fn finish(self) -> Result<Answer, SessionError> {
        let Some((machine, vendor)) = self.machine.filter(|_| self.ended && self.open.is_none()) else {
            return Err(SessionError::EndedEarly);
        };
        Ok(Answer { machine, vendor, blocks: self.blocks, facts: self.facts })
    }
}

/// A block on which the guest and the model do not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The block.
    pub space: usize,
    /// The block's number in it.
    pub block: u32,
    /// What the host's model makes of it.
    pub expected: BlockRecord,
}

/// What the guest answered to a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactVerdict {
    /// What the SDM says.
    Agrees,
    /// What the emulator is known for: the deviation's name.
    Deviates(&'static str),
    /// Neither.
    Differs,
}

impl Answer {
    /// The facts that were answered, and the verdict on each.
    #[must_use]
    pub fn judge_facts(&self, processor: Processor) -> Vec<(&'static Fact, &[u64], FactVerdict)> {
        let judge = |(number, words): &'_ (u64, Vec<u64>)| -> Option<(&'static Fact, FactVerdict)> {
            let fact = FACTS.get(*number as usize)?;
            let (count, expected) = (fact.expected)(&self.machine);
            let known = KNOWN_FACT_DEVIATIONS.iter().find(|deviation| {
                deviation.processor == processor && deviation.fact == fact.name && deviation.answer == words.as_slice()
            });
            let verdict = match known {
                _ if words.as_slice() == &expected[..count] => FactVerdict::Agrees,
                Some(deviation) => FactVerdict::Deviates(deviation.name),
                None => FactVerdict::Differs,
            };
            Some((fact, verdict))
        };
        self.facts
            .iter()
            .filter_map(|answer| judge(answer).map(|(fact, verdict)| (fact, answer.1.as_slice(), verdict)))
            .collect()
    }

    /// Goes through every block with the model in the processor's place, and returns the blocks whose records are
    /// not the same. The host is the judge of record: the guest's own count of mismatches is one of the fields.
    #[must_use]
    pub fn judge(&self, request: &Request, mutant: Option<Mutant>) -> Vec<Disagreement> {
        let judge = |answer: &BlockAnswer| {
            let space = &SPACES[answer.space];
            let mut expected = run_block(
                &self.machine,
                request.processor,
                mutant,
                (space, answer.block, request.part),
                |_, wanted| wanted,
                |_| (),
            );
            // What an emulator does with bits that are not specified is not the model's to say.
            expected.whole_digest = answer.record.whole_digest;
            expected.unspecified_set = answer.record.unspecified_set;
            (expected != answer.record).then_some(Disagreement { space: answer.space, block: answer.block, expected })
        };
        self.blocks.iter().filter_map(judge).collect()
    }
}
