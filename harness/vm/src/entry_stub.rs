//! The machine code between the BIOS and the kernel's 64-bit entry point: a boot sector and the stub to which
//! it jumps, assembled by hand, one line an instruction.
//!
//! Sources: Intel SDM volume 3A, "Initializing IA-32e Mode"; the kernel's `Documentation/arch/x86/boot.rst`,
//! "64-bit Boot Protocol" (flat segments, identity mapping, interrupts off, RSI = boot_params).

/// What the stub writes to port 0xE9 before anything else: the data channel begins behind it. Needed because
/// Bochs prints its banner to the same stream.
pub(crate) const CHANNEL_OPENING: &[u8] = b"\x01ptediff-vm: channel open\x01\n";

/// A byte of CMOS memory that neither the BIOS nor Linux uses. It outlives a reset, RAM contents do not.
const CMOS_BOOTED_BEFORE: u8 = 0x6f;
const BOOTED_BEFORE: u8 = 0xa5;

/// Selectors that the boot protocol asks for: `__BOOT_CS` and `__BOOT_DS`.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

/// Where the BIOS puts the boot sector.
const SECTOR_ADDRESS: u16 = 0x7c00;
/// The disk is read in chunks of so many sectors of 512 bytes.
pub(crate) const CHUNK_SECTORS: u32 = 64;
/// The first sector behind the boot sector that is read.
pub(crate) const DISK_START: u32 = 64;
/// Where a chunk lies before it is moved to its place.
const DISK_BUFFER: u32 = 0x7_0000;

/// Machine code in the making.
struct Code(Vec<u8>);

