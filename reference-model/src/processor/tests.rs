//! The decision, rule by rule.

use super::*;

const OPEN: u64 = PRESENT | WRITABLE | USER;
const TABLES: u64 = OPEN | ACCESSED;

/// Every feature on, everything permitted.
fn context() -> Context {
    Context {
        paging: Paging { levels: 4, physical_address_bits: 40, gigabyte_pages: true },
        write_protect: true,
        smep: true,
        smap: true,
        alignment_check: false,
        user_keys: true,
        supervisor_keys: true,
        shadow_stacks: true,
        supports_shadow_stacks: true,
        execute_disable: true,
        pkru: 0,
        pkrs: 0,
    }
}

fn pages(pte: u64) -> Entries {
    [pte, OPEN, OPEN, OPEN, 0]
}

const USER_READ: Access = Access { mode: Mode::User, kind: Kind::Read };
const USER_WRITE: Access = Access { mode: Mode::User, kind: Kind::Write };
const USER_FETCH: Access = Access { mode: Mode::User, kind: Kind::Fetch };
const READ: Access = Access { mode: Mode::Supervisor, kind: Kind::Read };
const WRITE: Access = Access { mode: Mode::Supervisor, kind: Kind::Write };
const FETCH: Access = Access { mode: Mode::Supervisor, kind: Kind::Fetch };
const IMPLICIT_READ: Access = Access { mode: Mode::Implicit, kind: Kind::Read };
const USER_PUSH: Access = Access { mode: Mode::User, kind: Kind::ShadowStackWrite };
const USER_POP: Access = Access { mode: Mode::User, kind: Kind::ShadowStackRead };
const PUSH: Access = Access { mode: Mode::Supervisor, kind: Kind::ShadowStackWrite };
const POP: Access = Access { mode: Mode::Supervisor, kind: Kind::ShadowStackRead };

/// `Ok` is the rule that allows, `Err` the rule that refuses and the error code.
type Verdict = Result<Rule, (Rule, u32)>;

#[track_caller]
fn check(context: &Context, access: Access, entries: Entries, expected: Verdict) -> Decision {
    let decision = decide(context, access, &entries);
    let found = match decision.fault {
        None => Ok(decision.rule),
        Some(code) => Err((decision.rule, code.0)),
    };
    assert_eq!(found, expected, "{access:?} {entries:x?}");
    if decision.fault.is_some() {
        assert_eq!(decision.after, entries, "a refused access leaves Accessed open and everything else alone");
    }
    decision
}

#[test]
fn entries_that_are_not_present_or_set_reserved_bits_translate_nothing() {
    let context = context();
    for level in 1..=4 {
        let mut entries = pages(OPEN);
        entries[level - 1] = WRITABLE | USER | 1 << 51;
        check(&context, USER_WRITE, entries, Err((Rule::NotPresent, 0x06)));
        entries[level - 1] |= PRESENT;
        let decision = check(&context, USER_WRITE, entries, Err((Rule::ReservedBit, 0x0f)));
        for used in 1..=4 {
            assert_eq!(decision.unspecified[used - 1] != 0, used >= level, "level {level}, {used}");
        }
    }
    for (entries, is_reserved) in [
        ([0, OPEN | PAGE_SIZE | 1 << 13, OPEN, OPEN, 0], true),
        ([0, OPEN | PAGE_SIZE | 1 << 12, OPEN, OPEN, 0], false),
        ([0, OPEN | PAGE_SIZE | 1 << 21, OPEN, OPEN, 0], false),
        ([0, 0, OPEN | PAGE_SIZE | 1 << 29, OPEN, 0], true),
        ([0, 0, OPEN | PAGE_SIZE | 1 << 30, OPEN, 0], false),
        ([OPEN, OPEN, OPEN, OPEN | PAGE_SIZE, 0], true),
        ([OPEN | 1 << 39, OPEN, OPEN, OPEN, 0], false),
        ([OPEN | 1 << 40, OPEN, OPEN, OPEN, 0], true),
    ] {
        let expected = if is_reserved { Err((Rule::ReservedBit, 0x0d)) } else { Ok(Rule::Read) };
        check(&context, USER_READ, entries, expected);
    }
    let old = Context { execute_disable: false, ..context };
    check(&old, USER_READ, pages(OPEN | EXECUTE_DISABLE), Err((Rule::ReservedBit, 0x0d)));
    let mut small = context;
    small.paging.gigabyte_pages = false;
    check(&small, USER_READ, [0, 0, OPEN | PAGE_SIZE, OPEN, 0], Err((Rule::ReservedBit, 0x0d)));
    let mut five = context;
    five.paging.levels = 5;
    check(&five, USER_READ, pages(OPEN), Err((Rule::NotPresent, 0x04)));
    check(&five, USER_READ, [OPEN; 5], Ok(Rule::Read));
}

