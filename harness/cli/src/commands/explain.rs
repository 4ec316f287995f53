//! `ptediff explain`: a raw entry in words.

use ptediff_reference_model::algebra::{Page, Place};
use ptediff_reference_model::entry::{
    A, D, Entry, EntryKind, NX, P, PROTNONE, RW, SAVED_DIRTY, SOFT_DIRTY, SPECIAL, US,
};

use crate::arguments::{Explain, Format};
use crate::error::Failure;
use crate::exit_code::Exit;

pub(super) fn run(arguments: &Explain, format: Format) -> Result<Exit, Failure> {
    let entry = parse(&arguments.entry)?;
    match format {
        Format::Human => {
            println!("{:#018x}  {entry}", entry.0);
            if let Some(frame) = entry.frame_number() {
                println!("frame {frame:#x} (physical address {:#x})", frame << 12);
            }
            for line in sentences(entry) {
                println!("- {line}");
            }
        }
        Format::Json => println!(
            "{}",
            serde_json::json!({
                "raw": format!("{:#018x}", entry.0),
                "bits": entry.to_string(),
                "frame": entry.frame_number(),
                "statements": sentences(entry),
            })
        ),
    }
    Ok(Exit::Agree)
}

fn parse(text: &str) -> Result<Entry, Failure> {
    let trimmed = text.trim();
    let digits = trimmed.strip_prefix("0x").or_else(|| trimmed.strip_prefix("0X")).unwrap_or(trimmed).replace('_', "");
    let refuse = |reason: &str| {
        Failure::usage(
            format!("`{text}` is not a page-table entry: {reason}"),
            "give the 64-bit value in hexadecimal, such as 0x8400000000000865",
        )
    };
    if let Some((offset, wrong)) = digits.char_indices().find(|(_, digit)| !digit.is_ascii_hexdigit()) {
        let offset = offset + 1;
        return Err(refuse(&format!("`{}` is no hexadecimal digit (digit {offset})", wrong.escape_default())));
    }
    u64::from_str_radix(&digits, 16).map(Entry).map_err(|error| refuse(&error.to_string()))
}

/// Which of the states of the `_PAGE_COW` patch the entry is in, by where it is mapped.
fn states(entry: Entry) -> Vec<String> {
    let places = [
        (Place::Writable, "in a writable VMA"),
        (Place::ReadOnly, "in a read-only VMA"),
        (Place::ShadowStack, "in a shadow stack"),
    ];
    let named = places.map(|(place, name)| (place.letters(entry), name));
    let named: Vec<String> = named
        .into_iter()
        .filter(|(letters, _)| !letters.is_empty())
        .map(|(letters, name)| format!("{letters} {name}"))
        .collect();
    let mut lines = Vec::new();
    if !named.is_empty() {
        lines.push(format!("state of the _PAGE_COW patch, 6.6 and later: {}", named.join(", ")));
        let mut pages: Vec<Page> = places.iter().flat_map(|(place, _)| place.pages(entry)).copied().collect();
        pages.sort_by_key(|page| page.letter());
        pages.dedup();
        lines.extend(pages.into_iter().map(|page| format!("({}): {}", page.letter(), page.meaning())));
    }
    lines
}

/// What the entry says, for a 4 KiB entry of Linux 6.6 to 7.2 on x86-64.
fn sentences(entry: Entry) -> Vec<String> {
    let mut lines: Vec<&str> = Vec::new();
    match entry.kind() {
        EntryKind::None if entry.0 == 0 => lines.push("empty: nothing is mapped"),
        EntryKind::None => {
            lines.push("empty to the kernel: it ignores Accessed and Dirty here (a CPU erratum sets them)")
        }
        EntryKind::NonPresent => {
            lines.push("not present, and not PROT_NONE: a swap entry, a migration entry or a marker")
        }
        EntryKind::ProtNone => {
            lines.push("PROT_NONE: present to the kernel, not to the CPU; the frame field is inverted against L1TF");
        }
        EntryKind::Present => lines.push("present: the CPU translates through it"),
    }
    if entry.is_present() {
        let shadow_stack = entry.is_shadow_stack();
        lines.push(match (entry.has(RW), shadow_stack) {
            (true, _) => "writable",
            (false, true) => {
                "Write=0, Dirty=1: a shadow-stack page on a CPU with CET; before 6.6 also a dirty read-only page"
            }
            (false, false) => "read-only to the CPU",
        });
        match (entry.has(D), entry.has(SAVED_DIRTY)) {
            (true, true) if shadow_stack => lines.push(
                "Dirty and SavedDirty: the steady state of a live shadow-stack page (pte_mkdirty while Write=0 saved it, pte_mkwrite_shstk set Dirty)",
            ),
            (true, true) => lines.push("Dirty and SavedDirty in a writable entry: only hugetlb makes this"),
            (false, true) => lines.push("SavedDirty: the page is dirty, kept in bit 58 because Write=0, Dirty=1 means shadow stack"),
            (true, false) if !shadow_stack => lines.push("dirty"),
            _ => {}
        }
        lines.push(if entry.has(A) { "accessed" } else { "not accessed since the bit was cleared, or copied by fork" });
        if entry.has(SPECIAL) {
            lines.push("special: no struct page behind it for the kernel (the zero page, or a PFN mapping)");
        }
        if entry.has(SOFT_DIRTY) {
            lines.push("soft-dirty: written by way of a fault since clear_refs");
        }
        if entry.has(P) && !entry.has(US) {
            lines.push("supervisor only");
        }
        if entry.has(P) && entry.has(PROTNONE) {
            lines.push("bit 8 with Present: global, which no user entry has");
        }
        lines.push(if entry.has(NX) { "not executable" } else { "executable" });
    }
    let mut lines: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    if entry.is_present() && entry.protection_key() != 0 {
        lines.push(format!("protection key {}", entry.protection_key()));
    }
    lines.extend(states(entry));
    lines
}
