//! Between the reassembly and those who take requests.
//!
//! What enters: whole requests, and ends of connections. What leaves: those of servers that were asked for.
//! What may be lost: nothing that was asked for.
//!
//! Where any port will do, neither the kernel's filter nor the reassembly can tell the requests to a host from those that
//! it makes itself, once the servers' side of connections passes too. Here they are whole, and it is known who asked.

use std::sync::Arc;

use reprise_traffic::Closed;
use reprise_traffic::exchange::Captured;

use super::Sink;
use super::scope::Scope;
use crate::reassembly;

/// A sink that gets what its owner asked for.
pub(super) struct Handover<S> {
    pub(super) inner: S,
    pub(super) scope: Arc<Scope>,
}

impl<S: Sink> reassembly::Sink for Handover<S> {
    fn take(&mut self, request: Captured) {
        if self.scope.asks_for(request.server) {
            self.inner.take(request);
        }
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
