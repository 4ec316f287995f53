//! What the tracker knows of one page.

/// Something that follows from the operations so far, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    No,
    Yes,
    Unknown,
}

impl From<bool> for Known {
    fn from(is: bool) -> Self {
        if is { Self::Yes } else { Self::No }
    }
}

/// What a page's range is registered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Registration {
    pub(super) context: u32,
    pub(super) missing: bool,
    pub(super) write_protect: bool,
}

/// One page of one actor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    /// Private anonymous memory is mapped there, and no shadow stack.
    pub(super) is_mapped: bool,
    pub(super) registration: Option<Registration>,
    /// Whether the page table has something there that a write-protection can mark without a marker.
    pub(super) populated: Known,
    /// Write-protected by the user, and not resolved since.
    pub(super) protected: Known,
    /// A mark may be left in an entry that is writable.
    pub(super) mark_may_stay: bool,
    /// Protected until ksmd replaced it.
    pub(super) lost_to_merging: bool,
    /// A store may have given it a frame of its own, which fork then shares.
    pub(super) written: bool,
    /// MADV_FREE gave it up, or MADV_PAGEOUT may have put it out.
    pub(super) volatile: Volatile,
    /// mlock was here: further operations may fault pages in.
    pub(super) may_be_locked: bool,
    /// What is mapped and registered there does not follow from the operations.
    pub(super) is_lost: bool,
    /// MADV_DONTFORK, MADV_WIPEONFORK.
    pub(super) is_not_forked: bool,
    pub(super) is_wiped: bool,
}

/// Where a page's content may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Volatile {
    InMemory,
    MayBeOut,
    GivenUp,
}

impl Page {
    pub(super) const UNMAPPED: Self = Self {
        is_mapped: false,
        registration: None,
        populated: Known::No,
        protected: Known::No,
        mark_may_stay: false,
        lost_to_merging: false,
        written: false,
        volatile: Volatile::InMemory,
        may_be_locked: false,
        is_lost: false,
        is_not_forked: false,
        is_wiped: false,
    };

    /// Private anonymous memory, freshly mapped.
    pub(super) const FRESH: Self = Self { is_mapped: true, ..Self::UNMAPPED };

    /// Nothing of the page is known but where it is registered.
    pub(super) fn forget(&mut self) {
        self.populated = Known::Unknown;
        self.protected = Known::Unknown;
        self.mark_may_stay = true;
        self.lost_to_merging = false;
        self.written = true;
    }

    /// Its content goes, and the protection with it.
    pub(super) fn empty(&mut self) {
        let Self { is_mapped, registration, may_be_locked, is_lost, is_not_forked, is_wiped, .. } = *self;
        *self = Self { is_mapped, registration, may_be_locked, is_lost, is_not_forked, is_wiped, ..Self::UNMAPPED };
    }

    /// The range is registered no more, which lifts the protection where it was registered for that, and where `lifts`
    /// says so.
    pub(super) fn unregister(&mut self, lifts: bool) {
        if lifts && self.is_registered_for_protection() {
            self.protected = Known::No;
            self.lost_to_merging = false;
        }
        self.registration = None;
    }

    pub(super) fn is_registered_for_protection(&self) -> bool {
        self.registration.is_some_and(|registration| registration.write_protect)
    }

    /// A store went through, or an access that puts a page there.
    pub(super) fn touch(&mut self, is_store: bool) {
        self.populated = Known::Yes;
        self.written |= is_store;
        if is_store {
            // Where the range is registered for something else a mark may stay behind in an entry that the store made
            // writable (wp_page_reuse keeps it, wp_page_copy does not): it counts again once anything takes the right
            // to write away. Until then later stores say nothing about it, registered or not.
            let may_stay = self.protected != Known::No && (!self.is_registered_for_protection() || self.mark_may_stay);
            self.mark_may_stay = may_stay;
            self.protected = if may_stay { Known::Unknown } else { Known::No };
            self.lost_to_merging = false;
            self.volatile = Volatile::InMemory;
        } else if self.volatile == Volatile::MayBeOut {
            self.volatile = Volatile::InMemory;
        }
    }
}
