//! The value of a one-element `BPF_F_MMAPABLE` array, mapped into this process.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
#[cfg(feature = "libbpf")]
use std::sync::atomic::AtomicU64;

use ptediff_bpf::{
    ActorSnapshot, Control, ProgramWatchCounters, ProgramWatchState, RegionTable, Slot, Snapshot, Watch, WatchSettings,
};

use crate::error::ObserveError;

/// Types of integers only: any bytes are a value.
///
/// # Safety
/// The type must be `repr(C)` or primitive, and consist of integers without padding.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: `repr(C)` records of integers whose padding is spelled out as fields.
unsafe impl Plain for Slot {}
// SAFETY: as above.
unsafe impl Plain for Control {}
// SAFETY: as above.
unsafe impl Plain for ActorSnapshot {}
// SAFETY: as above.
unsafe impl Plain for Snapshot {}

// SAFETY: as above.
unsafe impl Plain for Watch {}
// SAFETY: as above.
unsafe impl Plain for RegionTable {}
// SAFETY: an array of integers.
unsafe impl<const LENGTH: usize> Plain for [u64; LENGTH] {}
// SAFETY: as above.
unsafe impl Plain for ProgramWatchState {}
// SAFETY: as above.
unsafe impl Plain for WatchSettings {}
// SAFETY: as above.
unsafe impl Plain for ProgramWatchCounters {}

/// A value of type `T` that the probes and this process share.
///
/// The probes run on this process's CPU while it is in the kernel, never beside it; volatile accesses are
/// enough to see what they wrote.
#[derive(Debug)]
pub(crate) struct MappedValue<T: Plain> {
    address: NonNull<T>,
    bytes: usize,
    value: PhantomData<T>,
}

impl<T: Plain> MappedValue<T> {
    /// Maps the array behind `map`.
    pub(crate) fn open(map: BorrowedFd<'_>, name: &str) -> Result<Self, ObserveError> {
        let bytes = size_of::<T>().next_multiple_of(4096);
        // SAFETY: a new mapping at an address of the kernel's choice; nothing existing is touched.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                map.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast::<T>()) {
            Some(address) if address.as_ptr().cast() != libc::MAP_FAILED => {
                Ok(Self { address, bytes, value: PhantomData })
            }
            _ => Err(ObserveError::last_os_error(format!("mapping the eBPF array `{name}`"))),
        }
    }

    /// A copy of the value.
    pub(crate) fn read(&self) -> T {
        // SAFETY: the mapping holds a `T` of the kernel's (plain integers) for as long as `self` lives.
        unsafe { self.address.as_ptr().read_volatile() }
    }

    /// Copies the field at this offset, from `offset_of!`.
    pub(crate) fn read_field<F: Plain>(&self, offset: usize) -> F {
        // SAFETY: `field` checked the bounds, and any bytes are an `F`.
        unsafe { self.field::<F>(offset).read_volatile() }
    }

    /// Overwrites the field at this offset, from `offset_of!`.
    pub(crate) fn write_field<F: Plain>(&mut self, offset: usize, value: F) {
        // SAFETY: `field` checked the bounds, the mapping is writable, and any bytes are a field of `T`.
        unsafe { self.field::<F>(offset).write_volatile(value) }
    }

    /// The counter at this offset, for good: the array stays mapped. The probes count it up on any CPU.
    #[cfg(feature = "libbpf")]
    pub(crate) fn leak_counter(self, offset: usize) -> &'static AtomicU64 {
        let field = self.field::<u64>(offset).cast::<AtomicU64>();
        std::mem::forget(self);
        // SAFETY: `field` checked bounds and alignment; the mapping is never undone, and the field is an integer that
        // others change with atomic instructions alone.
        unsafe { &*field }
    }

    fn field<F: Plain>(&self, offset: usize) -> *mut F {
        assert!(offset + size_of::<F>() <= size_of::<T>() && offset.is_multiple_of(align_of::<F>()));
        self.address.as_ptr().wrapping_byte_add(offset).cast()
    }
}

impl<T: Plain> Drop for MappedValue<T> {
    fn drop(&mut self) {
        // SAFETY: `open` made exactly this mapping, and no reference into it was handed out.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.bytes) };
    }
}
