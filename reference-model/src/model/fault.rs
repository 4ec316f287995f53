//! Accesses: what the CPU allows, what the kernel does about what it does not.

use super::shadow_stack::UNDEFINED;
use super::userfault::Waiting;
use super::vma::{VM_UFFD_MISSING, VM_UFFD_WP};
use super::{Model, page_protection};
use crate::arena::{ActorId, PageIndex};
use crate::entry::{A, D, Entry, EntryKind, NX, P, RW, SPECIAL, UFFD_WP};
use crate::expectation::{EntryExpectation, ExpectedFrame};
use crate::kernel::Change;
use crate::mutation::Output;
use crate::observation::Cause;
use crate::outcome::{Fault, FaultMessage, Outcome};
use crate::program::{Protection, store_value};
use crate::protection_key::KeyRights;
use crate::rule::Rule;

const SIGBUS: u8 = 7;
const SIGSEGV: u8 = 11;
const BUS_ADRERR: i32 = 2;
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const SEGV_PKUERR: i32 = 4;
const EFAULT: i32 = 14;

const ERROR_PRESENT: u32 = 1 << 0;
const ERROR_WRITE: u32 = 1 << 1;
const ERROR_USER: u32 = 1 << 2;
const ERROR_FETCH: u32 = 1 << 4;
const ERROR_PROTECTION_KEY: u32 = 1 << 5;
const ERROR_SHADOW_STACK: u32 = 1 << 6;

/// What an access does to the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Execute,
    ShadowStackWrite,
    ShadowStackRead,
}

impl Access {
    /// FAULT_FLAG_WRITE: set for every shadow-stack access, reads too (`do_user_addr_fault`).
    pub(super) fn is_store(self) -> bool {
        matches!(self, Self::Write) || self.is_shadow_stack()
    }

    fn is_shadow_stack(self) -> bool {
        matches!(self, Self::ShadowStackWrite | Self::ShadowStackRead)
    }

    /// Whether PKRU refuses the access to pages of this key. Fetches are not asked
    /// (`arch_vma_access_permitted`; SDM 3A 4.6.2).
    pub(super) fn is_refused_by_key(self, pkru: u32, key: u8) -> bool {
        self != Self::Execute && KeyRights::of(pkru, key).refuse(matches!(self, Self::Write | Self::ShadowStackWrite))
    }

    /// Whether the entry lets a user access through (SDM 3A 4.6), or the page fault's error code. The key of an
    /// entry that is present is looked at whatever else stands in the way (SDM 3A 4.7).
    pub(super) fn check(self, bits: u64, pkru: u32) -> Result<(), u32> {
        let by_key = bits & P != 0 && self.is_refused_by_key(pkru, Entry(bits).protection_key());
        let allowed = match self {
            Self::Read => true,
            Self::Write => bits & RW != 0,
            Self::Execute => bits & NX == 0,
            Self::ShadowStackWrite | Self::ShadowStackRead => bits & (RW | D) == D,
        };
        if bits & P != 0 && allowed && !by_key {
            return Ok(());
        }
        let present = if bits & P != 0 { ERROR_PRESENT } else { 0 };
        let kind = match self {
            Self::Read => 0,
            Self::Write => ERROR_WRITE,
            Self::Execute => ERROR_FETCH,
            Self::ShadowStackWrite => ERROR_WRITE | ERROR_SHADOW_STACK,
            Self::ShadowStackRead => ERROR_SHADOW_STACK,
        };
        Err(ERROR_USER | kind | present | if by_key { ERROR_PROTECTION_KEY } else { 0 })
    }
}

/// Faults that one access may take. One maps the page; the next can only be a refusal.
pub(super) const FAULT_LIMIT: usize = 4;

impl Model {
    pub(super) fn access(&mut self, index: usize, actor: ActorId, page: PageIndex, access: Access) -> (Rule, Outcome) {
        if access == Access::ShadowStackWrite && !self.thread(actor).may_store() {
            return self.deliver(actor, (Rule::ShadowStackUndefined, UNDEFINED));
        }
        match self.translate(actor, page, access) {
            Err((rule, Outcome::Faulted(fault))) => self.deliver(actor, (rule, fault)),
            Err((rule, outcome)) => {
                if let Some(waiting) = &mut self.waiting[actor.index()] {
                    waiting.index = index;
                }
                (rule, outcome)
            }
            Ok(()) => self.transfer(index, actor, page, access),
        }
    }

