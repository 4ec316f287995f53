//! Operations on userfaultfds, and what is done about accesses that wait for one.

use ptediff_reference_model::kernel::Change;

use super::*;

impl<R: Rng> Draft<'_, R> {
    /// What is done about an access that waits: its actor finishes, or the actor at hand answers.
    pub(super) fn about_waiting(&mut self, actor: ActorId) -> Option<Step> {
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
    pub(super) fn would_wait_alone(&self) -> bool {
        ActorId::all().filter(|&actor| self.model.is_alive(actor)).count() == 1
            && UffdId::all().any(|uffd| self.model.is_waited_for(uffd))
    }

    /// An operation on a descriptor that is open, mostly, or the opening of one. The scene is the actor's.
    pub(super) fn userfault(&mut self, scene: &Scene) -> Operation {
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
        let newer = if self.kernel.has(Change::UffdWpAsync) { 42 } else { 4 };
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
}
