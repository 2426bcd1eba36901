//! What is done to messages ahead of the window: the way through a middleware, and making them readable.
//!
//! What enters: messages, and what a program writes back. What leaves: messages of their own in the window, counted as captured now. What may
//! be lost: what is too large, or no message, counted at the edge. While the window has no room the program has to wait, and
//! with it those who give it work.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use reprise_traffic::exchange::Captured;
use reprise_traffic::gor::Record;

use super::Intake;
use crate::middleware::{self, Middleware, Origin};
use crate::prettify::prettify;
use crate::records;

/// Between two looks whether a program has nothing left to do.
const LOOK: Duration = Duration::from_millis(5);

/// A program that has messages and writes nothing for so long leaves them out.
const QUIET: Duration = Duration::from_millis(400);

/// What a program has to write its last lines in, once its input is closed.
const LAST_LINES: Duration = Duration::from_secs(2);

impl Intake {
    /// From now on all messages pass this program. To be called once, before the first comes.
    ///
    /// # Errors
    /// One line, when it can't be started.
    pub(crate) fn pass_through(
        self: &Arc<Self>,
        settings: middleware::Settings,
        max_exchange: usize,
    ) -> anyhow::Result<()> {
        let intake = Arc::downgrade(self);
        let back = move |record: &Record<'_>, origin| {
            if let Some(intake) = Weak::upgrade(&intake) {
                intake.came_back(record, origin, max_exchange);
            }
        };
        let program = Middleware::start(
            settings,
            self.epoch.clone(),
            self.edge.clone(),
            Box::new(back),
        )?;
        // Nobody else sets it.
        let _ = self.middleware.set(program);
        Ok(())
    }

    /// From now on messages are made readable where they stay within so many bytes. To be called once.
    pub(crate) fn make_readable(&self, most: usize) {
        // Nobody else sets it.
        let _ = self.prettify.set(most);
    }

    pub(super) fn makes_readable(&self) -> bool {
        self.prettify.get().is_some()
    }

    /// A message as outputs are to have it.
    pub(super) fn as_wanted(&self, mut message: Captured) -> Captured {
        if let Some(most) = self.prettify.get() {
            prettify(&mut message, *most);
        }
        message
    }

    fn came_back(&self, record: &Record<'_>, origin: Option<Origin>, max_exchange: usize) {
        let mut message = match records::message(record, max_exchange) {
            Ok(message) => message,
            Err(event) => return self.edge.count(event, 1),
        };
        if let Some(origin) = origin {
            (message.client, message.server) = (origin.client, origin.server);
            if let Some(label) = message.label.as_mut() {
                label.set_turn(origin.turn);
            }
        }
        self.wait_for_window(&AtomicBool::new(false));
        self.take_in_waited(message);
        self.announce();
    }

    /// Waits until the program has nothing left to do, and nothing is left to settle.
    pub(crate) async fn all_through(&self) {
        let Some(middleware) = self.middleware.get() else {
            return self.settled().await;
        };
        loop {
            self.settled().await;
            if middleware.is_quiet(QUIET) && self.used().exchanges == 0 {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Closes the program's input and waits a moment for its last lines.
    pub(crate) async fn finish_middleware(self: &Arc<Self>) {
        if self.middleware.get().is_none() {
            return;
        }
        let intake = self.clone();
        let finishing = tokio::task::spawn_blocking(move || {
            if let Some(middleware) = intake.middleware.get() {
                middleware.finish(LAST_LINES);
            }
        });
        if let Err(error) = finishing.await {
            tracing::warn!(%error, "the middleware's end failed");
        }
    }
}
