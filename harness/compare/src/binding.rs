//! Which frame of the model is which frame that was seen.

use ptediff_reference_model::expectation::ExpectedFrame;
use ptediff_reference_model::observation::FrameName;

/// A bijection between the model's living frames and the names of the frames seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Binding {
    pairs: Vec<(u32, FrameName)>,
}

impl Binding {
    /// Whether `seen` is the frame that the model expects. The first time that a new frame of the model
    /// is met, it is bound to the name seen, unless that name is another living frame's.
    ///
    /// A frame that one step frees and allocates again keeps its name, as some entry held it before and after:
    /// what `is_mapped` says is gone gives its name away.
    pub(crate) fn admits(&mut self, expected: ExpectedFrame, seen: FrameName, is_mapped: impl Fn(u32) -> bool) -> bool {
        match expected {
            ExpectedFrame::None => seen == FrameName::NONE,
            ExpectedFrame::Zero => seen == FrameName::ZERO,
            ExpectedFrame::Frame(_) if seen == FrameName::NONE || seen == FrameName::ZERO => false,
            ExpectedFrame::Frame(frame) => {
                match self.pairs.iter_mut().find(|(bound, name)| *bound == frame || *name == seen) {
                    Some(pair) if pair.0 != frame && !is_mapped(pair.0) && is_mapped(frame) => {
                        *pair = (frame, seen);
                        true
                    }
                    Some(pair) => *pair == (frame, seen),
                    None => {
                        self.pairs.push((frame, seen));
                        true
                    }
                }
            }
        }
    }

    /// Forgets the frames that are no longer mapped.
    pub(crate) fn retain(&mut self, is_mapped: impl Fn(u32) -> bool) {
        self.pairs.retain(|(frame, _)| is_mapped(*frame));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_bound_once_and_one_to_one() {
        let mut binding = Binding::default();
        let mut check = |expected, seen, admitted| {
            let is_mapped = |frame| frame != 10;
            assert_eq!(binding.admits(expected, FrameName(seen), is_mapped), admitted, "{expected:?} as {seen}");
        };
        check(ExpectedFrame::None, 0, true);
        check(ExpectedFrame::None, 2, false);
        check(ExpectedFrame::Zero, 1, true);
        check(ExpectedFrame::Zero, 3, false);
        check(ExpectedFrame::Frame(7), 1, false);
        check(ExpectedFrame::Frame(7), 2, true);
        check(ExpectedFrame::Frame(7), 2, true);
        check(ExpectedFrame::Frame(7), 3, false);
        check(ExpectedFrame::Frame(8), 2, false);
        check(ExpectedFrame::Frame(8), 3, true);
        // Frame 10 was seen as 4 before it went; the same step takes the frame again.
        check(ExpectedFrame::Frame(10), 4, true);
        check(ExpectedFrame::Frame(8), 4, false);
        check(ExpectedFrame::Frame(11), 4, true);
        check(ExpectedFrame::Frame(11), 4, true);
        check(ExpectedFrame::Frame(12), 4, false);
        binding.retain(|frame| frame != 7);
        assert!(binding.admits(ExpectedFrame::Frame(9), FrameName(2), |_| true));
    }
}
