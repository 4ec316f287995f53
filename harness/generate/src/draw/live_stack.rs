//! Operations of actors that run on shadow stacks of the arena.

use super::*;

/// Bytes of a frame on a shadow stack.
const FRAME: u64 = 8;

/// Frames that fill a page.
const FRAMES_OF_PAGE: usize = (PAGE_SIZE / FRAME) as usize;

/// As many frames, or as an operation takes.
fn frames(count: usize) -> FrameCount {
    let count = u16::try_from(count).unwrap_or(MAX_FRAMES).clamp(1, MAX_FRAMES);
    FrameCount::try_from(count).expect("within the bounds")
}

impl<R: Rng> Draft<'_, R> {
    /// Frames to push: a few, or as many as lead onto the page below, where that is a shadow stack (and now and
    /// then anyway).
    pub(super) fn frames_to_call(&mut self, actor: ActorId) -> FrameCount {
        let few = [1, 2, 3, 5, 8][self.dice.below(5)];
        let Some(ssp) = self.model.live_shadow_stack(actor) else { return frames(few) };
        let left = match ((ssp - ARENA_BASE) % PAGE_SIZE / FRAME) as usize {
            0 => FRAMES_OF_PAGE,
            left => left,
        };
        let below = PageIndex::of_address((ssp - 1) / PAGE_SIZE * PAGE_SIZE - 1);
        let is_stack = below
            .and_then(|page| self.model.mapping(actor, page))
            .is_some_and(|mapping| mapping.shadow_stack && mapping.protection.contains(Protection::WRITE));
        if self.dice.percent(if is_stack { 55 } else { 4 }) {
            let past = [0, 1, 2, 7][self.dice.below(4)];
            frames(left + past)
        } else {
            frames(if self.dice.percent(10) { left } else { few.min(left) })
        }
    }

    /// Frames to pop: those that are there, or, now and then, one more.
    pub(super) fn frames_to_return(&mut self, actor: ActorId) -> FrameCount {
        let mut there = 0;
        if let Some(ssp) = self.model.live_shadow_stack(actor) {
            while there < FRAMES_OF_PAGE + 8 && self.model.is_return_at(actor, ssp + there as u64 * FRAME) {
                there += 1;
            }
        }
        let wanted = match self.dice.below(10) {
            0..5 => there,
            5..9 => 1 + self.dice.below(there.max(1)),
            _ => there + 1,
        };
        frames(wanted)
    }

    pub(super) fn control(&mut self, actor: ActorId) -> Operation {
        let (on, locked) = self.model.shadow_stack_features(actor);
        if locked == 0 && on < 3 && self.dice.percent(60) {
            let features = if on == 0 { ShadowStackFeatures::SHADOW_STACK } else { ShadowStackFeatures::WRSS };
            let features = if self.dice.percent(50) { ShadowStackFeatures::WRSS } else { features };
            return Operation::ControlShadowStack { control: ShadowStackControl::Enable, features };
        }
        self.any_control()
    }

    pub(super) fn any_control(&mut self) -> Operation {
        let control = ShadowStackControl::ALL[self.dice.weighted(&[23, 30, 20, 27])];
        let features = [1, 2, 0, 3, 4][self.dice.weighted(&[32, 46, 6, 8, 8])];
        let features = ShadowStackFeatures::try_from(features).expect("features that programs may name");
        Operation::ControlShadowStack { control, features }
    }
}
