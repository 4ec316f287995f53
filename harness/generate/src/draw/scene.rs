//! What an actor's memory looks like, by the pages that an operation may want.

use super::*;

/// What one actor's window looks like.
pub(crate) struct Scene {
    pub(crate) actor: ActorId,
    pub(super) holes: Vec<PageIndex>,
    pub(super) mapped: Vec<PageIndex>,
    pub(super) writable: Vec<PageIndex>,
    pub(super) executable: Vec<PageIndex>,
    pub(super) shadow_stack: Vec<PageIndex>,
    pub(super) locked: Vec<PageIndex>,
    pub(super) populated: Vec<PageIndex>,
    /// Private pages that may not be written, shadow stacks apart.
    pub(super) read_only: Vec<PageIndex>,
    /// Pages with another protection key than 0.
    pub(crate) keyed: Vec<PageIndex>,
    /// Ordinary pages that no userfaultfd has.
    pub(super) unregistered: Vec<PageIndex>,
    /// Pages that one has.
    pub(super) registered: Vec<PageIndex>,
    /// Those of them that can be write-protected.
    pub(super) uffd_wp: Vec<PageIndex>,
    /// Those that are.
    pub(super) uffd_protected: Vec<PageIndex>,
    /// Those of them whose entry is a marker.
    pub(super) markers: Vec<PageIndex>,
    /// Registered pages whose entry is empty or a marker.
    pub(super) fillable: Vec<PageIndex>,
    /// Ordinary pages whose frame another entry maps too.
    pub(super) shared: Vec<PageIndex>,
    /// The same of shadow stacks.
    pub(super) shared_shadow_stack: Vec<PageIndex>,
    /// Pages with a restore token at their end.
    pub(super) tokens: Vec<PageIndex>,
    /// Pages of a shared mapping that are there, but not in this actor's page table.
    pub(super) unfaulted: Vec<PageIndex>,
    /// Populated pages of a shared mapping whose soft-dirty bits are tracked.
    pub(super) notified: Vec<PageIndex>,
    /// Pages of a shared mapping that mremap made longer than its object.
    pub(super) beyond: Vec<PageIndex>,
}

impl<R: Rng> Draft<'_, R> {
    pub(super) fn look_at(&self, actor: ActorId) -> Scene {
        let mut scene = Scene {
            actor,
            holes: Vec::new(),
            mapped: Vec::new(),
            writable: Vec::new(),
            executable: Vec::new(),
            shadow_stack: Vec::new(),
            locked: Vec::new(),
            populated: Vec::new(),
            read_only: Vec::new(),
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
            if !shared && !shadow_stack && !protection.contains(Protection::WRITE) {
                scene.read_only.push(page);
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
}
