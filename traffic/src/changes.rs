//! What a target's owner wants changed in its requests.
//!
//! What enters: a document; then heads as captured. What leaves: the head to send: the captured one where no rule touches it,
//! else a copy with those changes and no others. What may be lost: nothing; what would make a request malformed, or say
//! another length of its body, is refused: with the document where that can be seen there, else with the one request.
//!
//! The order, which is GoReplay's: `remove_headers`, `set_headers`, `set_params`, `rewrite_urls`, `rewrite_headers`; at
//! last the URL's base path. Filters, share and session key look at the request as it was captured.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::MARKER;
use crate::framing::{self, FramingError};
use crate::head::{Head, HeadError};
use crate::lines::{HeaderLine, Lines};
use crate::rules::is_token;
use crate::target::TargetDocument;

mod template;
mod url;

use template::{Substitution, TooLong};
use url::{UrlChanges, is_target_byte};

/// A longer head is not sent: four times what a listener takes for one.
const MAX_HEAD: usize = 256 * 1024;

/// Say where a request ends, or what it is; nobody may change them.
const FRAMING: [&str; 3] = ["Content-Length", "Transfer-Encoding", MARKER];

/// An expression over a request's path and query, and what takes the place of its matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlRewrite {
    /// A regular expression, not anchored.
    pub matches: String,
    /// With `$1`, `${name}`, and `$$` for a dollar.
    pub replace: String,
}

/// An expression over the values of a header, and what takes the place of its matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRewrite {
    /// In any case.
    pub name: String,
    /// A regular expression, not anchored.
    pub matches: String,
    /// With `$1`, `${name}`, and `$$` for a dollar.
    pub replace: String,
}

