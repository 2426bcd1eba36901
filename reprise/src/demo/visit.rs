//! What a customer asks of the shop, one request after another.
//!
//! What enters: dice, and the session's cookie from the shop's replies. What leaves: requests, in about the mixture
//! that shops see: four of five are GETs, one of seven carries a body. What may be lost: nothing; nothing is sent here.

use fastrand::Rng;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, header};

use super::catalogue::PRODUCTS;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

const BROWSERS: [&str; 3] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 Version/17.5 Safari/605.1.15",
    "ShopApp/4.2 (iPhone; iOS 18.1)",
];

const WORDS: [&str; 6] = [
    "tea",
    "green%20tea",
    "mug",
    "caf%C3%A9",
    "gift+box",
    "spoon",
];

/// One customer after another at the same machine: each signs in, looks around, and leaves.
#[derive(Debug)]
pub(crate) struct Visitor {
    dice: Rng,
    browser: &'static str,
    /// The session's cookie, `sid=…`.
    cookie: Option<String>,
    /// Requests until this customer leaves.
    left: u32,
    /// The page seen last.
    referer: String,
}

/// The next request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    /// Media type and body, where there is one.
    pub(crate) body: Option<(&'static str, String)>,
}

impl Visitor {
    /// A visitor whose choices the seed decides.
    pub(crate) fn new(seed: u64) -> Visitor {
        let mut dice = Rng::with_seed(seed);
        let browser = BROWSERS[dice.usize(..BROWSERS.len())];
        let left = dice.u32(20..60);
        Visitor {
            dice,
            browser,
            cookie: None,
            left,
            referer: "/".to_owned(),
        }
    }

    /// What the customer asks for next; nothing when this one leaves and closes the browser.
    pub(crate) fn wish(&mut self) -> Option<Wish> {
        if self.left == 0 {
            *self = Visitor::new(self.dice.u64(..));
            return None;
        }
        self.left -= 1;
        // Some look around before they sign in.
        let wish = match self.cookie {
            None if self.dice.u32(0..3) == 0 => {
                let form = format!("user=customer{}&password=tea+time", self.dice.u32(1..5000));
                Wish::with_body(Method::POST, "/login", FORM, form)
            }
            _ => self.look_around(),
        };
        if wish.method == Method::GET {
            self.referer.clone_from(&wish.path);
        }
        Some(wish)
    }

    /// The shop's `Set-Cookie`.
    pub(crate) fn take_cookie(&mut self, set_cookie: &str) {
        self.cookie = set_cookie.split(';').next().map(str::to_owned);
    }

    /// A wish as a request to the shop at `host`.
    ///
    /// # Errors
    /// Never for the wishes made here.
    pub(crate) fn request(&self, host: &str, wish: &Wish) -> http::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(wish.method.clone())
            .uri(&wish.path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, self.browser)
            .header(
                header::ACCEPT,
                "text/html, application/json;q=0.9, */*;q=0.5",
            )
            .header(header::ACCEPT_LANGUAGE, "en, de;q=0.7")
            .header(header::REFERER, format!("http://{host}{}", self.referer));
        if let Some(sid) = &self.cookie {
            request = request.header(header::COOKIE, format!("theme=light; {sid}"));
        }
        let Some((media_type, body)) = &wish.body else {
            return request.body(Full::default());
        };
        request
            .header(header::CONTENT_TYPE, *media_type)
            .body(Full::from(body.clone()))
    }

    fn look_around(&mut self) -> Wish {
        // A few ask for products that are gone.
        let id = self.dice.u32(1..=PRODUCTS + PRODUCTS / 40);
        let quantity = self.dice.u32(1..5);
        match self.dice.u32(0..100) {
            0..8 => Wish::plain(Method::GET, "/"),
            8..22 => Wish::plain(
                Method::GET,
                format!("/products?page={}", self.dice.u32(1..7)),
            ),
            22..46 => Wish::plain(Method::GET, format!("/products/{id}")),
            46..58 => Wish::plain(Method::GET, format!("/api/products/{id}")),
            58..68 => {
                let word = WORDS[self.dice.usize(..WORDS.len())];
                Wish::plain(Method::GET, format!("/search?q={word}&sort=price"))
            }
            68..76 => Wish::plain(Method::GET, "/static/shop.css"),
            76..81 => Wish::plain(Method::GET, "/cart"),
            81 => Wish::plain(Method::GET, "/old/catalogue.html"),
            82..85 => Wish::plain(Method::HEAD, format!("/products/{id}")),
            85..94 => {
                let item =
                    format!(r#"{{"product": {id}, "quantity": {quantity}, "note": "café"}}"#);
                Wish::with_body(Method::POST, "/cart", JSON, item)
            }
            94..96 => {
                let item = format!(r#"{{"quantity": {quantity}}}"#);
                Wish::with_body(Method::PUT, format!("/cart/{id}"), JSON, item)
            }
            _ => Wish::with_body(Method::POST, "/checkout", FORM, "pay=invoice&ship=same+day"),
        }
    }
}

impl Wish {
    fn plain(method: Method, path: impl Into<String>) -> Wish {
        Wish {
            method,
            path: path.into(),
            body: None,
        }
    }

    fn with_body(
        method: Method,
        path: impl Into<String>,
        media_type: &'static str,
        body: impl Into<String>,
    ) -> Wish {
        Wish {
            method,
            path: path.into(),
            body: Some((media_type, body.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mixture_is_that_of_a_shop() {
        let mut visitor = Visitor::new(3);
        let (mut gets, mut bodies, mut sessions) = (0, 0, 0);
        for _ in 0..5000 {
            let Some(wish) = visitor.wish() else {
                sessions += 1;
                continue;
            };
            gets += u32::from(wish.method == Method::GET);
            bodies += u32::from(wish.body.is_some());
            if wish.path == "/login" {
                visitor.take_cookie("sid=1; Path=/");
            }
        }
        assert!((3700..4300).contains(&gets), "{gets} GETs");
        assert!((600..1100).contains(&bodies), "{bodies} bodies");
        assert!((100..500).contains(&sessions), "{sessions} sessions");
    }

    #[test]
    fn a_session_goes_with_its_customer() {
        let mut visitor = Visitor::new(3);
        let wish = visitor.wish().unwrap();
        visitor.take_cookie("sid=00ff; Path=/; HttpOnly");
        let request = visitor.request("shop.example", &wish).unwrap();
        assert_eq!(request.headers()[header::COOKIE], "theme=light; sid=00ff");
        while visitor.wish().is_some() {}
        let request = visitor.request("shop.example", &wish).unwrap();
        assert!(!request.headers().contains_key(header::COOKIE));
    }
}
