//! Explanations in words: which change of the kernel a divergence comes from.

use ptediff_reference_model::kernel::{Change, ChangeKind};
use ptediff_reference_model::verdict::Explanation;

/// An explanation, in a sentence or several.
#[must_use]
pub fn explanation_text(explanation: &Explanation) -> String {
    let all = |changes: &[Change], text: fn(Change) -> String, joint: &str| {
        changes.iter().map(|&change| text(change)).collect::<Vec<_>>().join(joint)
    };
    match explanation {
        Explanation::KnownDefects(defects) => format!("known: {}", all(defects, defect_text, "; and ")),
        Explanation::FixMissing(defects) => {
            format!("it behaves as if a fix were missing: {}", all(defects, defect_text, "; or "))
        }
        Explanation::ChangeMoved(changes) => {
            format!("it behaves as if it were on the other side of a change: {}", all(changes, change_text, "; or "))
        }
        Explanation::Unexplained => "by nothing in the table of changes".to_owned(),
    }
}

/// A defect, with what is right and who has the fix.
#[must_use]
pub fn defect_text(defect: Change) -> String {
    let info = defect.info();
    let ChangeKind::Defect { right, .. } = info.kind else { return change_text(defect) };
    let fixed = info.versions.until.map_or_else(|| "nowhere yet".to_owned(), |until| format!("in {until}"));
    format!("{} ({}): {} Right: {right} Fixed {fixed}: {}", info.title(), info.function, info.statement, info.source)
}

/// A design, with its versions.
fn change_text(change: Change) -> String {
    let info = change.info();
    format!(
        "{} ({}): {} Since {}: {}",
        info.identifier, info.function, info.statement, info.versions.since, info.source
    )
}
