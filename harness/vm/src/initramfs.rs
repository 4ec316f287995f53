//! The guest's first file system: a "newc" cpio archive, the same bytes for the same content.
//!
//! Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel.

use std::collections::BTreeMap;

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_LINK: u32 = 0o120_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;
const LAST_ENTRY: &str = "TRAILER!!!";

/// An initramfs in the making: files, directories and device nodes, kept sorted. Parent directories are made
/// as needed (mode 0755); owner is root, every time stamp 0.
#[derive(Clone, Debug, Default)]
pub struct Initramfs {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Type and permissions.
    mode: u32,
    /// Major and minor number of a device node.
    device: (u32, u32),
    content: Vec<u8>,
}

impl Initramfs {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An archive with `init` as `/init` (mode 0755) and `/dev/console`, without which the kernel gives its
    /// init no standard output.
    #[must_use]
    pub fn with_init(init: Vec<u8>) -> Self {
        let mut initramfs = Self::new();
        initramfs.add_file("init", 0o755, init);
        initramfs.add_device_node("dev/console", 0o600, 5, 1);
        initramfs
    }

    /// Adds a regular file, in place of what was at `path` before. `mode` is its permissions.
    pub fn add_file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.add(path, Entry { mode: TYPE_FILE | mode, device: (0, 0), content });
    }

    /// Adds a directory. `mode` is its permissions.
    pub fn add_directory(&mut self, path: &str, mode: u32) {
        self.add(path, Entry { mode: TYPE_DIRECTORY | mode, device: (0, 0), content: Vec::new() });
    }

    /// Adds a symbolic link to `target`.
    pub fn add_link(&mut self, path: &str, target: &str) {
        self.add(path, Entry { mode: TYPE_LINK | 0o777, device: (0, 0), content: target.as_bytes().to_vec() });
    }

    /// Adds a character device node: `add_device_node("dev/console", 0o600, 5, 1)`.
    pub fn add_device_node(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.add(path, Entry { mode: TYPE_CHARACTER_DEVICE | mode, device: (major, minor), content: Vec::new() });
    }

    /// The content of a regular file that was added, if there is one at `path`.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&[u8]> {
        self.entries
            .get(path.trim_matches('/'))
            .filter(|entry| entry.mode & TYPE_FILE == TYPE_FILE)
            .map(|entry| entry.content.as_slice())
    }

    /// The archive's bytes, padded to whole 512-byte blocks.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let size: usize = self.entries.values().map(|entry| entry.content.len() + 256).sum();
        let mut archive = Vec::with_capacity(size + 1024);
        for (number, (path, entry)) in self.entries.iter().enumerate() {
            write_entry(&mut archive, number + 1, path, entry);
        }
        let last = Entry { mode: 0, device: (0, 0), content: Vec::new() };
        write_entry(&mut archive, 0, LAST_ENTRY, &last);
        archive.resize(archive.len().next_multiple_of(512), 0);
        archive
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (position, _) in path.match_indices('/') {
            self.entries.entry(path[..position].to_owned()).or_insert(Entry {
                mode: TYPE_DIRECTORY | 0o755,
                device: (0, 0),
                content: Vec::new(),
            });
        }
        self.entries.insert(path.to_owned(), entry);
    }
}

