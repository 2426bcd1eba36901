//! Serves one listener's stream.
//!
//! What enters: its batches. What leaves: `accepted` for each batch in custody, and settlements as exchanges end.
//! What may be lost: nothing; when the stream breaks the listener has everything that was not settled and sends it
//! again elsewhere. What was taken goes on to its replayer all the same, which recognises a second copy.

use std::sync::Arc;
use std::time::Instant;

use reprise_proto::{Downstream, Inlet, Item, LinkError, Pace, Upstream, in_order};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::custody::Custody;
use crate::route::Router;
use crate::watermarks::Watermarks;

/// Serves a listener until it closes its side and has all its answers. `leaving` asks it to go elsewhere.
#[tracing::instrument(name = "listener", skip_all, fields(node = inlet.hello.node))]
pub(crate) async fn serve(
    inlet: Inlet,
    custody: Arc<Custody>,
    router: Arc<Router>,
    watermarks: Watermarks,
    leaving: CancellationToken,
) {
    let Inlet {
        hello,
        peer,
        down,
        up,
    } = inlet;
    info!(version = hello.version, peer, "listener connected");
    let input_ended = CancellationToken::new();
    let answers = tokio::spawn(answer(
        custody.clone(),
        up.clone(),
        input_ended.clone(),
        leaving,
    ));
    match take(down, &custody, &router, &watermarks, up).await {
        Ok(()) => info!("listener closed its stream"),
        Err(error) => {
            let outstanding = custody.outstanding();
            warn!(outstanding, "lost a listener: {error}");
            answers.abort();
            return;
        }
    }
    input_ended.cancel();
    if let Err(error) = answers.await {
        warn!(%error, "the writer of a listener's answers failed");
    }
}

async fn take(
    mut down: mpsc::Receiver<Result<Downstream, LinkError>>,
    custody: &Arc<Custody>,
    router: &Router,
    watermarks: &Watermarks,
    up: mpsc::Sender<Upstream>,
) -> Result<(), LinkError> {
    loop {
        let batch = match down.recv().await {
            None => return Ok(()),
            Some(Err(error)) => return Err(error),
            Some(Ok(Downstream::Targets(_))) => {
                debug!("a listener sent targets, which a relay has from elsewhere");
                continue;
            }
            Some(Ok(Downstream::Batch(batch))) => batch,
        };
        watermarks.raise(&batch.settled_below);
        let span = info_span!("batch", id = batch.id, parcels = batch.parcels.len());
        let routing = async {
            let now = Instant::now();
            for item in in_order(batch.parcels, batch.closed) {
                match item {
                    Item::Parcels(parcels) => router.route(custody, parcels, now).await,
                    Item::Closed(notice) => router.close(notice.closed),
                }
            }
        };
        routing.instrument(span).await;
        if up.send(Upstream::Accepted(batch.id)).await.is_err() {
            return Err(LinkError::Lost("it reads no answers".to_owned()));
        }
    }
}

async fn answer(
    custody: Arc<Custody>,
    up: mpsc::Sender<Upstream>,
    input_ended: CancellationToken,
    leaving: CancellationToken,
) {
    let mut told = false;
    let mut pace = Pace::default();
    loop {
        // First, or a busy listener would never hear of it.
        if !told && leaving.is_cancelled() {
            told = true;
            let reason = "the relay is stopping".to_owned();
            if up.send(Upstream::GoAway(reason)).await.is_err() {
                return;
            }
        }
        let (settlements, outstanding) = custody.take_settled();
        if !settlements.is_empty() {
            pace.sent();
            if up.send(Upstream::Settled(settlements)).await.is_err() {
                return;
            }
        }
        if input_ended.is_cancelled() && outstanding == 0 {
            return;
        }
        tokio::select! {
            () = custody.changed.notified() => {}
            () = input_ended.cancelled(), if !input_ended.is_cancelled() => {}
            () = leaving.cancelled(), if !told => {}
        }
        pace.turn().await;
    }
}
