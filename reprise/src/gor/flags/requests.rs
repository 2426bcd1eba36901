//! Flags that filter and rewrite requests, and names that flags once had.

use super::Kind::{Each, Maybe, Size, Switch};
use super::{Flag, old, on};

pub(super) const MODIFIERS: &[Flag] = &[
    on(
        "http-allow-method",
        Each("METHOD"),
        "",
        "Only requests of this method, or of another one given",
    ),
    on(
        "http-set-header",
        Each("\"NAME: VALUE\""),
        "",
        "Set a header",
    ),
    on(
        "http-set-param",
        Each("NAME=VALUE"),
        "",
        "Set a query parameter",
    ),
    on(
        "http-allow-url",
        Each("REGEX"),
        "",
        "Only requests whose path and query match this, or another one given; they match with the host before them too",
    ),
    on(
        "http-disallow-url",
        Each("REGEX"),
        "",
        "No requests whose path and query match this, with the host before them or without",
    ),
    on(
        "http-allow-header",
        Each("NAME:REGEX"),
        "",
        "Only requests with such a header, and with all others given",
    ),
    on(
        "http-disallow-header",
        Each("NAME:REGEX"),
        "",
        "No requests with such a header; those without it pass",
    ),
    on(
        "http-basic-auth-filter",
        Each("REGEX"),
        "",
        "Only requests whose USER:PASSWORD, decoded, matches",
    ),
    on(
        "http-header-limiter",
        Each("NAME:N%|A/B"),
        "",
        "Only this share of a header's values, always the same ones; requests without it pass",
    ),
    on(
        "http-param-limiter",
        Each("NAME:N%|A/B"),
        "",
        "The same with a query parameter",
    ),
    on(
        "http-rewrite-url",
        Each("REGEX:REPLACEMENT"),
        "",
        "Replace in path and query; $1 is what the first group took, the first colon ends the expression",
    ),
    on(
        "http-rewrite-header",
        Each("\"NAME: REGEX,REPLACEMENT\""),
        "",
        "Replace in a header; the first comma ends the expression",
    ),
];

pub(super) const OLD: &[Flag] = &[
    old("h", Switch, "help"),
    old("output-dummy", Maybe("NAME"), "output-stdout"),
    old("http-header", Each("\"NAME: VALUE\""), "http-set-header"),
    old(
        "output-http-header",
        Each("\"NAME: VALUE\""),
        "http-set-header",
    ),
    old("output-http-method", Each("METHOD"), "http-allow-method"),
    old("output-http-url-regexp", Each("REGEX"), "http-allow-url"),
    old(
        "output-http-rewrite-url",
        Each("REGEX:REPLACEMENT"),
        "http-rewrite-url",
    ),
    old(
        "output-http-header-filter",
        Each("NAME:REGEX"),
        "http-allow-header",
    ),
    old(
        "output-http-header-hash-filter",
        Each("NAME:N%|A/B"),
        "http-header-limiter",
    ),
    old("output-http-original-host", Switch, "http-original-host"),
    old(
        "output-tcp-response-buffer",
        Size,
        "output-binary-response-buffer",
    ),
];
