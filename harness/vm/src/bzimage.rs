//! The bzImage: a setup header, and a compressed ELF kernel behind it.
//!
//! Format: `Documentation/arch/x86/boot.rst` of the kernel, "The real-mode kernel header".

use std::fmt;
use std::io::Read as _;

use ruzstd::decoding::StreamingDecoder;

/// First protocol version whose header tells where the payload and the memory it needs are (2.10).
const OLDEST_PROTOCOL: u16 = 0x020a;
/// `xloadflags`: the kernel has the 64-bit entry point.
const HAS_64_BIT_ENTRY: u16 = 1;
/// No kernel of our time unpacks to more; it bounds what a damaged size field can make us reserve.
const LARGEST_KERNEL: usize = 1 << 30;

/// How the payload of a bzImage is compressed, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard.
    Zstandard,
    /// LZ4, legacy frame.
    Lz4,
    /// gzip.
    Gzip,
    /// XZ.
    Xz,
    /// LZMA.
    Lzma,
    /// LZO.
    Lzo,
    /// bzip2.
    Bzip2,
    /// Not compressed: the ELF itself.
    None,
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Zstandard => "Zstandard",
            Self::Lz4 => "LZ4",
            Self::Gzip => "gzip",
            Self::Xz => "XZ",
            Self::Lzma => "LZMA",
            Self::Lzo => "LZO",
            Self::Bzip2 => "bzip2",
            Self::None => "no compression",
        })
    }
}

/// A bzImage whose header has been checked.
#[derive(Clone, Copy, Debug)]
pub struct BzImage<'a> {
    file: &'a [u8],
    payload: &'a [u8],
}

impl<'a> BzImage<'a> {
    /// Checks the header of a bzImage.
    ///
    /// # Errors
    /// What is wrong with the file, as a sentence: empty, truncated, no bzImage, too old, no 64-bit kernel.
    pub fn parse(file: &'a [u8]) -> Result<Self, String> {
        if file.is_empty() {
            return Err("the file is empty; a bzImage is expected".to_owned());
        }
        if file.get(0x1fe..0x200) != Some(&[0x55, 0xaa]) || file.get(0x202..0x206) != Some(b"HdrS") {
            return Err("the file is not a bzImage: it has no Linux boot header".to_owned());
        }
        let truncated = || "the bzImage is truncated".to_owned();
        if file.len() < 0x268 {
            return Err(truncated());
        }
        let image = Self { file, payload: &[] };
        let version = image.u16_at(0x206);
        if version < OLDEST_PROTOCOL {
            return Err(format!(
                "the bzImage speaks boot protocol {}.{}, at least 2.10 is needed",
                version >> 8,
                version & 0xff
            ));
        }
        if image.u16_at(0x236) & HAS_64_BIT_ENTRY == 0 {
            return Err("the bzImage holds no 64-bit kernel".to_owned());
        }
        // A count of 0 means 4, for very old kernels' sake.
        let setup_sectors = match file[0x1f1] {
            0 => 4,
            count => usize::from(count),
        };
        let start = (setup_sectors + 1) * 512 + image.u32_at(0x248) as usize;
        let length = image.u32_at(0x24c) as usize;
        let payload = file.get(start..start + length).ok_or_else(truncated)?;
        if payload.len() < 8 {
            return Err("the bzImage has no payload".to_owned());
        }
        Ok(Self { file, payload })
    }

    /// How the payload is compressed.
    ///
    /// # Errors
    /// The payload begins with no signature that is known.
    pub fn compression(&self) -> Result<Compression, String> {
        let signatures: [(&[u8], Compression); 8] = [
            (b"\x28\xb5\x2f\xfd", Compression::Zstandard),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            (b"\x1f\x8b", Compression::Gzip),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x5d\0\0", Compression::Lzma),
            (b"\x89LZO", Compression::Lzo),
            (b"BZh", Compression::Bzip2),
            (b"\x7fELF", Compression::None),
        ];
        signatures
            .iter()
            .find(|(signature, _)| self.payload.starts_with(signature))
            .map(|&(_, compression)| compression)
            .ok_or_else(|| {
                format!("the bzImage's payload is compressed in an unknown way (it begins {:02x?})", &self.payload[..8])
            })
    }