impl Code {
    fn emit(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A short jump to a place that is known already.
    fn jump_back(&mut self, opcode: u8, target: usize) {
        let distance = target as isize - (self.0.len() as isize + 2);
        self.emit(&[opcode, (distance as i8).cast_unsigned()]);
    }

    /// A short jump to where [`Self::land`] will be called with the answer.
    fn jump_forward(&mut self, opcode: u8) -> usize {
        self.emit(&[opcode, 0]);
        self.0.len()
    }

    fn land(&mut self, jump: usize) {
        let distance = self.0.len() - jump;
        debug_assert!(distance < 128);
        self.0[jump - 1] = distance as u8;
    }

    fn emit_u16(&mut self, opcode: &[u8], immediate: u16) {
        self.emit(opcode);
        self.emit(&immediate.to_le_bytes());
    }

    fn emit_u32(&mut self, opcode: &[u8], immediate: u32) {
        self.emit(opcode);
        self.emit(&immediate.to_le_bytes());
    }
}

/// The boot sector of a machine whose memory is filled already: jumps to the stub at `stub_address` (below
/// 1 MiB, a multiple of 16).
pub(crate) fn boot_sector(stub_address: u32) -> Vec<u8> {
    let mut code = Code(Vec::new());
    boot_once(&mut code);
    code.emit_u16(&[0xea, 0, 0], (stub_address >> 4) as u16); // jmp far segment:0
    finish_sector(code)
}

/// The boot sector of a disk: reads `pieces` (number of chunks, address in memory), which lie one after the
/// other from [`DISK_START`] on, and jumps to the stub. Memory at [`DISK_BUFFER`] is overwritten.
pub(crate) fn disk_boot_sector(stub_address: u32, pieces: &[(u32, u32)]) -> Vec<u8> {
    const DESCRIPTORS: usize = 0x150;
    const DESCRIPTOR_POINTER: usize = 0x160;
    const REQUEST: usize = 0x170;
    const TABLE: usize = 0x180;
    let address_of = |offset: usize| SECTOR_ADDRESS + offset as u16;

    let mut code = Code(Vec::new());
    boot_once(&mut code);
    code.emit(&[0x31, 0xc0]); //                      xor ax, ax
    code.emit(&[0x8e, 0xc0]); //                      mov es, ax
    code.emit(&[0x8e, 0xd0]); //                      mov ss, ax
    code.emit_u16(&[0xbc], SECTOR_ADDRESS); //        mov sp, SECTOR_ADDRESS
    code.emit(&[0xfc]); //                            cld
    code.emit(&[0xe4, 0x92]); //                      in al, 0x92 (address line 20 on, without a reset)
    code.emit(&[0x0c, 0x02]); //                      or al, 2
    code.emit(&[0x24, 0xfe]); //                      and al, 0xfe
    code.emit(&[0xe6, 0x92]); //                      out 0x92, al
    // Segments of 4 GiB, gained in protected mode and kept in real mode.
    code.emit_u16(&[0x0f, 0x01, 0x16], address_of(DESCRIPTOR_POINTER)); // lgdt [descriptor_pointer]
    code.emit(&[0x0f, 0x20, 0xc0]); //                mov eax, cr0
    code.emit(&[0x0c, 0x01]); //                      or al, CR0.PE
    code.emit(&[0x0f, 0x22, 0xc0]); //                mov cr0, eax
    code.emit_u16(&[0xbb], 8); //                     mov bx, 8
    code.emit(&[0x8e, 0xdb]); //                      mov ds, bx
    code.emit(&[0x8e, 0xc3]); //                      mov es, bx
    code.emit(&[0x24, 0xfe]); //                      and al, !CR0.PE
    code.emit(&[0x0f, 0x22, 0xc0]); //                mov cr0, eax
    code.emit(&[0x31, 0xdb]); //                      xor bx, bx
    code.emit(&[0x8e, 0xdb]); //                      mov ds, bx
    code.emit(&[0x8e, 0xc3]); //                      mov es, bx
    code.emit(&[0xfb]); //                            sti
    code.emit_u16(&[0xbd], address_of(TABLE)); //     mov bp, table
    let piece = code.0.len(); //                      piece:
    code.emit(&[0x66, 0x83, 0x7e, 0, 0]); //          cmp dword [bp], 0
    let to_done = code.jump_forward(0x74); //         je done
    let chunk = code.0.len(); //                      chunk:
    code.emit(&[0x55]); //                            push bp
    code.emit(&[0xb4, 0x42]); //                      mov ah, 0x42 (read by block number)
    code.emit(&[0xb2, 0x80]); //                      mov dl, 0x80 (the first disk)
    code.emit_u16(&[0xbe], address_of(REQUEST)); //   mov si, request
    code.emit(&[0xcd, 0x13]); //                      int 0x13
    code.emit(&[0x5d]); //                            pop bp
    let to_failed = code.jump_forward(0x72); //       jc failed
    code.emit_u16(&[0x66, 0x83, 0x06], address_of(REQUEST + 8)); // add dword [request.block], CHUNK_SECTORS
    code.emit(&[CHUNK_SECTORS as u8]);
    code.emit_u32(&[0x66, 0xbe], DISK_BUFFER); //     mov esi, DISK_BUFFER
    code.emit(&[0x66, 0x8b, 0x7e, 4]); //             mov edi, [bp + 4]
    code.emit_u32(&[0x66, 0xb9], CHUNK_SECTORS * 512 / 4); // mov ecx, words in a chunk
    code.emit(&[0xf3, 0x66, 0x67, 0xa5]); //          rep movsd es:[edi], ds:[esi]
    code.emit(&[0x66, 0x89, 0x7e, 4]); //             mov [bp + 4], edi
    code.emit(&[0x66, 0xff, 0x4e, 0]); //             dec dword [bp]
    code.jump_back(0x75, chunk); //                   jnz chunk
    code.emit(&[0x83, 0xc5, 8]); //                   add bp, 8
    code.jump_back(0xeb, piece); //                   jmp piece
    code.land(to_done); //                            done:
    code.emit(&[0xfa]); //                            cli
    code.emit_u16(&[0xea, 0, 0], (stub_address >> 4) as u16); // jmp far segment:0
    code.land(to_failed); //                          failed: (the watchdog will tell)
    code.emit(&[0xf4]); //                            hlt
    code.emit(&[0xeb, (-3_i8).cast_unsigned()]); //   jmp failed

    debug_assert!(code.0.len() <= DESCRIPTORS && pieces.len() <= 8);
    code.0.resize(DESCRIPTORS, 0);
    code.emit(&[0; 8]);
    code.emit(&0x00cf_9300_0000_ffff_u64.to_le_bytes()); // flat data, accessed
    code.emit(&15_u16.to_le_bytes());
    code.emit(&u32::from(address_of(DESCRIPTORS)).to_le_bytes());
    code.0.resize(REQUEST, 0);
    code.emit(&[16, 0, CHUNK_SECTORS as u8, 0, 0, 0]); // size, count, offset of the buffer
    code.emit(&((DISK_BUFFER >> 4) as u16).to_le_bytes());
    code.emit(&u64::from(DISK_START).to_le_bytes());
    for (chunks, address) in pieces {
        code.emit(&chunks.to_le_bytes());
        code.emit(&address.to_le_bytes());
    }
    finish_sector(code)
}

/// Begins a boot sector: a machine that comes this way a second time was reset by its guest, and is powered
/// off, for its memory is no longer what was put there. Leaves DS = 0 and interrupts off.
fn boot_once(code: &mut Code) {
    code.emit(&[0xfa]); //                            cli
    code.emit(&[0x31, 0xc0]); //                      xor ax, ax
    code.emit(&[0x8e, 0xd8]); //                      mov ds, ax
    code.emit(&[0xb0, CMOS_BOOTED_BEFORE]); //        mov al, CMOS_BOOTED_BEFORE
    code.emit(&[0xe6, 0x70]); //                      out 0x70, al
    code.emit(&[0xe4, 0x71]); //                      in al, 0x71
    code.emit(&[0x3c, BOOTED_BEFORE]); //             cmp al, BOOTED_BEFORE
    let to_first_time = code.jump_forward(0x75); //   jne first_time
    let text = SECTOR_ADDRESS + code.0.len() as u16 + 17;
    code.emit_u16(&[0xbe], text); //                  mov si, text
    code.emit_u16(&[0xba], 0x8900); //                mov dx, 0x8900
    let next = code.0.len(); //                       next:
    code.emit(&[0xac]); //                            lodsb
    code.emit(&[0x84, 0xc0]); //                      test al, al
    let to_halt = code.jump_forward(0x74); //         jz halt
    code.emit(&[0xee]); //                            out dx, al
    code.jump_back(0xeb, next); //                    jmp next
    code.land(to_halt); //                            halt:
    code.emit(&[0xf4]); //                            hlt
    code.emit(&[0xeb, (-3_i8).cast_unsigned()]); //   jmp halt
    debug_assert_eq!(usize::from(text - SECTOR_ADDRESS), code.0.len());
    code.emit(b"Shutdown\0"); //                      text
    code.land(to_first_time); //                      first_time:
    code.emit(&[0xb0, BOOTED_BEFORE]); //             mov al, BOOTED_BEFORE
    code.emit(&[0xe6, 0x71]); //                      out 0x71, al
}

fn finish_sector(code: Code) -> Vec<u8> {
    let mut sector = code.0;
    debug_assert!(sector.len() <= 510);
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

/// The stub, to be placed at `address` (below 1 MiB, a multiple of 16): opens the data channel, enters 64-bit
/// mode with the page tables at `page_tables`, and jumps to `entry` with RSI = `boot_params`.
pub(crate) fn stub(address: u32, page_tables: u32, boot_params: u32, entry: u32) -> Vec<u8> {
    // Data stand behind the code, at a fixed offset.
    const DATA: u16 = 0x100;
    let descriptors = address + u32::from(DATA);
    let descriptor_pointer = DATA + 32;
    let opening = DATA + 48;

    let mut code = Code(Vec::new());
    // 16-bit code, CS = address / 16.
    code.emit(&[0xfa]); //                            cli
    code.emit(&[0xfc]); //                            cld
    code.emit_u16(&[0xbe], opening); //               mov si, opening
    let next = code.0.len(); //                       next:
    code.emit(&[0x2e, 0xac]); //                      lodsb cs:[si]
    code.emit(&[0x84, 0xc0]); //                      test al, al
    let to_open = code.jump_forward(0x74); //         jz open
    code.emit(&[0xe6, 0xe9]); //                      out 0xe9, al
    code.jump_back(0xeb, next); //                    jmp next
    code.land(to_open); //                            open: address line 20 on, without a reset (bit 0)
    code.emit(&[0xe4, 0x92]); //                      in al, 0x92
    code.emit(&[0x0c, 0x02]); //                      or al, 2
    code.emit(&[0x24, 0xfe]); //                      and al, 0xfe
    code.emit(&[0xe6, 0x92]); //                      out 0x92, al
    // Page tables, physical address extension, long mode, then protection and paging at once.
    code.emit_u32(&[0x66, 0xb8], page_tables); //     mov eax, page_tables
    code.emit(&[0x0f, 0x22, 0xd8]); //                mov cr3, eax
    code.emit_u32(&[0x66, 0xb8], 1 << 5); //          mov eax, CR4.PAE
    code.emit(&[0x0f, 0x22, 0xe0]); //                mov cr4, eax
    code.emit_u32(&[0x66, 0xb9], 0xc000_0080); //     mov ecx, IA32_EFER
    code.emit(&[0x0f, 0x32]); //                      rdmsr
    code.emit_u32(&[0x66, 0x0d], 1 << 8); //          or eax, EFER.LME
    code.emit(&[0x0f, 0x30]); //                      wrmsr
    code.emit_u16(&[0x2e, 0x66, 0x0f, 0x01, 0x16], descriptor_pointer); // lgdt cs:[descriptor_pointer]
    code.emit(&[0x0f, 0x20, 0xc0]); //                mov eax, cr0
    code.emit_u32(&[0x66, 0x0d], 1 << 31 | 1); //     or eax, CR0.PG | CR0.PE
    code.emit(&[0x0f, 0x22, 0xc0]); //                mov cr0, eax
    let long_mode = address + code.0.len() as u32 + 8;
    code.emit_u32(&[0x66, 0xea], long_mode); //       jmp far CODE_SELECTOR:long_mode
    code.emit(&CODE_SELECTOR.to_le_bytes());
    // long_mode: 64-bit code from here on.
    code.emit_u32(&[0xb8], DATA_SELECTOR.into()); //  mov eax, DATA_SELECTOR
    for segment in [0xd8, 0xc0, 0xd0, 0xe0, 0xe8] {
        code.emit(&[0x8e, segment]); //               mov ds|es|ss|fs|gs, eax
    }
    code.emit_u32(&[0xbc], address); //               mov esp, address (the stack grows down from the stub)
    code.emit_u32(&[0xbe], boot_params); //           mov esi, boot_params
    code.emit(&[0x31, 0xed]); //                      xor ebp, ebp
    code.emit(&[0x31, 0xff]); //                      xor edi, edi
    code.emit(&[0x31, 0xdb]); //                      xor ebx, ebx
    code.emit_u32(&[0xb8], entry); //                 mov eax, entry
    code.emit(&[0xff, 0xe0]); //                      jmp rax

    let mut bytes = code.0;
    debug_assert!(bytes.len() <= usize::from(DATA));
    bytes.resize(DATA.into(), 0);
    for descriptor in [
        0,                     // must be empty
        0,                     // not used
        0x00af_9b00_0000_ffff, // CODE_SELECTOR: 64-bit code, accessed
        0x00cf_9300_0000_ffff, // DATA_SELECTOR: flat data, accessed
    ] {
        bytes.extend(u64::to_le_bytes(descriptor));
    }
    bytes.extend(31_u16.to_le_bytes()); // the table's size less one
    bytes.extend(descriptors.to_le_bytes());
    bytes.resize(opening.into(), 0);
    bytes.extend(CHANNEL_OPENING);
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A boot sector is whole, jumps to the stub, and has its word where its code looks for it.
    #[track_caller]
    fn check_sector(sector: &[u8]) {
        assert_eq!(sector.len(), 512);
        assert_eq!(&sector[510..], &[0x55, 0xaa]);
        let jump = [0xea, 0x00, 0x00, 0x00, 0x68];
        assert_eq!(sector.windows(5).filter(|window| *window == jump).count(), 1, "jmp 0x6800:0");
        let text = u16::from_le_bytes([sector[16], sector[17]]) - SECTOR_ADDRESS;
        assert_eq!(&sector[text.into()..][..9], b"Shutdown\0");
        assert_eq!(sector[14], 26, "the first boot jumps over the power-off");
        assert_eq!(&sector[41..45], &[0xb0, BOOTED_BEFORE, 0xe6, 0x71]);
    }

    #[test]
    fn both_boot_sectors_are_bootable() {
        check_sector(&boot_sector(0x6_8000));
        check_sector(&disk_boot_sector(0x6_8000, &[(3, 0x100_0000), (2, 0x6_0000)]));
    }

    #[test]
    fn the_disk_boot_sector_lists_its_pieces() {
        let sector = disk_boot_sector(0x6_8000, &[(3, 0x100_0000), (2, 0x6_0000)]);
        assert_eq!(&sector[0x180..0x194], &[3, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0]);
        assert_eq!(&sector[0x170..0x180], &[16, 0, 64, 0, 0, 0, 0, 0x70, 64, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_stub_refers_to_its_own_data_and_arguments() {
        let stub = stub(0x6_8000, 0x6_2000, 0x6_0000, 0x100_0000);
        let find = |bytes: &[u8]| {
            let count = stub.windows(bytes.len()).filter(|window| *window == bytes).count();
            assert_eq!(count, 1, "{bytes:02x?}");
            stub.windows(bytes.len()).position(|window| window == bytes).unwrap()
        };
        find(&[0x66, 0xb8, 0x00, 0x20, 0x06, 0x00]); // page tables
        find(&[0xbe, 0x00, 0x00, 0x06, 0x00]); // boot_params
        find(&[0xb8, 0x00, 0x00, 0x00, 0x01, 0xff, 0xe0]); // entry
        let opening = find(CHANNEL_OPENING);
        assert_eq!(u16::from_le_bytes([stub[3], stub[4]]), opening as u16);
        let lgdt = find(&[0x2e, 0x66, 0x0f, 0x01, 0x16]);
        let pointer = usize::from(u16::from_le_bytes([stub[lgdt + 5], stub[lgdt + 6]]));
        assert_eq!(&stub[pointer..pointer + 6], &[31, 0, 0x00, 0x81, 0x06, 0x00]);
        let jump = find(&[0x66, 0xea]);
        let target = u32::from_le_bytes(stub[jump + 2..jump + 6].try_into().unwrap()) - 0x6_8000;
        assert_eq!(target as usize, jump + 8, "the far jump goes to the next instruction");
    }
}
