//! Actors that run on a shadow stack of the arena: the instructions that move SSP and push and pop there,
//! the frames that signals leave there, and the features that `arch_prctl` turns on and off.
//!
//! Where the actor runs on its own shadow stack, which lies outside the arena, nothing of all this touches
//! the arena, and the instructions are not tried.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Model;
use super::fault::Access;
use crate::arena::{ARENA_PAGES, ActorId, PAGE_SIZE, PageIndex, RESTORER_SITE, RETURN_SITE};
use crate::expectation::ExpectedFrame;
use crate::kernel::Change;
use crate::mutation::Output;
use crate::outcome::{Fault, Outcome};
use crate::program::{FrameCount, Operation, Protection, ShadowStackControl, ShadowStackFeatures, Step, store_value};
use crate::rule::Rule;

const SIGILL: u8 = 4;
const SIGSEGV: u8 = 11;
const ILL_ILLOPN: i32 = 2;
const SEGV_MAPERR: i32 = 1;
const SEGV_CPERR: i32 = 10;
/// `SI_KERNEL`: the signal that `signal_fault` sends.
const SI_KERNEL: i32 = 128;

/// Error codes of #CP (SDM 3A 6.15, interrupt 21).
const NEAR_RETURN: u32 = 1;
const RSTORSSP: u32 = 4;

const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;

/// `SHSTK_DATA_BIT`: what the kernel pushes for a signal is no return address.
const DATA_BIT: u64 = 1 << 63;

/// Bytes of a frame on a shadow stack.
const FRAME: u64 = 8;

/// Most frames that one INCSSP discards.
const INCSSP_MOST: u16 = 255;

/// What a step that came to nothing says: which rule, which fault.
type Refused = (Rule, Fault);

/// `thread.features`, `thread.features_locked` and SSP of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thread {
    features: u8,
    locked: u8,
    /// SSP where it lies in the arena; `None` on a stack outside, and without one.
    pub(super) ssp: Option<u64>,
}

impl Thread {
    /// As the executor prepares actors: shadow stack and WRSS on, on a stack outside the arena.
    pub(super) fn prepared(shadow_stack: bool) -> Self {
        let on = ShadowStackFeatures::SHADOW_STACK.bits() | ShadowStackFeatures::WRSS.bits();
        Self { features: if shadow_stack { on } else { 0 }, locked: 0, ssp: None }
    }

    fn has(self, features: ShadowStackFeatures) -> bool {
        self.features & features.bits() != 0
    }

    /// Whether WRSS is an instruction for this actor.
    pub(super) fn may_store(self) -> bool {
        self.has(ShadowStackFeatures::WRSS)
    }
}

/// The words of frames beyond the first, which [`super::Frame`] has: only shadow-stack stores write there.
#[derive(Debug, Clone, Default)]
pub(super) struct Words(BTreeMap<u32, Arc<[u64; (PAGE_SIZE / FRAME) as usize]>>);

impl Words {
    /// The frame `to` is a copy of `from`.
    pub(super) fn copy(&mut self, from: u32, to: u32) {
        if let Some(words) = self.0.get(&from).cloned() {
            self.0.insert(to, words);
        }
    }

    fn get(&self, frame: u32, index: usize) -> u64 {
        self.0.get(&frame).map_or(0, |words| words[index])
    }

    fn set(&mut self, frame: u32, index: usize, value: u64) {
        let words = self.0.entry(frame).or_insert_with(|| Arc::new([0; (PAGE_SIZE / FRAME) as usize]));
        Arc::make_mut(words)[index] = value;
    }
}

/// An instruction that the CPU does not know, or has been told not to: #UD. Its address is its own.
pub(super) const UNDEFINED: Fault = Fault { signal: SIGILL, code: ILL_ILLOPN, address: 0, error_code: 0, key: 0 };

fn control_protection(error_code: u32) -> Fault {
    Fault { signal: SIGSEGV, code: SEGV_CPERR, address: 0, error_code, key: 0 }
}

