//! The table of operations that meet on a page.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ptediff_reference_model::program::OPERATION_NAMES;

type Pairs = BTreeSet<(usize, usize)>;

/// Rows are the operation that comes first, columns the one that finds what it left.
#[must_use]
pub fn pair_table(corpus: &Pairs, campaign: &Pairs) -> String {
    let operations = OPERATION_NAMES.len();
    let all = operations * operations;
    let both: Pairs = corpus.union(campaign).copied().collect();
    let mut text = format!(
        "{} of {all} ordered pairs met: {} in an entry of the corpus (#), {} in the campaign alone (+), {} nowhere (.)\n\n",
        both.len(),
        corpus.len(),
        both.len() - corpus.len(),
        all - both.len(),
    );
    let width = OPERATION_NAMES.iter().map(|name| name.len()).max().unwrap_or(0);
    for place in [10, 1] {
        let digits: String = (1..=operations).map(|column| digit(column, place)).collect();
        writeln!(text, "   {:width$} {digits}", "").expect("a String takes all");
    }
    for (first, name) in OPERATION_NAMES.iter().enumerate() {
        let cells: String = (0..operations)
            .map(|second| match (first, second) {
                pair if corpus.contains(&pair) => '#',
                pair if campaign.contains(&pair) => '+',
                _ => '.',
            })
            .collect();
        writeln!(text, "{:2} {name:width$} {cells}", first + 1).expect("a String takes all");
    }
    text
}

fn digit(number: usize, place: usize) -> char {
    match (number / place % 10, number < place) {
        (_, true) => ' ',
        (digit, false) => char::from(b'0' + digit as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cell_says_where_its_pair_was_met() {
        let text = pair_table(&Pairs::from([(0, 2), (1, 1)]), &Pairs::from([(0, 2), (2, 0)]));
        let rows: Vec<&str> = text.lines().collect();
        assert!(rows[0].starts_with("3 of ") && rows[0].contains(": 2 in an entry"), "{}", rows[0]);
        let row = |name: &str| {
            let line = rows.iter().find(|line| line.get(3..).is_some_and(|rest| rest.starts_with(name)));
            line.expect("a row an operation").rsplit(' ').next().unwrap()[..4].to_owned()
        };
        assert_eq!((row("mmap").as_str(), row("munmap").as_str(), row("read").as_str()), ("..#.", ".#..", "+..."));
    }
}