    /// What an access that was let through does.
    fn transfer(&mut self, index: usize, actor: ActorId, page: PageIndex, access: Access) -> (Rule, Outcome) {
        let frame = self.slot(actor, page).frame;
        match (access, frame) {
            (Access::Write | Access::ShadowStackWrite, ExpectedFrame::Frame(number)) => {
                self.frames[number as usize].content = store_value(index);
            }
            (Access::Read, ExpectedFrame::Frame(number)) => {
                return (Rule::Load, Outcome::Loaded(self.frames[number as usize].content));
            }
            _ => {}
        }
        match access {
            Access::Read => (Rule::Load, Outcome::Loaded(0)),
            Access::Write => (Rule::Store, Outcome::Stored),
            Access::ShadowStackWrite | Access::ShadowStackRead => (Rule::ShadowStackStore, Outcome::Stored),
            Access::Execute => self.run(actor, page),
        }
    }

    /// A system call's copy from or to the page (`copy_from_user`, `copy_to_user`). The kernel's access is checked
    /// and faults as the actor's own would, PKRU included; a refusal is EFAULT and no signal
    /// (`arch/x86/mm/fault.c: kernelmode_fixup_or_oops`).
    pub(super) fn access_by_kernel(
        &mut self,
        index: usize,
        actor: ActorId,
        page: PageIndex,
        access: Access,
    ) -> (Rule, Outcome) {
        if self.translate(actor, page, access).is_err() {
            // Earlier kernels try what is left byte by byte: a refusal that only the page itself can give comes twice
            // (`arch/x86/lib/copy_user_64.S: copy_user_handle_tail`).
            if !self.kernel.has(Change::CopyToUserTriesOnce) {
                let again = self.translate(actor, page, access);
                debug_assert!(again.is_err(), "a refusal that the first fault lifted");
            }
            return (Rule::SystemCallRefused, Outcome::Failed(EFAULT));
        }
        match self.transfer(index, actor, page, access) {
            (_, Outcome::Loaded(value)) => (Rule::SystemCallLoad, Outcome::Loaded(value)),
            (_, outcome) => (Rule::SystemCallStore, outcome),
        }
    }

    /// What is fetched from the page runs: the jump of [`store_value`] leads back, anything else raises a signal,
    /// which says that it was executed.
    fn run(&mut self, actor: ActorId, page: PageIndex) -> (Rule, Outcome) {
        let content = match self.slot(actor, page).frame {
            ExpectedFrame::Frame(number) => self.frames[number as usize].content,
            ExpectedFrame::None | ExpectedFrame::Zero => 0,
        };
        if content & 0xffff == store_value(0) & 0xffff {
            return (Rule::Fetch, Outcome::Executed);
        }
        let store =
            Fault { signal: SIGSEGV, code: SEGV_MAPERR, address: 0, error_code: ERROR_USER | ERROR_WRITE, key: 0 };
        match self.deliver(actor, (Rule::Fetch, store)) {
            (rule, Outcome::Faulted(told)) if told == store => (rule, Outcome::Executed),
            other => other,
        }
    }

    /// The CPU's walk, with the kernel's help, until the access is through or refused.
    ///
    /// # Errors
    /// Why it is refused or waits, and by which rule.
    pub(super) fn translate(&mut self, actor: ActorId, page: PageIndex, access: Access) -> Result<(), (Rule, Outcome)> {
        for _ in 0..FAULT_LIMIT {
            let slot = self.slot(actor, page);
            match access.check(slot.bits.0, self.pkru(actor)) {
                Ok(()) => {
                    let touched = slot.bits.0 | A | if access == Access::Write { D } else { 0 };
                    if touched != slot.bits.0 {
                        // An entry that a fault made writable is dirty, by mkdirty: only MADV_FREE makes a clean one.
                        let dirties = touched & !slot.bits.0 & D != 0;
                        let rule = if dirties { Rule::CpuDirty } else { Rule::CpuAccessed };
                        self.write(rule, actor, page, Entry(touched), slot.frame);
                    }
                    return Ok(());
                }
                Err(error_code) => self.page_fault(actor, page, access, error_code)?,
            }
        }
        // A mutated model may loop; the unmutated one cannot, which its tests show.
        Ok(())
    }