#[test]
fn rights_are_those_of_all_entries_together() {
    let context = context();
    for level in 1..=4 {
        let mut entries = pages(OPEN);
        entries[level - 1] = PRESENT | WRITABLE;
        check(&context, USER_READ, entries, Err((Rule::SupervisorAddress, 0x05)));
        check(&context, WRITE, entries, Ok(Rule::Write));
        entries[level - 1] = PRESENT | USER;
        check(&context, USER_WRITE, entries, Err((Rule::UserWriteProtected, 0x07)));
        check(&Context { smap: false, ..context }, WRITE, entries, Err((Rule::SupervisorWriteProtected, 0x03)));
        entries[level - 1] = OPEN | EXECUTE_DISABLE;
        check(&context, USER_FETCH, entries, Err((Rule::ExecuteDisable, 0x15)));
        check(&context, USER_READ, entries, Ok(Rule::Read));
    }
}

#[test]
fn smep_and_smap_keep_the_supervisor_from_user_pages() {
    let context = context();
    check(&context, FETCH, pages(OPEN), Err((Rule::Smep, 0x11)));
    check(&Context { smep: false, ..context }, FETCH, pages(OPEN), Ok(Rule::Fetch));
    check(&context, READ, pages(OPEN), Err((Rule::Smap, 0x01)));
    check(&context, WRITE, pages(OPEN), Err((Rule::Smap, 0x03)));
    let open = Context { alignment_check: true, ..context };
    check(&open, READ, pages(OPEN), Ok(Rule::Read));
    check(&open, IMPLICIT_READ, pages(OPEN), Err((Rule::Smap, 0x01)));
    check(&Context { smap: false, ..context }, IMPLICIT_READ, pages(OPEN), Ok(Rule::Read));
    check(&context, READ, pages(PRESENT), Ok(Rule::Read));
}

#[test]
fn the_fetch_flag_needs_smep_or_execute_disable() {
    let neither = Context { smep: false, execute_disable: false, ..context() };
    check(&neither, USER_FETCH, pages(PRESENT), Err((Rule::SupervisorAddress, 0x05)));
    for context in [Context { smep: true, ..neither }, Context { execute_disable: true, ..neither }] {
        check(&context, USER_FETCH, pages(PRESENT), Err((Rule::SupervisorAddress, 0x15)));
    }
}

#[test]
fn keys_are_asked_by_the_mode_of_the_page() {
    let key = 1 << KEY_SHIFT;
    let closed = Context { smap: false, pkru: 0x4, pkrs: 0x4, ..context() };
    let user = pages(OPEN | key);
    let supervisor = pages(PRESENT | WRITABLE | key);
    check(&closed, USER_READ, user, Err((Rule::UserKeyAccess, 0x25)));
    check(&closed, READ, user, Err((Rule::UserKeyAccess, 0x21)));
    check(&closed, READ, supervisor, Err((Rule::SupervisorKeyAccess, 0x21)));
    check(&closed, USER_FETCH, user, Ok(Rule::Fetch));
    check(&closed, FETCH, supervisor, Ok(Rule::Fetch));
    check(&Context { pkru: 0, ..closed }, READ, user, Ok(Rule::Read));
    check(&Context { pkrs: 0, ..closed }, READ, supervisor, Ok(Rule::Read));
    check(&Context { user_keys: false, ..closed }, USER_READ, user, Ok(Rule::Read));
    check(&Context { supervisor_keys: false, ..closed }, READ, supervisor, Ok(Rule::Read));
    let read_only = Context { pkru: 0x8, pkrs: 0x8, ..closed };
    check(&read_only, USER_READ, user, Ok(Rule::Read));
    check(&read_only, USER_WRITE, user, Err((Rule::UserKeyWrite, 0x27)));
    check(&read_only, WRITE, user, Err((Rule::UserKeyWrite, 0x23)));
    check(&read_only, WRITE, supervisor, Err((Rule::SupervisorKeyWrite, 0x23)));
    let no_protection = Context { write_protect: false, ..read_only };
    check(&no_protection, USER_WRITE, user, Err((Rule::UserKeyWrite, 0x27)));
    check(&no_protection, WRITE, user, Ok(Rule::Write));
    check(&no_protection, WRITE, supervisor, Ok(Rule::Write));
    // The key of a table is ignored; that of a large page counts.
    check(&closed, USER_READ, [OPEN, OPEN | key, OPEN, OPEN, 0], Ok(Rule::Read));
    check(&closed, USER_READ, [0, OPEN | PAGE_SIZE | key, OPEN, OPEN, 0], Err((Rule::UserKeyAccess, 0x25)));
    // PK whatever else refuses; but not for a translation that is none.
    check(&closed, USER_WRITE, pages(PRESENT | USER | key), Err((Rule::UserKeyAccess, 0x27)));
    check(&Context { smap: true, ..closed }, READ, user, Err((Rule::Smap, 0x21)));
    check(&closed, USER_READ, pages(OPEN | key | 1 << 51), Err((Rule::ReservedBit, 0x0d)));
    let decision = check(&closed, USER_READ, supervisor, Err((Rule::SupervisorAddress, 0x05)));
    assert_eq!(decision.unspecified_code, ErrorCode::KEY);
}