    /// The setup header as it is to be copied into `boot_params`, from offset 0x1f1 on.
    pub(crate) fn setup_header(&self) -> &'a [u8] {
        let end = 0x202 + usize::from(self.file[0x201]);
        &self.file[0x1f1..end.min(0x290)]
    }

    /// Bytes of memory that the kernel needs from its load address until it can read the memory map.
    pub(crate) fn init_size(&self) -> u64 {
        self.u32_at(0x260).into()
    }

    /// The highest address that an initramfs may occupy.
    pub(crate) fn initramfs_address_limit(&self) -> u64 {
        self.u32_at(0x22c).into()
    }

    /// The longest command line, without its closing zero.
    pub(crate) fn command_line_limit(&self) -> usize {
        self.u32_at(0x238) as usize
    }

    /// The payload unpacked: an ELF file, with relocations behind it.
    ///
    /// # Errors
    /// The payload is damaged, or compressed in a way that is not read here.
    pub(crate) fn unpack(&self) -> Result<Vec<u8>, String> {
        match self.compression()? {
            Compression::None => Ok(self.payload.to_vec()),
            Compression::Zstandard => {
                // `scripts/Makefile.lib: size_append`: the unpacked size stands behind the frame.
                let (frame, size) = self.payload.split_at(self.payload.len() - 4);
                let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
                if size > LARGEST_KERNEL {
                    return Err(format!("the bzImage is damaged: it claims to unpack to {size} bytes"));
                }
                let damaged = |reason: String| format!("the bzImage's Zstandard payload is damaged: {reason}");
                let mut unpacked = Vec::with_capacity(size);
                StreamingDecoder::new_with_max_window_size(frame, LARGEST_KERNEL as u64)
                    .map_err(|error| damaged(error.to_string()))?
                    .take(LARGEST_KERNEL as u64)
                    .read_to_end(&mut unpacked)
                    .map_err(|error| damaged(error.to_string()))?;
                if unpacked.len() != size {
                    return Err(damaged(format!("{} bytes came out, {size} were announced", unpacked.len())));
                }
                Ok(unpacked)
            }
            other => Err(format!(
                "the bzImage is compressed with {other}; booting in Bochs reads only Zstandard (CONFIG_KERNEL_ZSTD) \
                 and uncompressed kernels. QEMU boots it as it is"
            )),
        }
    }

    fn u16_at(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.file[offset], self.file[offset + 1]])
    }

    fn u32_at(&self, offset: usize) -> u32 {
        u32::from(self.u16_at(offset)) | u32::from(self.u16_at(offset + 2)) << 16
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A bzImage of one setup sector around `payload`.
    pub(crate) fn bzimage_file(payload: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[0x1f1] = 1;
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        file[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        file[0x22c..0x230].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
        file[0x236] = 1;
        file[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
        file[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        file[0x260..0x264].copy_from_slice(&0x10_0000_u32.to_le_bytes());
        file.extend(payload);
        file
    }

    fn zstandard(content: &[u8]) -> Vec<u8> {
        let mut payload = ruzstd::encoding::compress_to_vec(content, ruzstd::encoding::CompressionLevel::Uncompressed);
        payload.extend((content.len() as u32).to_le_bytes());
        payload
    }

    #[track_caller]
    fn check(file: &[u8], expected: Result<&[u8], &str>) {
        let found = BzImage::parse(file).and_then(|image| image.unpack());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert!(found == expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{found:?} where {expected:?} was expected"),
        }
    }

    #[test]
    fn good_payloads_unpack() {
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        check(&bzimage_file(&zstandard(&content)), Ok(&content));
        check(&bzimage_file(b"\x7fELF and so on"), Ok(b"\x7fELF and so on"));
    }

    #[test]
    fn what_is_no_bzimage_is_refused() {
        check(b"", Err("empty"));
        check(b"\x7fELF", Err("not a bzImage"));
        check(&[0; 4096], Err("not a bzImage"));
        check(&vec![b'x'; 10_000], Err("not a bzImage"));
        let good = bzimage_file(&zstandard(b"content"));
        check(&good[..0x220], Err("truncated"));
        check(&good[..good.len() - 1], Err("truncated"));
        check(&bzimage_file(b""), Err("no payload"));
        let mut old = good.clone();
        old[0x206] = 9;
        check(&old, Err("boot protocol 2.9"));
        let mut narrow = good;
        narrow[0x236] = 0;
        check(&narrow, Err("64-bit"));
    }

    #[test]
    fn other_compressions_are_named() {
        check(&bzimage_file(b"\x02\x21\x4c\x18 legacy frame"), Err("LZ4"));
        check(&bzimage_file(b"\x1f\x8b\x08 something"), Err("gzip"));
        check(&bzimage_file(b"\xfd7zXZ\0 something"), Err("XZ"));
        check(&bzimage_file(b"\x5d\0\0 something"), Err("LZMA"));
        check(&bzimage_file(b"\x89LZO something"), Err("LZO"));
        check(&bzimage_file(b"BZh something"), Err("bzip2"));
        check(&bzimage_file(b"????????"), Err("unknown way"));
    }

    #[test]
    fn damage_inside_the_payload_is_found() {
        let mut short = zstandard(b"content");
        let end = short.len();
        short[end - 4] = 200;
        check(&bzimage_file(&short), Err("200 were announced"));
        let mut cut = zstandard(&[7; 1000]);
        cut.drain(100..200);
        check(&bzimage_file(&cut), Err("damaged"));
        let mut huge = zstandard(b"content");
        huge[end - 1] = 0xff;
        check(&bzimage_file(&huge), Err("claims to unpack"));
    }
}
