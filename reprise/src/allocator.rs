//! How the allocator of the C library treats large pieces.
//!
//! What enters: nothing. What leaves: bodies have pages of their own, which go back to the system as soon as they are
//! settled. What may be lost: the pages of a large body are new each time, some tenth of a microsecond for each.
//!
//! By itself glibc raises the size from which it does so, up to 32 MiB, with each large piece that is freed; later ones
//! then leave holes in the heap that stay resident. Measured with bodies of 2 MB and a full budget (32 MiB): 34 MB
//! resident instead of 40 to 48 MB.

/// Pieces from this size on get pages of their own; a request with its body is rarely larger.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 256 << 10;

/// To be called before there are other threads.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator is set by a C function")]
pub(crate) fn give_back_large_pieces() {
    // SAFETY: mallopt takes two integers and no pointer, and no other thread runs yet that could allocate.
    let done = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
    debug_assert_eq!(done, 1, "the C library knows the option");
}

/// Other C libraries have no such rule.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back_large_pieces() {}
