//! Keys and rights, with the outcomes that were seen live; and what a machine without keys says.

use super::*;
use crate::arena::PageIndex;
use crate::entry::PKEY;
use crate::kernel::KernelVersion;
use crate::machine::Machine;
use crate::outcome::Fault;
use crate::program::{Operation, Placement, Step};

const ALL: [KernelVersion; 3] = [KernelVersion::LINUX_6_1, KernelVersion::LINUX_6_12, KernelVersion::LINUX_7_2];
const PAGE: PageIndex = PageIndex::FIRST;
const ONE: PageRange = PageRange::FIRST_PAGE;
const READ: Operation = Operation::Read { page: PAGE };
const WRITE: Operation = Operation::Write { page: PAGE };
const EXECUTE: Operation = Operation::Execute { page: PAGE };
const WRSS: Operation = Operation::WriteShadowStack { page: PAGE };

fn machine(version: KernelVersion, protection_keys: bool) -> Machine {
    Machine::imagined(version, version != KernelVersion::LINUX_6_1, protection_keys)
}

fn protection(bits: u8) -> Protection {
    Protection::from_bits(bits).unwrap()
}

fn mmap(bits: u8) -> Operation {
    Operation::Mmap { range: ONE, protection: protection(bits), placement: Placement::Fixed }
}

fn mprotect(bits: u8) -> Operation {
    Operation::Mprotect { range: ONE, protection: protection(bits) }
}

fn alloc(rights: KeyRights) -> Operation {
    Operation::PkeyAlloc { rights }
}

fn protect(bits: u8, key: i8) -> Operation {
    Operation::PkeyMprotect { range: ONE, protection: protection(bits), key: KeyArgument::new(key).unwrap() }
}

fn free(key: u8) -> Operation {
    Operation::PkeyFree { key: ProtectionKey::new(key).unwrap() }
}

fn pkru(key: u8, rights: KeyRights) -> Operation {
    Operation::WritePkru { key: ProtectionKey::new(key).unwrap(), rights }
}

fn refused(error_code: u32, key: u32) -> Outcome {
    Outcome::Faulted(Fault { signal: 11, code: 4, address: PAGE.address(), error_code, key })
}

/// Runs the operations on each version; the last must give this, and page 0 must have this key in its entry.
fn check_on(versions: &[KernelVersion], keys: bool, name: &str, operations: &[Operation], outcome: Outcome, key: u64) {
    for &version in versions {
        let mut model = Model::as_released(&machine(version, keys));
        let mut seen = None;
        for (index, &operation) in operations.iter().enumerate() {
            seen = model.step(index, &Step { actor: ActorId::FIRST, operation }).outcome;
        }
        assert_eq!(seen, Some(outcome), "{name} on {version}");
        let entry = model.entry(ActorId::FIRST, PAGE).bits;
        assert_eq!((entry.0 & PKEY) >> 59, key, "{name} on {version}: {entry}");
    }
}

fn check(name: &str, operations: &[Operation], outcome: Outcome, key: u64) {
    check_on(&ALL, true, name, operations, outcome, key);
}

#[test]
fn keys_refuse_before_anything_else_does() {
    use KeyRights::{Allow, DisableAccess, DisableWrite};
    let mapped = [mmap(3), WRITE, alloc(Allow), protect(3, 1)];
    let then = |more: &[Operation]| [&mapped, more].concat();
    check("load allowed", &then(&[READ]), Outcome::Loaded(0x2_e1ff), 1);
    check("load of a present page", &then(&[pkru(1, DisableAccess), READ]), refused(0x25, 1), 1);
    check("store", &then(&[pkru(1, DisableWrite), WRITE]), refused(0x27, 1), 1);
    check("load, write disabled", &then(&[pkru(1, DisableWrite), READ]), Outcome::Loaded(0x2_e1ff), 1);
    check("read-only too", &then(&[protect(1, 1), pkru(1, DisableWrite), WRITE]), refused(0x27, 1), 1);
    check("PROT_NONE too", &then(&[protect(0, 1), pkru(1, DisableAccess), READ]), refused(0x4, 1), 1);
    check("fetch", &[mmap(7), alloc(DisableAccess), protect(7, 1), EXECUTE], Outcome::Executed, 1);
    check("absent", &[mmap(3), alloc(DisableAccess), protect(3, 1), READ], refused(0x4, 1), 0);
    let stack = Operation::MapShadowStack { range: ONE, token: false };
    let shadow = [stack, WRSS, alloc(DisableWrite), protect(3, 1), WRSS];
    check_on(&ALL[1..], true, "WRSS", &shadow, refused(0x67, 1), 1);
    let by_kernel = Operation::WriteBySystemCall { page: PAGE };
    check("system call", &then(&[pkru(1, DisableWrite), by_kernel]), Outcome::Failed(14), 1);
    check("system call allowed", &then(&[by_kernel]), Outcome::Stored, 1);
}

