//! The author's questions, and mistakes that the exploration must notice.

use super::*;

fn trace(preservation: Preservation, violation: Violation) -> Option<String> {
    let exploration = explore(preservation, 8);
    let trace = exploration.shortest(violation)?;
    Some(trace.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// "I'm afraid I'm missing something as my testing has shown a lot of spotty crashes": the saved state is passed by
/// value and lost. After one interrupt the reference count is 0 though the thread has access, so that a nested enable
/// and disable closes the key under it, and the next access is a fault that nobody handles.
#[test]
fn why_were_there_spotty_crashes() {
    let crash = trace(Preservation::ByValue, Violation::Loss);
    assert_eq!(crash.as_deref(), Some("enable, interrupt, return, enable, disable"));
    let warning = trace(Preservation::ByValue, Violation::Warning);
    assert_eq!(warning.as_deref(), Some("interrupt, enable, interrupt, return, disable, return"));
}

/// "Is PKRS saved and reset on entry, restored on return?" Only the design that saves and resets register, thread's
/// value and reference count at every entry neither leaks nor loses; every design that was posted does one or both.
#[test]
fn which_designs_leak_and_which_lose() {
    let table: Vec<(Preservation, bool, bool)> = Preservation::ALL
        .into_iter()
        .map(|design| {
            let exploration = explore(design, 8);
            let has = |violation| exploration.shortest(violation).is_some();
            (design, has(Violation::Leak), has(Violation::Loss))
        })
        .collect();
    let expected = [
        (Preservation::None, true, true),
        (Preservation::ByValue, true, true),
        (Preservation::ByReference, true, true),
        (Preservation::WithThreadValue, true, false),
        (Preservation::RegistersFrame, true, true),
        (Preservation::Whole, false, false),
    ];
    assert_eq!(table, expected);
}

/// Without exceptions all designs are the same and sound: the register follows the threads.
#[test]
fn context_switches_alone_lose_nothing() {
    for preservation in Preservation::ALL {
        let mut threads = Threads::new();
        let events = [Event::Enable, Event::Switch, Event::EnableOther, Event::Switch, Event::Enable, Event::Switch];
        for event in events {
            assert!(threads.permits(event));
            threads.apply(event, preservation, Writes::IfChanged);
            assert_eq!(threads.violations(), [], "{preservation:?} {event}");
        }
        assert_eq!(threads.register(), INITIAL_PKRS & !0x30);
    }
}

/// Handlers return as they came, interrupts do not sleep, and nothing nests without end.
#[test]
fn events_come_only_where_they_can() {
    let mut threads = Threads::new();
    assert!(!threads.permits(Event::Return) && !threads.permits(Event::Disable));
    threads.apply(Event::Enter(Exception::Interrupt), Preservation::Whole, Writes::Always);
    assert!(!threads.permits(Event::Switch) && threads.permits(Event::Return));
    threads.apply(Event::Enable, Preservation::Whole, Writes::Always);
    assert!(!threads.permits(Event::Return));
    threads.apply(Event::Enter(Exception::PageFault), Preservation::Whole, Writes::Always);
    assert!(!threads.permits(Event::Enter(Exception::Interrupt)) && !threads.permits(Event::Switch));
}
