//! The table as a snapshot, and the planted mistakes.

use super::claims::{bit_clear, common_sequence, dance, destination, late_dirty, sentences};
use super::{Effect, ForkSide, Mutation, Processor, Table, Technique, document};
use crate::claim::Refuted;

#[test]
fn the_table_of_all_interleavings() {
    insta::assert_snapshot!("dirty_race", document());
}

/// The check of which the mistake is the business, and no other reason, fails.
#[track_caller]
fn killed(mutation: Mutation, check: fn(&Table) -> Result<(), Refuted>, because: &str) {
    let refuted = check(&Table::of(1, Some(mutation))).expect_err("the planted mistake was not noticed");
    assert!(refuted.what.contains(because), "noticed for another reason: {}", refuted.what);
}

#[test]
fn a_loop_that_stores_what_it_computed_first_loses_a_dirty() {
    killed(Mutation::FirstReadStored, common_sequence, "DirtyLost");
}

#[test]
fn without_the_shift_the_kernel_makes_shadow_stacks() {
    killed(Mutation::ShiftDropped, common_sequence, "CreatedByKernel");
    killed(Mutation::ShiftDropped, destination, "CreatedByKernel");
}

#[test]
fn without_a_flush_a_store_goes_through_a_stale_translation() {
    killed(Mutation::FlushDropped, common_sequence, "LostWrite");
}

#[test]
fn an_entry_that_is_taken_out_in_two_steps_loses_a_dirty() {
    killed(Mutation::TakenOutInTwoSteps, dance, "DirtyLost");
}

#[test]
fn a_processor_that_does_not_check_again_sets_dirty_late() {
    killed(Mutation::RecheckDropped, late_dirty, "CreatedByProcessor");
    killed(Mutation::RecheckDropped, common_sequence, "LeftBehind");
}

#[test]
fn a_processor_without_a_lock_undoes_the_write_protection() {
    killed(Mutation::UnlockedProcessor, bit_clear, "ProtectionLost");
}

#[test]
fn a_store_before_its_dirty_is_noticed() {
    killed(Mutation::StoreBeforeDirty, common_sequence, "StoreBeforeDirty");
}

#[test]
fn an_entry_that_is_changed_by_others_keeps_the_loop_going() {
    killed(Mutation::SomebodyClearsAccessed, common_sequence, "Endless");
}

/// Every mistake makes some sentence's verdict wrong, or is no business of the mails: this says which.
#[test]
fn the_sentences_notice_the_mistakes_that_they_are_about() {
    let unnoticed: Vec<Mutation> = [
        Mutation::FirstReadStored,
        Mutation::ShiftDropped,
        Mutation::FlushDropped,
        Mutation::TakenOutInTwoSteps,
        Mutation::RecheckDropped,
        Mutation::UnlockedProcessor,
        Mutation::StoreBeforeDirty,
        Mutation::SomebodyClearsAccessed,
    ]
    .into_iter()
    .filter(|&mutation| sentences(&Table::of(1, Some(mutation))).is_ok())
    .collect();
    assert_eq!(unnoticed, []);
}

/// Dave Hansen asked how one will "detangle the mess where PTEs look like shadow-stack PTEs on non-shadow-stack
/// hardware". On such hardware `pte_shstk` is false whatever the entry says, and Dirty is not lost from it.
#[test]
fn what_an_older_processor_leaves_behind_is_dirty_and_nothing_else() {
    let table = Table::explore();
    let before = Processor::BeforeShadowStacks;
    assert!(table.can(Technique::MergedLoop, before, ForkSide::Source, Effect::LeftBehind));
    assert!(!table.can(Technique::MergedLoop, before, ForkSide::Source, Effect::DirtyLost));
}