    /// `arch/x86/mm/fault.c: do_user_addr_fault`.
    pub(super) fn page_fault(
        &mut self,
        actor: ActorId,
        page: PageIndex,
        access: Access,
        error_code: u32,
    ) -> Result<(), (Rule, Outcome)> {
        let address = page.address();
        let fault = Fault { signal: SIGSEGV, code: SEGV_MAPERR, address, error_code, key: 0 };
        let Some(vma) = self.memory(actor).vmas.at(page).copied() else {
            return Err((Rule::FaultUnmapped, Outcome::Faulted(fault)));
        };
        // access_error, in its order.
        let by_entry = error_code & ERROR_PROTECTION_KEY != 0;
        if by_entry || access.is_refused_by_key(self.pkru(actor), vma.key()) {
            let rule = if by_entry { Rule::FaultKeyOfEntry } else { Rule::FaultKeyOfVma };
            let fault = Fault { code: SEGV_PKUERR, key: vma.key().into(), ..fault };
            return Err((rule, Outcome::Faulted(fault)));
        }
        let writable = vma.protection.contains(Protection::WRITE);
        let denied = match access {
            Access::ShadowStackWrite | Access::ShadowStackRead => {
                (!(vma.shadow_stack && writable)).then_some(Rule::FaultShadowStackDenied)
            }
            Access::Write if vma.shadow_stack => Some(Rule::FaultWriteToShadowStack),
            Access::Write => (!writable).then_some(Rule::FaultWriteDenied),
            Access::Read | Access::Execute => {
                let no_access = vma.protection == Protection::NONE;
                (error_code & ERROR_PRESENT != 0 || no_access).then_some(match access {
                    Access::Execute => Rule::FaultFetchDenied,
                    _ => Rule::FaultReadDenied,
                })
            }
        };
        if let Some(rule) = denied {
            return Err((rule, Outcome::Faulted(Fault { code: SEGV_ACCERR, ..fault })));
        }
        self.handle_mm_fault(actor, page, access, vma.shadow_stack).map_err(|rule| match rule {
            Rule::UffdMissingWait | Rule::UffdWpWait => {
                let flags = u64::from(access.is_store()) | if rule == Rule::UffdWpWait { 2 } else { 0 };
                let message = FaultMessage { flags, address };
                let context = vma.uffd.unwrap_or_default();
                self.waiting[actor.index()] =
                    Some(Waiting { context, index: 0, page, access, error_code, message, done: None });
                (rule, Outcome::Waits(message))
            }
            // mm_fault_error, do_sigbus.
            _ => (rule, Outcome::Faulted(Fault { signal: SIGBUS, code: BUS_ADRERR, ..fault })),
        })
    }