/// The restore token of a 64-bit stack whose SSP is `ssp`; it lies 8 bytes below.
fn restore_token(ssp: u64) -> u64 {
    ssp | 1
}

/// What RSTORSSP leaves in place of the token: the stack it comes from, 0 standing for one outside.
fn previous_token(ssp: Option<u64>) -> u64 {
    ssp.unwrap_or(0) | 3
}

impl Model {
    pub(super) fn thread(&mut self, actor: ActorId) -> &mut Thread {
        &mut self.memory(actor).thread
    }

    /// SSP of a living actor, where it runs on a shadow stack of the arena.
    #[must_use]
    pub fn live_shadow_stack(&self, actor: ActorId) -> Option<u64> {
        self.actors[actor.index()].as_ref()?.thread.ssp
    }

    /// Whether the last 8 bytes of the actor's page hold a restore token that RSTORSSP takes.
    #[must_use]
    pub fn has_restore_token(&self, actor: ActorId, page: PageIndex) -> bool {
        let end = page.address() + PAGE_SIZE;
        self.word(actor, end - FRAME) == restore_token(end)
    }

    /// Whether RET goes through on top of the arena's shadow stack that the actor runs on.
    #[must_use]
    pub fn is_return_on_top(&self, actor: ActorId) -> bool {
        self.live_shadow_stack(actor).is_some_and(|ssp| self.is_return_at(actor, ssp))
    }

    /// Whether a `Call` left its return address there.
    #[must_use]
    pub fn is_return_at(&self, actor: ActorId, address: u64) -> bool {
        self.word(actor, address) == RETURN_SITE
    }

    /// Features of a living actor, and those locked.
    #[must_use]
    pub fn shadow_stack_features(&self, actor: ActorId) -> (u8, u8) {
        self.actors[actor.index()].as_ref().map_or((0, 0), |memory| (memory.thread.features, memory.thread.locked))
    }

    /// Whether the actor has been killed in this program, or was to be forked by one that had been.
    #[must_use]
    pub fn is_killed(&self, actor: ActorId) -> bool {
        self.killed & 1 << actor.index() != 0
    }

    /// A step of an actor that is dead. Its number is not free until it "exits".
    pub(super) fn act_dead(&mut self, step: &Step) -> (Rule, Outcome) {
        match step.operation {
            Operation::Fork { child } => self.killed |= 1 << child.index(),
            Operation::Exit => self.killed &= !(1 << step.actor.index()),
            _ => {}
        }
        (Rule::ActorDead, Outcome::Dead)
    }

    fn word(&self, actor: ActorId, address: u64) -> u64 {
        let Some(page) = PageIndex::of_address(address) else { return 0 };
        let ExpectedFrame::Frame(frame) = self.slot(actor, page).frame else { return 0 };
        match (address % PAGE_SIZE / FRAME) as usize {
            0 => self.frames[frame as usize].content,
            index => self.words.get(frame, index),
        }
    }

    pub(super) fn set_word(&mut self, actor: ActorId, address: u64, value: u64) {
        let Some(page) = PageIndex::of_address(address) else { return };
        let ExpectedFrame::Frame(frame) = self.slot(actor, page).frame else { return };
        match (address % PAGE_SIZE / FRAME) as usize {
            0 => self.frames[frame as usize].content = value,
            index => self.words.set(frame, index, value),
        }
    }

    /// One shadow-stack access to any address, in the arena or just outside.
    fn reach(&mut self, actor: ActorId, address: u64, access: Access) -> Result<(), Refused> {
        let at = |fault: Fault| Fault { address, ..fault };
        match PageIndex::of_address(address) {
            Some(page) => self.translate(actor, page, access).map_err(|(rule, outcome)| match outcome {
                Outcome::Faulted(fault) => (rule, at(fault)),
                // Nothing waits: see `meets_userfaultfd`.
                _ => (rule, at(UNDEFINED)),
            }),
            None => {
                let error_code = access.check(0, 0).err().unwrap_or(0);
                let fault = Fault { signal: SIGSEGV, code: SEGV_MAPERR, address, error_code, key: 0 };
                Err((Rule::FaultUnmapped, fault))
            }
        }
    }

