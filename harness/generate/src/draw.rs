//! Draws a program along the model's state.

mod live_stack;
mod remap;
mod scene;
mod userfault;

use proptest::prelude::Rng;
use ptediff_reference_model::arena::{ARENA_BASE, ARENA_PAGES, ActorId, PAGE_SIZE, PageIndex, PageRange};
use ptediff_reference_model::entry::{EntryKind, UFFD_WP};
use ptediff_reference_model::expectation::ExpectedFrame;
use ptediff_reference_model::kernel::Kernel;
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::model::{Mapping, Model};
use ptediff_reference_model::program::{
    Advice, FrameCount, MAX_FRAMES, Operation, Placement, Program, Protection, ShadowStackControl, ShadowStackFeatures,
    Step,
};
use ptediff_reference_model::uffd::{UffdFeatures, UffdId, UffdMode};

pub(crate) use scene::Scene;

use crate::dice::Dice;
use crate::keys;
use crate::profile::{Profile, Weights};
use crate::strategy::Options;

/// Probability, in percent, that an access follows at once where a step may have left a stale
/// translation.
const FOLLOW_UP: usize = 40;

/// The same in a program whose stores tell what it is about.
const FOLLOW_UP_OF_TRACKING: usize = 75;

/// Probability, in percent, that a step is drawn without a look at the state.
const SENSELESS: usize = 5;

/// Probability, in percent, that the actor of the step before acts again.
const SAME_ACTOR: usize = 45;

/// Probability, in percent, that one who was killed is asked for a step.
const DEAD: usize = 40;

/// Draws that may give an impossible step before a plain mmap is taken instead.
const ATTEMPTS: usize = 8;

/// Protections of new mappings with their weights.
const MMAP_PROTECTIONS: [(&str, u32); 8] =
    [("rw-", 50), ("rwx", 24), ("r--", 8), ("r-x", 8), ("---", 4), ("-w-", 3), ("-wx", 3), ("--x", 3)];

/// Protections of mprotect with their weights.
const MPROTECT_PROTECTIONS: [(&str, u32); 8] =
    [("rw-", 28), ("r--", 24), ("---", 13), ("rwx", 14), ("r-x", 15), ("-w-", 3), ("-wx", 3), ("--x", 4)];

/// Kinds of advice with their weights.
const ADVICE: [(Advice, u32); 11] = [
    (Advice::Cold, 10),
    (Advice::PopulateRead, 9),
    (Advice::PopulateWrite, 11),
    (Advice::WipeOnFork, 8),
    (Advice::KeepOnFork, 8),
    (Advice::DontFork, 8),
    (Advice::DoFork, 8),
    (Advice::Free, 12),
    (Advice::PageOut, 12),
    (Advice::Mergeable, 6),
    (Advice::Unmergeable, 3),
];

/// Draws one program.
pub(crate) fn draw(random: &mut impl Rng, machine: &Machine, options: &Options) -> Program {
    let mut dice = Dice(random);
    let (fewest, most) = options.bounds();
    let length = fewest + dice.below(most - fewest + 1);
    let profile = options.profile.unwrap_or_else(|| Profile::ALL[dice.weighted(&Profile::FREQUENCIES)]);
    let window = draw_window(&mut dice);
    let hoards = keys::hoards(machine, profile, length, &mut dice);
    let mut draft = Draft {
        dice,
        model: Model::new(machine),
        shadow_stack: machine.shadow_stack,
        protection_keys: machine.protection_keys,
        swap: machine.swap,
        swap_weight: match profile {
            Profile::Swap => 12,
            Profile::Tracking => 6,
            Profile::Userfault => 3,
            _ => 1,
        },
        merging: machine.merging,
        merge_weight: match profile {
            Profile::Merging => 12,
            Profile::Tracking => 5,
            Profile::Userfault => 2,
            _ => 1,
        },
        tracks: profile == Profile::Tracking,
        favours_keys: machine.protection_keys && profile == Profile::Keys,
        hoards,
        kernel: machine.kernel(),
        weights: profile.weights(),
        window,
        last_actor: ActorId::FIRST,
        suspect: None,
        program: Program { steps: Vec::with_capacity(length) },
    };
    // Once signals have killed everybody, a program need be no longer than it must.
    while draft.program.steps.len() < if draft.model.alive() == 0 { fewest } else { length } {
        let step = draft.step();
        draft.perform(step);
    }
    draft.program
}