    /// `mm/memory.c: handle_pte_fault` for a fault that is allowed.
    ///
    /// # Errors
    /// VM_FAULT_SIGBUS, and by which rule: `handle_userfault`.
    pub(super) fn handle_mm_fault(
        &mut self,
        actor: ActorId,
        page: PageIndex,
        access: Access,
        shadow_stack: bool,
    ) -> Result<(), Rule> {
        let Some(vma) = self.memory(actor).vmas.at(page).copied() else { return Ok(()) };
        if vma.shared.is_some() {
            return if self.fault_shared(actor, page, access, &vma) { Ok(()) } else { Err(Rule::FaultBeyondObject) };
        }
        let slot = self.slot(actor, page);
        let before = self.expect(&slot);
        let registered_wp = vma.marks & VM_UFFD_WP != 0;
        match slot.bits.kind() {
            EntryKind::NonPresent if slot.bits.is_swapped() => {
                if let Some(rule) = self.swap_in(actor, page, access, &vma) {
                    self.transition(Cause::Fault, rule, actor, page, before, access.is_store());
                    return Ok(());
                }
                // do_wp_page follows in the same fault.
                let installed = self.slot(actor, page).bits;
                if registered_wp && installed.has(UFFD_WP) {
                    if !self.is_wp_async(&vma) {
                        return self.raise_userfault(Rule::UffdWpFault, actor, page, access, before);
                    }
                    let frame = self.slot(actor, page).frame;
                    self.write(Rule::UffdWpAsync, actor, page, installed.clear_uffd_wp(), frame);
                }
            }
            EntryKind::NonPresent if !registered_wp => {
                // pte_marker_handle_uffd_wp: what is left of a registration goes; the access faults again.
                self.write(Rule::UffdMarkerStale, actor, page, Entry::NONE, ExpectedFrame::None);
                self.transition(Cause::Fault, Rule::UffdMarkerStale, actor, page, before, access.is_store());
                return Ok(());
            }
            EntryKind::None | EntryKind::NonPresent if vma.marks & VM_UFFD_MISSING != 0 => {
                // do_anonymous_page has prepared for a page of its own when it asks.
                if access.is_store() {
                    self.prepare_anon_vma(actor, page);
                }
                return self.raise_userfault(Rule::UffdMissingFault, actor, page, access, before);
            }
            EntryKind::None => {}
            EntryKind::NonPresent => {
                self.install_protected(actor, page, access);
                return Ok(());
            }
            // A forced write faults in a VMA that is not accessible; do_numa_page is for those that are.
            EntryKind::ProtNone if vma.protection == Protection::NONE => {}
            EntryKind::ProtNone => {
                let bits =
                    self.design.modify(slot.bits, page_protection(vma.protection, vma.page_key()).0).make_young();
                self.write(Rule::NumaHint, actor, page, bits, slot.frame);
                self.transition(Cause::Fault, Rule::NumaHint, actor, page, before, access.is_store());
                return Ok(());
            }
            EntryKind::Present if registered_wp && slot.bits.has(UFFD_WP) && access.is_store() => {
                if !self.is_wp_async(&vma) {
                    return self.raise_userfault(Rule::UffdWpFault, actor, page, access, before);
                }
                self.write(Rule::UffdWpAsync, actor, page, slot.bits.clear_uffd_wp(), slot.frame);
            }
            EntryKind::Present => {}
        }
        let slot = self.slot(actor, page);
        if slot.bits.kind() == EntryKind::Present && (!access.is_store() || slot.bits.has(RW)) {
            // What a fault waited for has come in the meantime: ptep_set_access_flags, which writes for stores only.
            let bits = if access.is_store() { self.design.make_dirty(slot.bits).make_young() } else { slot.bits };
            self.write(Rule::FaultSpurious, actor, page, bits, slot.frame);
            self.transition(Cause::Fault, Rule::FaultSpurious, actor, page, before, access.is_store());
            return Ok(());
        }
        if access.is_store() && !vma.protection.contains(Protection::WRITE) {
            self.fault_forced(actor, page, &vma, before);
            return Ok(());
        }
        let choose = |ordinary, shadow| if shadow_stack { shadow } else { ordinary };
        let rule = if slot.bits.0 & !(A | D) == 0 {
            if access.is_store() { choose(Rule::NewPage, Rule::NewShadowStackPage) } else { Rule::ZeroPage }
        } else {
            match slot.frame {
                ExpectedFrame::Frame(number) => {
                    let frame = self.frames[number as usize];
                    if frame.exclusive {
                        choose(Rule::WpReuseExclusive, Rule::WpReuseExclusiveShadowStack)
                    } else if self.is_last_reference(number) {
                        choose(Rule::WpReuseLast, Rule::WpReuseLastShadowStack)
                    } else {
                        choose(Rule::WpCopy, Rule::WpCopyShadowStack)
                    }
                }
                ExpectedFrame::None | ExpectedFrame::Zero => {
                    choose(Rule::ZeroPageCopied, Rule::ZeroPageCopiedShadowStack)
                }
            }
        };
        self.install(rule, actor, page, shadow_stack);
        self.transition(Cause::Fault, rule, actor, page, before, access.is_store());
        Ok(())
    }

    /// `wp_can_reuse_anon_folio`: nobody else has the page, not the swap cache either, and it is no KSM page.
    pub(super) fn is_last_reference(&self, number: u32) -> bool {
        let frame = self.frames[number as usize];
        frame.mapcount == 1 && frame.swap_cache.is_none() && !frame.is_merged
    }