#[test]
fn shadow_stack_accesses_want_read_only_dirty_pages_of_their_mode() {
    let context = context();
    let user = pages(PRESENT | USER | DIRTY);
    let supervisor = pages(PRESENT | DIRTY);
    check(&context, USER_PUSH, user, Ok(Rule::ShadowStackWrite));
    check(&context, USER_POP, user, Ok(Rule::ShadowStackRead));
    check(&context, PUSH, supervisor, Ok(Rule::ShadowStackWrite));
    check(&context, POP, supervisor, Ok(Rule::ShadowStackRead));
    check(&context, USER_PUSH, supervisor, Err((Rule::SupervisorAddress, 0x47)));
    check(&context, PUSH, user, Err((Rule::ShadowStackOfOtherMode, 0x43)));
    check(&context, POP, user, Err((Rule::ShadowStackOfOtherMode, 0x41)));
    for pte in [OPEN, OPEN | DIRTY, PRESENT | USER] {
        check(&context, USER_PUSH, pages(pte), Err((Rule::NoShadowStackPage, 0x47)));
        check(&context, USER_POP, pages(pte), Err((Rule::NoShadowStackPage, 0x45)));
    }
    for level in 2..=4 {
        let mut entries = user;
        entries[level - 1] &= !WRITABLE;
        check(&context, USER_POP, entries, Err((Rule::NoShadowStackPage, 0x45)));
    }
    check(&context, USER_WRITE, user, Err((Rule::UserWriteProtected, 0x07)));
    check(&context, USER_READ, user, Ok(Rule::Read));
    let key = pages(PRESENT | USER | DIRTY | 1 << KEY_SHIFT);
    check(&Context { pkru: 0x8, ..context }, USER_POP, key, Ok(Rule::ShadowStackRead));
    check(&Context { pkru: 0x8, ..context }, USER_PUSH, key, Err((Rule::UserKeyWrite, 0x67)));
}

#[test]
fn an_access_sets_accessed_everywhere_and_a_write_dirty_where_the_page_is() {
    let context = context();
    let all = [TABLES; 5];
    let read = check(&context, USER_READ, pages(OPEN), Ok(Rule::Read));
    assert_eq!(read.after[..4], all[..4]);
    assert_eq!(read.after[4], 0, "the fifth level is not looked at");
    let write = check(&context, USER_WRITE, pages(OPEN), Ok(Rule::Write));
    assert_eq!(write.after[..4], [TABLES | DIRTY, TABLES, TABLES, TABLES]);
    let large = check(&context, USER_WRITE, [7, OPEN | PAGE_SIZE, OPEN, OPEN, 0], Ok(Rule::Write));
    assert_eq!(large.after[..4], [7, TABLES | PAGE_SIZE | DIRTY, TABLES, TABLES]);
}

/// State (e) of `_PAGE_COW`: a write without CR0.WP makes an entry Write=0, Dirty=1, unless the processor supports
/// shadow stacks.
#[test]
fn a_write_without_write_protect_dirties_a_read_only_entry_of_old_processors_only() {
    let new = Context { write_protect: false, smap: false, shadow_stacks: false, ..context() };
    let old = Context { supports_shadow_stacks: false, ..new };
    let read_only = PRESENT | USER;
    let write = check(&old, WRITE, pages(read_only), Ok(Rule::WriteProtectOff));
    assert_eq!(write.after[0], read_only | ACCESSED | DIRTY);
    let write = check(&new, WRITE, pages(read_only), Ok(Rule::WriteProtectOff));
    assert_eq!(write.after[0], read_only | ACCESSED);
    let above = check(&new, WRITE, [OPEN, read_only, OPEN, OPEN, 0], Ok(Rule::WriteProtectOff));
    assert_eq!(above.after[0], OPEN | ACCESSED | DIRTY, "R/W of the entry itself decides");
}

#[test]
fn rules_have_their_own_identifiers_and_cite_the_sdm() {
    for (number, rule) in Rule::ALL.into_iter().enumerate() {
        assert_eq!(rule as usize, number);
        assert!(rule.identifier().starts_with("processor."), "{rule:?}");
        assert!(rule.source().starts_with("SDM "), "{rule:?}");
        let same = Rule::ALL.into_iter().filter(|other| other.identifier() == rule.identifier()).count();
        assert_eq!(same, 1, "{rule:?}");
    }
}

#[test]
fn error_codes_are_told_by_their_flags() {
    assert_eq!(ErrorCode(0x67).to_string(), "0x67 (P W U PK SS)");
    assert_eq!(ErrorCode(0).to_string(), "0x00 ()");
}
