//! A source for those who try things out: one request a second.
//!
//! What enters: the time. What leaves: `GET /`, into a sink that must not wait. What may be lost: seconds in which the process
//! had no processor.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use reprise_traffic::exchange::{Captured, Source};
use reprise_traffic::{Body, Head};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::reading::record::NOBODY;

const EVERY: Duration = Duration::from_secs(1);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A running source. It ends when this is dropped.
#[derive(Debug)]
pub struct Dummy {
    _stop: DropGuard,
}

impl Dummy {
    /// Has the first request at once.
    pub fn start(mut sink: impl FnMut(Captured) + Send + 'static) -> Dummy {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let run = async move {
            let mut seconds = interval(EVERY);
            seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                seconds.tick().await;
                if let Some(request) = request() {
                    sink(request);
                }
            }
        };
        tokio::spawn(async move { stopped.run_until_cancelled(run).await });
        Dummy {
            _stop: stop.drop_guard(),
        }
    }
}

fn request() -> Option<Captured> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Some(Captured {
        captured_ns: since.map_or(0, |d| d.as_nanos() as u64),
        client: SocketAddr::from((NOBODY, 1)),
        server: SocketAddr::from((NOBODY, 80)),
        source: Source::Mirror,
        head: Head::parse(Bytes::from_static(REQUEST)).ok()?,
        body: Body::default(),
        trailers: Bytes::new(),
        answer: None,
        label: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn there_is_a_request_a_second() {
        let (sender, mut requests) = tokio::sync::mpsc::channel(100);
        let dummy = Dummy::start(move |request| sender.try_send(request).unwrap());
        tokio::time::sleep(Duration::from_millis(4500)).await;
        drop(dummy);
        let mut found = 0;
        while let Some(request) = requests.recv().await {
            assert_eq!(request.head.header("host"), Some(&b"localhost"[..]));
            assert!(request.head.target() == b"/" && request.label.is_none());
            found += 1;
        }
        assert_eq!(found, 5);
    }
}