#[test]
fn keys_are_given_out_from_the_lowest() {
    use KeyRights::{Allow, DisableBoth, DisableWrite};
    check("first", &[alloc(Allow)], Outcome::Returned(1), 0);
    check("again", &[alloc(Allow), alloc(Allow), free(1), alloc(Allow)], Outcome::Returned(1), 0);
    check("all", &[alloc(Allow); 16], Outcome::Failed(28), 0);
    check("not allocated", &[mmap(3), protect(3, 1)], Outcome::Failed(22), 0);
    check("key before hole", &[protect(3, 1)], Outcome::Failed(22), 0);
    check("none named", &[protect(3, -1)], Outcome::Failed(12), 0);
    check("freed twice", &[alloc(Allow), free(1), free(1)], Outcome::Failed(22), 0);
    check("freed in use", &[mmap(3), WRITE, alloc(Allow), protect(3, 1), free(1), mprotect(1)], Outcome::Succeeded, 1);
    let rights = [alloc(DisableWrite), alloc(DisableBoth), pkru(1, Allow)];
    check("rights of new keys", &rights, Outcome::Returned(0x5555_5578), 0);
}

#[test]
fn execute_only_mappings_take_a_key() {
    use KeyRights::{Allow, DisableWrite};
    check("unreadable", &[mmap(4), EXECUTE, READ], refused(0x25, 1), 1);
    check("left", &[mmap(7), WRITE, mprotect(4), mprotect(5), READ], Outcome::Loaded(0x2_e1ff), 0);
    check("reserved", &[mmap(4), protect(3, 1)], Outcome::Failed(22), 0);
    check("not to be freed", &[mmap(4), free(1)], Outcome::Failed(22), 0);
    check("over a user's key", &[mmap(7), WRITE, alloc(Allow), protect(7, 1), mprotect(4)], Outcome::Succeeded, 2);
    check("a key named", &[mmap(7), WRITE, alloc(Allow), protect(4, 1)], Outcome::Succeeded, 1);
    let reopened = [mmap(4), pkru(1, DisableWrite), mprotect(7), mprotect(4), pkru(1, Allow)];
    check("closed again", &reopened, Outcome::Returned(INITIAL_PKRU.into()), 0);
    let mut hoard = vec![alloc(Allow); 15];
    hoard.extend([mmap(4), READ]);
    check("no key left", &hoard, Outcome::Loaded(0), 0);
    let refused_mapping =
        Operation::Mmap { range: ONE, protection: protection(4), placement: Placement::FixedNoReplace };
    let after_refusal = [mmap(3), refused_mapping, alloc(Allow)];
    check_on(&ALL[..1], true, "refused mapping", &after_refusal, Outcome::Returned(1), 0);
    check_on(&ALL[1..], true, "refused mapping", &after_refusal, Outcome::Returned(2), 0);
}

#[test]
fn a_child_has_its_parents_keys() {
    let second = ActorId::SECOND;
    let mut model = Model::new(&machine(KernelVersion::LINUX_6_12, true));
    let steps = [
        (ActorId::FIRST, alloc(KeyRights::DisableWrite)),
        (ActorId::FIRST, mmap(4)),
        (ActorId::FIRST, Operation::Fork { child: second }),
        (second, free(1)),
        (second, alloc(KeyRights::Allow)),
    ];
    for (index, (actor, operation)) in steps.into_iter().enumerate() {
        model.step(index, &Step { actor, operation });
    }
    assert_eq!(model.keys(ActorId::FIRST), Keys { allocated: 7, execute_only: Some(2), pkru: 0x5555_5558 });
    assert_eq!(model.keys(second), Keys { allocated: 7, execute_only: Some(2), pkru: 0x5555_5550 });
}

#[test]
fn a_machine_without_keys_has_none() {
    let none = |versions: &[KernelVersion], name, operations: &[Operation], outcome| {
        check_on(versions, false, name, operations, outcome, 0);
    };
    let first = alloc(KeyRights::Allow);
    none(&ALL, "alloc", &[first], Outcome::Failed(28));
    let takes_key_0 = [KernelVersion::new(6, 1, 176), KernelVersion::new(6, 12, 95)];
    none(&takes_key_0, "alloc", &[first], Outcome::Failed(22));
    none(&ALL, "alloc again", &[first, first], Outcome::Failed(28));
    none(&ALL, "free", &[free(1)], Outcome::Failed(22));
    none(&ALL, "key 0", &[mmap(3), protect(1, 0)], Outcome::Failed(22));
    none(&ALL, "no key", &[mmap(3), WRITE, protect(1, -1)], Outcome::Succeeded);
    none(&ALL, "execute-only is readable", &[mmap(4), READ], Outcome::Loaded(0));
    let step = Step { actor: ActorId::FIRST, operation: pkru(1, KeyRights::Allow) };
    assert!(!Model::new(&machine(KernelVersion::LINUX_7_2, false)).is_possible(&step));
}
