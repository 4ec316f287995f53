//! What is simpler than an mremap, which has two ranges.

use ptediff_reference_model::arena::PageRange;
use ptediff_reference_model::program::Operation;

/// The operation on another range. What moved without a change of length still does, and what is resized in
/// place still ends in the arena.
pub(super) fn with_range(operation: Operation, new: PageRange) -> Operation {
    match operation {
        Operation::Mremap { range, to, keep } if range.pages() == to.pages() => {
            PageRange::new(to.first(), new.pages()).map_or(operation, |to| Operation::Mremap { range: new, to, keep })
        }
        Operation::Mremap { to, keep, .. } => Operation::Mremap { range: new, to, keep },
        Operation::MremapResize { range, pages } => {
            let end = range.first() + usize::from(pages);
            Operation::MremapResize { range: new, pages: end.saturating_sub(new.first()).min(pages.into()) as u8 }
        }
        other => other,
    }
}

/// The operation from one range to another.
pub(super) fn with_ranges(operation: Operation, range: PageRange, to: PageRange) -> Operation {
    match operation {
        Operation::Mremap { keep, .. } => Operation::Mremap { range, to, keep },
        Operation::MremapResize { .. } => Operation::MremapResize { range, pages: to.pages() as u8 },
        other => other,
    }
}

/// A simpler operation in place of an mremap: without MREMAP_DONTUNMAP, of the same length, or one of the
/// two things that it does.
pub(super) fn simpler(operation: &Operation, choice: usize) -> Option<Operation> {
    match (*operation, choice) {
        (Operation::Mremap { range, to, keep: true }, 0) => Some(Operation::Mremap { range, to, keep: false }),
        (Operation::Mremap { range, to, keep }, 1) => {
            let pages = range.pages().min(to.pages());
            let shorter = |range: PageRange| PageRange::new(range.first(), pages).ok();
            Some(Operation::Mremap { range: shorter(range)?, to: shorter(to)?, keep })
        }
        (Operation::MremapResize { range, pages }, 0) if usize::from(pages) > range.pages() + 1 => {
            Some(Operation::MremapResize { range, pages: range.pages() as u8 + 1 })
        }
        (Operation::Mremap { to, .. }, 2) => Some(Operation::Munmap { range: to }),
        (Operation::Mremap { range, .. } | Operation::MremapResize { range, .. }, 3) => {
            Some(Operation::Munmap { range })
        }
        _ => None,
    }
}
