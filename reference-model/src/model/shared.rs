//! Shared anonymous memory: pages belong to a shmem object, and entries come and go.
//!
//! Every `mmap` makes an object of its own (`mm/shmem.c: shmem_zero_setup`). Fork shares it and copies no
//! entries; the child's faults find the pages. A page lives as long as the object. Two states are not in the
//! entries but show in them: whether the *folio* is dirty, which later kernels look at, and whether `vm_page_prot` of a
//! writable VMA has RW, which it had not when soft-dirty tracking was on at the moment it was computed.

use super::fault::Access;
use super::vma::{Shared, Vma, key_flags};
use super::{Frame, Model, page_protection};
use crate::arena::{ActorId, PageIndex, PageRange};
use crate::entry::{Entry, EntryKind, RW};
use crate::expectation::ExpectedFrame;
use crate::kernel::Change;
use crate::mutation::Output;
use crate::observation::Cause;
use crate::outcome::Outcome;
use crate::program::{Placement, Protection};
use crate::rule::Rule;

/// A shmem object: its pages, by frame number in the model. No page leaves it before the last mapping does.
#[derive(Debug, Clone)]
pub(super) struct Object {
    /// As many as the mapping had that it was made for (`i_size`).
    pages: Vec<Option<u32>>,
}

/// `vm_page_prot`. In a shared VMA RW is not withheld for COW, but where write faults are wanted.
pub(super) fn vm_page_prot(vma: &Vma) -> Entry {
    let withheld = vma.shared.is_none_or(|shared| shared.write_notified);
    let base = page_protection(vma.protection, vma.page_key());
    if withheld || !vma.protection.contains(Protection::WRITE) { base } else { Entry(base.0 | RW) }
}

/// `vma_wants_writenotify` with `vm_page_prot` as it stands: write faults are wanted while soft-dirty is
/// tracked, unless `vm_page_prot` is not what the VMA's flags would give.
pub(super) fn wants_writenotify(vma: &Vma, page_prot: Entry) -> bool {
    let writable = Entry(page_protection(vma.protection, vma.page_key()).0 | RW);
    vma.protection.contains(Protection::WRITE) && page_prot == writable && !vma.soft_dirty
}

fn index_in_object(page: PageIndex, vma: &Vma) -> Option<usize> {
    page.index().checked_add_signed(isize::from(vma.displacement))
}

impl Model {
    /// `do_mmap` with MAP_SHARED and MAP_ANONYMOUS. It asks neighbours to merge before the object is there, and
    /// those of private memory have other flags: a new shared VMA stands alone.
    pub(super) fn mmap_shared(
        &mut self,
        actor: ActorId,
        range: PageRange,
        protection: Protection,
        placement: Placement,
    ) -> (Rule, Outcome) {
        let (ended, key) = self.make_room(actor, range, protection, placement);
        if ended.1 != Outcome::Succeeded {
            return ended;
        }
        self.objects.push(Object { pages: vec![None; range.pages()] });
        let vma = Vma {
            first: range.first() as u8,
            end: range.end() as u8,
            protection,
            shadow_stack: false,
            account: false,
            soft_dirty: true,
            marks: key_flags(key),
            displacement: -(range.first() as i16),
            uffd: None,
            anon: None,
            lost_key: None,
            shared: Some(Shared { object: (self.objects.len() - 1) as u32, write_notified: false }),
        };
        let kernel = self.kernel;
        let (index, _) = self.memory(actor).vmas.insert(kernel, vma);
        self.vma_rule(Rule::VmaShared, actor, index);
        ended
    }

    /// `vma_set_page_prot`. Of private VMAs it says nothing but the key: their `vm_page_prot` depends on their rights alone.
    pub(super) fn set_page_prot(&mut self, actor: ActorId, index: usize) {
        self.memory(actor).vmas.list[index].lost_key = None;
        let vma = self.memory(actor).vmas.list[index];
        let Some(shared) = vma.shared else { return };
        let full = vm_page_prot(&Vma { shared: Some(Shared { write_notified: false, ..shared }), ..vma });
        let mut write_notified = wants_writenotify(&vma, full);
        if write_notified {
            self.fire(Rule::VmaWriteNotified);
            write_notified ^= self.is_mutated(Rule::VmaWriteNotified, Output::PageProtection);
        }
        self.memory(actor).vmas.list[index].shared = Some(Shared { write_notified, ..shared });
    }

