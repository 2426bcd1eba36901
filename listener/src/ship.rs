//! Ships the window to a relay, and settles it by the relay's answers.
//!
//! What enters: parcels and ends of connections from the [`Intake`]. What leaves: batches on one stream at a time, to
//! the relay that the listener's name hashes to or, when that is gone, to the next. What may be lost: what was
//! entrusted to a relay that dies ([`crate::window`]), counted as unknown. All else that was on a broken stream goes
//! out again on the next one, marked as resent, so that replayers recognise it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reprise_node::membership::Members;
use reprise_node::{Backoff, Health, LogLimit};
use reprise_proto::{Batch, Downstream, Hello, LinkError, Outlet, Pace, Upstream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::intake::Intake;
use crate::window::{Lost, Room, StreamId};

/// A batch that is this large is sent at once, a smaller one in its turn ([`Pace`]).
const BATCH: Room = Room {
    bytes: 512 << 10,
    exchanges: 1024,
};

/// A relay whose stream has ended is tried after all others for so long.
const AVOID: Duration = Duration::from_secs(5);

/// A stream that lived so long was a good one.
const LIVED: Duration = Duration::from_secs(10);

/// At the end the relay is given this time to close its side.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where the listener finds its relay.
#[derive(Debug)]
pub enum Relays {
    /// In the same process.
    InProcess(Outlet),
    /// Members of the cluster, or a fixed list.
    Network(watch::Receiver<Members>),
    /// Nothing is shipped, and nothing enters the window.
    Nowhere,
}

/// What the answers' reader saw last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamState {
    Open,
    Leaving,
    Ended,
}

