//! How much of what was written to a connection the far host has not acknowledged.
//!
//! What enters: a TCP socket. What leaves: a number of bytes. What may be lost: nothing.

use std::io;

use libc::c_int;
use rustix::fd::AsFd;
use rustix::ioctl::{Getter, Opcode, ioctl};

/// `tcp(7)` has it as `SIOCOUTQ`, which is the same number.
const OPCODE: Opcode = libc::TIOCOUTQ as Opcode;

/// Bytes that the kernel keeps for the connection because they may have to be sent, or sent again.
///
/// # Errors
/// When this is no socket.
#[expect(unsafe_code, reason = "no crate has this call in a safe form")]
pub(super) fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    // SAFETY: this opcode makes the kernel write one int to where it is told to, and does nothing else.
    let bytes = unsafe { ioctl(socket, Getter::<OPCODE, c_int>::new()) }?;
    Ok(u64::try_from(bytes).unwrap_or_default())
}
