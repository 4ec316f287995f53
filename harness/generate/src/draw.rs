//! Draws a program along the model's state.

mod remap;

use proptest::prelude::Rng;
use ptediff_reference_model::arena::{ARENA_BASE, ARENA_PAGES, ActorId, PAGE_SIZE, PageIndex, PageRange};
use ptediff_reference_model::entry::{EntryKind, UFFD_WP};
use ptediff_reference_model::expectation::ExpectedFrame;
use ptediff_reference_model::machine::{Dialect, Machine};
use ptediff_reference_model::model::{Mapping, Model};
use ptediff_reference_model::program::{
    Advice, FrameCount, MAX_FRAMES, Operation, Placement, Program, Protection, ShadowStackControl, ShadowStackFeatures,
    Step,
};
use ptediff_reference_model::uffd::{UffdFeatures, UffdId, UffdMode};

use crate::dice::Dice;
use crate::keys;
use crate::profile::{Profile, Weights};
use crate::strategy::Options;

/// Probability, in percent, that an access follows at once where a step may have left a stale
/// translation.
const FOLLOW_UP: usize = 40;

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
const ADVICE: [(Advice, u32); 8] = [
    (Advice::Cold, 10),
    (Advice::PopulateRead, 9),
    (Advice::PopulateWrite, 11),
    (Advice::WipeOnFork, 8),
    (Advice::KeepOnFork, 8),
    (Advice::DontFork, 8),
    (Advice::DoFork, 8),
    (Advice::Free, 12),
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
        favours_keys: machine.protection_keys && profile == Profile::Keys,
        hoards,
        dialect: machine.dialect,
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
    /// Whether the program is about keys above all.
    pub(crate) favours_keys: bool,
    /// Whether all keys are taken before anything else is done with them.
    hoards: bool,
    dialect: Dialect,
    weights: Weights,
    pub(crate) window: PageRange,
    last_actor: ActorId,
    /// Who may hold a stale translation of which page, or shared one until now.
    suspect: Option<(ActorId, PageIndex)>,
    pub(crate) program: Program,
}

/// What one actor's window looks like.
pub(crate) struct Scene {
    pub(crate) actor: ActorId,
    holes: Vec<PageIndex>,
    mapped: Vec<PageIndex>,
    writable: Vec<PageIndex>,
    executable: Vec<PageIndex>,
    shadow_stack: Vec<PageIndex>,
    locked: Vec<PageIndex>,
    populated: Vec<PageIndex>,
    /// Pages with another protection key than 0.
    pub(crate) keyed: Vec<PageIndex>,
    /// Ordinary pages that no userfaultfd has.
    unregistered: Vec<PageIndex>,
    /// Pages that one has.
    registered: Vec<PageIndex>,
    /// Those of them that can be write-protected.
    uffd_wp: Vec<PageIndex>,
    /// Those that are.
    uffd_protected: Vec<PageIndex>,
    /// Those of them whose entry is a marker.
    markers: Vec<PageIndex>,
    /// Registered pages whose entry is empty or a marker.
    fillable: Vec<PageIndex>,
    /// Ordinary pages whose frame another entry maps too.
    shared: Vec<PageIndex>,
    /// The same of shadow stacks.
    shared_shadow_stack: Vec<PageIndex>,
    /// Pages with a restore token at their end.
    tokens: Vec<PageIndex>,
    /// Pages of a shared mapping that are there, but not in this actor's page table.
    unfaulted: Vec<PageIndex>,
    /// Populated pages of a shared mapping whose soft-dirty bits are tracked.
    notified: Vec<PageIndex>,
    /// Pages of a shared mapping that mremap made longer than its object.
    beyond: Vec<PageIndex>,
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
            Operation::ClearSoftDirty | Operation::Fork { .. } => self.window,
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

