//! A capture thread: from its device to whole requests.
//!
//! What enters: packets of all captured interfaces. What leaves: requests, into the sink, which never waits.
//! What may be lost: packets while the device is gone, which it re-opens as soon as it can; what else is lost on the
//! way is counted by the parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reprise_node::LogLimit;

use super::Sink;
use super::device::{BATCH, Device, Fanout};
use super::interfaces::{self, Present};
use super::opening;
use super::pods::Addresses;
use super::precedence::Precedence;
use super::scope::Scope;
use crate::edge::{Edge, EdgeEvent};
use crate::packet::Decoder;
use crate::reassembly::{self, Reassembler};

/// The longest that the thread sleeps: it has to notice a stop.
const TICK: Duration = Duration::from_millis(100);
const DROPS_EVERY: Duration = Duration::from_millis(250);
/// How often the list of interfaces is read.
const SCAN_EVERY: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_secs(5);
const BACK_OFF: std::ops::Range<Duration> = Duration::from_millis(100)..Duration::from_secs(5);

/// After a stop the kernel's last block of packets arrives within this time.
const LAST_BLOCK: Duration = Duration::from_millis(25);
/// However much more there is, a stop takes no longer.
const DRAIN: Duration = Duration::from_secs(2);

static DROPPING: LogLimit = LogLimit::every(Duration::from_secs(10));
static NOT_ASKED: LogLimit = LogLimit::every(Duration::from_secs(10));
static UNFILTERED: LogLimit = LogLimit::every(Duration::from_secs(10));

pub(super) struct Worker<S> {
    pub(super) scope: Arc<Scope>,
    /// Bytes of its ring.
    pub(super) ring: usize,
    pub(super) reassembly: reassembly::Settings,
    pub(super) edge: Arc<Edge>,
    pub(super) sink: S,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) fanout: Option<Fanout>,
    /// The first of several threads speaks, and counts what concerns all.
    pub(super) first: bool,
    pub(super) present: Present,
    /// Where the filter takes pods to be.
    pub(super) pods: Arc<Addresses>,
    /// Where the filter couldn't be renewed: when to try again. To compile one takes time.
    pub(super) retry_at: Option<Instant>,
    pub(super) decoder: Decoder,
    /// What the interfaces had dropped at the last look.
    pub(super) interface_drops: BTreeMap<String, u64>,
}

impl<S: Sink> Worker<S> {
    /// Captures until it is told to stop.
    pub(super) fn run(mut self, device: Device) {
        let mut precedence = Precedence::take();
        let mut reassembler = Reassembler::new(self.reassembly.clone(), self.edge.clone());
        self.count_interface_drops();
        let mut device = Some(device);
        while !self.stop.load(Ordering::Relaxed) {
            device = match device {
                Some(device) => self.follow(device, &mut reassembler, &mut precedence),
                None => self.reopen(&mut reassembler),
            };
        }
        if let Some(device) = device {
            self.drain(device, &mut reassembler);
        }
        self.edge.count(EdgeEvent::Fragments, self.decoder.finish());
        reassembler.finish(&mut self.sink);
        self.sink.caught_up();
        if self.first {
            tracing::info!(capture = self.scope.name(), "capture stopped");
        }
    }

    /// Reads until told to stop, which gives the device back, or until it fails.
    fn follow(
        &mut self,
        mut device: Device,
        reassembler: &mut Reassembler,
        precedence: &mut Precedence,
    ) -> Option<Device> {
        let mut drops_at = Instant::now();
        let mut scan_at = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let read = match self.read(&mut device, reassembler) {
                Ok(read) => read,
                Err(error) => {
                    let capture = self.scope.name();
                    tracing::warn!(capture, %error, "capture device failed, re-opening it");
                    self.count_drops(&mut device);
                    return None;
                }
            };
            precedence.look();
            if drops_at.elapsed() >= DROPS_EVERY {
                drops_at = Instant::now();
                self.count_drops(&mut device);
            }
            if scan_at.elapsed() >= SCAN_EVERY {
                scan_at = Instant::now();
                self.scan(&device);
            }
            if read == BATCH {
                self.sink.caught_up();
                continue;
            }
            // The clock counts only once all packets before it are taken.
            reassembler.expire(now_ns(), &mut self.sink);
            self.sink.caught_up();
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
        let (edge, decoder, sink) = (&self.edge, &mut self.decoder, &mut self.sink);
        let (mut packets, mut bytes) = (0, 0);
        let read = device.read(|frame| {
            packets += 1;
            bytes += frame.wire_len as u64;
            match decoder.decode(frame) {
                Ok(segment) => reassembler.push(&segment, frame.at_ns, sink),
                Err(reason) => edge.count(reason.into(), 1),
            }
        })?;
        if packets > 0 {
            self.edge.count(EdgeEvent::Packets, packets);
            self.edge.count(EdgeEvent::Bytes, bytes);
            self.edge.count(EdgeEvent::Fragments, self.decoder.lost());
        }
        Ok(read)
    }

