//! Operations on a userfaultfd as system calls. The structures that they take by address lie in the scratch room
//! of the mailbox.

use ptediff_reference_model::outcome::FaultMessage;
use ptediff_reference_model::program::Operation;
use ptediff_reference_model::uffd::{UffdFeatures, UffdId};

use crate::area::COPY_SOURCE_BASE;
use crate::mailbox::Command;
use crate::nursery::SCRATCH;

/// `UFFD_API` (include/uapi/linux/userfaultfd.h), the version that `UFFDIO_API` asks for.
const API_VERSION: u64 = 0xaa;

const API: u64 = 0xc018_aa3f;
const REGISTER: u64 = 0xc020_aa00;
const UNREGISTER: u64 = 0x8010_aa01;
const WAKE: u64 = 0x8010_aa02;
const COPY: u64 = 0xc028_aa03;
const ZEROPAGE: u64 = 0xc020_aa04;
const WRITEPROTECT: u64 = 0xc018_aa06;

/// `UFFDIO_COPY_MODE_WP`.
const COPY_PROTECTED: u64 = 1 << 1;

/// Bytes of `struct uffd_msg`.
const MESSAGE_BYTES: u64 = 32;

/// `UFFD_EVENT_PAGEFAULT`.
const EVENT_PAGEFAULT: u64 = 0x12;

/// `UFFD_EVENT_FORK`.
const EVENT_FORK: u64 = 0x13;

/// A descriptor that is never open.
const NO_DESCRIPTOR: u64 = u32::MAX as u64;

/// An ioctl on a descriptor that a program names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) uffd: UffdId,
    number: u64,
    /// The structure.
    pub(crate) words: [u64; 8],
}

impl Request {
    /// The ioctl for the operation, if it is one.
    pub(crate) fn of_operation(operation: &Operation) -> Option<Self> {
        let (uffd, number, given): (_, _, &[u64]) = match *operation {
            Operation::UffdRegister { uffd, range, mode } => {
                (uffd, REGISTER, &[range.address(), range.bytes(), mode.api_bits(), 0])
            }
            Operation::UffdUnregister { uffd, range } => (uffd, UNREGISTER, &[range.address(), range.bytes()]),
            Operation::UffdWriteProtect { uffd, range, protect } => {
                (uffd, WRITEPROTECT, &[range.address(), range.bytes(), u64::from(protect)])
            }
            Operation::UffdCopy { uffd, range, protect } => {
                let mode = if protect { COPY_PROTECTED } else { 0 };
                (uffd, COPY, &[range.address(), COPY_SOURCE_BASE, range.bytes(), mode, 0])
            }
            Operation::UffdZeropage { uffd, range } => (uffd, ZEROPAGE, &[range.address(), range.bytes(), 0, 0]),
            Operation::UffdWake { uffd, range } => (uffd, WAKE, &[range.address(), range.bytes()]),
            _ => return None,
        };
        Some(Self { uffd, number, words: words(given) })
    }

    /// The command for it; the structure must stand in the scratch room.
    pub(crate) fn command(&self, descriptor: Option<u32>) -> Command {
        Command::system_call(libc::SYS_ioctl, &[number_of(descriptor), self.number, SCRATCH])
    }
}

fn words(given: &[u64]) -> [u64; 8] {
    let mut words = [0; 8];
    words[..given.len()].copy_from_slice(given);
    words
}

fn number_of(descriptor: Option<u32>) -> u64 {
    descriptor.map_or(NO_DESCRIPTOR, u64::from)
}

/// `userfaultfd`.
pub(crate) fn open() -> Command {
    Command::system_call(libc::SYS_userfaultfd, &[(libc::O_CLOEXEC | libc::O_NONBLOCK) as u64])
}

/// The structure of `UFFDIO_API`.
pub(crate) fn api_words(features: UffdFeatures) -> [u64; 8] {
    words(&[API_VERSION, features.api_bits()])
}

