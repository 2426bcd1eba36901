//! How memory of large pieces goes back to the system.
//!
//! What enters: nothing. What leaves: the blocks of large bodies ([`reprise_traffic::body`]) have pages of their own,
//! which are used again while there is need and go back to the system when there is none. What may be lost: nothing.
//!
//! By itself glibc raises the size from which pieces have pages of their own, up to 32 MiB, with each that is freed; later
//! ones then leave holes in the heap that stay resident. Measured with bodies of 2 MB and a full budget (32 MiB): 34 MB
//! resident instead of 40 to 48 MB.

use std::time::Duration;

use reprise_traffic::body;

/// Pieces from this size on get pages of their own: blocks do, and packets of 64 KiB that wait for an earlier one.
/// Requests with small bodies don't.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 32 << 10;

const TRIM_EVERY: Duration = Duration::from_secs(1);

/// Gives back what nobody needs, for as long as the process lives.
pub(crate) async fn trim() {
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        body::trim();
    }
}

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
