//! What a program without a standard library must bring itself.

use core::arch::asm;

/// Called by code that the compiler makes for copies.
///
/// # Safety
/// As `memcpy` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both ranges; the direction flag is clear.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As `memmove` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize).wrapping_sub(from as usize) >= count {
        // SAFETY: copying upwards does not overwrite what is still to be read; else as the caller's.
        return unsafe { memcpy(to, from, count) };
    }
    // SAFETY: copies downwards from the last bytes, and clears the direction flag again; an empty range was
    // handled above.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") count => _, inout("rdi") to.add(count).sub(1) => _,
             inout("rsi") from.add(count).sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As `memset` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, count: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the range; the direction flag is clear.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") value as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As `memcmp` of C.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, count: usize) -> i32 {
    let mut place = 0;
    while place < count {
        // SAFETY: the caller vouches for both ranges. Volatile, or the compiler would call this function here.
        let (a, b) = unsafe { (left.add(place).read_volatile(), right.add(place).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        place += 1;
    }
    0
}

/// `core` was compiled for unwinding and names it; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[panic_handler]
fn panic(information: &core::panic::PanicInfo<'_>) -> ! {
    let line = information.location().map_or(0, |location| u64::from(location.line()));
    crate::channel::send(crate::message::Tag::Panic, &[line]);
    crate::channel::power_off()
}
