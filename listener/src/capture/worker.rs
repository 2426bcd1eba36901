//! The thread of one capture: from its device to whole requests.
//!
//! What enters: packets of one device. What leaves: requests, into the sink, which never waits.
//! What may be lost: packets while the device is gone, which it re-opens as soon as it can; what else is lost on the
//! way is counted by the parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pcap::Packet;
use reprise_traffic::exchange::Captured;

use super::device::{BATCH, Device};
use super::{CaptureSpec, Settings};
use crate::edge::{Edge, EdgeEvent};
use crate::packet::{Decoder, Frame, LinkType};
use crate::reassembly::{self, Answers, Ports, Reassembler};

/// The longest that the thread sleeps: it has to notice a stop.
const TICK: Duration = Duration::from_millis(100);
const DROPS_EVERY: Duration = Duration::from_secs(1);
const BACK_OFF: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(5);

/// After a stop the kernel's last block of packets arrives within this time.
const LAST_BLOCK: Duration = Duration::from_millis(25);
/// However much more there is, a stop takes no longer.
const DRAIN: Duration = Duration::from_secs(2);

pub(super) struct Worker<S> {
    pub(super) spec: CaptureSpec,
    pub(super) settings: Settings,
    pub(super) edge: Arc<Edge>,
    pub(super) sink: S,
    pub(super) stop: Arc<AtomicBool>,
    /// Keeps fragments from one read to the next.
    pub(super) decoder: Decoder,
}

impl<S: FnMut(Captured)> Worker<S> {
    /// Captures until it is told to stop.
    pub(super) fn run(mut self, device: Device) {
        let settings = reassembly::Settings {
            limits: self.settings.limits.clone(),
            ports: Ports::only(self.spec.ports()),
            answers: Answers::Unseen,
            budget: self.settings.budget.clone(),
            shed: self.settings.shed.clone(),
        };
        let mut reassembler = Reassembler::new(settings, self.edge.clone());
        tracing::info!(capture = %self.spec, link = ?device.link(), "capture started");
        let mut device = Some(device);
        while !self.stop.load(Ordering::Relaxed) {
            device = match device {
                Some(device) => self.follow(device, &mut reassembler),
                None => self.reopen(&mut reassembler),
            };
        }
        if let Some(device) = device {
            self.drain(device, &mut reassembler);
        }
        self.edge.count(EdgeEvent::Fragments, self.decoder.finish());
        reassembler.finish(&mut self.sink);
        tracing::info!(capture = %self.spec, "capture stopped");
    }

    /// Reads until told to stop, which gives the device back, or until it fails.
    fn follow(&mut self, mut device: Device, reassembler: &mut Reassembler) -> Option<Device> {
        let mut drops_at = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let read = match self.read(&mut device, reassembler) {
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(capture = %self.spec, %error, "capture device failed, re-opening it");
                    self.count_drops(&mut device);
                    return None;
                }
            };
            if drops_at.elapsed() >= DROPS_EVERY {
                drops_at = Instant::now();
                self.count_drops(&mut device);
            }
            if read == BATCH {
                continue;
            }
            // The clock counts only once all packets before it are taken.
            reassembler.expire(now_ns(), &mut self.sink);
            if !device.wait(TICK) && read == 0 {
                std::thread::sleep(TICK);
            }
        }
        Some(device)
    }

    /// Takes what was on the wire before the stop.
    fn drain(&mut self, mut device: Device, reassembler: &mut Reassembler) {
        std::thread::sleep(LAST_BLOCK);
        let until = Instant::now() + DRAIN;
        while let Ok(BATCH) = self.read(&mut device, reassembler)
            && Instant::now() < until
        {}
        self.count_drops(&mut device);
    }

    fn read(
        &mut self,
        device: &mut Device,
        reassembler: &mut Reassembler,
    ) -> Result<usize, pcap::Error> {
        let link = device.link();
        let (edge, sink, decoder) = (&self.edge, &mut self.sink, &mut self.decoder);
        let mut bytes = 0;
        let read = device.read(|packet| {
            bytes += u64::from(packet.header.len);
            take(&packet, link, decoder, edge, reassembler, sink);
        })?;
        if read > 0 {
            self.edge.count(EdgeEvent::Packets, read as u64);
            self.edge.count(EdgeEvent::Bytes, bytes);
            self.edge.count(EdgeEvent::Fragments, self.decoder.lost());
        }
        Ok(read)
    }

    fn reopen(&mut self, reassembler: &mut Reassembler) -> Option<Device> {
        let mut pause = BACK_OFF.start;
        loop {
            let until = Instant::now() + pause;
            while Instant::now() < until {
                if self.stop.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::sleep(TICK.min(pause));
                reassembler.expire(now_ns(), &mut self.sink);
            }
            match Device::open(&self.spec, self.settings.ring) {
                Ok(device) => {
                    tracing::info!(capture = %self.spec, "capture device is back");
                    return Some(device);
                }
                Err(error) => tracing::debug!(capture = %self.spec, %error, "re-open capture"),
            }
            pause = (pause * 2).min(BACK_OFF.end);
        }
    }

    fn count_drops(&self, device: &mut Device) {
        if let Ok(drops) = device.drops() {
            let count = |event, n| self.edge.count(event, u64::from(n));
            count(EdgeEvent::KernelDropped, drops.kernel);
            count(EdgeEvent::InterfaceDropped, drops.interface);
        }
    }
}

fn take(
    packet: &Packet<'_>,
    link: LinkType,
    decoder: &mut Decoder,
    edge: &Edge,
    reassembler: &mut Reassembler,
    sink: &mut impl FnMut(Captured),
) {
    let frame = Frame {
        link,
        at_ns: time_ns(packet),
        wire_len: packet.header.len as usize,
        data: packet.data,
    };
    match decoder.decode(&frame) {
        Ok(segment) => reassembler.push(&segment, frame.at_ns, sink),
        Err(reason) => edge.count(reason.into(), 1),
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

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
