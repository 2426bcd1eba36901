//! What a shop answers: pages, an API, a search, a login, a cart.
//!
//! What enters: a request without its connection, and dice. What leaves: the reply, and how long it takes. What may
//! be lost: nothing; no socket is opened and no clock is read here.

use std::time::Duration;

use fastrand::Rng;
use hyper::StatusCode;
use serde_json::{Value, json};

/// Products are numbered from 1.
pub(crate) const PRODUCTS: u32 = 120;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const CSS: &str = "text/css";

/// Which of the shops it is. They differ in speed and in their faults, as a release candidate differs from production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edition {
    /// Where customers shop.
    Production,
    /// A copy of it on smaller machines.
    Staging,
    /// The next release: its search is broken now and then.
    V2,
}

/// What of a request decides the reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// In capitals.
    pub(crate) method: &'a str,
    /// Without the query.
    pub(crate) path: &'a str,
    /// Behind the `?`, as on the wire.
    pub(crate) query: &'a str,
    /// It came with a session's cookie.
    pub(crate) signed_in: bool,
    /// The whole body.
    pub(crate) body: &'a [u8],
}

/// A reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    /// For `Set-Cookie`.
    pub(crate) cookie: Option<String>,
    /// For `Location`.
    pub(crate) location: Option<&'static str>,
    pub(crate) body: String,
}

impl Edition {
    /// How long a reply takes: a few milliseconds, now and then many.
    pub(crate) fn delay(self, dice: &mut Rng) -> Duration {
        let (usual, slow) = match self {
            Edition::Production => (1_000..4_000, 15_000),
            Edition::Staging => (2_500..9_000, 30_000),
            Edition::V2 => (2_000..6_000, 45_000),
        };
        let extra = if one_in(60, dice) { slow } else { 0 };
        Duration::from_micros(dice.u64(usual) + extra)
    }

    /// The reply to a request.
    pub(crate) fn reply(self, asked: &Asked<'_>, dice: &mut Rng) -> Reply {
        let odds = if self == Edition::Production {
            400
        } else {
            150
        };
        if one_in(odds, dice) {
            return Reply::page(
                StatusCode::SERVICE_UNAVAILABLE,
                "We will be back in a moment",
            );
        }
        let segments: Vec<&str> = asked.path.split('/').skip(1).collect();
        match (asked.method, segments.as_slice()) {
            ("GET" | "HEAD", [""]) => Reply::page(StatusCode::OK, "Welcome to the shop"),
            ("GET" | "HEAD", ["products"]) => Reply::page(StatusCode::OK, "All our products"),
            ("GET" | "HEAD", ["products", id]) => match number(id) {
                Some(id) => Reply::page(StatusCode::OK, &format!("Product {id}")),
                None => Reply::page(StatusCode::NOT_FOUND, "We no longer have this product"),
            },
            ("GET" | "HEAD", ["api", "products", id]) => match number(id) {
                Some(id) => Reply::json(StatusCode::OK, &product(id)),
                None => Reply::json(
                    StatusCode::NOT_FOUND,
                    &json!({ "error": "no such product" }),
                ),
            },
            ("GET", ["search"]) => self.search(asked.query, dice),
            ("GET", ["static", "shop.css"]) => Reply {
                content_type: CSS,
                ..Reply::page(StatusCode::OK, "body { font: 16px sans-serif }")
            },
            ("GET", ["cart"]) if asked.signed_in => Reply::page(StatusCode::OK, "Your cart"),
            ("POST", ["login"]) => Reply {
                cookie: Some(format!("sid={:016x}; Path=/; HttpOnly", dice.u64(..))),
                ..Reply::elsewhere("/")
            },
            ("POST", ["cart"]) | ("PUT", ["cart", _]) => cart(asked.body),
            ("POST", ["checkout"]) if asked.signed_in => Reply::page(StatusCode::OK, "Thank you"),
            ("GET", ["cart"]) | ("POST", ["checkout"]) => Reply::elsewhere("/login"),
            _ => Reply::page(StatusCode::NOT_FOUND, "There is nothing here"),
        }
    }

