//! The decision itself.

use core::ops::Range;

use super::{
    ACCESSED, Access, Context, DIRTY, Decision, EXECUTE_DISABLE, Entries, ErrorCode, KEY_SHIFT, Kind, LEVELS, Mode,
    Mutant, PAGE_SIZE, PRESENT, Paging, Rule, USER, WRITABLE,
};

/// What the processor does about an access.
#[must_use]
#[inline]
pub fn decide(context: &Context, access: Access, entries: &Entries) -> Decision {
    decide_as(None, context, access, entries)
}

/// The same with a mistake in it.
#[must_use]
#[inline(always)]
pub fn decide_as(mutant: Option<Mutant>, context: &Context, access: Access, entries: &Entries) -> Decision {
    let is = |candidate: Mutant| mutant == Some(candidate);
    let is_write = matches!(access.kind, Kind::Write | Kind::ShadowStackWrite);
    let is_shadow = matches!(access.kind, Kind::ShadowStackRead | Kind::ShadowStackWrite);
    let is_fetch = access.kind == Kind::Fetch;

    // The flags that describe the access, whatever becomes of it (SDM 4.7).
    let fetch_flag = context.execute_disable || context.smep && !is(Mutant::FetchFlagNeedsExecuteDisable);
    let write_flag = is_write && !(is_shadow && is(Mutant::ShadowStackWritesAreReads));
    let mut code = flag(write_flag, ErrorCode::WRITE)
        | flag(access.mode == Mode::User, ErrorCode::USER)
        | flag(is_fetch && fetch_flag, ErrorCode::FETCH)
        | flag(is_shadow, ErrorCode::SHADOW_STACK);

    let mut decision =
        Decision { fault: None, rule: Rule::Read, after: *entries, unspecified: [0; LEVELS], unspecified_code: 0 };
    let mut level = usize::from(context.paging.levels);
    let mut all = !0;
    let mut any = 0;
    // Of the entries above the one that maps the page.
    let mut all_above = !0;
    let (walk_ended, last) = loop {
        let entry = entries[level - 1];
        let reserved = entry & reserved_bits(context, level, entry, mutant) != 0;
        if entry & PRESENT == 0 && !(reserved && is(Mutant::ReservedWithoutPresent)) {
            break (Some(Rule::NotPresent), level);
        }
        if reserved {
            code |= ErrorCode::PRESENT | ErrorCode::RESERVED;
            break (Some(Rule::ReservedBit), level);
        }
        all &= entry;
        any |= entry;
        if level == 1 || entry & PAGE_SIZE != 0 {
            break (None, level);
        }
        all_above &= entry;
        level -= 1;
    };
    let top = usize::from(context.paging.levels);
    if let Some(rule) = walk_ended {
        // The entries above the one where the walk ended were used, and translated nothing; so was, in the words of
        // SDM 4.7, one that sets a reserved bit. One that is not present has no Accessed flag to set.
        let first = if rule == Rule::ReservedBit { last - 1 } else { last };
        leave_accessed_open(&mut decision, entries, first..top);
        decision.fault = Some(ErrorCode(code));
        decision.rule = rule;
        return decision;
    }

    let page = entries[last - 1];
    let is_user_address = all & USER != 0;
    let is_writable = if is(Mutant::WriteProtectInLastEntryOnly) { page & WRITABLE != 0 } else { all & WRITABLE != 0 };
    let key_refuses = key_refusal(mutant, context, access, is_user_address, key_of(mutant, entries, last));
    let refusal = if access.mode == Mode::User && !is_user_address {
        Some(Rule::SupervisorAddress)
    } else if is_fetch {
        if access.mode != Mode::User && is_user_address && context.smep && !is(Mutant::SmepIgnored) {
            Some(Rule::Smep)
        } else if context.execute_disable && any & EXECUTE_DISABLE != 0 {
            Some(Rule::ExecuteDisable)
        } else {
            key_refuses
        }
    } else if !is_shadow && smap_refuses(mutant, context, access.mode, is_user_address) {
        Some(Rule::Smap)
    } else if key_refuses.is_some() {
        key_refuses
    } else if is_shadow {
        let is_shadow_stack_page = (page & WRITABLE == 0
            || access.kind == Kind::ShadowStackWrite && is(Mutant::ShadowStackWriteToWritable))
            && (page & DIRTY != 0 || is(Mutant::ShadowStackWithoutDirty))
            && (all_above & WRITABLE != 0 || is(Mutant::ShadowStackIgnoresEntriesAbove));
        if !is_shadow_stack_page {
            Some(Rule::NoShadowStackPage)
        } else if access.mode != Mode::User && is_user_address && !is(Mutant::ShadowStackOfEitherMode) {
            Some(Rule::ShadowStackOfOtherMode)
        } else {
            None
        }
    } else if is_write && !is_writable {
        match access.mode {
            Mode::User => Some(Rule::UserWriteProtected),
            Mode::Supervisor | Mode::Implicit if context.write_protect => Some(Rule::SupervisorWriteProtected),
            Mode::Supervisor | Mode::Implicit => None,
        }
    } else {
        None
    };

    if let Some(rule) = refusal {
        let alone = matches!(
            rule,
            Rule::UserKeyAccess | Rule::UserKeyWrite | Rule::SupervisorKeyAccess | Rule::SupervisorKeyWrite
        ) && (!is_write || is_writable);
        let key_flag = key_refuses.is_some() && (alone || !is(Mutant::KeyFlagOnlyAlone));
        code |= ErrorCode::PRESENT;
        if access.mode == Mode::User && !is_user_address {
            decision.unspecified_code = flag(key_flag, ErrorCode::KEY);
        } else {
            code |= flag(key_flag, ErrorCode::KEY);
        }
        leave_accessed_open(&mut decision, entries, last - 1..top);
        if is(Mutant::DirtyOnFault) && is_write {
            decision.after[last - 1] |= DIRTY;
        }
        decision.fault = Some(ErrorCode(code));
        decision.rule = rule;
        return decision;
    }

    for used in last - 1..top {
        let lost = if used == last - 1 { Mutant::LostAccessed } else { Mutant::LostAccessedAbove };
        if !is(lost) {
            decision.after[used] |= ACCESSED;
        }
    }
    let stays_clean = context.supports_shadow_stacks && !is(Mutant::DirtyWithoutWritable) && page & WRITABLE == 0;
    let dirty_is_lost = is(Mutant::LostDirty) || is(Mutant::LostDirtyWithoutWriteProtect) && !is_writable;
    if is_write && !dirty_is_lost && !stays_clean || access.kind == Kind::Read && is(Mutant::DirtyByReads) {
        decision.after[last - 1] |= DIRTY;
    }
    decision.rule = match access.kind {
        Kind::Read => Rule::Read,
        Kind::Write if is_writable => Rule::Write,
        Kind::Write => Rule::WriteProtectOff,
        Kind::Fetch => Rule::Fetch,
        Kind::ShadowStackRead => Rule::ShadowStackRead,
        Kind::ShadowStackWrite => Rule::ShadowStackWrite,
    };
    decision
}

