//! mremap: what is moved, where to, and what becomes shorter or longer.

use proptest::prelude::Rng;
use ptediff_reference_model::arena::{ARENA_PAGES, ActorId, PageIndex, PageRange};
use ptediff_reference_model::program::Operation;

use super::{Draft, Scene, is_populated};

/// Kinds of mremap with their weights: a move, a move to another length, MREMAP_DONTUNMAP, in place.
const KINDS: [u32; 4] = [38, 26, 18, 20];

/// Draws of a target that may overlap what is moved before one that does is taken.
const TARGETS: usize = 6;

impl<R: Rng> Draft<'_, R> {
    pub(super) fn remap(&mut self, scene: &Scene) -> Operation {
        match self.dice.weighted(&KINDS) {
            0 => self.move_of(scene, 0, false),
            1 => {
                let change = [1, 2, -1, -2][self.dice.below(4)];
                self.move_of(scene, change, false)
            }
            2 => {
                let change = isize::from(self.dice.percent(4));
                self.move_of(scene, change, true)
            }
            _ => self.resize(scene),
        }
    }

    /// Any mremap of a range anywhere.
    pub(super) fn senseless_remap(&mut self, range: PageRange) -> Operation {
        let room = ARENA_PAGES - range.first();
        if self.dice.percent(40) {
            return Operation::MremapResize { range, pages: self.dice.below((room + 1).min(8)) as u8 };
        }
        let to = PageRange::new(self.dice.below(ARENA_PAGES - range.pages() + 1), range.pages()).expect("in the arena");
        Operation::Mremap { range, to, keep: self.dice.percent(30) }
    }

    /// A page that moves: where it was, for a stale translation, or where it is to be used.
    pub(super) fn moved(&mut self, actor: ActorId, range: PageRange, to: PageRange) -> Option<(ActorId, PageIndex)> {
        let populated: Vec<_> =
            range.slots().zip(to.slots()).filter(|&(from, _)| is_populated(&self.model, actor, from)).collect();
        let (from, to) = self.dice.pick(&populated)?;
        Some((actor, if self.dice.percent(40) { from } else { to }))
    }

    fn move_of(&mut self, scene: &Scene, change: isize, keep: bool) -> Operation {
        let range = self.source(scene);
        let longest = ARENA_PAGES - 1;
        let pages = range.pages().saturating_add_signed(change).clamp(1, longest);
        let mut to = self.target(scene, range, pages);
        for _ in 0..TARGETS {
            if to.end() <= range.first() || range.end() <= to.first() {
                break;
            }
            to = self.target(scene, range, pages);
        }
        Operation::Mremap { range, to, keep }
    }

    /// A part of one VMA, mostly; sometimes the whole, sometimes a range across several.
    fn source(&mut self, scene: &Scene) -> PageRange {
        let populated = self.dice.percent(70) && !scene.populated.is_empty();
        let pages = if populated { &scene.populated } else { &scene.mapped };
        if self.dice.percent(6) {
            return self.range_of(pages);
        }
        let Some(page) = self.dice.pick(pages) else { return self.range_from(&[]) };
        let vma = self.model.vma_range(scene.actor, page).unwrap_or(PageRange::single(page));
        if self.dice.percent(12) && vma.end() < self.window.end() {
            let end = (vma.end() + 1 + self.dice.below(2)).min(self.window.end());
            return PageRange::new(page.index(), end - page.index()).expect("in the window");
        }
        let longest = self.window.pages().div_ceil(2);
        if vma.pages() <= longest && self.dice.percent(45) {
            return vma;
        }
        let longest = longest.min(vma.end() - page.index()).min(4);
        PageRange::new(page.index(), 1 + self.dice.below(longest)).expect("within the VMA")
    }

    /// Where it was first, beside a VMA, into a hole, or anywhere in the window.
    fn target(&mut self, scene: &Scene, range: PageRange, pages: usize) -> PageRange {
        let page = range.slots().next().expect("a range is not empty");
        let first = match self.dice.weighted(&[25, 30, 25, 20]) {
            0 => self.model.home(scene.actor, page).filter(|&home| home != page).map(PageIndex::index),
            1 => self
                .dice
                .pick(&scene.mapped)
                .and_then(|page| self.model.vma_range(scene.actor, page))
                .map(|vma| if self.dice.percent(50) { vma.end() } else { vma.first().saturating_sub(pages) }),
            2 => self.dice.pick(&scene.holes).map(PageIndex::index),
            _ => None,
        };
        let first = first.unwrap_or_else(|| self.any_page().index()).min(ARENA_PAGES - pages);
        PageRange::new(first, pages).expect("in the arena")
    }

    fn resize(&mut self, scene: &Scene) -> Operation {
        let before_hole: Vec<PageIndex> = scene
            .mapped
            .iter()
            .copied()
            .filter(|page| PageIndex::new(page.index() + 1).is_ok_and(|next| scene.holes.contains(&next)))
            .collect();
        if self.dice.percent(60)
            && let Some(last) = self.dice.pick(&before_hole)
        {
            // To the end of its VMA, and on.
            let vma = self.model.vma_range(scene.actor, last).unwrap_or(PageRange::single(last));
            let first = last.index() - self.dice.below((last.index() - vma.first() + 1).min(3));
            let range = PageRange::new(first, vma.end() - first).expect("within the VMA");
            let room = (ARENA_PAGES - range.end()).min(3);
            let growth = if room == 0 { 0 } else { 1 + self.dice.below(room) };
            return Operation::MremapResize { range, pages: (range.pages() + growth) as u8 };
        }
        let range = self.range_of(&scene.mapped);
        let pages = match self.dice.weighted(&[60, 8, 26, 6]) {
            0 if range.pages() > 1 => 1 + self.dice.below(range.pages() - 1),
            0 | 2 => range.pages() + 1,
            1 => range.pages(),
            _ => 0,
        };
        Operation::MremapResize { range, pages: pages.min(ARENA_PAGES - range.first()) as u8 }
    }
}
