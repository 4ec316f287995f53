//! The processor's side: one load or store through a TLB, with the updates of Accessed and Dirty as the Intel SDM
//! words them (volume 3A, "Accessed and Dirty Flags"; "Automatic Locking": these updates are locked).

use std::fmt;

use ptediff_reference_model::entry::{A, D, P, RW};

use super::Mutation;
use super::entry::{Cached, Shared, Side};

/// The two kinds of processor that the SDM tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Processor {
    /// Before shadow stacks. "Execution on some processors may result in the entry's dirty flag being set ...
    /// and the entry's R/W flag being clear": Dirty is set in an entry that was writable when it was read,
    /// whatever its R/W flag says by now. A not-present entry is left alone: a store to a linear address needs a
    /// translation, and `mm/rmap.c: try_to_unmap_one` relies on it.
    BeforeShadowStacks,
    /// With shadow stacks (CET): "will never set the dirty flag in a paging-structure entry in which the R/W
    /// flag is clear". The check of R/W and the update are one.
    WithShadowStacks,
}

impl Processor {
    /// Both, the older first.
    pub const ALL: [Self; 2] = [Self::BeforeShadowStacks, Self::WithShadowStacks];
}

impl fmt::Display for Processor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::BeforeShadowStacks => "before shadow stacks",
            Self::WithShadowStacks => "with shadow stacks",
        })
    }
}

/// What becomes of a store whose Dirty arrived late. The SDM does not say; both are explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LateStore {
    /// It reaches the page.
    Completes,
    /// It faults: the Dirty flag is all that is left of it.
    Faults,
}

/// What the processor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Load,
    Store,
}

impl Access {
    /// Whether an entry lets it pass.
    pub(super) fn is_permitted_by(self, entry: u64) -> bool {
        entry & P != 0 && (self == Self::Load || entry & RW != 0)
    }
}

/// A processor's rules in one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Which of the processors it is.
    pub(super) index: u8,
    pub(super) processor: Processor,
    pub(super) late: LateStore,
    pub(super) mutation: Option<Mutation>,
}

/// Runs one instruction.
pub(super) fn run(shared: &Shared, rules: Rules, access: Access) {
    let mut cached = shared.cached[usize::from(rules.index)].lock().expect("nobody panics with a translation in hand");
    let needs_walk = match *cached {
        None => true,
        Some(Cached::Clean) => access == Access::Store,
        Some(Cached::Dirty) => false,
    };
    if needs_walk {
        match walk(shared, rules, access) {
            Some(translation) => *cached = Some(translation),
            None => {
                shared.fault(rules.index);
                return;
            }
        }
    }
    if access == Access::Store {
        shared.write_page(rules.index);
    }
}

/// Walks to the entry until it can be used as it was read, or forbids the access (`None`: a fault). It starts over
/// only where the kernel changed the entry in between, which it does a few times at most.
fn walk(shared: &Shared, rules: Rules, access: Access) -> Option<Cached> {
    loop {
        let mut seen = shared.read(Side::Processor(rules.index), "reads the entry");
        if !access.is_permitted_by(seen) {
            return None;
        }
        if seen & A == 0 {
            if !shared.processor_update(rules.index, "sets Accessed", seen, seen | A) {
                continue;
            }
            seen |= A;
        }
        if access == Access::Load || seen & D != 0 {
            return Some(if seen & D != 0 { Cached::Dirty } else { Cached::Clean });
        }
        if rules.mutation == Some(Mutation::UnlockedProcessor) {
            shared.processor_store(rules.index, "stores the entry with Dirty set", seen, seen | D);
            return Some(Cached::Dirty);
        }
        if rules.mutation == Some(Mutation::StoreBeforeDirty) {
            shared.write_page(rules.index);
        }
        let checks_writable =
            rules.processor == Processor::WithShadowStacks && rules.mutation != Some(Mutation::RecheckDropped);
        if checks_writable {
            if shared.processor_update(rules.index, "sets Dirty", seen, seen | D) {
                return Some(Cached::Dirty);
            }
            continue;
        }
        match shared.processor_update_if_present(rules.index, "sets Dirty", D) {
            None => {}
            Some(before) if before & RW == 0 && rules.late == LateStore::Faults => return None,
            Some(_) => return Some(Cached::Dirty),
        }
    }
}
