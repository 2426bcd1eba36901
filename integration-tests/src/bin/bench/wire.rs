//! When requests arrive at servers, by the kernel's clock.
//!
//! What enters: packets on their way to ports, with the kernel's time stamps of nanoseconds, through tcpdump and a
//! file; how late tcpdump itself reads them changes nothing. What leaves: for each port the instant at which each
//! numbered request arrived first, and how many came again as other requests. What may be lost: what the kernel
//! dropped before tcpdump, which is an error.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use pcap::{Capture, Precision};
use reprise_integration_tests::process::Signal;
use reprise_integration_tests::{Place, Process};
use tempfile::TempDir;

use crate::numbered::numbers;
use crate::{gor, stop, watch};

/// tcpdump is given packets when the kernel's block of them is full, or is a second old.
const HELD: Duration = Duration::from_millis(1500);
const END_LIMIT: Duration = Duration::from_secs(10);

/// Arrivals that are being noted.
#[derive(Debug)]
pub(crate) struct Wire {
    tcpdump: Process,
    directory: TempDir,
}

/// What arrived at a port.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Arrivals {
    /// Unix nanoseconds, by the number in the URL.
    pub(crate) at: BTreeMap<u32, u64>,
    /// Requests whose number had been there.
    pub(crate) repeated: u64,
}

impl Wire {
    /// Begins to note what arrives at these ports.
    ///
    /// # Errors
    /// When tcpdump can't be started.
    pub(crate) fn start(place: &Place, ports: &[u16]) -> Result<Wire> {
        let directory = gor::directory()?;
        let ports: Vec<String> = ports.iter().map(|p| format!("tcp dst port {p}")).collect();
        // Segments with data; loopback shows each packet twice, and the way in is the arrival.
        let filter = format!("({}) and tcp[tcpflags] & tcp-push != 0", ports.join(" or "));
        let into = directory.path().join("arrivals.pcap");
        let into = into.to_str().context("path of the arrivals")?;
        let arguments = ["-Q", "in", "--time-stamp-precision", "nano", "-w", into];
        let tcpdump = watch::start_tcpdump(place, directory.path(), &arguments, &filter)?;
        Ok(Wire { tcpdump, directory })
    }

    /// What arrived at each port.
    ///
    /// # Errors
    /// When the kernel dropped packets, or what was captured can't be read.
    pub(crate) fn finish(mut self) -> Result<BTreeMap<u16, Arrivals>> {
        stop::pause(HELD)?;
        self.tcpdump.signal(Signal::INT)?;
        self.tcpdump.wait(END_LIMIT)?;
        let log = self.tcpdump.log()?;
        let dropped = watch::count(&log, "packets dropped by kernel").context("tcpdump's drops")?;
        anyhow::ensure!(dropped == 0, "the kernel dropped {dropped} packets");
        let path = self.directory.path().join("arrivals.pcap");
        let mut capture = Capture::from_file_with_precision(&path, Precision::Nano)?;
        let mut ports: BTreeMap<u16, Arrivals> = BTreeMap::new();
        let mut streams = Streams::default();
        loop {
            let packet = match capture.next_packet() {
                Ok(packet) => packet,
                Err(pcap::Error::NoMorePackets) => return Ok(ports),
                Err(error) => return Err(error).context("read the arrivals"),
            };
            let time = packet.header.ts;
            // With nanoseconds asked for, they stand in the place of microseconds.
            let at_ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64;
            if let Some(segment) = segment(packet.data) {
                let arrivals = ports.entry(segment.to).or_default();
                arrivals.note(streams.fresh(&segment), at_ns);
            }
        }
    }
}

impl Arrivals {
    fn note(&mut self, payload: &[u8], at_ns: u64) {
        for number in numbers(payload) {
            match self.at.entry(number) {
                std::collections::btree_map::Entry::Vacant(new) => drop(new.insert(at_ns)),
                std::collections::btree_map::Entry::Occupied(_) => self.repeated += 1,
            }
        }
    }

    /// How many have arrived.
    pub(crate) fn len(&self) -> u64 {
        self.at.len() as u64
    }
}

/// How far each connection has come. The kernel sends a segment again whose receiver is slow to acknowledge, which is no
/// second request.
#[derive(Debug, Default)]
struct Streams(BTreeMap<(u16, u16), u32>);

impl Streams {
    /// What of a segment's data was not there before.
    fn fresh<'a>(&mut self, segment: &Segment<'a>) -> &'a [u8] {
        let connection = (segment.from, segment.to);
        let end = segment.sequence.wrapping_add(segment.payload.len() as u32);
        let known = self.0.entry(connection).or_insert(segment.sequence);
        // Sequence numbers wrap (RFC 9293 §3.4).
        let seen = known.wrapping_sub(segment.sequence) as i32;
        if (end.wrapping_sub(*known) as i32) > 0 {
            *known = end;
        }
        let seen = usize::try_from(seen).unwrap_or(0);
        segment.payload.get(seen..).unwrap_or_default()
    }
}

/// A TCP segment.
#[derive(Debug, PartialEq, Eq)]
struct Segment<'a> {
    from: u16,
    to: u16,
    sequence: u32,
    payload: &'a [u8],
}

/// Of TCP over IP in an Ethernet frame, which loopback's look like.
fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let etherparse::TransportSlice::Tcp(tcp) = packet.transport? else {
        return None;
    };
    Some(Segment {
        from: tcp.source_port(),
        to: tcp.destination_port(),
        sequence: tcp.sequence_number(),
        payload: tcp.payload(),
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::numbered::Numbered;

    #[test]
    fn a_request_arrives_with_the_packet_that_it_begins_in() {
        let mut request = Numbered::new("h", 100);
        let payload = [request.with(1).to_vec(), request.with(2).to_vec()].concat();
        let mut frame = Vec::new();
        let packet = PacketBuilder::ethernet2([0; 6], [0; 6])
            .ipv4([127, 0, 0, 1], [127, 0, 0, 1], 64)
            .tcp(40_000, 8080, 1, 1000);
        packet.write(&mut frame, &payload).unwrap();
        let expected = Segment {
            from: 40_000,
            to: 8080,
            sequence: 1,
            payload: &payload,
        };
        assert_eq!(segment(&frame).unwrap(), expected);
        let mut arrivals = Arrivals::default();
        arrivals.note(&payload, 7);
        arrivals.note(&payload[..100], 9);
        assert_eq!(arrivals.at, BTreeMap::from([(1, 7), (2, 7)]));
        assert_eq!((arrivals.len(), arrivals.repeated), (2, 1));
    }

    #[test]
    fn a_segment_that_is_sent_again_is_no_request() {
        let mut streams = Streams::default();
        let mut fresh = |from, sequence, payload| {
            let segment = Segment {
                from,
                to: 80,
                sequence,
                payload,
            };
            streams.fresh(&segment)
        };
        let begin = u32::MAX - 1;
        assert_eq!(fresh(1, begin, b"abcd"), b"abcd");
        assert_eq!(fresh(1, begin, b"abcd"), b"");
        // With what comes next.
        assert_eq!(fresh(1, begin, b"abcdef"), b"ef");
        assert_eq!(fresh(1, 4, b"gh"), b"gh");
        assert_eq!(fresh(1, 2, b"ef"), b"");
        // Another connection.
        assert_eq!(fresh(2, 0, b"ab"), b"ab");
    }
}
