//! Recordings as a target's document has them: settings, and a name that says how files are called.
//!
//! What enters: the `url` of a target and what stands under `recording`. What leaves: a checked [`Recording`].
//! What may be lost: nothing; a name with a placeholder that nobody fills in is refused.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::size::ByteSize;

/// While it waits to be written, an exchange is in its listener's memory, and a stop waits for it. So no longer than this.
pub const LONGEST_FLUSH: Duration = Duration::from_secs(10);

/// What a document says under `recording`. The defaults are GoReplay's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordingSettings {
    /// The longest that a record waits before it is written, at most [`LONGEST_FLUSH`]: what a kill may cost.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// Go on in the file of that name, and keep to one file; chunks otherwise.
    pub append: bool,
    /// A chunk of this size is followed by the next; 0 for no bound.
    pub size_limit: ByteSize,
    /// So are so many records; 0 for no bound.
    pub queue_limit: u64,
    /// Bytes that may be written in all; then this target's recording stops. 0 for no bound.
    pub max_size: ByteSize,
}

impl Default for RecordingSettings {
    fn default() -> RecordingSettings {
        RecordingSettings {
            flush_interval: Duration::from_secs(1),
            append: false,
            size_limit: ByteSize::mib(32),
            queue_limit: 256,
            max_size: ByteSize::gib(1024),
        }
    }
}

/// How the files of a recording are packed: what the end of their name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// `.gz`.
    Gzip,
    /// `.zst`.
    Zstd,
}

/// Where a target's exchanges are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// How files are called.
    pub name: NameTemplate,
    /// How they are written.
    pub settings: RecordingSettings,
}

impl Recording {
    /// From the URL of a document, `file:///PATH`, and its settings.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub fn new(url: &str, settings: RecordingSettings) -> Result<Recording, String> {
        let wrong = |what: &str| format!("url {url:?}: {what}; write file:///DIRECTORY/NAME.gor");
        let rest = url.strip_prefix("file:").unwrap_or(url);
        let path = match rest.strip_prefix("//") {
            Some(path) if path.starts_with('/') => path,
            Some(_) => return Err(wrong("a recording is on the replayer's own host")),
            None => rest,
        };
        if !path.starts_with('/') {
            return Err(wrong("the path is not absolute"));
        }
        if path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..") {
            return Err(wrong("no name of a file"));
        }
        let name = NameTemplate::parse(path).map_err(|what| wrong(&what))?;
        if settings.flush_interval.is_zero() || settings.flush_interval > LONGEST_FLUSH {
            return Err(format!(
                "recording: flush_interval is not between 1ms and {}s",
                LONGEST_FLUSH.as_secs()
            ));
        }
        Ok(Recording { name, settings })
    }
}

/// What stands in a name for something that is known only when a record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Placeholder {
    /// `%Y`, four digits.
    Year,
    /// `%m`, two digits.
    Month,
    /// `%d`, two digits.
    Day,
    /// `%H`, two digits.
    Hour,
    /// `%M`, two digits.
    Minute,
    /// `%S`, two digits.
    Second,
    /// `%NS`: nanoseconds of the second.
    Nanosecond,
    /// `%r`: the record's id.
    Id,
    /// `%t`: 1 for requests, 2 for answers.
    Kind,
    /// `%i`: eight letters, the same as long as the process lives.
    Instance,
}

impl Placeholder {
    /// All of them, as they are written.
    const ALL: [(&'static str, Placeholder); 10] = [
        ("Y", Placeholder::Year),
        ("m", Placeholder::Month),
        ("d", Placeholder::Day),
        ("H", Placeholder::Hour),
        ("M", Placeholder::Minute),
        ("S", Placeholder::Second),
        ("NS", Placeholder::Nanosecond),
        ("r", Placeholder::Id),
        ("t", Placeholder::Kind),
        ("i", Placeholder::Instance),
    ];
}

/// A piece of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamePart {
    /// As it stands.
    Text(String),
    /// To be filled in.
    Placeholder(Placeholder),
}

/// A path with placeholders.
#[derive(Clone, PartialEq, Eq)]
pub struct NameTemplate {
    text: String,
    parts: Vec<NamePart>,
}

impl NameTemplate {
    /// Finds the placeholders.
    ///
    /// # Errors
    /// What is wrong: a `%` that begins none.
    pub fn parse(text: &str) -> Result<NameTemplate, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            if !before.is_empty() {
                parts.push(NamePart::Text(before.to_owned()));
            }
            let known = Placeholder::ALL
                .iter()
                .find(|(written, _)| after.starts_with(written));
            let Some((written, placeholder)) = known else {
                let unknown: String = after.chars().take(1).collect();
                return Err(format!(
                    "%{unknown} is no placeholder; there are %Y %m %d %H %M %S %NS %r %t %i"
                ));
            };
            parts.push(NamePart::Placeholder(*placeholder));
            rest = &after[written.len()..];
        }
        if !rest.is_empty() {
            parts.push(NamePart::Text(rest.to_owned()));
        }
        Ok(NameTemplate {
            text: text.to_owned(),
            parts,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it is made of.
    pub fn parts(&self) -> &[NamePart] {
        &self.parts
    }

    /// True where the placeholder stands in it.
    pub fn has(&self, placeholder: Placeholder) -> bool {
        self.parts.contains(&NamePart::Placeholder(placeholder))
    }

    /// What its last suffix says.
    pub fn packing(&self) -> Packing {
        match self.text.rsplit_once('.') {
            Some((_, "gz")) => Packing::Gzip,
            Some((_, "zst")) => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

impl fmt::Debug for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(url: &str) -> Result<Recording, String> {
        Recording::new(url, RecordingSettings::default())
    }

    #[test]
    fn names_are_taken_apart() {
        let name = NameTemplate::parse("/a/%Y-%NS%S_%r.gor.gz").unwrap();
        let text = |text: &str| NamePart::Text(text.to_owned());
        assert_eq!(
            name.parts(),
            [
                text("/a/"),
                NamePart::Placeholder(Placeholder::Year),
                text("-"),
                NamePart::Placeholder(Placeholder::Nanosecond),
                NamePart::Placeholder(Placeholder::Second),
                text("_"),
                NamePart::Placeholder(Placeholder::Id),
                text(".gor.gz"),
            ]
        );
        assert!(name.has(Placeholder::Id) && !name.has(Placeholder::Kind));
        assert_eq!(name.packing(), Packing::Gzip);
        for (name, packing) in [
            ("/a.zst", Packing::Zstd),
            ("/a.gor", Packing::Plain),
            ("/a.gz/b", Packing::Plain),
            ("/a", Packing::Plain),
        ] {
            assert_eq!(NameTemplate::parse(name).unwrap().packing(), packing);
        }
    }

    #[test]
    fn urls() {
        for url in ["file:///a/b.gor", "file:/a/b.gor"] {
            assert_eq!(new(url).unwrap().name.as_str(), "/a/b.gor");
        }
        for (url, part) in [
            ("file:b.gor", "not absolute"),
            ("file://host/b.gor", "own host"),
            ("file:///a/", "no name"),
            ("file:///a/%D.gor", "%D is no placeholder"),
            ("file:///a/100%", "% is no placeholder"),
        ] {
            let error = new(url).unwrap_err();
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn nothing_may_wait_for_long() {
        for (ms, good) in [(0, false), (1, true), (10_000, true), (10_001, false)] {
            let settings = RecordingSettings {
                flush_interval: Duration::from_millis(ms),
                ..RecordingSettings::default()
            };
            assert_eq!(Recording::new("file:///a", settings).is_ok(), good, "{ms}");
        }
    }
}
