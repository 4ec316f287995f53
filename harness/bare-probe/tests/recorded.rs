//! The model against what the emulators answered once, and each planted mistake against the same: without a machine.

use ptediff_bare_probe::Recording;
use ptediff_bare_probe::space::{Part, SPACES};
use ptediff_reference_model::processor::{Mutant, Rule};

fn recordings() -> Vec<(&'static str, Recording)> {
    let texts = [
        ("bochs", include_str!("../recorded/bochs")),
        ("qemu", include_str!("../recorded/qemu")),
        ("qemu-five-levels", include_str!("../recorded/qemu-five-levels")),
    ];
    texts.map(|(name, text)| (name, Recording::from_text(text).expect(name))).into()
}

#[test]
fn the_model_says_what_the_processors_did() {
    for (name, recording) in recordings() {
        assert!(recording.blocks.len() >= 4, "{name} is empty");
        assert_eq!(recording.first_disagreement(None), None, "{name}");
        assert_eq!(Recording::from_text(&recording.to_text()), Ok(recording), "{name}");
    }
}

/// A check that no mistake disturbs shows nothing. Each of these is noticed by a digest of a recorded run.
#[test]
fn every_planted_mistake_is_noticed() {
    let recordings = recordings();
    let mut survivors = Vec::new();
    for mutant in Mutant::ALL {
        let noticed = recordings.iter().find_map(|(name, recording)| {
            recording.first_disagreement(Some(mutant)).map(|block| (name, SPACES[block.space].name, block.block))
        });
        match noticed {
            Some((name, space, block)) => println!("{mutant:?}: {name}, block {block} of {space}"),
            None => survivors.push(mutant),
        }
    }
    assert_eq!(survivors, [], "nobody noticed these");
}

#[test]
fn a_damaged_recording_is_refused_or_disagrees() {
    let (_, mut recording) = recordings().remove(0);
    recording.blocks[3].digest ^= 1;
    assert_eq!(recording.first_disagreement(None), Some(&recording.blocks[3]));
    let text = recording.to_text();
    for (damaged, line) in [
        (text.replacen("kvm-unit-tests", "kvm", 1), 2),
        (text.replacen(" levels 4", "", 1), 1),
        (String::new(), 1),
        (text.replacen("\n", "\nkeys 1\n", 1), 2),
    ] {
        assert_eq!(Recording::from_text(&damaged).map_err(|error| error.line), Err(line));
    }
}

/// The legal combinations of kvm-unit-tests' `access` with its flags that QEMU's CPU makes legal.
#[test]
fn the_space_of_kvm_unit_tests_has_as_many_cases_as_that_test() {
    let space = SPACES.iter().find(|space| space.name == "kvm-unit-tests").expect("the space");
    let counts: Vec<u64> = (0..space.blocks()).map(|block| space.for_each(block, Part::All, |_| ())).collect();
    assert_eq!(counts.iter().sum::<u64>(), 19_169_280);
    // Execute-disable set in both entries is legal only where it is no reserved bit.
    assert_eq!(counts[..2], [540_672, 1_376_256]);
}

/// Every rule that can decide an access does so somewhere in the spaces, on a processor that has all of the features.
#[test]
fn every_deciding_rule_decides_somewhere() {
    let (_, recording) = recordings().remove(0);
    let mut counts = [0; Rule::DECIDING];
    for block in &recording.blocks {
        let cases = (&SPACES[block.space], block.block, Part::Sample(recording.sample));
        let record = ptediff_bare_probe::block::run_block(
            &recording.machine,
            recording.processor,
            None,
            cases,
            |_, wanted| wanted,
            |_| (),
        );
        for (sum, count) in counts.iter_mut().zip(record.rules) {
            *sum += count;
        }
    }
    let missing: Vec<Rule> =
        Rule::ALL.into_iter().zip(counts).filter(|(_, count)| *count == 0).map(|(rule, _)| rule).collect();
    assert_eq!(missing, []);
}
