//! A packet socket with its ring.
//!
//! What enters: packets that the kernel's filter lets through, by a ring shared with the kernel.
//! What leaves: the same packets, in batches. What may be lost: packets that come while the ring is full; the kernel
//! counts them.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use pcap::{Active, Capture, Linktype, Packet, Precision};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;

use super::cooked::behind_hidden_tags;
use super::program::Program;
use super::socket;
pub(super) use super::socket::Fanout;
use crate::packet::{Frame, LinkType};

/// No packet is longer, offloaded ones included; libpcap's own maximum. The ring's blocks have the same size.
pub(super) const SNAP_LENGTH: i32 = 262_144;

/// The kernel hands over a block of the ring when it is full or that old: the price of a wake-up is shared, and
/// the delay stays small. The ring has 64 blocks (16 MiB), so at any rate of packets it also bridges 64 times as long a wait
/// for a processor.
const BLOCK_TIMEOUT_MS: i32 = 2;

/// Packets between two looks at the clock and the stop flag; what is whole by then goes on.
pub(super) const BATCH: usize = 1024;

/// DLT_LINUX_SLL2: the protocol and the interface, and no link layer.
const COOKED: Linktype = Linktype(276);

/// The device that shows the packets of all interfaces.
const ANY: &str = "any";

/// An open packet socket.
pub(super) struct Device {
    capture: Capture<Active>,
    link: LinkType,
    seen: u32,
    begin: Option<Begin>,
}

/// What came before is of no concern: filter, interface and group were not yet in force.
struct Begin {
    at_ns: u64,
    /// Clocks are set back; so the time of the packets counts only for a while.
    until: Instant,
}

const BEGIN: Duration = Duration::from_secs(1);

/// Why a device can't be opened.
pub(super) enum OpenError {
    /// libpcap's words.
    Pcap(pcap::Error),
    /// The system's.
    System(&'static str, io::Error),
    /// Packets that nobody here can read.
    LinkType(i32),
}

impl From<pcap::Error> for OpenError {
    fn from(error: pcap::Error) -> OpenError {
        OpenError::Pcap(error)
    }
}

impl Device {
    /// Opens a socket with a ring of `ring` bytes, for all interfaces or for one.
    pub(super) fn open(
        ring: usize,
        interface: Option<u32>,
        program: &Program,
    ) -> Result<Device, OpenError> {
        // Without immediate mode, which would wake up for every packet and do without the ring's blocks.
        let mut capture = Capture::from_device(ANY)?
            .promisc(false)
            .snaplen(SNAP_LENGTH)
            .buffer_size(i32::try_from(ring).unwrap_or(i32::MAX))
            .timeout(BLOCK_TIMEOUT_MS)
            .precision(Precision::Nano)
            .open()?
            .setnonblock()?;
        capture.set_datalink(COOKED)?;
        let number = capture.get_datalink().0;
        let link = LinkType::from_number(number).ok_or(OpenError::LinkType(number))?;
        let device = Device {
            capture,
            link,
            seen: 0,
            begin: None,
        };
        let failed = |action| move |error| OpenError::System(action, error);
        device.attach(program).map_err(failed("set the filter"))?;
        if let Some(interface) = interface {
            let bound = socket::bind(device.capture.as_fd(), interface);
            bound.map_err(failed("bind to the interface"))?;
            // An interface that is down is bound, and the socket bears an error.
            let error = SockRef::from(&device.capture).take_error();
            if let Ok(Some(error)) = error {
                return Err(OpenError::System("bind to the interface", error));
            }
        }
        Ok(device)
    }

    /// Shares the packets with the others of a group; opens one where there is none.
    pub(super) fn join(&self, group: Option<Fanout>) -> io::Result<Fanout> {
        Fanout::join(group, self.capture.as_fd())
    }

    /// Has an interface take packets to other hosts too.
    pub(super) fn ask_for_all(&self, interface: u32) -> io::Result<()> {
        socket::ask_for_all(self.capture.as_fd(), interface)
    }

    /// From now on its packets count.
    pub(super) fn begin(&mut self, now_ns: u64) {
        self.begin = Some(Begin {
            at_ns: now_ns,
            until: Instant::now() + BEGIN,
        });
        // The kernel forgets the count when asked.
        let _ = self.drops();
    }

    /// Replaces the filter, between two packets.
    pub(super) fn attach(&self, program: &Program) -> io::Result<()> {
        SockRef::from(&self.capture).attach_filter(&program.instructions())
    }

    /// Hands over up to [`BATCH`] packets that are there, and returns their number. Doesn't wait.
    pub(super) fn read(&mut self, mut take: impl FnMut(&Frame<'_>)) -> Result<usize, pcap::Error> {
        let link = self.link;
        let begin = self.begin.take_if(|begin| Instant::now() < begin.until);
        let mut not_before = begin.as_ref().map_or(0, |begin| begin.at_ns);
        let read = self.capture.dispatch(Some(BATCH), |packet| {
            let at_ns = time_ns(&packet);
            if at_ns >= not_before {
                not_before = 0;
                take(&frame(link, at_ns, &packet));
            }
        })?;
        self.begin = begin.filter(|_| not_before > 0);
        Ok(read)
    }

    /// Waits until there are packets, or for as long as said. False when the device reports an error.
    pub(super) fn wait(&self, at_most: Duration) -> bool {
        let timeout = Timespec::try_from(at_most).ok();
        let mut polled = [PollFd::new(&self.capture, PollFlags::IN)];
        // A signal is as good as a packet: the caller looks and comes again.
        let _ = poll(&mut polled, timeout.as_ref());
        let wrong = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        !polled[0].revents().intersects(wrong)
    }

    /// Packets that the kernel dropped since the last call.
    pub(super) fn drops(&mut self) -> Result<u32, pcap::Error> {
        let dropped = self.capture.stats()?.dropped;
        let before = std::mem::replace(&mut self.seen, dropped);
        Ok(dropped.wrapping_sub(before))
    }
}

fn frame<'a>(link: LinkType, at_ns: u64, packet: &Packet<'a>) -> Frame<'a> {
    let wire_len = packet.header.len as usize;
    match behind_hidden_tags(packet.data) {
        None => Frame {
            link,
            at_ns,
            wire_len,
            data: packet.data,
        },
        Some(ip) => Frame {
            link: LinkType::RawIp,
            at_ns,
            wire_len: wire_len.saturating_sub(packet.data.len() - ip.len()),
            data: ip,
        },
    }
}

/// A packet's time; the capture was opened with nanoseconds in the place of microseconds.
fn time_ns(packet: &Packet<'_>) -> u64 {
    let time = packet.header.ts;
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_usec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}