/// `UFFDIO_API`; the structure must stand in the scratch room.
pub(crate) fn ask_api(descriptor: u32) -> Command {
    Command::system_call(libc::SYS_ioctl, &[descriptor.into(), API, SCRATCH])
}

/// `close`, of a descriptor that is open or, where there is none, of one that is not.
pub(crate) fn close(descriptor: Option<u32>) -> Command {
    Command::system_call(libc::SYS_close, &[number_of(descriptor)])
}

/// `read` of one message, which does not wait, into the scratch room.
pub(crate) fn read(descriptor: u32) -> Command {
    Command::system_call(libc::SYS_read, &[descriptor.into(), SCRATCH, MESSAGE_BYTES])
}

/// A message that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// A page fault waits.
    Fault(FaultMessage),
    /// A fork waited; the descriptor of the child's context.
    Forked(u32),
}

/// The message in these many bytes, if it is one of those that programs ask for.
pub(crate) fn message(bytes: u64, words: [u64; 8]) -> Option<Message> {
    match (bytes, words[0] & 0xff) {
        (MESSAGE_BYTES, EVENT_PAGEFAULT) => Some(Message::Fault(FaultMessage { flags: words[1], address: words[2] })),
        (MESSAGE_BYTES, EVENT_FORK) => Some(Message::Forked(words[1] as u32)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ptediff_reference_model::arena::PageRange;
    use ptediff_reference_model::uffd::UffdMode;

    use super::*;

    /// Number of an ioctl (include/uapi/asm-generic/ioctl.h).
    fn ioctl(direction: u64, number: u64, bytes: u64) -> u64 {
        direction << 30 | bytes << 16 | 0xaa << 8 | number
    }

    fn check(operation: Operation, number: u64, given: &[u64]) {
        let request = Request::of_operation(&operation).expect("an ioctl");
        assert_eq!((request.number, request.words), (number, words(given)), "{operation}");
        let command = request.command(Some(7));
        assert_eq!(command.words[..4], [16, 7, number, SCRATCH], "{operation}");
        assert_eq!(request.command(None).words[1], 0xffff_ffff, "{operation}");
    }

    #[test]
    fn messages_are_told_apart() {
        let words = |event| words(&[event, 0xffff_0000_0000_0009, 0x5000]);
        let fault = FaultMessage { flags: 0xffff_0000_0000_0009, address: 0x5000 };
        assert_eq!(message(32, words(0x13)), Some(Message::Forked(9)));
        assert_eq!(message(32, words(0x12)), Some(Message::Fault(fault)));
        assert_eq!(message(32, words(0x14)), None);
        assert_eq!(message(16, words(0x13)), None);
    }

    #[test]
    fn operations_become_ioctls() {
        let (uffd, range) = (UffdId::FIRST, PageRange::new(2, 3).unwrap());
        let (start, bytes) = (0x1000_0000_2000, 0x3000);
        check(Operation::UffdRegister { uffd, range, mode: UffdMode::Both }, ioctl(3, 0, 32), &[start, bytes, 3]);
        check(Operation::UffdUnregister { uffd, range }, ioctl(2, 1, 16), &[start, bytes]);
        let write_protect = |protect| Operation::UffdWriteProtect { uffd, range, protect };
        check(write_protect(true), ioctl(3, 6, 24), &[start, bytes, 1]);
        check(write_protect(false), ioctl(3, 6, 24), &[start, bytes]);
        let copy = |protect| Operation::UffdCopy { uffd, range, protect };
        check(copy(false), ioctl(3, 3, 40), &[start, COPY_SOURCE_BASE, bytes]);
        check(copy(true), ioctl(3, 3, 40), &[start, COPY_SOURCE_BASE, bytes, 2]);
        check(Operation::UffdWake { uffd, range }, ioctl(2, 2, 16), &[start, bytes]);
        check(Operation::UffdZeropage { uffd, range }, ioctl(3, 4, 32), &[start, bytes]);
        assert_eq!(API, ioctl(3, 0x3f, 24));
        assert_eq!(Request::of_operation(&Operation::Exit), None);
    }
}
