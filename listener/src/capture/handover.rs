//! Between the reassembly and those who take requests.
//!
//! What enters: whole requests, and ends of connections. What leaves: those of servers that were asked for; requests with
//! the client's address in a header, where that is wanted.
//! What may be lost: requests whose head has no room for that header, each with its reason; nothing else that was asked
//! for.
//!
//! Where any port will do, neither the kernel's filter nor the reassembly can tell the requests to a host from those that
//! it makes itself, once the servers' side of connections passes too. Here they are whole, and it is known who asked.

use std::sync::Arc;

use reprise_traffic::changes::{ChangeError, set_header};
use reprise_traffic::exchange::Captured;
use reprise_traffic::{Closed, Head};

use super::Sink;
use super::scope::Scope;
use crate::edge::Edge;
use crate::http::Refusal;
use crate::reassembly;

/// A sink that gets what its owner asked for.
pub(super) struct Handover<S> {
    pub(super) inner: S,
    pub(super) scope: Arc<Scope>,
    pub(super) edge: Arc<Edge>,
}

impl<S> Handover<S> {
    /// The request's head with its client's address, in the usual form without the port.
    fn with_client(&self, request: &Captured, header: &str) -> Option<Head> {
        let client = request.client.ip().to_canonical().to_string();
        set_header(&request.head, header, client.as_bytes())
            .inspect_err(|error| self.edge.count(refusal(error).into(), 1))
            .ok()
    }
}

/// A forged address must not pass for the real one, so such a request doesn't pass.
fn refusal(error: &ChangeError) -> Refusal {
    match error {
        ChangeError::TooLong => Refusal::HeadTooLarge,
        ChangeError::Head(error) => Refusal::from(*error),
        ChangeError::Framing(error) => Refusal::from(*error),
        ChangeError::Target(_) | ChangeError::Host(_) | ChangeError::OtherLength => {
            Refusal::MalformedHead
        }
    }
}

impl<S: Sink> reassembly::Sink for Handover<S> {
    fn take(&mut self, mut request: Captured) {
        if !self.scope.asks_for(request.server) {
            return;
        }
        if let Some(header) = self.scope.real_ip_header() {
            let Some(head) = self.with_client(&request, header) else {
                return;
            };
            request.head = head;
        }
        self.inner.take(request);
    }

    fn closed(&mut self, closed: Closed) {
        if self.scope.asks_for(closed.server) {
            self.inner.closed(closed);
        }
    }
}

impl<S: Sink> Sink for Handover<S> {
    fn caught_up(&mut self) {
        self.inner.caught_up();
    }
}