/// Why one request can't be changed as asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// `rewrite_urls` made something that can't stand in a request line.
    #[error("rewrite_urls made the path {0:?} of it")]
    Target(String),
    /// `rewrite_headers` made something of `Host` that is none.
    #[error("rewrite_headers made the Host {0:?} of it")]
    Host(String),
    /// It grew too long.
    #[error("its head would be longer than {MAX_HEAD} bytes")]
    TooLong,
    /// Nobody would take it for a request.
    #[error("its head would be malformed: {0}")]
    Head(#[from] HeadError),
    /// Its body would end elsewhere.
    #[error("the length of its body would be unclear: {0}")]
    Framing(#[from] FramingError),
    /// Its body would end elsewhere.
    #[error("the length of its body would be another")]
    OtherLength,
}

/// As much of it as a line in a log needs.
fn shown(text: &[u8]) -> String {
    text[..text.len().min(100)].escape_ascii().to_string()
}

impl From<TooLong> for ChangeError {
    fn from(_: TooLong) -> ChangeError {
        ChangeError::TooLong
    }
}

#[derive(Clone)]
struct SetHeader {
    name: String,
    value: Vec<u8>,
}

impl fmt::Debug for SetHeader {
    /// Without the value, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A target's changes, compiled.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    remove: Vec<String>,
    set: Vec<SetHeader>,
    url: UrlChanges,
    rewrite: Vec<(String, Substitution)>,
}

impl Changes {
    /// Compiles a document's changes; `base` is the path of its URL, without a slash at its end, where that is a web server.
    ///
    /// # Errors
    /// One line: the key and what is wrong with its value.
    pub fn compile(document: &TargetDocument, base: Option<&str>) -> Result<Changes, String> {
        for name in &document.remove_headers {
            check_name("remove_headers", name)?;
            if name.eq_ignore_ascii_case("host") {
                return Err(format!("remove_headers: {name:?}: a request needs one"));
            }
        }
        let mut set = Vec::<SetHeader>::new();
        for (name, value) in &document.set_headers {
            check_set(name, value)?;
            if set
                .iter()
                .any(|other| other.name.eq_ignore_ascii_case(name))
            {
                return Err(format!("set_headers: {name:?} is there twice"));
            }
            if document
                .remove_headers
                .iter()
                .any(|r| r.eq_ignore_ascii_case(name))
            {
                return Err(format!("remove_headers: {name:?} is in set_headers too"));
            }
            set.push(SetHeader {
                name: name.clone(),
                value: value.as_bytes().to_vec(),
            });
        }
        let mut params = Vec::new();
        for (name, value) in &document.set_params {
            check_param(name, value)?;
            params.push((name.clone(), value.clone()));
        }
        let mut rewrites = Vec::new();
        for UrlRewrite { matches, replace } in &document.rewrite_urls {
            const KEY: &str = "rewrite_urls";
            if !replace.bytes().all(is_target_byte) {
                return Err(format!(
                    "{KEY}: {replace:?} holds blanks or control characters"
                ));
            }
            rewrites.push(Substitution::compile(KEY, matches, replace)?);
        }
        let mut rewrite = Vec::new();
        for change in &document.rewrite_headers {
            rewrite.push(compile_header(change, document, base.is_some())?);
        }
        let base = base.unwrap_or_default().to_owned();
        Ok(Changes {
            remove: document.remove_headers.clone(),
            set,
            url: UrlChanges {
                params,
                rewrites,
                base,
            },
            rewrite,
        })
    }

    /// Those alone that come before filters where filters see them: set headers and parameters. `None` where there are none.
    ///
    /// # Errors
    /// As [`Changes::compile`].
    pub fn early(document: &TargetDocument) -> Result<Option<Changes>, String> {
        let all = Changes::compile(document, None)?;
        let early = Changes {
            set: all.set,
            url: UrlChanges {
                params: all.url.params,
                ..UrlChanges::default()
            },
            ..Changes::default()
        };
        Ok((!early.is_empty()).then_some(early))
    }

    /// The same, with `Authorization` set to a value that no document holds.
    #[must_use]
    pub fn with_authorization(mut self, value: Vec<u8>) -> Changes {
        let name = "Authorization".to_owned();
        self.set.push(SetHeader { name, value });
        self
    }

    /// True where `set_headers` has that header, in any case.
    pub fn sets(&self, name: &str) -> bool {
        self.set
            .iter()
            .any(|set| set.name.eq_ignore_ascii_case(name))
    }

    fn is_empty(&self) -> bool {
        self.remove.is_empty()
            && self.set.is_empty()
            && self.url.is_empty()
            && self.rewrite.is_empty()
    }

    /// The head to send.
    ///
    /// # Errors
    /// When the changes make something of it that must not be sent.
    pub fn apply<'h>(&self, captured: &'h Head) -> Result<Cow<'h, Head>, ChangeError> {
        if self.is_empty() || captured.is_opaque() {
            return Ok(Cow::Borrowed(captured));
        }
        let raw = self.head(captured)?;
        if raw.len() > MAX_HEAD {
            return Err(ChangeError::TooLong);
        }
        // The rules above can't make a head malformed or another length of it. It is read again all the same: what leaves
        // here is what a server reads.
        let changed = Head::parse(Bytes::from(raw))?;
        if framing::of_request(&changed)? != framing::of_request(captured)? {
            return Err(ChangeError::OtherLength);
        }
        Ok(Cow::Owned(changed))
    }

    fn head(&self, captured: &Head) -> Result<Vec<u8>, ChangeError> {
        let raw = captured.raw();
        let at = captured.target_range();
        let target = self.url.apply(captured.target())?;
        let mut out = Vec::with_capacity(raw.len() + 128);
        out.extend_from_slice(&raw[..at.start]);
        out.extend_from_slice(&target);
        let mut lines = Lines::of(&raw[at.end..]);
        // The rest of the request line.
        out.extend_from_slice(lines.next().unwrap_or_default());
        let mut is_placed = vec![false; self.set.len()];
        for line in lines.take_while(|line| *line != b"\r\n") {
            let header = HeaderLine::of(line);
            if self.remove.iter().any(|name| header.is(name)) {
                continue;
            }
            let value = match self.set.iter().position(|set| header.is(&set.name)) {
                Some(set) if std::mem::replace(&mut is_placed[set], true) => continue,
                Some(set) => &self.set[set].value[..],
                None => header.value,
            };
            let changed = self.rewritten(header.name, value)?;
            if *changed == *header.value {
                out.extend_from_slice(line);
            } else {
                header.put_with(&mut out, &changed);
            }
        }
        for (set, _) in self.set.iter().zip(is_placed).filter(|(_, placed)| !placed) {
            let value = self.rewritten(set.name.as_bytes(), &set.value)?;
            out.extend_from_slice(set.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(&value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        Ok(out)
    }

    fn rewritten<'v>(&self, name: &[u8], value: &'v [u8]) -> Result<Cow<'v, [u8]>, ChangeError> {
        let mut value = Cow::Borrowed(value);
        let is_named =
            |rule: &&(String, Substitution)| name.eq_ignore_ascii_case(rule.0.as_bytes());
        for (_, rewrite) in self.rewrite.iter().filter(is_named) {
            if let Cow::Owned(changed) = rewrite.apply(&value, MAX_HEAD)? {
                value = Cow::Owned(changed);
            }
        }
        if matches!(value, Cow::Owned(_)) && name.eq_ignore_ascii_case(b"host") && !is_host(&value)
        {
            return Err(ChangeError::Host(shown(&value)));
        }
        Ok(value)
    }
}

