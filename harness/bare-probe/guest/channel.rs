//! Port 0xE9, and the way out.

use core::arch::asm;

use crate::message::Tag;

/// QEMU's power management (PIIX4, as its firmware sets it up): SLP_EN with the type "soft off".
const QEMU_POWER_PORT: u16 = 0x604;
const QEMU_POWER_WORD: u16 = 0x2000;
const BOCHS_POWER_PORT: u16 = 0x8900;

/// Sends a message.
pub fn send(tag: Tag, words: &[u64]) {
    write(0xe9, &[tag as u8, words.len() as u8]);
    for word in words {
        write(0xe9, &word.to_le_bytes());
    }
}

/// Ends the machine.
pub fn power_off() -> ! {
    write(BOCHS_POWER_PORT, b"Shutdown");
    // SAFETY: a write to the port of a device; it ends the machine or does nothing.
    unsafe { asm!("out dx, ax", in("dx") QEMU_POWER_PORT, in("ax") QEMU_POWER_WORD, options(nomem, nostack)) };
    loop {
        // SAFETY: interrupts are off: this waits for ever.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

fn write(port: u16, bytes: &[u8]) {
    // SAFETY: reads the bytes upwards; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _, inout("rcx") bytes.len() => _,
             options(nostack, preserves_flags, readonly));
    }
}
