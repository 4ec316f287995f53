//! Draws the operations about protection keys.

use proptest::prelude::Rng;
use ptediff_reference_model::arena::{ActorId, PageIndex, PageRange};
use ptediff_reference_model::machine::Machine;
use ptediff_reference_model::program::{Operation, Placement, Protection, Step};
use ptediff_reference_model::protection_key::{KEYS, KeyArgument, KeyRights, ProtectionKey};

use crate::dice::Dice;
use crate::draw::{Draft, Scene};
use crate::profile::Profile;

/// Rights of new keys with their weights.
const INITIAL_RIGHTS: [(KeyRights, u32); 4] = [
    (KeyRights::Allow, 45),
    (KeyRights::DisableWrite, 25),
    (KeyRights::DisableAccess, 22),
    (KeyRights::DisableBoth, 8),
];

/// Rights that WRPKRU gives, with their weights.
const LATER_RIGHTS: [(KeyRights, u32); 4] = [
    (KeyRights::Allow, 40),
    (KeyRights::DisableWrite, 28),
    (KeyRights::DisableAccess, 22),
    (KeyRights::DisableBoth, 10),
];

/// Steps without which a program cannot take all keys and then try for more: a mapping, 15 keys, two trials.
const HOARDING_STEPS: usize = 18;

/// Whether a program takes all keys first. Short programs cannot.
pub(crate) fn hoards(machine: &Machine, profile: Profile, length: usize, dice: &mut Dice<'_, impl Rng>) -> bool {
    machine.protection_keys && profile == Profile::Keys && length >= HOARDING_STEPS && dice.percent(50)
}

impl<R: Rng> Draft<'_, R> {
    /// The next step of a program that takes all keys, or none when it shall go on as any other.
    pub(crate) fn hoarding_step(&mut self) -> Option<Step> {
        let actor = ActorId::FIRST;
        let step = |operation| Some(Step { actor, operation });
        if !self.model.is_alive(actor) {
            return None;
        }
        if self.program.steps.is_empty() {
            return step(self.mmap(self.window));
        }
        if self.model.keys(actor).allocated != u16::MAX {
            return step(self.pkey_alloc());
        }
        match self.dice.weighted(&[30, 20, 20, 30]) {
            0 => step(self.pkey_alloc()),
            1 => step(Operation::Mprotect { range: self.window, protection: Protection::EXECUTE }),
            2 => {
                let placement = Placement::Fixed;
                step(Operation::Mmap { range: self.window, protection: Protection::EXECUTE, placement })
            }
            _ => None,
        }
    }

    pub(crate) fn pkey_alloc(&mut self) -> Operation {
        Operation::PkeyAlloc { rights: self.rights(&INITIAL_RIGHTS) }
    }

    /// Frees a key that is allocated, mostly. Where there is none one is allocated instead, mostly.
    pub(crate) fn pkey_free(&mut self, actor: ActorId) -> Operation {
        let allocated = self.allocated(actor);
        match self.dice.pick(&allocated) {
            Some(key) if self.dice.percent(94) => Operation::PkeyFree { key },
            None if self.dice.percent(70) => self.pkey_alloc(),
            _ => self.pkey_free_anything(),
        }
    }

    pub(crate) fn pkey_free_anything(&mut self) -> Operation {
        Operation::PkeyFree { key: self.low_key() }
    }

    /// `pkey_mprotect`, mostly with a key that is allocated. Where there is none one is allocated instead.
    pub(crate) fn pkey_mprotect(&mut self, actor: ActorId, range: PageRange) -> Operation {
        let allocated = self.allocated(actor);
        let key = match self.dice.weighted(&[74, 8, 10, 8]) {
            0 => match self.dice.pick(&allocated) {
                Some(key) => KeyArgument::new(key.number() as i8).expect("a key"),
                None => return self.pkey_alloc(),
            },
            1 => KeyArgument::DEFAULT,
            2 => KeyArgument::NONE,
            _ => return self.pkey_mprotect_anything(range),
        };
        Operation::PkeyMprotect { range, protection: self.mprotect_protection(), key }
    }

    pub(crate) fn pkey_mprotect_anything(&mut self, range: PageRange) -> Operation {
        let key = KeyArgument::new(self.low_key().number() as i8).expect("a key");
        Operation::PkeyMprotect { range, protection: self.mprotect_protection(), key }
    }

    /// Other rights for a key that the actor's pages have, mostly; or for one that is allocated.
    pub(crate) fn write_pkru(&mut self, scene: &Scene) -> Operation {
        let on_page = self.dice.pick(&scene.keyed).and_then(|page| self.model.mapping(scene.actor, page));
        let used = on_page.and_then(|mapping| ProtectionKey::new(mapping.key).ok());
        let allocated = self.allocated(scene.actor);
        let execute_only = self.model.keys(scene.actor).execute_only.and_then(|key| ProtectionKey::new(key).ok());
        if let Some(key) = execute_only
            && self.dice.percent(55)
        {
            return Operation::WritePkru { key, rights: self.rights(&LATER_RIGHTS) };
        }
        let key = match self.dice.weighted(&[80, 12, 8]) {
            0 => used.or_else(|| self.dice.pick(&allocated)),
            1 => self.dice.pick(&allocated),
            _ => None,
        };
        let rights = self.rights(&LATER_RIGHTS);
        Operation::WritePkru { key: key.unwrap_or_else(|| self.low_key()), rights }
    }

    /// A page of the actor with this key.
    pub(crate) fn guarded_by(&mut self, actor: ActorId, key: ProtectionKey) -> Option<(ActorId, PageIndex)> {
        let has_it = |mapping: ptediff_reference_model::model::Mapping| mapping.key == key.number();
        let pages: Vec<PageIndex> =
            self.window.slots().filter(|&page| self.model.mapping(actor, page).is_some_and(has_it)).collect();
        self.dice.pick(&pages).map(|page| (actor, page))
    }

    /// PROT_EXEC alone, now and then, where programs favour keys: it takes one. More often where an actor has made
    /// itself access to the key of such mappings: it loses it then.
    pub(crate) fn execute_only(&mut self) -> Option<Protection> {
        let is_open = ActorId::all().filter(|&actor| self.model.is_alive(actor)).any(|actor| {
            let keys = self.model.keys(actor);
            keys.execute_only.is_some_and(|key| !KeyRights::of(keys.pkru, key).refuse(false))
        });
        let percent = if is_open { 85 } else { 17 };
        (self.favours_keys && self.dice.percent(percent)).then_some(Protection::EXECUTE)
    }

    fn allocated(&self, actor: ActorId) -> Vec<ProtectionKey> {
        let keys = self.model.keys(actor);
        (1..KEYS).filter(|&key| keys.is_allocated(key)).filter_map(|key| ProtectionKey::new(key).ok()).collect()
    }

    /// Any key, but mostly one of those that are given out first.
    fn low_key(&mut self) -> ProtectionKey {
        let bound = if self.dice.percent(80) { 3 } else { usize::from(KEYS) - 1 };
        ProtectionKey::new(1 + self.dice.below(bound) as u8).expect("below 16")
    }

    fn rights(&mut self, choices: &[(KeyRights, u32); 4]) -> KeyRights {
        choices[self.dice.weighted(&choices.map(|(_, weight)| weight))].0
    }
}
