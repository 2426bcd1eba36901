//! Who takes a target's requests: a client, a sink, or nobody.
//!
//! What enters: a target's document. What leaves: what serves it. What may be lost: all of a target of whose document
//! nothing can be made here; its exchanges fail.

use reprise_traffic::Target;
use reprise_traffic::target::{Destination, Endpoint};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::client::TargetClient;
use crate::gate::Gate;
use crate::metrics::SenderMeters;
use crate::sessions::Room;
use crate::sink::Sink;
use crate::teller::Teller;

/// Takes a target's requests.
pub(crate) enum Sender {
    /// Sends them to a web server.
    Server(Box<Server>),
    /// Writes them as they come.
    Sink(Box<Sink>),
    /// The target does nothing.
    Nowhere,
    /// None can be made of the document.
    Broken,
}

/// The way to a web server.
pub(crate) struct Server {
    pub(crate) client: TargetClient,
    pub(crate) permits: Semaphore,
    pub(crate) gate: Gate,
    /// Where documents are asked for.
    pub(crate) teller: Option<Teller>,
}

impl Sender {
    /// What a document asks for; of the target so much may be here.
    pub(crate) fn new(target: &Target, room: Room, meters: &SenderMeters) -> Sender {
        let made = match &target.destination {
            Destination::Server(endpoint) => {
                let made = server(target, endpoint, room, meters);
                made.map(|server| Sender::Server(Box::new(server)))
            }
            Destination::Nowhere => Ok(Sender::Nowhere),
            Destination::Recording(_)
            | Destination::Stream(_)
            | Destination::Kafka(_)
            | Destination::Stdout => {
                let made = Sink::of(target, room, &meters.streams);
                made.map(|sink| Sender::Sink(Box::new(sink)))
            }
        };
        made.unwrap_or_else(|error| {
            warn!("{error}; its exchanges fail");
            Sender::Broken
        })
    }

    /// True where it need not be made anew for a newer version of the document: nothing has changed, or nothing that a
    /// sink depends on. One that has stopped is tried again.
    pub(crate) fn serves(&self, newer: &Target, has_changed: bool) -> bool {
        match self {
            Sender::Sink(sink) => sink.serves(newer),
            _ => !has_changed,
        }
    }

    /// Another one stands for the target now, or none.
    pub(crate) fn retire(&self) {
        if let Sender::Server(server) = self {
            server.gate.retire();
        }
    }
}

fn server(
    target: &Target,
    endpoint: &Endpoint,
    room: Room,
    meters: &SenderMeters,
) -> Result<Server, String> {
    let client = TargetClient::new(target, endpoint).map_err(|error| error.to_string())?;
    Ok(Server {
        client,
        permits: Semaphore::new(target.document.concurrency.get() as usize),
        gate: Gate::new(target, meters.breaker.clone()),
        teller: Teller::start(target, room, &meters.documents)?,
    })
}