/// The run of slots in which a program lives: few, so that its steps meet; sometimes many.
fn draw_window(dice: &mut Dice<'_, impl Rng>) -> PageRange {
    let pages = if dice.percent(93) { 2 + dice.below(9).min(dice.below(9)) } else { 11 + dice.below(ARENA_PAGES - 10) };
    let first = dice.below(ARENA_PAGES - pages + 1);
    PageRange::new(first, pages).expect("within the arena")
}

pub(crate) struct Draft<'a, R> {
    pub(crate) dice: Dice<'a, R>,
    pub(crate) model: Model,
    shadow_stack: bool,
    protection_keys: bool,
    /// Whether there is a swap file.
    swap: bool,
    /// How much more often than otherwise pages are put out to it.
    swap_weight: u32,
    /// Whether ksmd can be had to scan.
    merging: bool,
    /// How much more often than otherwise that is asked for.
    merge_weight: u32,
    /// Whether the program is about what takes RW away besides userfaultfd.
    tracks: bool,
    /// Whether the program is about keys above all.
    pub(crate) favours_keys: bool,
    /// Whether all keys are taken before anything else is done with them.
    hoards: bool,
    kernel: Kernel,
    weights: Weights,
    pub(crate) window: PageRange,
    last_actor: ActorId,
    /// Who may hold a stale translation of which page, or shared one until now.
    suspect: Option<(ActorId, PageIndex)>,
    pub(crate) program: Program,
}

