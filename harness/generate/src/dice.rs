//! Small draws from a stream of random numbers.

use proptest::prelude::Rng;

/// Draws from a stream of random numbers. A draw costs one number of 32 bits.
pub(crate) struct Dice<'a, R>(pub(crate) &'a mut R);

impl<R: Rng> Dice<'_, R> {
    /// A number below `bound`, which must not be 0. The bias, below 2^-20 for these small bounds, is of
    /// no matter here.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u64::from(self.0.next_u32()) * bound as u64) >> 32) as usize
    }

    /// Whether an event of this probability happens.
    pub(crate) fn percent(&mut self, probability: usize) -> bool {
        self.below(100) < probability
    }

    /// One of the items.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() { None } else { Some(items[self.below(items.len())]) }
    }

    /// Index of a weight, drawn in proportion to the weights; 0 where all are 0.
    pub(crate) fn weighted(&mut self, weights: &[u32]) -> usize {
        let total: u32 = weights.iter().sum();
        let mut point = self.below(total.max(1) as usize) as u32;
        for (index, &weight) in weights.iter().enumerate() {
            if point < weight {
                return index;
            }
            point -= weight;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use crate::seed::random_numbers;

    use super::*;

    #[test]
    fn draws_keep_their_proportions() {
        let mut random = random_numbers(1);
        let mut dice = Dice(&mut random);
        let mut counts = [0usize; 4];
        for _ in 0..10_000 {
            counts[dice.weighted(&[10, 0, 30, 60])] += 1;
        }
        assert_eq!(counts[1], 0);
        for (count, expected) in [(counts[0], 1000), (counts[2], 3000), (counts[3], 6000)] {
            assert!(count.abs_diff(expected) < 300, "{counts:?}");
        }
        assert!((0..1000).all(|_| dice.below(3) < 3));
        assert!(!dice.percent(0) && dice.percent(100));
        assert_eq!(dice.pick::<u8>(&[]), None);
        assert_eq!(dice.weighted(&[0, 0]), 0);
    }
}
