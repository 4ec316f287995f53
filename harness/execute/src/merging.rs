//! KSM by request: ksmd is let run for three whole scans, and stopped.

use std::fs;
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// Where ksmd's knobs lie.
const KSM: &str = "/sys/kernel/mm/ksm";

/// Scans that are waited for: the first takes the pages' checksums, the second merges; nothing is left to the third.
const SCANS: u64 = 3;

/// Has ksmd scan. When this returns, it rests: stopping it waits for the end of the scan that it is in
/// (`mm/ksm.c: run_store`, `ksm_do_scan`), which is a whole one, as it takes more pages at a time than there are.
///
/// # Errors
/// A knob cannot be turned, or the scans did not end in time.
pub(crate) fn scan(timeout: Duration) -> io::Result<()> {
    set("sleep_millisecs", "0")?;
    set("pages_to_scan", "100000")?;
    for knob in ["smart_scan", "use_zero_pages"] {
        // Older kernels have no smart scan.
        if Path::new(KSM).join(knob).exists() {
            set(knob, "0")?;
        }
    }
    let end = full_scans()? + SCANS;
    let deadline = Instant::now() + timeout;
    set("run", "1")?;
    let waited = loop {
        match full_scans() {
            Ok(scans) if scans >= end => break Ok(()),
            Ok(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
            Ok(scans) => break Err(io::Error::other(format!("ksmd has made {scans} scans, not {end}"))),
            Err(error) => break Err(error),
        }
    };
    set("run", "0")?;
    waited
}

fn set(knob: &str, value: &str) -> io::Result<()> {
    let path = format!("{KSM}/{knob}");
    fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

fn full_scans() -> io::Result<u64> {
    let text = fs::read_to_string(format!("{KSM}/full_scans"))?;
    text.trim().parse().map_err(|_| io::Error::other(format!("full_scans is `{text}`")))
}
