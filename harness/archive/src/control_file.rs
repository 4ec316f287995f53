//! Debian's control syntax, in which package indexes and deb822 source lists are written.

/// A paragraph: fields in their order. Names compare without regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paragraph {
    fields: Vec<(String, String)>,
}

impl Paragraph {
    /// A field's value; continuation lines are joined by line feeds and trimmed.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let named = |(field, _): &&(String, String)| field.eq_ignore_ascii_case(name);
        self.fields.iter().find(named).map(|(_, value)| value.as_str())
    }

    /// A field's value split at white space; nothing if there is no such field.
    pub fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).unwrap_or_default().split_whitespace()
    }
}

/// Splits a text into paragraphs. Lines that begin with `#` are comments, lines that are no field are
/// passed over.
#[must_use]
pub fn paragraphs(text: &str) -> Vec<Paragraph> {
    let mut all = Vec::new();
    let mut current = Paragraph::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if line.trim().is_empty() {
            if !current.fields.is_empty() {
                all.push(std::mem::take(&mut current));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = current.fields.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            current.fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    if !current.fields.is_empty() {
        all.push(current);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_continue_and_paragraphs_end() {
        let text = "# a comment\nPackage: bochs\nChecksums-Sha256:\n aa 1 x.dsc\n bb 2 y.tar\n\n\nPackage: next\n";
        let all = paragraphs(text);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("package"), Some("bochs"));
        assert_eq!(all[0].get("Checksums-Sha256"), Some("\naa 1 x.dsc\nbb 2 y.tar"));
        assert_eq!(all[1].words("Package").collect::<Vec<_>>(), ["next"]);
        assert_eq!(all[1].get("Version"), None);
    }
}