    fn step(&mut self) -> Step {
        if self.hoards
            && let Some(step) = self.hoarding_step()
            && self.model.is_possible(&step)
        {
            return step;
        }
        if let Some((actor, page)) = self.suspect
            && self.dice.percent(FOLLOW_UP)
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

    /// What is done about an access that waits: its actor finishes, or the actor at hand answers.
    fn about_waiting(&mut self, actor: ActorId) -> Option<Step> {
        if self.model.is_waiting(actor) {
            let percent = if self.model.has_finished(actor) { 90 } else { 10 };
            return self.dice.percent(percent).then_some(Step { actor, operation: Operation::UffdFinish });
        }
        let waits =
            UffdId::all().any(|uffd| self.model.uffd_owner(uffd) == Some(actor) && self.model.is_waited_for(uffd));
        if waits && !self.would_wait_alone() && self.dice.percent(45) {
            let scene = self.look_at(actor);
            let empty = if self.dice.percent(50) { &scene.fillable } else { &scene.uffd_protected };
            if let Some(page) = self.dice.pick(empty) {
                let store = self.dice.percent(75);
                let operation = if store { Operation::Write { page } } else { Operation::Read { page } };
                return Some(Step { actor, operation });
            }
        }
        let waiting: Vec<ActorId> = ActorId::all().filter(|&other| self.model.is_waiting(other)).collect();
        let other = self.dice.pick(&waiting).filter(|_| self.dice.percent(75))?;
        if self.model.has_finished(other) {
            return Some(Step { actor: other, operation: Operation::UffdFinish });
        }
        let (uffd, page) = self.model.waits_for(other)?;
        let range = if self.dice.percent(75) { PageRange::single(page) } else { self.range_from(&[page]) };
        let operation = match self.dice.weighted(&[6, 4, 6, 2, 2, 2]) {
            0 => Operation::UffdCopy { uffd, range, protect: self.dice.percent(25) },
            1 => Operation::UffdZeropage { uffd, range },
            2 => Operation::UffdWriteProtect { uffd, range, protect: false },
            3 => Operation::UffdWake { uffd, range },
            4 => Operation::UffdUnregister { uffd, range },
            _ => Operation::UffdClose { uffd },
        };
        Some(Step { actor, operation })
    }

    /// Whether an access might wait and nobody be there to answer.
    fn would_wait_alone(&self) -> bool {
        ActorId::all().filter(|&actor| self.model.is_alive(actor)).count() == 1
            && UffdId::all().any(|uffd| self.model.is_waited_for(uffd))
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
        ] = &mut weights;
        let live = self.model.live_shadow_stack(actor);
        let ordinary = scene.mapped.len() > scene.shadow_stack.len();
        if scene.mapped.is_empty() {
            for weight in
                [&mut *munmap, read, write, execute, mprotect, fork, dontneed, clear, advise, lock, unlock, remap]
            {
                *weight = weight.div_ceil(12);
            }
            for weight in [&mut *pkey_mprotect, by_system_call] {
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
            29 => {
                let range = self.range_to_map(&scene);
                self.mmap_shared(range)
            }
            _ => Operation::WriteShadowStack {
                page: self.page(&[(&scene.shared_shadow_stack, 45), (&scene.shadow_stack, 45), (&scene.mapped, 6)]),
            },
        }
    }

    /// An operation on a descriptor that is open, mostly, or the opening of one. The scene is the actor's.
    fn userfault(&mut self, scene: &Scene) -> Operation {
        let open: Vec<UffdId> = UffdId::all().filter(|&uffd| self.model.uffd_owner(uffd).is_some()).collect();
        let own: Vec<UffdId> =
            open.iter().copied().filter(|&uffd| self.model.uffd_owner(uffd) == Some(scene.actor)).collect();
        let orphans: Vec<UffdId> = UffdId::all()
            .filter(|&uffd| self.model.is_uffd_open(uffd) && self.model.uffd_owner(uffd).is_none())
            .collect();
        if let Some(orphan) = self.dice.pick(&orphans).filter(|_| self.dice.percent(75)) {
            return match self.dice.weighted(&[3, 2, 2, 2, 1]) {
                0 => Operation::UffdRegister { uffd: orphan, range: self.window, mode: UffdMode::Both },
                1 => Operation::UffdUnregister { uffd: orphan, range: self.window },
                2 => Operation::UffdWriteProtect { uffd: orphan, range: self.window, protect: true },
                3 => Operation::UffdCopy { uffd: orphan, range: self.fill_range(scene), protect: false },
                _ => Operation::UffdZeropage { uffd: orphan, range: self.fill_range(scene) },
            };
        }
        if own.len() == 1 && !scene.registered.is_empty() && self.dice.percent(12) {
            let closed: Vec<UffdId> = UffdId::all().filter(|&uffd| !self.model.is_uffd_open(uffd)).collect();
            if let Some(uffd) = self.dice.pick(&closed) {
                return self.uffd_open(uffd);
            }
        }
        if own.len() > 1 && !scene.registered.is_empty() && self.dice.percent(35) {
            let uffd = self.dice.pick(&own).expect("there are two");
            let range = self.range_of(&scene.registered);
            let range = self.spare_shadow_stacks(range, scene);
            return if self.dice.percent(50) {
                Operation::UffdRegister { uffd, range, mode: UffdMode::Both }
            } else {
                Operation::UffdUnregister { uffd, range }
            };
        }
        let preferred = if own.is_empty() || self.dice.percent(12) { &open } else { &own };
        let uffd = self.dice.pick(preferred).filter(|_| !self.dice.percent(2));
        let Some(uffd) = uffd else {
            let closed: Vec<UffdId> = UffdId::all().filter(|&uffd| !self.model.is_uffd_open(uffd)).collect();
            return match self.dice.pick(&closed) {
                Some(uffd) if self.dice.percent(6) => self.on_uffd(uffd, scene),
                Some(uffd) => self.uffd_open(uffd),
                None => self.uffd_open(UffdId::FIRST),
            };
        };
        let owner = self.model.uffd_owner(uffd).expect("picked among those that have one");
        let theirs = self.look_at(owner);
        self.on_uffd(uffd, &theirs)
    }

    fn uffd_open(&mut self, uffd: UffdId) -> Operation {
        let newer = if self.dialect == Dialect::Linux6_1 { 4 } else { 42 };
        // Without SIGBUS faults wait, and somebody else must be there to answer.
        let others = ActorId::all().filter(|&actor| self.model.is_alive(actor)).count() > 1;
        let waits = self.dice.percent(if others { 75 } else { 35 });
        let mut features = if waits { UffdFeatures::NONE } else { UffdFeatures::SIGBUS };
        for (feature, percent) in [
            (UffdFeatures::WP_UNPOPULATED, newer),
            (UffdFeatures::WP_ASYNC, newer),
            (UffdFeatures::EVENT_FORK, 50),
            (UffdFeatures::PAGEFAULT_FLAG_WP, 15),
        ] {
            if self.dice.percent(percent) {
                features = features.with(feature);
            }
        }
        Operation::UffdOpen { uffd, features }
    }

    /// An operation on the descriptor, which acts on the memory of the scene.
    fn on_uffd(&mut self, uffd: UffdId, scene: &Scene) -> Operation {
        let any = |pages: &Vec<PageIndex>, weight: u32| if pages.is_empty() { 1 } else { weight };
        let has_empty = scene.uffd_wp.iter().any(|page| !scene.populated.contains(page));
        let weights = [
            any(&scene.unregistered, 24)
                + if scene.uffd_protected.is_empty() { 0 } else { 14 }
                + if scene.markers.is_empty() { 0 } else { 200 },
            any(&scene.registered, 13),
            any(&scene.uffd_wp, 100) + if has_empty { 120 } else { 0 },
            any(&scene.uffd_protected, 40),
            any(&scene.fillable, 175),
            any(&scene.fillable, 175),
            if scene.registered.is_empty() { 2 } else { 9 },
            3,
            any(&scene.registered, 16),
        ];
        match self.dice.weighted(&weights) {
            0 => {
                let pages = match self.dice.weighted(&[7, 2, 2]) {
                    0 => &scene.unregistered,
                    1 => &scene.registered,
                    _ => &scene.mapped,
                };
                let mut range = self.range_of(pages);
                let mut mode = UffdMode::ALL[self.dice.weighted(&[4, 7, 4])];
                if !scene.uffd_protected.is_empty() && self.dice.percent(if scene.markers.is_empty() { 40 } else { 90 })
                {
                    // Another mode leaves the protection in the entries.
                    let left = if scene.markers.is_empty() { &scene.uffd_protected } else { &scene.markers };
                    (range, mode) = (self.range_of(left), UffdMode::Missing);
                }
                Operation::UffdRegister { uffd, range: self.spare_shadow_stacks(range, scene), mode }
            }
            1 => {
                let range = self.range_of(&scene.registered);
                Operation::UffdUnregister { uffd, range: self.spare_shadow_stacks(range, scene) }
            }
            choice @ (2 | 3) => {
                let protect = choice == 2;
                let populated = scene.uffd_wp.iter().copied().filter(|page| scene.populated.contains(page)).collect();
                let empty = scene.uffd_wp.iter().copied().filter(|page| !scene.populated.contains(page)).collect();
                let pages = match (protect, self.dice.weighted(&[4, 7, 1])) {
                    (true, 0) => &populated,
                    (true, 1) => &empty,
                    (false, 0..=1) | (true, _) => &scene.uffd_protected,
                    (false, _) => &scene.uffd_wp,
                };
                let pages = if pages.is_empty() { &scene.uffd_wp } else { pages };
                Operation::UffdWriteProtect { uffd, range: self.range_of(pages), protect }
            }
            4 => {
                let range = self.fill_range(scene);
                let protectable = range.slots().all(|page| scene.uffd_wp.contains(&page));
                let protect = self.dice.percent(if protectable { 50 } else { 12 });
                Operation::UffdCopy { uffd, range, protect }
            }
            5 => Operation::UffdZeropage { uffd, range: self.fill_range(scene) },
            6 => Operation::UffdClose { uffd },
            7 => self.uffd_open(uffd),
            _ => Operation::UffdWake { uffd, range: self.range_of(&scene.registered) },
        }
    }

    /// A range to be filled: of empty entries, one page as often as not, for one VMA must hold it.
    fn fill_range(&mut self, scene: &Scene) -> PageRange {
        match (self.dice.pick(&scene.fillable), self.dice.weighted(&[6, 3, 2])) {
            (Some(page), 0) => PageRange::single(page),
            // Beyond what is empty, perhaps.
            (Some(page), 1) => PageRange::new(page.index(), 2 + self.dice.below(2)).unwrap_or(PageRange::single(page)),
            _ => self.range_of(&scene.fillable),
        }
    }

    /// The range, mostly without a shadow stack in it: 6.12.95 registers it (CVE-2026-68166), so that the program
    /// would end there.
    fn spare_shadow_stacks(&mut self, range: PageRange, scene: &Scene) -> PageRange {
        if self.dice.percent(7) {
            return range;
        }
        let run = range.slots().take_while(|page| !scene.shadow_stack.contains(page)).count();
        match (PageRange::new(range.first(), run), self.dice.pick(&scene.holes)) {
            (Ok(range), _) => range,
            (Err(_), Some(hole)) => PageRange::single(hole),
            // A window of nothing but shadow stacks; the first page of the arena is seldom in it.
            (Err(_), None) => PageRange::FIRST_PAGE,
        }
    }

    fn look_at(&self, actor: ActorId) -> Scene {
        let mut scene = Scene {
            actor,
            holes: Vec::new(),
            mapped: Vec::new(),
            writable: Vec::new(),
            executable: Vec::new(),
            shadow_stack: Vec::new(),
            locked: Vec::new(),
            populated: Vec::new(),
            keyed: Vec::new(),
            unregistered: Vec::new(),
            registered: Vec::new(),
            uffd_wp: Vec::new(),
            uffd_protected: Vec::new(),
            markers: Vec::new(),
            fillable: Vec::new(),
            shared: Vec::new(),
            shared_shadow_stack: Vec::new(),
            tokens: Vec::new(),
            unfaulted: Vec::new(),
            notified: Vec::new(),
            beyond: Vec::new(),
        };
        for page in self.window.slots() {
            let Some(mapping) = self.model.mapping(actor, page) else {
                scene.holes.push(page);
                continue;
            };
            let Mapping { protection, shadow_stack, soft_dirty, locked, key, shared, uffd_missing, uffd_wp } = mapping;
            scene.mapped.push(page);
            if key != 0 {
                scene.keyed.push(page);
            }
            let entry = self.model.entry(actor, page).bits;
            if uffd_missing || uffd_wp {
                scene.registered.push(page);
                if !entry.is_present() {
                    scene.fillable.push(page);
                }
            } else if !shadow_stack {
                scene.unregistered.push(page);
            }
            if uffd_wp {
                scene.uffd_wp.push(page);
                if entry.marker().is_some() {
                    scene.markers.push(page);
                }
                if entry.has(UFFD_WP) {
                    scene.uffd_protected.push(page);
                }
            }
            if locked {
                scene.locked.push(page);
            }
            if shadow_stack {
                scene.shadow_stack.push(page);
                if self.model.has_restore_token(actor, page) {
                    scene.tokens.push(page);
                }
            } else if protection.contains(Protection::WRITE) {
                scene.writable.push(page);
            }
            if protection.contains(Protection::EXECUTE) {
                scene.executable.push(page);
            }
            if self.model.is_beyond_object(actor, page) {
                scene.beyond.push(page);
            }
            if self.model.waits_in_object(actor, page) {
                scene.unfaulted.push(page);
            }
            if is_populated(&self.model, actor, page) {
                scene.populated.push(page);
                if shared && !soft_dirty {
                    scene.notified.push(page);
                }
                if let ExpectedFrame::Frame(frame) = self.model.entry(actor, page).frame
                    && self.model.mapcount(frame) > 1
                {
                    if shadow_stack { &mut scene.shared_shadow_stack } else { &mut scene.shared }.push(page);
                }
            }
        }
        scene
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
        let weights = ADVICE.map(|(_, weight)| weight);
        Operation::Madvise { range, advice: ADVICE[self.dice.weighted(&weights)].0 }
    }

    /// Frames to push: a few, or as many as lead onto the page below, where that is a shadow stack (and now and
    /// then anyway).
    fn frames_to_call(&mut self, actor: ActorId) -> FrameCount {
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
    fn frames_to_return(&mut self, actor: ActorId) -> FrameCount {
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

    fn control(&mut self, actor: ActorId) -> Operation {
        let (on, locked) = self.model.shadow_stack_features(actor);
        if locked == 0 && on < 3 && self.dice.percent(60) {
            let features = if on == 0 { ShadowStackFeatures::SHADOW_STACK } else { ShadowStackFeatures::WRSS };
            let features = if self.dice.percent(50) { ShadowStackFeatures::WRSS } else { features };
            return Operation::ControlShadowStack { control: ShadowStackControl::Enable, features };
        }
        self.any_control()
    }

    fn any_control(&mut self) -> Operation {
        let control = ShadowStackControl::ALL[self.dice.weighted(&[23, 30, 20, 27])];
        let features = [1, 2, 0, 3, 4][self.dice.weighted(&[32, 46, 6, 8, 8])];
        let features = ShadowStackFeatures::try_from(features).expect("features that programs may name");
        Operation::ControlShadowStack { control, features }
    }

    fn protection(&mut self, choices: &[(&str, u32); 8]) -> Protection {
        let weights = choices.map(|(_, weight)| weight);
        protection(choices[self.dice.weighted(&weights)].0)
    }
}

/// Bytes of a frame on a shadow stack.
const FRAME: u64 = 8;

/// Frames that fill a page.
const FRAMES_OF_PAGE: usize = (PAGE_SIZE / FRAME) as usize;

/// As many frames, or as an operation takes.
fn frames(count: usize) -> FrameCount {
    let count = u16::try_from(count).unwrap_or(MAX_FRAMES).clamp(1, MAX_FRAMES);
    FrameCount::try_from(count).expect("within the bounds")
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