    fn pop(&mut self, actor: ActorId, address: u64) -> Result<u64, Refused> {
        self.reach(actor, address, Access::ShadowStackRead)?;
        Ok(self.word(actor, address))
    }

    fn push(&mut self, actor: ActorId, address: u64, value: u64) -> Result<(), Refused> {
        self.reach(actor, address, Access::ShadowStackWrite)?;
        self.set_word(actor, address, value);
        Ok(())
    }

    /// The actor's state after a signal, and so what the step gives: the fault, as the handler tells it, or
    /// the actor's death.
    ///
    /// `arch/x86/kernel/shstk.c: setup_signal_shadow_stack` pushes SSP with bit 63 set and the restorer's
    /// address; the handler's RET pops the second, `restore_signal_shadow_stack` the first.
    pub(super) fn deliver(&mut self, actor: ActorId, refused: Refused) -> (Rule, Outcome) {
        let (rule, fault) = refused;
        let Some(mut ssp) = self.thread(actor).ssp else { return (rule, Outcome::Faulted(fault)) };
        self.fire(Rule::SignalFrame);
        if self.is_mutated(Rule::SignalFrame, Output::Pushed) {
            return (rule, Outcome::Faulted(fault));
        }
        let mut told = fault;
        loop {
            let pushed = self
                .push(actor, ssp - FRAME, ssp | DATA_BIT)
                .and_then(|()| self.push(actor, ssp - 2 * FRAME, RESTORER_SITE));
            if pushed.is_err() {
                // setup_rt_frame fails: force_sigsegv, and no handler for that one either.
                self.exit(actor);
                self.killed |= 1 << actor.index();
                self.fire(rule);
                return (Rule::SignalKilled, Outcome::Killed(SIGSEGV));
            }
            if self.sigreturn_reads(actor, ssp - FRAME) || self.is_mutated(Rule::SigreturnRefused, Output::Pushed) {
                self.thread(actor).ssp = Some(ssp);
                return (rule, Outcome::Faulted(told));
            }
            // signal_fault: SIGSEGV from the kernel, delivered on what sigreturn did not pop.
            self.fire(Rule::SigreturnRefused);
            told = Fault { signal: SIGSEGV, code: SI_KERNEL, address: 0, error_code: fault.error_code, key: 0 };
            ssp -= FRAME;
        }
    }

    /// `shstk_pop_sigframe` reads the pushed SSP: 6.12.88 and later of its series by get_user_pages, which wants VM_READ
    /// (`mm/gup.c: check_vma_flags`), others by get_user, which an entry that is present satisfies.
    fn sigreturn_reads(&self, actor: ActorId, address: u64) -> bool {
        let by_gup = self.kernel.has(Change::SigreturnReadsByGup);
        let readable = PageIndex::of_address(address)
            .and_then(|page| self.mapping(actor, page))
            .is_some_and(|mapping| mapping.protection.contains(Protection::READ));
        readable || !by_gup
    }

    /// RSTORSSP on the page's last 8 bytes, then SAVEPREVSSP.
    pub(super) fn enter_shadow_stack(&mut self, actor: ActorId, page: PageIndex) -> (Rule, Outcome) {
        if !self.thread(actor).has(ShadowStackFeatures::SHADOW_STACK) {
            return (Rule::ShadowStackUndefined, Outcome::Faulted(UNDEFINED));
        }
        match self.switch_to(actor, page) {
            Ok(ssp) => (Rule::ShadowStackEntered, Outcome::Loaded(ssp)),
            Err(refused) => self.deliver(actor, refused),
        }
    }

    fn switch_to(&mut self, actor: ActorId, page: PageIndex) -> Result<u64, Refused> {
        let ssp = page.address() + PAGE_SIZE;
        let token = ssp - FRAME;
        let previous = self.thread(actor).ssp;
        if self.pop(actor, token)? != restore_token(ssp) {
            return Err((Rule::ShadowStackBadToken, control_protection(RSTORSSP)));
        }
        self.push(actor, token, previous_token(previous))?;
        self.thread(actor).ssp = Some(token);
        self.save_previous(actor, previous)?;
        self.thread(actor).ssp = Some(ssp);
        Ok(ssp)
    }