    /// `mm/memory.c: do_fault` and `do_wp_page` of a shared VMA. Says whether there is a page.
    pub(super) fn fault_shared(&mut self, actor: ActorId, page: PageIndex, access: Access, vma: &Vma) -> bool {
        let slot = self.slot(actor, page);
        let before = self.expect(&slot);
        let design = self.design;
        let written = |entry: Entry| design.make_writable(design.make_dirty(entry));
        let (rule, entry, frame) = if slot.bits.kind() == EntryKind::None && slot.frame == ExpectedFrame::None {
            let Some((number, is_new)) = self.page_of_object(page, vma) else {
                let rule = Rule::SharedBeyond;
                self.write(rule, actor, page, Entry::NONE, ExpectedFrame::None);
                self.transition(Cause::Fault, rule, actor, page, before, access.is_store());
                return false;
            };
            self.frames[number as usize].mapcount += 1;
            let protection = vm_page_prot(vma);
            let remembers = self.kernel.has(Change::SharedReadKeepsDirty) && self.frames[number as usize].dirty;
            let (rule, entry) = match (access.is_store(), is_new) {
                (true, true) => (Rule::SharedNewWritten, written(protection)),
                (true, false) => (Rule::SharedWritten, written(protection)),
                (false, true) => (Rule::SharedNew, protection),
                (false, false) if remembers && protection.has(RW) => {
                    (Rule::SharedReadDirty, design.make_dirty(protection))
                }
                (false, false) => (Rule::SharedRead, protection),
            };
            (rule, entry, ExpectedFrame::Frame(number))
        } else {
            (Rule::SharedReuse, written(slot.bits.make_young()), slot.frame)
        };
        self.write(rule, actor, page, entry, frame);
        if access.is_store() {
            self.mark_folio_dirty(frame);
        }
        self.transition(Cause::Fault, rule, actor, page, before, access.is_store());
        true
    }

    /// `shmem_get_folio_gfp` with SGP_CACHE: the page that is there, or a zeroed one, not dirty; none beyond
    /// the object's end. Says whether it is new.
    fn page_of_object(&mut self, page: PageIndex, vma: &Vma) -> Option<(u32, bool)> {
        let number = self.frames.len() as u32;
        let place = self.objects[vma.shared?.object as usize].pages.get_mut(index_in_object(page, vma)?)?;
        if let Some(number) = *place {
            return Some((number, false));
        }
        *place = Some(number);
        self.frames.push(Frame { of_object: true, ..Frame::UNMAPPED });
        Some((number, true))
    }

    /// Whether the object is long enough for the page.
    pub(super) fn is_in_object(&self, page: PageIndex, vma: &Vma) -> bool {
        let object = vma.shared.map(|shared| &self.objects[shared.object as usize]);
        object.zip(index_in_object(page, vma)).is_some_and(|(object, index)| index < object.pages.len())
    }

    /// The object's page behind this one, if it was ever touched.
    pub(super) fn held(&self, page: PageIndex, vma: &Vma) -> Option<u32> {
        *self.objects[vma.shared?.object as usize].pages.get(index_in_object(page, vma)?)?
    }

    /// `zap_present_folio_ptes`: an entry that goes hands its dirtiness to the page of a shmem object.
    pub(super) fn dirty_behind(&mut self, bits: Entry, frame: ExpectedFrame) {
        if bits.is_dirty() {
            self.mark_folio_dirty(frame);
        }
    }

    /// `folio_mark_dirty` of a shmem object's page. Nothing cleans it without swap. Earlier kernels do not look at it.
    pub(super) fn mark_folio_dirty(&mut self, frame: ExpectedFrame) {
        let ExpectedFrame::Frame(number) = frame else { return };
        let folio = self.frames[number as usize];
        if !folio.of_object || folio.dirty || !self.kernel.has(Change::SharedReadKeepsDirty) {
            return;
        }
        self.fire(Rule::SharedFolioDirty);
        self.frames[number as usize].dirty = !self.is_mutated(Rule::SharedFolioDirty, Output::FolioDirty);
    }

    /// `change_pte_range` for an entry of a shared VMA that is writable. `modified` already has what
    /// `vm_page_prot` gives; `try_writable` is MM_CP_TRY_CHANGE_WRITABLE, `tracked` that soft-dirty wants a fault.
    pub(super) fn change_shared(&self, modified: Entry, try_writable: bool, tracked: bool) -> (Entry, Rule) {
        if modified.has(RW) {
            (modified, Rule::ProtectShared)
        } else if try_writable && !tracked && modified.is_dirty() {
            // Only where a VMA lost VM_SOFTDIRTY by a merge and kept RW in vm_page_prot. So far all VMAs of an
            // object in one actor agree in VM_SOFTDIRTY; a moved one (mremap) would not.
            (self.design.make_writable(modified), Rule::ProtectShared)
        } else {
            (modified, Rule::ProtectSharedNotified)
        }
    }
}
