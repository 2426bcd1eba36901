//! What a packet socket can do and no crate offers: be bound to an interface, ask it for all packets, join others.
//!
//! What enters: a socket. What leaves: the socket, bound, shown more, or one of several that share the packets.
//! What may be lost: nothing; the system's refusal is an error.
#![expect(
    unsafe_code,
    reason = "socket addresses and options that no crate knows"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Shows only the packets of an interface from now on.
///
/// # Errors
/// The system's words.
pub(super) fn bind(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: i32::try_from(interface).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the address is of the type that the family has, lives through the call, and its size is told.
    let done = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    done_or_error(done)
}

/// Has an interface take packets to other hosts too, as long as the socket is open and the interface there.
///
/// # Errors
/// The system's words.
pub(super) fn ask_for_all(socket: BorrowedFd<'_>, interface: u32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: i32::try_from(interface).map_err(io::Error::other)?,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    // SAFETY: the option takes this structure, which lives through the call, and its size is told.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            (&raw const request).cast(),
            size_of::<libc::packet_mreq>() as libc::socklen_t,
        )
    };
    done_or_error(done)
}

/// Several sockets, of which each packet is shown to one, always the same for a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fanout(u16);

/// By a hash that is the same for both directions; IPv4 fragments, which have no ports, are put together before.
const BY_FLOW: u32 = libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_DEFRAG;

impl Fanout {
    /// Joins the group, or opens one that nobody else has.
    ///
    /// # Errors
    /// The system's words.
    pub(super) fn join(group: Option<Fanout>, socket: BorrowedFd<'_>) -> io::Result<Fanout> {
        let how = match group {
            Some(_) => BY_FLOW,
            None => BY_FLOW | libc::PACKET_FANOUT_FLAG_UNIQUEID,
        };
        let argument: u32 = how << 16 | group.map_or(0, |Fanout(id)| u32::from(id));
        // SAFETY: the option takes an int, which lives through the call, and its size is told.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_FANOUT,
                (&raw const argument).cast(),
                size_of::<u32>() as libc::socklen_t,
            )
        };
        done_or_error(done)?;
        match group {
            Some(group) => Ok(group),
            None => Fanout::of(socket),
        }
    }

    fn of(socket: BorrowedFd<'_>) -> io::Result<Fanout> {
        let mut value: u32 = 0;
        let mut length = size_of::<u32>() as libc::socklen_t;
        // SAFETY: the option yields an int; room for it and its size live through the call.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_FANOUT,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        done_or_error(done)?;
        // The group's number is the lower half.
        Ok(Fanout(value as u16))
    }
}

fn done_or_error(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
