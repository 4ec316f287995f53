//! The author's question about exceptions, answered variant by variant, and the allocator.

use super::*;

#[track_caller]
fn check(preservation: Preservation, expected: &[(Violation, &str)]) {
    let exploration = explore(preservation, 8);
    let found: Vec<(Violation, String)> = exploration
        .found
        .iter()
        .map(|found| {
            let events: Vec<String> = found.trace.iter().map(ToString::to_string).collect();
            (found.violation, events.join(", "))
        })
        .collect();
    let expected: Vec<(Violation, String)> =
        expected.iter().map(|(violation, trace)| (*violation, (*trace).to_owned())).collect();
    assert_eq!(found, expected, "{}: {} states", preservation.name(), exploration.states);
}

#[test]
fn print() {
    for preservation in Preservation::ALL {
        let start = std::time::Instant::now();
        let exploration = explore(preservation, 10);
        println!(
            "{} states {} steps {} {:?}",
            preservation.name(),
            exploration.states,
            exploration.steps,
            start.elapsed()
        );
        for found in &exploration.found {
            let events: Vec<String> = found.trace.iter().map(ToString::to_string).collect();
            println!("   {:?}: {}", found.violation, events.join(", "));
        }
    }
}