    fn search(self, query: &str, dice: &mut Rng) -> Reply {
        if self == Edition::V2 && one_in(8, dice) {
            return Reply::page(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong");
        }
        let hits: Vec<Value> = (1..=dice.u32(0..8)).map(product).collect();
        Reply::json(StatusCode::OK, &json!({ "query": query, "hits": hits }))
    }
}

impl Reply {
    fn page(status: StatusCode, title: &str) -> Reply {
        let text = "<p>Made by hand, sent the same day.</p>\n".repeat(12);
        let body = format!(
            "<!doctype html>\n<title>{title}</title>\n<link rel=stylesheet href=/static/shop.css>\n\
             <h1>{title}</h1>\n{text}"
        );
        Reply {
            status,
            content_type: HTML,
            cookie: None,
            location: None,
            body,
        }
    }

    fn json(status: StatusCode, value: &Value) -> Reply {
        Reply {
            status,
            content_type: JSON,
            cookie: None,
            location: None,
            body: value.to_string(),
        }
    }

    fn elsewhere(location: &'static str) -> Reply {
        Reply {
            location: Some(location),
            ..Reply::page(StatusCode::SEE_OTHER, "This way")
        }
    }
}

fn one_in(n: u32, dice: &mut Rng) -> bool {
    dice.u32(0..n) == 0
}

fn number(id: &str) -> Option<u32> {
    id.parse().ok().filter(|id| (1..=PRODUCTS).contains(id))
}

fn product(id: u32) -> Value {
    json!({ "id": id, "name": format!("Product {id}"), "cents": 499 + id * 10, "stock": id % 7 })
}

fn cart(body: &[u8]) -> Reply {
    let quantity = serde_json::from_slice::<Value>(body).ok();
    match quantity.as_ref().and_then(|item| item["quantity"].as_u64()) {
        Some(quantity) => Reply::json(StatusCode::CREATED, &json!({ "quantity": quantity })),
        None => Reply::json(StatusCode::BAD_REQUEST, &json!({ "error": "no quantity" })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reply, once the dice spare it from the shop's own faults.
    fn reply(method: &str, path: &str, signed_in: bool, body: &str) -> Reply {
        let mut dice = Rng::with_seed(7);
        let asked = Asked {
            method,
            path,
            query: "q=tea",
            signed_in,
            body: body.as_bytes(),
        };
        std::iter::repeat_with(|| Edition::Production.reply(&asked, &mut dice))
            .find(|reply| reply.status != StatusCode::SERVICE_UNAVAILABLE)
            .unwrap()
    }

    #[test]
    fn the_shop_answers_as_a_shop_does() {
        for (method, path, signed_in, body, status) in [
            ("GET", "/", false, "", 200),
            ("HEAD", "/products/120", false, "", 200),
            ("GET", "/products/121", false, "", 404),
            ("GET", "/api/products/0", false, "", 404),
            ("GET", "/cart", false, "", 303),
            ("GET", "/cart", true, "", 200),
            ("POST", "/cart", true, r#"{"quantity": 2}"#, 201),
            ("PUT", "/cart/7", true, "quantity=2", 400),
            ("POST", "/checkout", true, "", 200),
            ("DELETE", "/", true, "", 404),
        ] {
            let found = reply(method, path, signed_in, body).status;
            assert_eq!(found.as_u16(), status, "{method} {path}");
        }
        let login = reply("POST", "/login", false, "user=a");
        assert!(login.cookie.unwrap().starts_with("sid="));
        assert_eq!(login.location, Some("/"));
    }

    #[test]
    fn the_next_release_has_a_fault_that_production_has_not() {
        let mut dice = Rng::with_seed(1);
        let asked = Asked {
            method: "GET",
            path: "/search",
            query: "q=tea",
            signed_in: false,
            body: b"",
        };
        let mut faults = |edition: Edition| {
            let replies = std::iter::repeat_with(|| edition.reply(&asked, &mut dice)).take(500);
            replies
                .filter(|reply| reply.status == StatusCode::INTERNAL_SERVER_ERROR)
                .count()
        };
        assert_eq!(faults(Edition::Production), 0);
        assert!(faults(Edition::V2) > 20);
    }
}