    /// `handle_userfault`: the entry stays. With UFFD_FEATURE_SIGBUS the fault is seen.
    fn raise_userfault(
        &mut self,
        rule: Rule,
        actor: ActorId,
        page: PageIndex,
        access: Access,
        before: EntryExpectation,
    ) -> Result<(), Rule> {
        let vma = self.memory(actor).vmas.at(page).copied();
        if vma.is_some_and(|vma| !self.is_sigbus(&vma)) {
            // VM_FAULT_RETRY, of which the probes tell nothing.
            return Err(if rule == Rule::UffdWpFault { Rule::UffdWpWait } else { Rule::UffdMissingWait });
        }
        let slot = self.slot(actor, page);
        let kept = if rule == Rule::UffdWpFault { Rule::UffdWpEntryKept } else { Rule::UffdMissingEntryKept };
        self.write(kept, actor, page, slot.bits, slot.frame);
        self.transition(Cause::Fault, kept, actor, page, before, access.is_store());
        Err(rule)
    }

    /// `do_anonymous_page` over a marker (`vmf_orig_pte_uffd_wp`): what is installed is write-protected at once.
    fn install_protected(&mut self, actor: ActorId, page: PageIndex, access: Access) {
        let before = self.expect(&self.slot(actor, page));
        let vma = self.memory(actor).vmas.at(page).map(|vma| (vma.protection, vma.page_key()));
        let (protection, key) = vma.unwrap_or((Protection::NONE, 0));
        let fresh = page_protection(protection, key);
        let rule = if access.is_store() {
            self.prepare_anon_vma(actor, page);
            let writable = self.design.make_writable(self.design.make_dirty(fresh));
            let frame = ExpectedFrame::Frame(self.new_frame(0));
            self.write(Rule::NewPageUffdWp, actor, page, self.design.make_uffd_wp(writable), frame);
            Rule::NewPageUffdWp
        } else {
            let entry = self.design.make_uffd_wp(Entry(fresh.0 | SPECIAL));
            self.write(Rule::ZeroPageUffdWp, actor, page, entry, ExpectedFrame::Zero);
            Rule::ZeroPageUffdWp
        };
        self.transition(Cause::Fault, rule, actor, page, before, access.is_store());
    }

    fn install(&mut self, rule: Rule, actor: ActorId, page: PageIndex, shadow_stack: bool) {
        let slot = self.slot(actor, page);
        let vma = self.memory(actor).vmas.at(page).map(|vma| (vma.protection, vma.page_key()));
        let (protection, key) = vma.unwrap_or((Protection::NONE, 0));
        let fresh = page_protection(protection, key);
        let design = self.design;
        let writable = |entry: Entry| {
            let dirty = design.make_dirty(entry);
            if shadow_stack { dirty.make_writable_shadow_stack() } else { design.make_writable(dirty) }
        };
        match rule {
            Rule::ZeroPage => {
                let entry = Entry(fresh.0 | SPECIAL);
                self.write(rule, actor, page, entry, ExpectedFrame::Zero);
            }
            Rule::WpReuseExclusive
            | Rule::WpReuseExclusiveShadowStack
            | Rule::WpReuseLast
            | Rule::WpReuseLastShadowStack => {
                if let ExpectedFrame::Frame(number) = slot.frame {
                    self.frames[number as usize].exclusive = true;
                }
                self.write(rule, actor, page, writable(slot.bits.make_young()), slot.frame);
            }
            _ => {
                self.prepare_anon_vma(actor, page);
                let number = self.copy_of(slot.frame);
                self.write(rule, actor, page, writable(fresh), ExpectedFrame::Frame(number));
            }
        }
    }

    /// `mm/rmap.c: __anon_vma_prepare`.
    pub(super) fn prepare_anon_vma(&mut self, actor: ActorId, page: PageIndex) {
        let vmas = &self.memory(actor).vmas;
        let Some(index) = vmas.find(page) else { return };
        if vmas.list[index].anon.is_some() {
            return;
        }
        let rule = Rule::VmaAnonPrepare;
        let reused = vmas.reusable_anon(index);
        let mut anon = reused.unwrap_or_else(|| self.new_anon(true));
        self.fire(rule);
        if self.is_mutated(rule, Output::Singular) {
            anon.singular = !anon.singular;
        }
        let anon = (!self.is_mutated(rule, Output::AnonVma)).then_some(anon);
        let flip_soft_dirty = self.is_mutated(rule, Output::SoftDirtyFlag);
        let flip_account = self.is_mutated(rule, Output::Account);
        let vma = &mut self.memory(actor).vmas.list[index];
        vma.anon = anon;
        vma.soft_dirty ^= flip_soft_dirty;
        vma.account ^= flip_account;
    }
}
