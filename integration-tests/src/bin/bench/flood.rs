//! Connections that cost memory and bring nothing, while real requests go on.
//!
//! What enters: frames made here, sent on the client's cable to an address that nobody has, so that only the capture
//! meets them. What leaves: what became of the real requests, and the listener's memory. What may be lost: a cable
//! that takes no more frames is waited for; frames that never left are not counted as sent.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;
use reprise_integration_tests::{Hosts, Place, process};

use crate::client::{Pace, Plan, Shape};
use crate::report::{self, Aim, Section, resident, thousands};
use crate::seen::Seen;
use crate::watch::{Watch, Who};
use crate::{Context, stop, watch};

const ABOUT: &str = "\
50 kept connections bring 500 small GETs a second from one network namespace to nginx in another, while made frames come \
to the same port from as many addresses and ports (198.18.0.0/15, RFC 2544) as there are connections. Idle connections \
show the client's SYN and ACK, the flood one SYN each. The aim is that the real ones are all captured, within 64 MiB \
resident.";

const HEADER: [&str; 9] = [
    "beside",
    "frames",
    "frames/s",
    "real ones sent",
    "captured",
    "accounted",
    "lost",
    "kernel drops",
    "resident, × aim (anonymous)",
];
const RATE: u32 = 500;
const LIMIT: Duration = Duration::from_secs(10);
/// Frames between two looks at the clock.
const BURST: u32 = 256;

/// What the made frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fake {
    Idle,
    Syn,
}

pub(crate) fn measure(context: &Context) -> Result<Section> {
    let hosts = Hosts::new(&["client", "server"])?;
    let (client, server) = (hosts.place("client")?, hosts.place("server")?);
    let mut section = Section {
        title: "Idle connections and a SYN flood".to_owned(),
        about: ABOUT.to_owned(),
        header: HEADER.to_vec(),
        ..Section::default()
    };
    let idle = context.either(100_000, 10_000);
    let syns = context.either(1_000_000, 100_000);
    for (fake, connections) in [(Fake::Idle, idle), (Fake::Syn, syns)] {
        let what = match fake {
            Fake::Idle => "idle connections",
            Fake::Syn => "SYNs",
        };
        let what = format!("{} {what}", thousands(connections.into()));
        report::progress(&what);
        let cell = cell(context, [&client, &server], fake, connections)?;
        let (sent, seen) = (cell.sent, &cell.seen);
        section.aims.extend([
            Aim::all(format!("beside {what}: captured"), seen.captured, sent),
            Aim::resident(format!("beside {what}: resident"), seen.memory),
        ]);
        section.rows.push(vec![
            what,
            thousands(cell.frames),
            thousands((cell.frames as f64 / cell.seconds) as u64),
            thousands(sent),
            thousands(seen.captured),
            seen.verdict(sent),
            seen.losses(),
            thousands(seen.kernel_dropped),
            resident(seen.memory),
        ]);
    }
    Ok(section)
}

struct Cell {
    /// Made frames, and how long it took to send them.
    frames: u64,
    seconds: f64,
    /// Real requests.
    sent: u64,
    seen: Seen,
}

fn cell(context: &Context, hosts: [&Place; 2], fake: Fake, connections: u32) -> Result<Cell> {
    let [client, server] = hosts;
    let nginx = watch::production(server)?;
    let watch = Watch::start(context, Who::Discard, server, nginx.address())?;
    let plan = Plan {
        place: client.clone(),
        to: nginx.address(),
        shape: Shape::Get,
        pace: Pace::Open(RATE),
        time: context.seconds(10, 3),
    };
    let flood = Flood {
        fake,
        connections,
        port: plan.to.port(),
        time: plan.time,
        from: mac(client)?,
        to: mac(server)?,
    };
    let (answers, flooded) = thread::scope(|scope| {
        let flooding = scope.spawn(|| client.enter(|| flood.send())?);
        let answers = plan.run();
        let flooded = flooding.join().ok().context("the flood panicked");
        (answers, flooded)
    });
    let (answers, (frames, seconds)) = (answers?, flooded??);
    let seen = watch.finish(answers.sent)?;
    Ok(Cell {
        frames,
        seconds,
        sent: answers.sent,
        seen,
    })
}

struct Flood {
    fake: Fake,
    connections: u32,
    port: u16,
    /// Spread over this time, or as long as it takes.
    time: Duration,
    from: [u8; 6],
    to: [u8; 6],
}

impl Flood {
    /// Sends all; how many frames, in how many seconds.
    fn send(&self) -> Result<(u64, f64)> {
        let mut cable = pcap::Capture::from_device("eth0")?.open()?;
        let started = Instant::now();
        let mut frames = 0;
        let mut frame = Vec::with_capacity(64);
        for number in 0..self.connections {
            if number.is_multiple_of(BURST) {
                stop::check()?;
                let due = self
                    .time
                    .mul_f64(f64::from(number) / f64::from(self.connections));
                thread::sleep(due.saturating_sub(started.elapsed()));
            }
            for ack in [false, true] {
                if ack && self.fake == Fake::Syn {
                    continue;
                }
                self.write(&mut frame, number, ack)?;
                while cable.sendpacket(frame.as_slice()).is_err() {
                    // The cable's queue is full for a moment.
                    stop::check()?;
                    anyhow::ensure!(
                        started.elapsed() < self.time + LIMIT,
                        "the flood stands still"
                    );
                    thread::yield_now();
                }
                frames += 1;
            }
        }
        Ok((frames, started.elapsed().as_secs_f64()))
    }

    /// The client's SYN, or the ACK that ends the handshake.
    fn write(&self, frame: &mut Vec<u8>, number: u32, ack: bool) -> Result<()> {
        const SEQUENCE: u32 = 1_000_000;
        const WINDOW: u16 = 64_240;
        // 16 ports of each address.
        let source = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + number / 16);
        let port = 20_000 + (number % 16) as u16;
        let nobody = Ipv4Addr::new(198, 19, 255, 254);
        let sequence = SEQUENCE + u32::from(ack);
        let packet = PacketBuilder::ethernet2(self.from, self.to)
            .ipv4(source.octets(), nobody.octets(), 64)
            .tcp(port, self.port, sequence, WINDOW);
        let packet = if ack { packet.ack(1) } else { packet.syn() };
        frame.clear();
        Ok(packet.write(frame, &[])?)
    }
}

/// The address of a host's cable.
fn mac(place: &Place) -> Result<[u8; 6]> {
    // `ip netns exec` shows the namespace's own /sys.
    let mut command = place.command("cat");
    command.arg("/sys/class/net/eth0/address");
    let text = process::output(command, LIMIT)?;
    let octets = text
        .trim()
        .split(':')
        .map(|octet| u8::from_str_radix(octet, 16));
    let octets = octets.collect::<Result<Vec<u8>, _>>()?;
    octets.try_into().ok().context("address of eth0")
}