impl<R: Rng> Draft<'_, R> {
    fn perform(&mut self, step: Step) {
        self.suspect = self.suspected_by(&step);
        self.model.step(self.program.steps.len(), &step);
        self.last_actor = step.actor;
        self.program.steps.push(step);
    }

    /// A populated page on which the step has an effect that only an access shows: its actor loses a
    /// permission, or another one is left alone with it.
    fn suspected_by(&mut self, step: &Step) -> Option<(ActorId, PageIndex)> {
        if let Operation::UffdRegister { uffd, range, .. }
        | Operation::UffdUnregister { uffd, range }
        | Operation::UffdWriteProtect { uffd, range, .. }
        | Operation::UffdCopy { uffd, range, .. }
        | Operation::UffdZeropage { uffd, range }
        | Operation::UffdWake { uffd, range } = step.operation
        {
            let owner = self.model.uffd_owner(uffd)?;
            let mapped: Vec<PageIndex> =
                range.slots().filter(|&page| self.model.mapping(owner, page).is_some()).collect();
            return self.dice.pick(&mapped).map(|page| (owner, page));
        }
        let range = match step.operation {
            Operation::Mremap { range, to, .. } => return self.moved(step.actor, range, to),
            Operation::Munmap { range }
            | Operation::MadviseDontneed { range }
            | Operation::Madvise { range, .. }
            | Operation::MremapResize { range, .. }
            | Operation::Mmap { range, placement: Placement::Fixed, .. }
            | Operation::MmapShared { range, placement: Placement::Fixed, .. }
            | Operation::Mprotect { range, .. }
            | Operation::PkeyMprotect { range, .. } => range,
            Operation::WritePkru { key, .. } => return self.guarded_by(step.actor, key),
            Operation::ClearSoftDirty | Operation::Fork { .. } | Operation::MergePages => self.window,
            Operation::Exit => return self.heir_of(step.actor),
            _ => return None,
        };
        let populated: Vec<PageIndex> =
            range.slots().filter(|&page| is_populated(&self.model, step.actor, page)).collect();
        self.dice.pick(&populated).map(|page| (step.actor, page))
    }

    /// Another actor with a page that it shares, perhaps, with the one that exits: its next write shows
    /// whether the page is reused.
    fn heir_of(&mut self, actor: ActorId) -> Option<(ActorId, PageIndex)> {
        let heirs: Vec<ActorId> =
            ActorId::all().filter(|&other| other != actor && self.model.is_alive(other)).collect();
        let heir = self.dice.pick(&heirs)?;
        let shared: Vec<PageIndex> = self
            .window
            .slots()
            .filter(|&page| {
                is_populated(&self.model, heir, page)
                    && self.model.entry(heir, page).frame == self.model.entry(actor, page).frame
            })
            .collect();
        self.dice.pick(&shared).map(|page| (heir, page))
    }

    /// Now and then, where there are mergeable pages, ksmd scans.
    fn merging_step(&mut self) -> Option<Step> {
        let step = Step { actor: self.last_actor, operation: Operation::MergePages };
        let percent = 3 * self.merge_weight as usize;
        (self.merging && self.model.is_possible(&step) && self.dice.percent(percent.min(15))).then_some(step)
    }

    fn step(&mut self) -> Step {
        if let Some(step) = self.merging_step() {
            return step;
        }
        if self.hoards
            && let Some(step) = self.hoarding_step()
            && self.model.is_possible(&step)
        {
            return step;
        }
        if let Some((actor, page)) = self.suspect
            && self.dice.percent(if self.tracks { FOLLOW_UP_OF_TRACKING } else { FOLLOW_UP })
            && !self.would_wait_alone()
        {
            let step = self.follow_up(actor, page);
            if !self.model.is_waiting(actor) && self.model.is_possible(&step) {
                return step;
            }
        }
        if let Some(step) = self.step_of_the_dead() {
            return step;
        }
        for _ in 0..ATTEMPTS {
            let actor = self.actor();
            if let Some(step) = self.about_waiting(actor).filter(|step| self.model.is_possible(step)) {
                return step;
            }
            let operation = if self.dice.percent(SENSELESS) { self.senseless() } else { self.sensible(actor) };
            let step = Step { actor, operation };
            if self.model.is_possible(&step) {
                return step;
            }
        }
        let actor = self.actor();
        let operation = if self.model.is_waiting(actor) { Operation::UffdFinish } else { self.mmap(self.window) };
        Step { actor, operation }
    }

    /// Now and then one who was killed is asked to do something all the same; always where nobody is alive.
    fn step_of_the_dead(&mut self) -> Option<Step> {
        let dead: Vec<ActorId> = ActorId::all().filter(|&actor| self.model.is_killed(actor)).collect();
        let alone = self.model.alive() == 0;
        let actor = self.dice.pick(&dead).filter(|_| alone || self.dice.percent(DEAD))?;
        let operation = if !alone && self.dice.percent(20) { Operation::Exit } else { self.senseless() };
        let step = Step { actor, operation };
        if self.model.is_possible(&step) {
            return Some(step);
        }
        alone.then_some(Step { actor, operation: Operation::Read { page: PageIndex::FIRST } })
    }

    fn actor(&mut self) -> ActorId {
        if self.model.is_alive(self.last_actor) && self.dice.percent(SAME_ACTOR) {
            return self.last_actor;
        }
        let living: Vec<ActorId> = ActorId::all().filter(|&actor| self.model.is_alive(actor)).collect();
        self.dice.pick(&living).expect("the last actor exits only in the last step")
    }

    /// The access that shows a stale translation: of the kind that was possible before.
    fn follow_up(&mut self, actor: ActorId, page: PageIndex) -> Step {
        if self.model.live_shadow_stack(actor).and_then(PageIndex::of_address) == Some(page) && self.dice.percent(60) {
            let operation = match self.dice.below(5) {
                0..2 => Operation::Call { frames: self.frames_to_call(actor) },
                2..4 => Operation::Return { frames: self.frames_to_return(actor) },
                _ => Operation::OverwriteReturn,
            };
            return Step { actor, operation };
        }
        let is_shadow_stack = self.model.mapping(actor, page).is_some_and(|mapping| mapping.shadow_stack);
        let weights = if is_shadow_stack { [4, 2, 2, 1, 1, 12] } else { [6, 12, 2, 1, 1, 0] };
        let operation = match self.dice.weighted(&weights) {
            0 => Operation::Read { page },
            1 => Operation::Write { page },
            2 => Operation::Execute { page },
            3 => Operation::ReadBySystemCall { page },
            4 => Operation::WriteBySystemCall { page },
            _ => Operation::WriteShadowStack { page },
        };
        Step { actor, operation }
    }

    /// Any operation anywhere in the arena.
    fn senseless(&mut self) -> Operation {
        let page = PageIndex::new(self.dice.below(ARENA_PAGES)).expect("a slot");
        let first = self.dice.below(ARENA_PAGES);
        let range = PageRange::new(first, 1 + self.dice.below((ARENA_PAGES - first).min(6))).expect("in the arena");
        match self.dice.below(20) {
            0 => self.mmap(range),
            1 => Operation::Munmap { range },
            2 => Operation::Read { page },
            3 => Operation::Write { page },
            4 => Operation::Execute { page },
            5 => self.mprotect(range),
            6 => Operation::MadviseDontneed { range },
            7 => Operation::MapShadowStack { range, token: self.dice.percent(50) },
            8 => self.madvise(range),
            9 => Operation::Mlock { range },
            10 => Operation::Munlock { range },
            11 => self.pkey_free_anything(),
            12 => self.pkey_mprotect_anything(range),
            13 => Operation::ReadBySystemCall { page },
            14 if self.dice.percent(50) => Operation::WriteProcMem { page },
            14 => Operation::WriteBySystemCall { page },
            15 => self.senseless_remap(range),
            16 => self.any_control(),
            17 if self.shadow_stack => Operation::EnterShadowStack { page },
            18 => self.mmap_shared(range),
            _ if self.shadow_stack => Operation::WriteShadowStack { page },
            _ => Operation::Read { page },
        }
    }

    fn sensible(&mut self, actor: ActorId) -> Operation {
        let scene = self.look_at(actor);
        let free: Vec<ActorId> = ActorId::all().filter(|&other| !self.model.is_taken(other)).collect();
        let alone = self.model.alive().count_ones() == 1;
        let mut weights = self.weights;
        let [
            mmap,
            munmap,
            read,
            write,
            execute,
            mprotect,
            fork,
            exit,
            dontneed,
            clear,
            map_stack,
            store_stack,
            advise,
            lock,
            unlock,
            remap,
            pkey_alloc,
            pkey_free,
            pkey_mprotect,
            write_pkru,
            by_system_call,
            enter,
            leave,
            call,
            back,
            discard,
            overwrite,
            control,
            status,
            map_shared,
            userfault,
            by_force,
        ] = &mut weights;
        let live = self.model.live_shadow_stack(actor);
        let ordinary = scene.mapped.len() > scene.shadow_stack.len();
        if scene.mapped.is_empty() {
            for weight in
                [&mut *munmap, read, write, execute, mprotect, fork, dontneed, clear, advise, lock, unlock, remap]
            {
                *weight = weight.div_ceil(12);
            }
            for weight in [&mut *pkey_mprotect, by_system_call, by_force] {
                *weight = weight.div_ceil(12);
            }
            *userfault = userfault.div_ceil(8);
            *mmap *= 3;
            *map_shared *= 3;
        }
        if !ordinary {
            *write = write.div_ceil(6);
            *mmap *= 2;
        }
        if scene.holes.len() < scene.mapped.len() {
            *mmap = mmap.div_ceil(2);
            *map_shared = map_shared.div_ceil(2);
        }
        if scene.populated.is_empty() {
            for weight in [&mut *fork, exit, clear, dontneed, mprotect, remap] {
                *weight = weight.div_ceil(3);
            }
            *write *= 2;
        }
        if scene.shadow_stack.is_empty() {
            *store_stack = store_stack.div_ceil(8);
        }
        if scene.holes.is_empty() {
            *map_stack = map_stack.div_ceil(4);
            *munmap *= 2;
        }
        if live.is_none() {
            let tried = u32::from(self.dice.percent(12));
            for weight in [&mut *leave, call, back, discard, overwrite] {
                *weight = tried;
            }
            if scene.tokens.is_empty() {
                *enter = enter.div_ceil(16);
            } else {
                *enter *= 7;
            }
        } else {
            for (weight, times) in [(&mut *call, 24), (back, 64), (discard, 82), (overwrite, 76), (leave, 10)] {
                *weight *= times;
            }
            *enter = enter.div_ceil(5);
            if !self.model.is_return_on_top(actor) {
                *back = back.div_ceil(6);
                *discard = discard.div_ceil(3);
                *overwrite = overwrite.div_ceil(3);
            }
        }
        if !self.shadow_stack {
            *store_stack = 0;
            *map_stack = map_stack.div_ceil(4);
            for weight in [&mut *enter, leave, call, back, discard, overwrite] {
                *weight = 0;
            }
            for weight in [&mut *control, status] {
                *weight = weight.div_ceil(2);
            }
        }
        if !self.protection_keys {
            *write_pkru = 0;
            for weight in [pkey_alloc, pkey_free, pkey_mprotect] {
                *weight = weight.div_ceil(4);
            }
        }
        if free.is_empty() {
            *fork = 0;
        }
        if alone {
            *exit = 0;
            if self.would_wait_alone() {
                // Somebody must be there to answer.
                *fork *= 60;
            }
        }
        if ActorId::all().any(|actor| self.model.is_waiting(actor)) {
            // Who could answer stays.
            *exit = exit.div_ceil(8);
        }
        if UffdId::all().any(|uffd| self.model.is_uffd_open(uffd)) {
            // What was begun is gone on with.
            *userfault *= 10;
        }
        if !scene.markers.is_empty() {
            for weight in [&mut *fork, mprotect, clear] {
                *weight *= 8;
            }
        } else if !scene.uffd_protected.is_empty() {
            for weight in [&mut *fork, mprotect, clear, write, read] {
                *weight *= 3;
            }
        }
        match self.dice.weighted(&weights) {
            0 => {
                let range = self.range_to_map(&scene);
                self.mmap(range)
            }
            1 => Operation::Munmap { range: self.range_of(&scene.mapped) },
            2 => Operation::Read {
                page: self.page(&[
                    (&scene.beyond, 6),
                    (&scene.unfaulted, 25),
                    (&scene.populated, 42),
                    (&scene.mapped, 23),
                ]),
            },
            3 => Operation::Write {
                page: self.page(&[
                    (&scene.unfaulted, 6),
                    (&scene.shared, 38),
                    (&scene.writable, 42),
                    (&scene.populated, 9),
                ]),
            },
            4 => Operation::Execute { page: self.page(&[(&scene.executable, 75), (&scene.populated, 22)]) },
            5 => {
                if !scene.notified.is_empty() && self.dice.percent(40) {
                    let protection = if self.dice.percent(50) { "rw-" } else { "rwx" };
                    let range = self.range_of(&scene.notified);
                    return Operation::Mprotect { range, protection: self::protection(protection) };
                }
                let range = self.range_of(&scene.mapped);
                self.mprotect(range)
            }
            6 => Operation::Fork { child: self.dice.pick(&free).expect("the weight is 0 without") },
            7 => Operation::Exit,
            8 => {
                let range = if self.dice.percent(60) && !scene.populated.is_empty() {
                    self.range_of(&scene.populated)
                } else {
                    self.range_of(&scene.mapped)
                };
                Operation::MadviseDontneed { range }
            }
            9 => Operation::ClearSoftDirty,
            10 => Operation::MapShadowStack { range: self.hole_run(&scene), token: self.dice.percent(70) },
            12 if self.tracks && self.dice.percent(85) => {
                let advice = match self.dice.weighted(&[8, 5, 5]) {
                    0 if self.swap => Advice::PageOut,
                    1 if self.merging => Advice::Mergeable,
                    _ => Advice::PopulateWrite,
                };
                let range = if advice == Advice::PageOut {
                    self.range_of(&scene.populated)
                } else {
                    self.range_of(&scene.mapped)
                };
                Operation::Madvise { range, advice }
            }
            12 if self.merging && self.merge_weight > 2 && self.dice.percent(75) => {
                // Pages of zeroes are equal, before they are written.
                let range = self.range_of(&scene.mapped);
                let advice = match self.dice.weighted(&[45, 40, 8]) {
                    0 => Advice::PopulateWrite,
                    1 => Advice::Mergeable,
                    _ => Advice::Unmergeable,
                };
                Operation::Madvise { range, advice }
            }
            12 if self.swap && self.swap_weight > 1 && !scene.populated.is_empty() && self.dice.percent(60) => {
                let range = self.range_of(&scene.populated);
                self.madvise(range)
            }
            12 if !scene.beyond.is_empty() && self.dice.percent(65) => {
                let advice = if self.dice.percent(50) { Advice::PopulateRead } else { Advice::PopulateWrite };
                let end = self.dice.pick(&scene.beyond).map_or(self.window.end(), |page| page.index() + 1);
                let pages = 1 + self.dice.below(end.min(3));
                Operation::Madvise { range: PageRange::new(end - pages, pages).expect("in the arena"), advice }
            }
            12 => {
                let range = if self.dice.percent(50) && !scene.populated.is_empty() {
                    self.range_of(&scene.populated)
                } else {
                    self.range_of(&scene.mapped)
                };
                self.madvise(range)
            }
            13 => Operation::Mlock { range: self.range_of(&scene.mapped) },
            14 => {
                let locked = if self.dice.percent(70) { &scene.locked } else { &scene.mapped };
                Operation::Munlock { range: self.range_of(if locked.is_empty() { &scene.mapped } else { locked }) }
            }
            15 => self.remap(&scene),
            16 => self.pkey_alloc(),
            17 => self.pkey_free(actor),
            18 => {
                let range = self.range_of(&scene.mapped);
                self.pkey_mprotect(actor, range)
            }
            19 => self.write_pkru(&scene),
            20 => {
                let page = self.page(&[(&scene.keyed, 30), (&scene.populated, 30), (&scene.mapped, 35)]);
                if self.dice.percent(45) {
                    Operation::ReadBySystemCall { page }
                } else {
                    Operation::WriteBySystemCall { page }
                }
            }
            21 => Operation::EnterShadowStack { page: self.page(&[(&scene.tokens, 88), (&scene.shadow_stack, 9)]) },
            22 => Operation::LeaveShadowStack,
            23 => Operation::Call { frames: self.frames_to_call(actor) },
            24 => Operation::Return { frames: self.frames_to_return(actor) },
            25 => Operation::DiscardFrames { frames: self.frames_to_return(actor) },
            26 => Operation::OverwriteReturn,
            27 => self.control(actor),
            28 => Operation::ShadowStackStatus,
            30 => self.userfault(&scene),
            31 => Operation::WriteProcMem {
                page: self.page(&[
                    (&scene.read_only, 45),
                    (&scene.shadow_stack, 10),
                    (&scene.populated, 20),
                    (&scene.mapped, 20),
                ]),
            },
            29 => {
                let range = self.range_to_map(&scene);
                self.mmap_shared(range)
            }
            _ => Operation::WriteShadowStack {
                page: self.page(&[(&scene.shared_shadow_stack, 45), (&scene.shadow_stack, 45), (&scene.mapped, 6)]),
            },
        }
    }

    /// A page from the group whose lot, in percent, is drawn, or from the first after it that has any; a
    /// page anywhere in the window for what is left of the lots.
    fn page(&mut self, groups: &[(&Vec<PageIndex>, usize)]) -> PageIndex {
        let mut lot = self.dice.below(100);
        let mut drawn = false;
        for &(pages, percent) in groups {
            drawn |= lot < percent;
            if drawn && let Some(page) = self.dice.pick(pages) {
                return page;
            }
            lot = lot.saturating_sub(percent);
        }
        self.any_page()
    }

    fn any_page(&mut self) -> PageIndex {
        PageIndex::new(self.window.first() + self.dice.below(self.window.pages())).expect("in the window")
    }

    /// A short range of the window that begins at one of the pages, or anywhere where there is none.
    fn range_from(&mut self, pages: &[PageIndex]) -> PageRange {
        let first = match self.dice.pick(pages) {
            Some(page) => page.index(),
            None => self.any_page().index(),
        };
        let room = self.window.end() - first;
        // A wide window is there for wide ranges.
        let weights = if self.window.pages() > 10 { [30, 20, 10, 40] } else { [40, 30, 20, 10] };
        let pages = match self.dice.weighted(&weights) {
            0 => 1,
            1 => 2,
            2 => 3 + self.dice.below(2),
            _ => 1 + self.dice.below(room),
        };
        PageRange::new(first, pages.min(room)).expect("in the window")
    }

    /// A short range that begins at one of the pages and, mostly, ends before the first slot that is none
    /// of them.
    fn range_of(&mut self, pages: &[PageIndex]) -> PageRange {
        let range = self.range_from(pages);
        if self.dice.percent(20) {
            return range;
        }
        let run = range.slots().take_while(|page| pages.contains(page)).count();
        PageRange::new(range.first(), run.max(1)).expect("in the window")
    }

    /// A run of holes, or a range that is taken where there is none (and now and then anyway).
    fn hole_run(&mut self, scene: &Scene) -> PageRange {
        let Some(first) = self.dice.pick(&scene.holes).filter(|_| !self.dice.percent(10)) else {
            return self.range_from(&scene.mapped);
        };
        let longest = 1 + self.dice.below(3);
        let run = (first.index()..self.window.end())
            .take(longest)
            .take_while(|&slot| PageIndex::new(slot).is_ok_and(|page| self.model.mapping(scene.actor, page).is_none()))
            .count();
        PageRange::new(first.index(), run.max(1)).expect("in the window")
    }

    pub(crate) fn mmap(&mut self, range: PageRange) -> Operation {
        let protection = self.execute_only().unwrap_or_else(|| self.protection(&MMAP_PROTECTIONS));
        Operation::Mmap { range, protection, placement: self.placement() }
    }

    fn mmap_shared(&mut self, range: PageRange) -> Operation {
        let protection = self.execute_only().unwrap_or_else(|| self.protection(&MMAP_PROTECTIONS));
        Operation::MmapShared { range, protection, placement: self.placement() }
    }

    fn placement(&mut self) -> Placement {
        if self.dice.percent(28) { Placement::FixedNoReplace } else { Placement::Fixed }
    }

    fn range_to_map(&mut self, scene: &Scene) -> PageRange {
        if self.dice.percent(60) { self.range_from(&scene.holes) } else { self.range_from(&[]) }
    }

    fn mprotect(&mut self, range: PageRange) -> Operation {
        Operation::Mprotect { range, protection: self.mprotect_protection() }
    }

    pub(crate) fn mprotect_protection(&mut self) -> Protection {
        self.execute_only().unwrap_or_else(|| self.protection(&MPROTECT_PROTECTIONS))
    }

    fn madvise(&mut self, range: PageRange) -> Operation {
        let mut weights = ADVICE.map(|(_, weight)| weight);
        weights[8] = if self.swap { weights[8] * self.swap_weight } else { 0 };
        weights[9] = if self.merging { weights[9] * self.merge_weight } else { 0 };
        weights[10] = if self.merging { weights[10] * self.merge_weight } else { 0 };
        Operation::Madvise { range, advice: ADVICE[self.dice.weighted(&weights)].0 }
    }

    fn protection(&mut self, choices: &[(&str, u32); 8]) -> Protection {
        let weights = choices.map(|(_, weight)| weight);
        protection(choices[self.dice.weighted(&weights)].0)
    }
}

/// The protection that the text stands for.
fn protection(text: &str) -> Protection {
    let bits = text.bytes().map(|letter| match letter {
        b'r' => 1,
        b'w' => 2,
        b'x' => 4,
        _ => 0,
    });
    Protection::from_bits(bits.sum()).expect("three letters")
}

fn is_populated(model: &Model, actor: ActorId, page: PageIndex) -> bool {
    model.entry(actor, page).bits.kind() != EntryKind::None
}
