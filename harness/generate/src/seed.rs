//! From a campaign's seed and a program's index to the program's random numbers.
//!
//! Everything here is fixed for ever: a recorded seed must give its program again. The functions are
//! SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).

use proptest::test_runner::{RngAlgorithm, TestRng};

/// 2^64 divided by the golden ratio, made odd.
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function.
fn mix(mut state: u64) -> u64 {
    state = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ state >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ state >> 31
}

/// Seed of the program with this index in the campaign with this seed:
/// `mix(mix(campaign_seed + G) + (index + 1) * G)`, where `G` is SplitMix64's gamma.
#[must_use]
pub fn program_seed(campaign_seed: u64, index: u32) -> u64 {
    let stream = mix(campaign_seed.wrapping_add(GOLDEN_GAMMA));
    mix(stream.wrapping_add((u64::from(index) + 1).wrapping_mul(GOLDEN_GAMMA)))
}

/// The random numbers of a program: ChaCha with the next four outputs of SplitMix64 as its key.
pub(crate) fn random_numbers(program_seed: u64) -> TestRng {
    let mut key = [0; 32];
    let mut state = program_seed;
    for word in key.chunks_exact_mut(8) {
        state = state.wrapping_add(GOLDEN_GAMMA);
        word.copy_from_slice(&mix(state).to_le_bytes());
    }
    TestRng::from_seed(RngAlgorithm::ChaCha, &key)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::Rng;

    use super::*;

    #[test]
    fn seeds_are_fixed_for_ever() {
        // SplitMix64 from state 0 gives these (its authors' reference implementation).
        assert_eq!(mix(GOLDEN_GAMMA), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(GOLDEN_GAMMA.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(program_seed(0, 0), mix(0xe220_a839_7b1d_cdafu64.wrapping_add(GOLDEN_GAMMA)));
    }

    #[test]
    fn seeds_differ() {
        let seeds: HashSet<u64> =
            (0..100).flat_map(|campaign| (0..100).map(move |index| program_seed(campaign, index))).collect();
        assert_eq!(seeds.len(), 10_000);
        assert_ne!(random_numbers(1).next_u64(), random_numbers(2).next_u64());
    }
}