    /// Looks whether interfaces or pods came or went.
    fn scan(&mut self, device: &Device) {
        if self.scope.selection.only().is_some() {
            return;
        }
        let Ok(now) = interfaces::present() else {
            return;
        };
        let pods = self.scope.pods.now();
        let same = now == self.present && pods == self.pods;
        if same || self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let program = self.scope.program(&now, &pods).map_err(anyhow::Error::new);
        match program.and_then(|program| device.attach(&program).map_err(anyhow::Error::new)) {
            Ok(()) => {
                if self.first {
                    self.scope.selection.report(&self.present, &now);
                }
                self.ask_for_all(device, &now);
                self.present = now;
                self.pods = pods;
                self.retry_at = None;
            }
            Err(error) => {
                self.retry_at = Some(Instant::now() + RETRY);
                if let Some(suppressed) = UNFILTERED.allow() {
                    tracing::warn!(%error, suppressed, "new interfaces or pods are not captured");
                }
            }
        }
    }

    /// Has interfaces that have come take packets to other hosts too, where that is wanted.
    fn ask_for_all(&self, device: &Device, now: &Present) {
        for interface in self.scope.promiscuous(now) {
            if now.get(&interface) == self.present.get(&interface) {
                continue;
            }
            // It may be gone again, which the next look will tell.
            if let Err(error) = device.ask_for_all(interface)
                && let Some(suppressed) = NOT_ASKED.allow()
            {
                let interface = &now[&interface];
                tracing::warn!(interface, %error, suppressed, "set promiscuous mode");
            }
        }
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
                self.sink.caught_up();
            }
            let capture = self.scope.name();
            match self.open() {
                Ok(device) => {
                    tracing::info!(capture, "capture device is back");
                    return Some(device);
                }
                Err(error) => tracing::debug!(capture, %error, "re-open capture"),
            }
            // An interface that is named alone is looked for as often as patterns are.
            pause = match self.scope.selection.only() {
                Some(_) => SCAN_EVERY,
                None => (pause * 2).min(BACK_OFF.end),
            };
        }
    }

    fn open(&mut self) -> anyhow::Result<Device> {
        let present = interfaces::present()?;
        let pods = self.scope.pods.now();
        let mut device = opening::open(&self.scope, &present, &pods, self.ring)?;
        if let Some(fanout) = self.fanout {
            device.join(Some(fanout))?;
        }
        device.begin(now_ns());
        self.present = present;
        self.pods = pods;
        Ok(device)
    }

    fn count_drops(&mut self, device: &mut Device) {
        let dropped = device.drops().unwrap_or(0);
        if dropped > 0 {
            self.edge
                .count(EdgeEvent::KernelDropped, u64::from(dropped));
            if let Some(suppressed) = DROPPING.allow() {
                let ring = self.ring;
                tracing::warn!(
                    dropped,
                    ring,
                    suppressed,
                    "the kernel dropped packets because the ring was full; a larger --ring helps"
                );
            }
        }
        self.count_interface_drops();
    }

    fn count_interface_drops(&mut self) {
        if !self.first {
            return;
        }
        let selection = &self.scope.selection;
        let captured = self
            .present
            .values()
            .filter(|name| !selection.on(name).is_empty());
        let now: BTreeMap<String, u64> = captured
            .map(|name| (name.clone(), interfaces::dropped(name)))
            .collect();
        let since = now.iter().filter_map(|(name, dropped)| {
            let before = self.interface_drops.get(name)?;
            Some(dropped.saturating_sub(*before))
        });
        self.edge.count(EdgeEvent::InterfaceDropped, since.sum());
        self.interface_drops = now;
    }
}

/// The time of day, unix nanoseconds, as packets have it.
pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}
