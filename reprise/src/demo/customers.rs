//! The customers: several at a time, each with a browser that keeps its connection for a session.
//!
//! What enters: the shops' addresses and a rate. What leaves: requests at about that rate, and what the customers
//! saw. What may be lost: a request that gets no answer, which is counted; the customer goes on.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use hyper::header;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::latency::Histogram;
use super::visit::{Visitor, Wish};
use super::wire::Wire;

/// Customers at a time, over all shops.
pub(crate) const CUSTOMERS: u32 = 12;

/// What the customers saw.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Seen {
    /// Requests that got an answer.
    pub(crate) answered: u64,
    /// Requests that got none.
    pub(crate) unanswered: u64,
    /// Answers by the status' first digit.
    pub(crate) classes: [u64; 6],
    /// From a request to the end of its answer.
    #[serde(skip)]
    pub(crate) latency: Histogram,
}

/// Customers that shop until they are told to leave.
#[derive(Debug)]
pub(crate) struct Crowd {
    tasks: JoinSet<()>,
    leaving: CancellationToken,
    seen: Arc<Mutex<Seen>>,
}

impl Crowd {
    /// Lets customers into the shops, so many to each; all of them together send `rate` requests a second.
    pub(crate) fn enter(shops: &[SocketAddr], rate: u32) -> Crowd {
        let mut crowd = Crowd {
            tasks: JoinSet::new(),
            leaving: CancellationToken::new(),
            seen: Arc::default(),
        };
        let pace = Duration::from_secs(1) * CUSTOMERS / rate.max(1);
        for (seed, shop) in (0..CUSTOMERS).zip(shops.iter().cycle()) {
            let customer = Customer {
                visitor: Visitor::new(seed.into()),
                wire: Wire::new(*shop),
                host: shop.to_string(),
                seen: crowd.seen.clone(),
            };
            let leaving = crowd.leaving.clone();
            crowd.tasks.spawn(customer.shop(pace, leaving));
        }
        crowd
    }

    /// What they saw until now.
    pub(crate) fn seen(&self) -> Seen {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Lets every customer see the answer to the last request, and returns what all of them saw.
    pub(crate) async fn leave(mut self) -> Seen {
        self.leaving.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.seen()
    }
}

struct Customer {
    visitor: Visitor,
    wire: Wire,
    host: String,
    seen: Arc<Mutex<Seen>>,
}

impl Customer {
    async fn shop(mut self, pace: Duration, leaving: CancellationToken) {
        let mut dice = Rng::new();
        let mut due = Instant::now() + pace.mul_f64(dice.f64());
        while leaving
            .run_until_cancelled(tokio::time::sleep_until(due))
            .await
            .is_some()
        {
            match self.visitor.wish() {
                Some(wish) => self.ask(&wish).await,
                None => self.wire.close(),
            }
            // Thinking takes half to one and a half of the pace; who fell behind doesn't hurry to catch up.
            due = (due + pace.mul_f64(0.5 + dice.f64())).max(Instant::now());
        }
    }

    async fn ask(&mut self, wish: &Wish) {
        let start = Instant::now();
        let answer = match self.visitor.request(&self.host, wish) {
            Ok(request) => self.wire.ask(request).await,
            Err(error) => Err(error.into()),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(answer) = answer else {
            seen.unanswered += 1;
            return;
        };
        seen.answered += 1;
        seen.latency.observe(start.elapsed());
        let class = usize::from(answer.status().as_u16() / 100);
        if let Some(count) = seen.classes.get_mut(class) {
            *count += 1;
        }
        let cookie = answer.headers().get(header::SET_COOKIE);
        if let Some(cookie) = cookie.and_then(|cookie| cookie.to_str().ok()) {
            self.visitor.take_cookie(cookie);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::catalogue::Edition;
    use crate::demo::shop::Shop;

    #[tokio::test]
    async fn all_that_customers_send_reaches_the_shops() {
        let (a, b) = (
            Shop::open(Edition::Production).await.unwrap(),
            Shop::open(Edition::Production).await.unwrap(),
        );
        let crowd = Crowd::enter(&[a.address(), b.address()], 400);
        while crowd.seen().answered < 50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let seen = crowd.leave().await;
        assert_eq!(seen.unanswered, 0);
        assert_eq!(seen.answered, seen.classes.iter().sum::<u64>());
        let (a, b) = (a.arrivals(), b.arrivals());
        assert!(a.requests > 0 && b.requests > 0);
        assert_eq!(seen.answered, a.requests + b.requests);
        assert_eq!(seen.answered, a.unmarked + b.unmarked);
    }
}