/// A head with a header of that value in the place of all of that name, or at its end.
///
/// # Errors
/// As [`Changes::apply`].
pub fn set_header(captured: &Head, name: &str, value: &[u8]) -> Result<Head, ChangeError> {
    let (name, value) = (name.to_owned(), value.to_vec());
    let changes = Changes {
        set: vec![SetHeader { name, value }],
        ..Changes::default()
    };
    changes.apply(captured).map(Cow::into_owned)
}

/// Whether requests may get a header of that name by [`set_header`]; the key is for the message.
///
/// # Errors
/// One line: what is wrong with the name.
pub fn check_settable(key: &str, name: &str) -> Result<(), String> {
    check_name(key, name)?;
    match name.eq_ignore_ascii_case("host") {
        true => Err(format!(
            "{key}: {name:?} says whom a request is for; it stays"
        )),
        false => Ok(()),
    }
}

fn compile_header(
    change: &HeaderRewrite,
    document: &TargetDocument,
    to_server: bool,
) -> Result<(String, Substitution), String> {
    const KEY: &str = "rewrite_headers";
    let HeaderRewrite {
        name,
        matches,
        replace,
    } = change;
    check_name(KEY, name)?;
    let keeps_host = !to_server
        || document.original_host
        || document
            .set_headers
            .keys()
            .any(|set| set.eq_ignore_ascii_case("host"));
    if name.eq_ignore_ascii_case("host") && !keeps_host {
        return Err(format!(
            "{KEY}: {name:?} becomes the target's own afterwards; set original_host: true too"
        ));
    }
    check_value(KEY, name, replace)?;
    Ok((name.clone(), Substitution::compile(KEY, matches, replace)?))
}

fn check_name(key: &str, name: &str) -> Result<(), String> {
    if !is_token(name) {
        return Err(format!("{key}: {name:?} is not a header's name"));
    }
    if FRAMING
        .iter()
        .any(|framing| name.eq_ignore_ascii_case(framing))
    {
        return Err(format!(
            "{key}: {name:?} says where a request ends or what it is; it stays"
        ));
    }
    Ok(())
}

fn check_value(key: &str, name: &str, value: &str) -> Result<(), String> {
    match value
        .bytes()
        .all(|b| b == b'\t' || is_target_byte(b) || b == b' ')
    {
        true => Ok(()),
        false => Err(format!("{key}: {name}: {value:?} holds control characters")),
    }
}

fn check_set(name: &str, value: &str) -> Result<(), String> {
    check_name("set_headers", name)?;
    check_value("set_headers", name, value)?;
    if name.eq_ignore_ascii_case("host") && !is_host(value.as_bytes()) {
        return Err(format!(
            "set_headers: {name}: {value:?} is not HOST or HOST:PORT"
        ));
    }
    Ok(())
}

fn check_param(name: &str, value: &str) -> Result<(), String> {
    let is_clean = |text: &str, not: &[u8]| {
        text.bytes()
            .all(|b| b.is_ascii_graphic() && !not.contains(&b))
    };
    if name.is_empty() || !is_clean(name, b"&=#") {
        return Err(format!(
            "set_params: {name:?} can't stand in a URL as a name; write %XX for such bytes"
        ));
    }
    if !is_clean(value, b"&#") {
        return Err(format!(
            "set_params: {name}: {value:?} can't stand in a URL; write %XX for such bytes"
        ));
    }
    Ok(())
}

/// What may stand in a `Host` (RFC 9110 §7.2): no blanks, no path, no user.
fn is_host(value: &[u8]) -> bool {
    value
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(b))
}

#[cfg(test)]
mod tests;