    /// SAVEPREVSSP clears the 4 bytes below the stack that was left, then writes a restore token there: the
    /// first store is the one that faults.
    fn save_previous(&mut self, actor: ActorId, previous: Option<u64>) -> Result<(), Refused> {
        let Some(ssp) = previous else { return Ok(()) };
        self.reach(actor, ssp - FRAME / 2, Access::ShadowStackWrite)?;
        self.set_word(actor, ssp - FRAME, restore_token(ssp));
        Ok(())
    }

    /// RSTORSSP on the token outside the arena, then SAVEPREVSSP: a fault of the second finds the actor on
    /// its own stack already.
    pub(super) fn leave_shadow_stack(&mut self, actor: ActorId) -> (Rule, Outcome) {
        let Some(ssp) = self.thread(actor).ssp.take() else { return (Rule::ShadowStackAway, Outcome::Loaded(0)) };
        match self.save_previous(actor, Some(ssp)) {
            Ok(()) => (Rule::ShadowStackLeft, Outcome::Loaded(0)),
            Err(refused) => self.deliver(actor, refused),
        }
    }

    pub(super) fn call(&mut self, actor: ActorId, frames: FrameCount) -> (Rule, Outcome) {
        self.on_live_stack(actor, Rule::Called, |model, ssp| {
            for _ in 0..frames.get() {
                model.push(actor, *ssp - FRAME, RETURN_SITE)?;
                *ssp -= FRAME;
            }
            Ok(())
        })
    }

    /// A RET that is refused leaves SSP where it was.
    pub(super) fn return_from(&mut self, actor: ActorId, frames: FrameCount) -> (Rule, Outcome) {
        self.on_live_stack(actor, Rule::Returned, |model, ssp| {
            for _ in 0..frames.get() {
                if model.pop(actor, *ssp)? != RETURN_SITE {
                    return Err((Rule::ReturnMismatch, control_protection(NEAR_RETURN)));
                }
                *ssp += FRAME;
            }
            Ok(())
        })
    }

    /// INCSSP reads the first and the last frame that it discards (SDM 2A, INCSSP).
    pub(super) fn discard(&mut self, actor: ActorId, frames: FrameCount) -> (Rule, Outcome) {
        self.on_live_stack(actor, Rule::FramesDiscarded, |model, ssp| {
            let mut left = frames.get();
            while left > 0 {
                let count = left.min(INCSSP_MOST);
                model.pop(actor, *ssp)?;
                model.pop(actor, *ssp + FRAME * u64::from(count - 1))?;
                *ssp += FRAME * u64::from(count);
                left -= count;
            }
            Ok(())
        })
    }

    /// Works on SSP where it lies in the arena; a fault is delivered where SSP then is.
    fn on_live_stack(
        &mut self,
        actor: ActorId,
        rule: Rule,
        work: impl FnOnce(&mut Self, &mut u64) -> Result<(), Refused>,
    ) -> (Rule, Outcome) {
        let Some(mut ssp) = self.thread(actor).ssp else { return (Rule::ShadowStackAway, Outcome::Loaded(0)) };
        let done = work(self, &mut ssp);
        self.thread(actor).ssp = Some(ssp);
        match done {
            Ok(()) => (rule, Outcome::Loaded(ssp)),
            Err(refused) => self.deliver(actor, refused),
        }
    }

    /// WRSSQ over what SSP points to.
    pub(super) fn overwrite_return(&mut self, index: usize, actor: ActorId) -> (Rule, Outcome) {
        let Some(ssp) = self.thread(actor).ssp else { return (Rule::ShadowStackAway, Outcome::Loaded(0)) };
        if !self.thread(actor).may_store() {
            return self.deliver(actor, (Rule::ShadowStackUndefined, UNDEFINED));
        }
        match self.push(actor, ssp, store_value(index)) {
            Ok(()) => (Rule::ReturnOverwritten, Outcome::Stored),
            Err(refused) => self.deliver(actor, refused),
        }
    }

