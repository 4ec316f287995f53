use std::collections::BTreeSet;

use super::*;

#[test]
fn every_change_has_one_row_and_a_name_of_its_own() {
    let identifiers: BTreeSet<&str> = changes().map(|info| info.identifier).collect();
    let bits: BTreeSet<u64> = changes().map(|info| info.change.bit()).collect();
    assert_eq!((identifiers.len(), bits.len()), (changes().count(), changes().count()));
    let last = changes().map(|info| info.change as u32).max().unwrap();
    assert_eq!(bits.len() as u32, last + 1, "a variant has no row");
    assert!(DESIGNS.iter().all(|info| !info.is_defect()) && DEFECTS.iter().all(ChangeInfo::is_defect));
}

#[test]
fn stable_series_are_older_than_mainline_and_stand_once() {
    for info in changes() {
        for arrival in [Some(info.versions.since), info.versions.until].into_iter().flatten() {
            let series: BTreeSet<(u16, u16)> = arrival.stable.iter().map(|first| (first.major, first.minor)).collect();
            assert_eq!(series.len(), arrival.stable.len(), "{}", info.identifier);
            let is_older = |first: &KernelVersion| arrival.mainline.is_none_or(|mainline| *first < mainline);
            assert!(arrival.stable.iter().all(is_older), "{}: mainline has it already", info.identifier);
        }
    }
}

/// Each version boundary of the table: the last without, the first with.
#[test]
fn a_version_has_what_its_series_took() {
    let check = |change: Change, version: &str, has: bool| {
        let kernel = Kernel::as_released(version.parse().unwrap(), Facts::ALL);
        assert_eq!(kernel.has(change), has, "{change} in {version}");
    };
    check(Change::SavedDirty, "6.5.0", false);
    check(Change::SavedDirty, "6.6-rc1", false);
    check(Change::SavedDirty, "6.6.0", true);
    check(Change::MremapKeepsUffdWp, "6.1.190", true);
    check(Change::MremapKeepsUffdWp, "6.1.191", false);
    check(Change::MremapKeepsUffdWp, "6.12.10", true);
    check(Change::MremapKeepsUffdWp, "6.12.11", false);
    check(Change::MremapKeepsUffdWp, "6.11.99", true);
    check(Change::MremapKeepsUffdWp, "6.13.0", false);
    check(Change::MremapKeepsUffdWp, "7.9.0", false);
}

#[test]
fn the_model_is_never_given_a_defect_to_judge_by() {
    for version in ["6.1.0", "6.1.176", "6.12", "7.2.13", "7.3", "9.9"] {
        let kernel = Kernel::intended(version.parse().unwrap(), Facts::ALL);
        assert!(kernel.iter().all(|change| !change.info().is_defect()), "{version}");
    }
}

#[test]
fn facts_decide_where_versions_do_not() {
    let facts = Facts { user_shadow_stacks: false, ..Facts::ALL };
    let version = KernelVersion::LINUX_6_12;
    assert!(Kernel::intended(version, Facts::ALL).has(Change::UserShadowStacks));
    assert!(!Kernel::intended(version, facts).has(Change::UserShadowStacks));
    assert!(!Kernel::intended(KernelVersion::LINUX_6_1, Facts::ALL).has(Change::UserShadowStacks));
}
