//! Traces that cannot be judged.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use ptediff::exit_code::Exit;

use crate::case::{Case, words};
use crate::trace_maker::{Story, trace};

/// Stores the bytes and gives the arguments that judge them.
fn judge(folder: &Path, bytes: &[u8]) -> Vec<OsString> {
    let file = folder.join("a.trace");
    fs::write(&file, bytes).expect("the trace can be written");
    words([&"judge", &file])
}

fn agreeing() -> Vec<u8> {
    trace(Story::Agrees)
}

/// The trace with the byte in the middle of it flipped.
fn flipped() -> Vec<u8> {
    let mut bytes = agreeing();
    let middle = bytes.len() * 3 / 4;
    bytes[middle] ^= 0x40;
    bytes
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case {
            // What was whole before the cut is reported.
            prints: &["1 judged by guest and host: 1 agree"],
            ..Case::new(
                "trace-truncated",
                |folder| {
                    let bytes = agreeing();
                    judge(folder, &bytes[..bytes.len() * 3 / 4])
                },
                &["DIR/a.trace: the trace is cut short: it ends at byte ", "within a frame"],
            )
            .kept()
        },
        Case::new(
            "trace-truncated-in-its-head",
            |folder| judge(folder, &agreeing()[..10]),
            &["ends at byte 10, in its head"],
        ),
        Case {
            prints: &["1 judged by guest and host: 1 agree"],
            ..Case::new(
                "trace-with-a-corrupt-byte",
                |folder| judge(folder, &flipped()),
                &["DIR/a.trace: the trace is damaged: the frame at byte ", "does not match"],
            )
            .kept()
        },
        Case::new(
            "trace-of-a-newer-schema",
            |folder| {
                let mut bytes = agreeing();
                bytes[8] = 99;
                let checksum = crc32fast::hash(&bytes[..12]);
                bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
                judge(folder, &bytes)
            },
            &["schema 99, newer than", "use a newer ptediff"],
        )
        .kept(),
        Case::new("trace-empty-file", |folder| judge(folder, b""), &["ends at byte 0, in its head"]),
        Case::new("trace-that-is-none", |folder| judge(folder, b"#!/bin/sh\n"), &["not a ptediff trace"]),
        Case {
            prints: &["2 judged by guest and host: 2 agree"],
            ..Case::new(
                "trace-with-bytes-behind-its-end",
                |folder| {
                    let mut bytes = agreeing();
                    bytes.push(0);
                    judge(folder, &bytes)
                },
                &["the frame at byte ", "bytes follow the end frame"],
            )
        },
        Case::new(
            "trace-missing-file",
            |folder| words([&"judge", &folder.join("none")]),
            &["DIR/none", "No such file"],
        ),
        Case::new("trace-is-a-folder", |folder| words([&"judge", &folder.join("mount")]), &["DIR/mount", "directory"]),
        Case {
            exit: Exit::Rig,
            prints: &["guest and host disagree: program 1", "exit         130"],
            ..Case::new("trace-with-another-verdict", |folder| judge(folder, &trace(Story::GuestDisagrees)), &[])
        },
        Case::new(
            "mutants-of-a-truncated-trace",
            |folder| {
                let bytes = agreeing();
                let mut arguments = judge(folder, &bytes[..bytes.len() - 1]);
                arguments[0] = "mutants".into();
                arguments
            },
            &["DIR/a.trace: the trace is cut short"],
        ),
        Case::new(
            "mutants-of-nothing-that-agreed",
            |folder| {
                let mut arguments = judge(folder, &only_head_and_end());
                arguments[0] = "mutants".into();
                arguments
            },
            &["no program that agreed"],
        ),
    ]
}

/// A whole trace without a program.
fn only_head_and_end() -> Vec<u8> {
    let mut writer = ptediff_trace::Writer::new(Vec::new());
    writer.send(&ptediff_trace::Frame::End(ptediff_trace::End::default())).expect("a vector takes everything");
    writer.into_sink()
}
