//! Text in narrow columns, as mail and C comments want it.

/// The text's words in lines of at most `width` characters. The first line begins with `first`, the others
/// with `rest`. A word that is longer than a line is cut, so that the width holds whatever the text.
#[must_use]
pub fn wrap(text: &str, first: &str, rest: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        let mut letters: Vec<char> = word.chars().collect();
        while !letters.is_empty() {
            let used = line.chars().count() + usize::from(!is_empty);
            let room = width.saturating_sub(used);
            let longest = width.saturating_sub(rest.chars().count()).max(1);
            if letters.len() > room && !is_empty {
                lines.push(std::mem::replace(&mut line, rest.to_owned()));
                is_empty = true;
                continue;
            }
            let taken = letters.len().min(room.max(1)).min(longest);
            if !is_empty {
                line.push(' ');
            }
            line.extend(letters.drain(..taken));
            is_empty = false;
        }
    }
    if !is_empty || lines.is_empty() {
        lines.push(line.trim_end().to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, width: usize, expected: &[&str]) {
        assert_eq!(wrap(text, "- ", "  ", width), expected, "{text}");
    }

    #[test]
    fn lines_are_as_narrow_as_asked() {
        check("", 10, &["-"]);
        check("one two", 10, &["- one two"]);
        check("one two three", 10, &["- one two", "  three"]);
        check("one\n two\tthree", 9, &["- one two", "  three"]);
        check("incomprehensible", 10, &["- incompre", "  hensible"]);
        check("an incomprehensible one", 10, &["- an", "  incompre", "  hensible", "  one"]);
    }
}