    /// `arch/x86/kernel/shstk.c: shstk_prctl`, called by the task itself.
    pub(super) fn control_shadow_stack(
        &mut self,
        actor: ActorId,
        control: ShadowStackControl,
        features: ShadowStackFeatures,
    ) -> (Rule, Outcome) {
        if !self.kernel.has(Change::UserShadowStacks) {
            return (Rule::ControlUnknown, Outcome::Failed(EINVAL));
        }
        let supported = self.shadow_stack;
        let thread = self.thread(actor);
        if control == ShadowStackControl::Lock {
            thread.locked |= features.bits();
            return (Rule::FeaturesLocked, Outcome::Succeeded);
        }
        if features.bits() & thread.locked != 0 {
            return (Rule::ControlLocked, Outcome::Failed(EPERM));
        }
        let enable = control != ShadowStackControl::Disable;
        match features {
            ShadowStackFeatures::SHADOW_STACK | ShadowStackFeatures::WRSS if !supported => {
                (Rule::ControlUnsupported, Outcome::Failed(EOPNOTSUPP))
            }
            ShadowStackFeatures::WRSS if !thread.has(ShadowStackFeatures::SHADOW_STACK) => {
                (Rule::WrssWithoutShadowStack, Outcome::Failed(EPERM))
            }
            ShadowStackFeatures::WRSS => {
                thread.features =
                    if enable { thread.features | features.bits() } else { thread.features & !features.bits() };
                (if enable { Rule::FeatureEnabled } else { Rule::FeatureDisabled }, Outcome::Succeeded)
            }
            ShadowStackFeatures::SHADOW_STACK => {
                let on = thread.has(features);
                // A new stack is allocated outside the arena; the SSP of old is gone with DISABLE.
                if enable && !on {
                    *thread = Thread { features: features.bits(), ssp: None, ..*thread };
                } else if !enable && on {
                    *thread = Thread { features: 0, ssp: None, ..*thread };
                }
                (if enable { Rule::FeatureEnabled } else { Rule::FeatureDisabled }, Outcome::Succeeded)
            }
            // No feature, an unknown one, or more than one (`hweight_long`).
            _ => (Rule::ControlInvalid, Outcome::Failed(EINVAL)),
        }
    }

    pub(super) fn shadow_stack_status(&mut self, actor: ActorId) -> (Rule, Outcome) {
        if !self.kernel.has(Change::UserShadowStacks) {
            return (Rule::ControlUnknown, Outcome::Failed(EINVAL));
        }
        (Rule::FeatureStatus, Outcome::Loaded(self.thread(actor).features.into()))
    }
}

impl Model {
    /// Whether the operation would leave the actor running beside shadow-stack pages with a protection key. A
    /// handler begins with PKRU as at exec (`arch/x86/kernel/fpu/core.c: fpu__clear_user_states`), which closes every
    /// key but 0: its RET would be refused, and signals nest until the actor's stack is full.
    pub(super) fn closes_live_stack(&self, actor: ActorId, operation: &Operation) -> bool {
        let is_stack = |page: PageIndex| self.mapping(actor, page).is_some_and(|mapping| mapping.shadow_stack);
        match *operation {
            Operation::EnterShadowStack { .. } => (0..ARENA_PAGES)
                .filter_map(|slot| PageIndex::new(slot).ok())
                .any(|page| self.mapping(actor, page).is_some_and(|mapping| mapping.shadow_stack && mapping.key != 0)),
            Operation::PkeyMprotect { range, key, .. } if key.number() > 0 => {
                self.live_shadow_stack(actor).is_some() && range.slots().any(is_stack)
            }
            Operation::Mprotect { range, protection: Protection::EXECUTE }
            | Operation::PkeyMprotect { range, protection: Protection::EXECUTE, .. } => {
                self.live_shadow_stack(actor).is_some() && range.slots().any(is_stack)
            }
            _ => false,
        }
    }
}
