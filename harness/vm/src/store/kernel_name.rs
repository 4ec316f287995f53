//! The names that a kernel answers to, and which of two releases is the newer.

use std::cmp::Ordering;

/// Whether a kernel answers to a name: its whole release (`6.12.113+deb13-cloud-amd64`), the release up to a `-` or
/// `+` (`6.1.0-57`), its version (`6.12.113`; `6.1.192`, of which only the package's version tells), or its series
/// (`6.12`).
#[must_use]
pub fn kernel_answers_to(name: &str, release: &str, package_version: &str) -> bool {
    let version = upstream_version(package_version);
    let of_release = release.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '+']));
    let of_series = is_series(name) && version.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
    !name.is_empty() && (of_release || version == name || of_series)
}

/// Whether a name is a series', `6.12` say: two numbers.
#[must_use]
pub fn is_series(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('.').is_some_and(|(major, minor)| number(major) && number(minor))
}

/// The kernel's own version in a package's: `6.1.192` of `6.1.192-3`.
#[must_use]
pub fn upstream_version(package_version: &str) -> &str {
    let without_epoch = package_version.split_once(':').map_or(package_version, |(_, rest)| rest);
    without_epoch.rsplit_once('-').map_or(without_epoch, |(version, _)| version)
}

/// Compares releases or versions: numbers as numbers, the rest letter by letter.
#[must_use]
pub fn compare_releases(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left, right);
    loop {
        let ((left_text, left_number), (right_text, right_number)) = (take_part(&mut left), take_part(&mut right));
        let order = left_text.cmp(right_text).then(left_number.cmp(&right_number));
        if order != Ordering::Equal || (left.is_empty() && right.is_empty()) {
            return order;
        }
    }
}

/// Takes what comes before the next number, and that number.
fn take_part<'text>(rest: &mut &'text str) -> (&'text str, Option<u64>) {
    let end_of_text = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
    let (text, behind) = rest.split_at(end_of_text);
    let end_of_number = behind.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(behind.len());
    let (number, behind) = behind.split_at(end_of_number);
    *rest = behind;
    (text, number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_answer_to_release_prefix_version_and_series() {
        let check = |name: &str, release: &str, version: &str, expected: bool| {
            assert_eq!(kernel_answers_to(name, release, version), expected, "{name}: {release} {version}");
        };
        let (old, old_version) = ("6.1.0-57-cloud-amd64", "6.1.192-3");
        for name in ["6.1", "6.1.192", "6.1.0-57", "6.1.0", old] {
            check(name, old, old_version, true);
        }
        for name in ["6", "6.1.0-5", "6.1.19", "6.12", "1.0", "", "6.1.0-57-cloud-amd64x"] {
            check(name, old, old_version, false);
        }
        let (backport, version) = ("6.12.90+deb12.1-cloud-amd64", "6.12.90-2~bpo12+1");
        for name in ["6.12", "6.12.90", "6.12.90+deb12.1", backport] {
            check(name, backport, version, true);
        }
        for name in ["6.1", "6.12.9", "6.12.90+deb12", "6.12.90+deb13.1"] {
            check(name, backport, version, false);
        }
    }

    #[test]
    fn releases_compare_by_number() {
        let ascending = [
            "6.1.0-9-cloud-amd64",
            "6.1.0-57-cloud-amd64",
            "6.12.9+deb13-cloud-amd64",
            "6.12.90+deb12-cloud-amd64",
            "6.12.90+deb13-cloud-amd64",
            "6.12.90+deb13.1-cloud-amd64",
            "6.12.107+deb12-cloud-amd64",
            "7.2.13+deb14-cloud-amd64",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare_releases(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare_releases(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(compare_releases("6.12", "6.12"), Ordering::Equal);
    }
}