/// Sends what the intake holds until `stop` is cancelled; cancel it when the intake is settled or given up.
pub(crate) async fn ship(
    intake: Arc<Intake>,
    relays: Relays,
    hello: Hello,
    health: Health,
    stop: CancellationToken,
) {
    let mut shipper = Shipper {
        intake,
        hello,
        health,
        streams: 0,
        // In one process, what the relay holds is what we hold.
        entrusts: matches!(relays, Relays::Network(_)),
        avoid: HashMap::new(),
    };
    match relays {
        Relays::Nowhere => stop.cancelled().await,
        Relays::InProcess(outlet) => shipper.pump("in-process", outlet, &stop).await,
        Relays::Network(mut members) => {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
            while !stop.is_cancelled() {
                let connecting = shipper.connect(&mut members);
                let (relay, outlet) = tokio::select! {
                    connected = connecting => connected,
                    () = stop.cancelled() => return,
                };
                let opened = Instant::now();
                shipper.pump(&relay, outlet, &stop).await;
                // Whatever breaks streams at once must not have us send the window over and over.
                if opened.elapsed() > LIVED {
                    backoff.reset();
                    continue;
                }
                tokio::select! {
                    () = backoff.wait() => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }
}

struct Shipper {
    intake: Arc<Intake>,
    hello: Hello,
    health: Health,
    streams: u64,
    entrusts: bool,
    avoid: HashMap<String, Instant>,
}

impl Shipper {
    /// Tries the relays in this listener's own order until one accepts the stream.
    async fn connect(&mut self, members: &mut watch::Receiver<Members>) -> (String, Outlet) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let complaints = LogLimit::every(Duration::from_secs(10));
        loop {
            self.avoid.retain(|_, since| since.elapsed() < AVOID);
            let relays = members.borrow_and_update().clone();
            let mut failure = "no relay is a member of the cluster".to_owned();
            for name in order(&self.hello.node, relays.keys(), &self.avoid) {
                match reprise_proto::connect(&relays[&name].address, self.hello.clone()).await {
                    Ok(outlet) => {
                        info!(
                            relay = name,
                            address = relays[&name].address,
                            "connected to relay"
                        );
                        return (name, outlet);
                    }
                    Err(error) => failure = error.to_string(),
                }
            }
            self.health.set("relay", Err(failure.clone()));
            if complaints.allow().is_some() {
                let waiting = self.intake.used().exchanges;
                warn!(
                    waiting,
                    "no relay takes our exchanges, they wait: {failure}"
                );
            }
            tokio::select! {
                () = backoff.wait() => {}
                // A fixed list never changes.
                Ok(()) = members.changed() => {}
            }
        }
    }

    /// Sends on one stream until it ends, the relay leaves, or we stop.
    #[tracing::instrument(name = "relay", skip_all, fields(node = relay))]
    async fn pump(&mut self, relay: &str, outlet: Outlet, stop: &CancellationToken) {
        let Outlet { welcome, down, up } = outlet;
        self.streams += 1;
        let stream = StreamId(self.streams);
        self.intake.open(
            stream,
            Room {
                bytes: usize::try_from(welcome.window_bytes).unwrap_or(usize::MAX),
                exchanges: usize::try_from(welcome.window_exchanges).unwrap_or(usize::MAX),
            },
            self.entrusts,
        );
        self.health.set("relay", Ok(()));
        let (state, mut answers) = watch::channel(StreamState::Open);
        let reader = tokio::spawn(settle(
            self.intake.clone(),
            stream,
            relay.to_owned(),
            up,
            state,
        ));
        self.send(stream, down, &mut answers, stop).await;
        // Leaving or lost: whatever it has, another relay is more likely to answer at once.
        self.avoid.insert(relay.to_owned(), Instant::now());
        if stop.is_cancelled() {
            farewell(reader).await;
        }
    }

    async fn send(
        &self,
        stream: StreamId,
        down: mpsc::Sender<Downstream>,
        answers: &mut watch::Receiver<StreamState>,
        stop: &CancellationToken,
    ) {
        let mut id = 0;
        let mut pace = Pace::default();
        let mut full = true;
        while *answers.borrow() == StreamState::Open {
            if !full {
                tokio::select! {
                    () = self.intake.changed() => {}
                    _ = answers.changed() => {}
                    () = stop.cancelled() => {}
                }
                pace.turn().await;
            }
            let (taken, below) = self.intake.take(stream, id + 1, BATCH);
            full = taken.is_full(BATCH);
            if taken.is_empty() {
                // Once all is settled, ends of connections may still be there.
                match stop.is_cancelled() {
                    true => return,
                    false => continue,
                }
            }
            id += 1;
            pace.sent();
            let settled_below = vec![(self.intake.epoch().clone(), below)];
            let batch = Batch {
                id,
                settled_below,
                parcels: taken.parcels,
                closed: taken.closed,
            };
            tokio::select! {
                sent = down.send(Downstream::Batch(batch)) => if sent.is_err() { return },
                // What the batch held is on the stream's account, and is lost or settled with it.
                _ = answers.wait_for(|state| *state == StreamState::Ended) => return,
            }
        }
    }
}

/// Reads a relay's answers until it has no more to say. The stream may be one that we no longer send on.
async fn settle(
    intake: Arc<Intake>,
    stream: StreamId,
    relay: String,
    mut up: mpsc::Receiver<Result<Upstream, LinkError>>,
    state: watch::Sender<StreamState>,
) {
    let mut end = None;
    while let Some(answer) = up.recv().await {
        match answer {
            Ok(Upstream::Settled(settlements)) => intake.settle(&settlements),
            Ok(Upstream::GoAway(reason)) => {
                let outstanding = intake.outstanding(stream);
                info!(relay, outstanding, "relay is leaving: {reason}");
                state.send_replace(StreamState::Leaving);
            }
            // What a relay holds in memory dies with it, so custody frees only what is too large to be kept here.
            Ok(Upstream::Accepted(batch)) => intake.accepted(stream, batch),
            // A listener doesn't ask for it.
            Ok(Upstream::Measured(_)) => {}
            Ok(Upstream::Returned(parcels)) => {
                debug!(
                    relay,
                    parcels = parcels.len(),
                    "relay returned parcels; they wait for its end"
                );
            }
            Err(error) => end = Some(error),
        }
    }
    let Lost {
        again: resend,
        entrusted,
    } = intake.close(stream);
    if entrusted > 0 {
        warn!(
            relay,
            entrusted, "large exchanges were at this relay alone: they are unknown"
        );
    }
    match end {
        Some(error) => warn!(relay, resend, "lost the relay: {error}"),
        None if resend > 0 => warn!(relay, resend, "the relay left with unsettled exchanges"),
        None => debug!(relay, "stream to relay closed"),
    }
    state.send_replace(StreamState::Ended);
}

async fn farewell(reader: JoinHandle<()>) {
    if tokio::time::timeout(FAREWELL, reader).await.is_err() {
        debug!("the relay did not close its side in time");
    }
}

/// Highest random weight first: each listener has its own order, and a relay that goes moves only its own listeners.
fn order<'a>(
    listener: &str,
    relays: impl Iterator<Item = &'a String>,
    avoid: &HashMap<String, Instant>,
) -> Vec<String> {
    let mut ranked: Vec<(bool, u64, &String)> = relays
        .map(|relay| (avoid.contains_key(relay), weight(listener, relay), relay))
        .collect();
    ranked.sort_unstable_by_key(|(avoided, weight, _)| (*avoided, std::cmp::Reverse(*weight)));
    ranked
        .into_iter()
        .map(|(_, _, relay)| relay.clone())
        .collect()
}

fn weight(listener: &str, relay: &str) -> u64 {
    use std::hash::{BuildHasher, BuildHasherDefault};
    type Stable = BuildHasherDefault<std::hash::DefaultHasher>;
    Stable::default().hash_one((listener, relay))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_spread_and_a_leaving_relay_comes_last() {
        let relays: Vec<String> = (0..4).map(|n| format!("relay-{n}")).collect();
        let mut firsts: HashMap<String, u32> = HashMap::new();
        for n in 0..400 {
            let order = order(&format!("web-{n}"), relays.iter(), &HashMap::new());
            assert_eq!(order.len(), relays.len());
            *firsts.entry(order[0].clone()).or_default() += 1;
        }
        assert!(firsts.values().all(|n| (60..140).contains(n)), "{firsts:?}");

        let first = order("web", relays.iter(), &HashMap::new())[0].clone();
        let avoid = HashMap::from([(first.clone(), Instant::now())]);
        assert_eq!(order("web", relays.iter(), &avoid)[3], first);
    }
}
