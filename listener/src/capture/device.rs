//! A live capture device.
//!
//! What enters: packets that the kernel's filter lets through, by a ring shared with the kernel.
//! What leaves: the same packets, in batches. What may be lost: packets that come while the ring is full; the kernel
//! counts them.

use std::path::Path;
use std::time::Duration;

use pcap::{Active, Capture, Packet, Precision, Stat};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CaptureError, CaptureSpec, Place};
use crate::packet::LinkType;

/// No packet is longer, offloaded ones included; libpcap's own maximum.
const SNAP_LENGTH: i32 = 262_144;

/// The kernel hands over a block of the ring when it is full or that old: the price of a wake-up is shared, and
/// the delay stays small.
const BLOCK_TIMEOUT_MS: i32 = 2;

/// Packets between two looks at the clock and the stop flag.
pub(super) const BATCH: usize = 4096;

/// An open capture device.
pub(super) struct Device {
    capture: Capture<Active>,
    link: LinkType,
    seen: Stat,
}

/// What the kernel dropped since the last question.
pub(super) struct Drops {
    pub(super) kernel: u32,
    pub(super) interface: u32,
}

impl Device {
    /// Opens the spec's device with a ring of `ring` bytes.
    pub(super) fn open(spec: &CaptureSpec, ring: usize) -> Result<Device, CaptureError> {
        if let Place::Interface(name) = spec.place() {
            require_interface(name)?;
        }
        let failed = |error: pcap::Error| explain(spec, &error);
        // Without immediate mode, which would wake up for every packet and do without the ring's blocks.
        let mut capture = Capture::from_device(spec.device())
            .map_err(failed)?
            .promisc(false)
            .snaplen(SNAP_LENGTH)
            .buffer_size(i32::try_from(ring).unwrap_or(i32::MAX))
            .timeout(BLOCK_TIMEOUT_MS)
            .precision(Precision::Nano)
            .open()
            .map_err(failed)?
            .setnonblock()
            .map_err(failed)?;
        let number = capture.get_datalink().0;
        let link = LinkType::from_number(number).ok_or_else(|| CaptureError::LinkType {
            spec: spec.clone(),
            number,
        })?;
        capture
            .filter(&spec.filter(link == LinkType::Ethernet), true)
            .map_err(failed)?;
        let seen = capture.stats().map_err(failed)?;
        Ok(Device {
            capture,
            link,
            seen,
        })
    }

    pub(super) fn link(&self) -> LinkType {
        self.link
    }

    /// Hands over up to [`BATCH`] packets that are there, and returns their number. Doesn't wait.
    pub(super) fn read(&mut self, take: impl FnMut(Packet<'_>)) -> Result<usize, pcap::Error> {
        self.capture.dispatch(Some(BATCH), take)
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

    /// What was dropped since the last call.
    pub(super) fn drops(&mut self) -> Result<Drops, pcap::Error> {
        let now = self.capture.stats()?;
        let before = std::mem::replace(&mut self.seen, now);
        Ok(Drops {
            kernel: now.dropped.wrapping_sub(before.dropped),
            interface: now.if_dropped.wrapping_sub(before.if_dropped),
        })
    }
}

fn require_interface(name: &str) -> Result<(), CaptureError> {
    let all = Path::new("/sys/class/net");
    if !all.is_dir() || all.join(name).exists() {
        return Ok(());
    }
    let mut there: Vec<String> = std::fs::read_dir(all)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    there.sort();
    Err(CaptureError::UnknownInterface {
        name: name.to_owned(),
        there: there.join(", "),
    })
}

/// libpcap's codes are lost in the `pcap` crate; its texts are all that is left.
fn explain(spec: &CaptureSpec, error: &pcap::Error) -> CaptureError {
    let text = match error {
        pcap::Error::PcapError(text) => text.trim().replace('\n', " "),
        other => other.to_string(),
    };
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let spec = spec.clone();
    if says(&["CAP_NET_RAW", "ermission", "not permitted"]) {
        CaptureError::NoRights { spec }
    } else if says(&["not up", "is down"]) {
        CaptureError::Down { spec }
    } else {
        CaptureError::Open { spec, reason: text }
    }
}