/// Leaves open whether Accessed is set in entries that were used and translated nothing.
#[inline(always)]
fn leave_accessed_open(decision: &mut Decision, entries: &Entries, used: Range<usize>) {
    for (open, entry) in decision.unspecified[used.clone()].iter_mut().zip(&entries[used]) {
        *open = ACCESSED & !entry;
    }
}

#[inline(always)]
fn flag(condition: bool, bit: u32) -> u32 {
    if condition { bit } else { 0 }
}

/// The bits that must be zero in this entry (SDM 4.5, tables of the formats of entries).
#[inline(always)]
fn reserved_bits(context: &Context, level: usize, entry: u64, mutant: Option<Mutant>) -> u64 {
    let Paging { physical_address_bits, gigabyte_pages, .. } = context.paging;
    let mut reserved = (1 << 52) - (1_u64 << physical_address_bits);
    if !context.execute_disable {
        reserved |= EXECUTE_DISABLE;
    }
    if level >= 4 || level == 3 && !gigabyte_pages {
        reserved |= PAGE_SIZE;
    } else if level > 1 && entry & PAGE_SIZE != 0 && mutant != Some(Mutant::LargePageAddressUnchecked) {
        // Bit 12 is PAT; from 13 up to the page's size the address has no bits.
        let page_bits = 12 + 9 * (level as u32 - 1);
        reserved |= (1 << page_bits) - (1 << 13);
    }
    reserved
}

#[inline(always)]
fn key_of(mutant: Option<Mutant>, entries: &Entries, last: usize) -> u32 {
    let holder = if mutant == Some(Mutant::KeyOfTheEntryAbove) { last } else { last - 1 };
    (entries[holder] >> KEY_SHIFT) as u32 & 0xf
}

/// Whether SMAP refuses a data access that is no shadow-stack access; those reach pages of their own mode only.
#[inline(always)]
fn smap_refuses(mutant: Option<Mutant>, context: &Context, mode: Mode, is_user_address: bool) -> bool {
    let is_open = match mode {
        Mode::User => true,
        Mode::Supervisor => context.alignment_check && mutant != Some(Mutant::SmapIgnoresAlignmentCheck),
        Mode::Implicit => false,
    };
    context.smap && is_user_address && !is_open
}

/// Whether the rights of the page's key refuse the access (SDM 4.6.2).
#[inline(always)]
fn key_refusal(
    mutant: Option<Mutant>,
    context: &Context,
    access: Access,
    is_user_address: bool,
    key: u32,
) -> Option<Rule> {
    let is = |candidate: Mutant| mutant == Some(candidate);
    if access.kind == Kind::Fetch && !is(Mutant::KeysOnFetches) {
        return None;
    }
    let is_write = matches!(access.kind, Kind::Write | Kind::ShadowStackWrite);
    let writes_obey =
        access.mode == Mode::User || context.write_protect || is(Mutant::KeyWriteDisableWithoutWriteProtect);
    let rights = |register: u32, swapped: bool| {
        let bits = register >> (2 * key) & 3;
        if swapped { bits >> 1 | (bits & 1) << 1 } else { bits }
    };
    if context.user_keys && (is_user_address || is(Mutant::UserKeysOnSupervisorAddresses)) {
        let bits = rights(context.pkru, is(Mutant::SwappedUserKeyBits));
        if bits & 1 != 0 && (access.mode == Mode::User || !is(Mutant::UserKeysInUserModeOnly)) {
            return Some(Rule::UserKeyAccess);
        }
        if bits & 2 != 0 && is_write && writes_obey {
            return Some(Rule::UserKeyWrite);
        }
    }
    let pkrs_holds = !is_user_address || is(Mutant::SupervisorKeysOnUserAddresses) && access.mode != Mode::User;
    if context.supervisor_keys && pkrs_holds {
        let bits = rights(context.pkrs, is(Mutant::SwappedSupervisorKeyBits));
        if bits & 1 != 0 {
            return Some(Rule::SupervisorKeyAccess);
        }
        if bits & 2 != 0 && is_write && writes_obey {
            return Some(Rule::SupervisorKeyWrite);
        }
    }
    None
}