/// One header, name and content, name and content each padded to four bytes.
fn write_entry(archive: &mut Vec<u8>, inode: usize, path: &str, entry: &Entry) {
    let links = if entry.mode & 0o170_000 == TYPE_DIRECTORY { 2 } else { 1 };
    let (major, minor) = entry.device;
    archive.extend_from_slice(b"070701");
    let fields = [
        inode,
        entry.mode as usize,
        0, // owner
        0, // group
        links,
        0, // time of modification
        entry.content.len(),
        0, // the archive's device, major
        0, // the archive's device, minor
        major as usize,
        minor as usize,
        path.len() + 1,
        0, // checksum, not used by this variant
    ];
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(&entry.content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode, device numbers, content.
    type Parsed<Name, Content> = (Name, u32, (u32, u32), Content);

    /// Reads an archive as `init/initramfs.c: do_header` does.
    fn parse(mut archive: &[u8]) -> Vec<Parsed<String, Vec<u8>>> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&archive[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&archive[6 + 8 * index..][..8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, content_size, device, name_size) =
                (field(1), field(6) as usize, (field(9), field(10)), field(11) as usize);
            assert_eq!(field(5), 0, "time of modification");
            assert_eq!((field(2), field(3)), (0, 0), "owner");
            let name = std::str::from_utf8(&archive[110..110 + name_size - 1]).unwrap().to_owned();
            assert_eq!(archive[110 + name_size - 1], 0);
            let content_start = (110 + name_size).next_multiple_of(4);
            let content = archive[content_start..content_start + content_size].to_vec();
            archive = &archive[(content_start + content_size).next_multiple_of(4)..];
            if name == LAST_ENTRY {
                assert!(archive.iter().all(|&byte| byte == 0));
                return entries;
            }
            entries.push((name, mode, device, content));
        }
    }

    #[track_caller]
    fn check(initramfs: &Initramfs, expected: &[Parsed<&str, &[u8]>]) {
        let archive = initramfs.build();
        assert_eq!(archive.len() % 512, 0);
        let found = parse(&archive);
        let found: Vec<_> = found
            .iter()
            .map(|(name, mode, device, content)| (name.as_str(), *mode, *device, content.as_slice()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn an_empty_archive_holds_only_its_end() {
        check(&Initramfs::new(), &[]);
    }

    #[test]
    fn init_and_console_with_their_folder() {
        check(
            &Initramfs::with_init(b"abc".to_vec()),
            &[
                ("dev", 0o040_755, (0, 0), b""),
                ("dev/console", 0o020_600, (5, 1), b""),
                ("init", 0o100_755, (0, 0), b"abc"),
            ],
        );
    }

    #[test]
    fn content_of_every_length_is_padded() {
        for length in 0..9 {
            let content = vec![0xa5; length];
            let mut initramfs = Initramfs::new();
            initramfs.add_file("/x", 0o644, content.clone());
            initramfs.add_file("y", 0o600, b"after".to_vec());
            check(&initramfs, &[("x", 0o100_644, (0, 0), &content), ("y", 0o100_600, (0, 0), b"after")]);
        }
    }

    #[test]
    fn parents_are_made_once_and_keep_a_mode_that_was_given() {
        let mut initramfs = Initramfs::new();
        initramfs.add_directory("a", 0o700);
        initramfs.add_file("a/b/c", 0o644, Vec::new());
        initramfs.add_file("a/b/d", 0o644, Vec::new());
        check(
            &initramfs,
            &[
                ("a", 0o040_700, (0, 0), b""),
                ("a/b", 0o040_755, (0, 0), b""),
                ("a/b/c", 0o100_644, (0, 0), b""),
                ("a/b/d", 0o100_644, (0, 0), b""),
            ],
        );
    }

    #[test]
    fn the_order_of_adding_leaves_no_trace() {
        let (mut one, mut other) = (Initramfs::new(), Initramfs::new());
        one.add_file("first", 0o644, b"1".to_vec());
        one.add_file("second", 0o644, b"2".to_vec());
        other.add_file("second", 0o644, b"2".to_vec());
        other.add_file("first", 0o644, b"1".to_vec());
        assert_eq!(one.build(), other.build());
    }

    #[test]
    fn the_system_cpio_reads_the_same_names() {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let mut initramfs = Initramfs::with_init(b"x".to_vec());
        initramfs.add_directory("tmp", 0o777);
        let child = Command::new("cpio").args(["-t", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            // No cpio on this machine: `parse` above is the reader, which every other test of this file uses.
            assert_eq!(parse(&initramfs.build()).len(), 4);
            return;
        };
        child.stdin.take().unwrap().write_all(&initramfs.build()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "dev\ndev/console\ninit\ntmp\n");
    }
}
