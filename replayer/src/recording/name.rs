//! How a recording's files are called.
//!
//! What enters: the target's name with placeholders, the time, a record's id and kind; what files there are. What leaves:
//! a path without placeholders, and the number of the next chunk. What may be lost: nothing; a file that is there is never
//! taken for a new one.
//!
//! A chunk's number stands behind the last `_` before the last suffix: `shop.gor` is `shop_0.gor`, `shop_1.gor` … One
//! that is written in the target's name (`shop_7.gor`) gives way to it. Digits that a placeholder put there don't, or all
//! days of `shop_%d.gor` would share one row of chunks.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::civil::DateTime;
use reprise_traffic::gor::Kind;
use reprise_traffic::recording::{NamePart, NameTemplate, Placeholder};

/// Fills in names.
#[derive(Debug)]
pub(super) struct Names {
    template: NameTemplate,
    instance: &'static str,
}

impl Names {
    pub(super) fn new(template: NameTemplate) -> Names {
        Names {
            template: without_index(&template),
            instance: instance(),
        }
    }

    /// True where each record has a name of its own.
    pub(super) fn are_single(&self) -> bool {
        self.template.has(Placeholder::Id) || self.template.has(Placeholder::Nanosecond)
    }

    /// True where requests and answers have names of their own.
    pub(super) fn tell_kinds_apart(&self) -> bool {
        self.template.has(Placeholder::Kind)
    }

    /// True where the directory has to be made when it is needed.
    pub(super) fn directory_varies(&self) -> bool {
        let text = self.template.as_str();
        text.rsplit_once('/')
            .is_some_and(|(directory, _)| directory.contains('%'))
    }

    /// The directory that must be there, or as much of it as has no placeholders.
    pub(super) fn directory(&self) -> &Path {
        let text = self.template.as_str();
        let fixed = text.split('%').next().unwrap_or_default();
        match fixed.rsplit_once('/') {
            Some(("", _)) | None => Path::new("/"),
            Some((directory, _)) => Path::new(directory),
        }
    }

    /// The name of the file that a record belongs into, without the number of a chunk.
    pub(super) fn of(&self, now: &DateTime, kind: Kind, id: &[u8]) -> String {
        let mut name = String::with_capacity(self.template.as_str().len() + 32);
        for part in self.template.parts() {
            let placeholder = match part {
                NamePart::Text(text) => {
                    name.push_str(text);
                    continue;
                }
                NamePart::Placeholder(placeholder) => placeholder,
            };
            let written = match placeholder {
                Placeholder::Year => write!(name, "{:04}", now.year()),
                Placeholder::Month => write!(name, "{:02}", now.month()),
                Placeholder::Day => write!(name, "{:02}", now.day()),
                Placeholder::Hour => write!(name, "{:02}", now.hour()),
                Placeholder::Minute => write!(name, "{:02}", now.minute()),
                Placeholder::Second => write!(name, "{:02}", now.second()),
                Placeholder::Nanosecond => write!(name, "{}", now.subsec_nanosecond()),
                Placeholder::Id => write!(name, "{}", String::from_utf8_lossy(id)),
                Placeholder::Kind => write!(name, "{}", char::from(kind.digit())),
                Placeholder::Instance => write!(name, "{}", self.instance),
            };
            written.expect("a String takes every character");
        }
        name
    }
}

/// A chunk's file.
pub(super) fn chunk(name: &str, index: u64) -> PathBuf {
    let (stem, suffix) = split(name);
    PathBuf::from(format!("{stem}_{index}{suffix}"))
}

/// The number of the chunk that comes behind all that are there.
///
/// # Errors
/// When the directory can't be read.
pub(super) fn next_index(name: &str) -> io::Result<u64> {
    let path = Path::new(name);
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let (stem, suffix) = split(&file);
    let index = |entry: &OsStr| {
        let middle = entry.to_str()?.strip_prefix(stem)?.strip_prefix('_')?;
        number(middle.strip_suffix(suffix)?)
    };
    let mut next = 0;
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        if let Some(index) = index(&entry?.file_name()) {
            next = next.max(index.saturating_add(1));
        }
    }
    Ok(next)
}

/// What stands before the last suffix, and the suffix with its dot.
fn split(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |at| at + 1);
    let dot = name[file..].rfind('.').map_or(name.len(), |at| file + at);
    name.split_at(dot)
}

fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

/// The template without a number that is written where the chunk's comes to stand.
fn without_index(template: &NameTemplate) -> NameTemplate {
    let (stem, suffix) = split(template.as_str());
    let stripped = stem
        .rsplit_once('_')
        .filter(|(_, digits)| number(digits).is_some())
        .and_then(|(stem, _)| NameTemplate::parse(&format!("{stem}{suffix}")).ok());
    stripped.unwrap_or_else(|| template.clone())
}

/// Eight letters by chance, the same for all that this process records.
fn instance() -> &'static str {
    static INSTANCE: OnceLock<String> = OnceLock::new();
    INSTANCE.get_or_init(|| {
        let mut chance = RandomState::new().build_hasher().finish();
        let letters = (0..8).map(|_| {
            let letter = b'a' + (chance % 26) as u8;
            chance /= 26;
            char::from(letter)
        });
        letters.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(template: &str) -> Names {
        Names::new(NameTemplate::parse(template).unwrap())
    }

    fn now() -> DateTime {
        jiff::civil::date(2026, 3, 7).at(4, 5, 6, 7890)
    }

    #[test]
    fn placeholders_are_filled_in() {
        for (template, name) in [
            ("/r/%Y-%m-%dT%H:%M:%S.gor", "/r/2026-03-07T04:05:06.gor"),
            ("/r/%NS.gor", "/r/7890.gor"),
            ("/r/%Y/%r_%t.gor", "/r/2026/c0ffee_2.gor"),
            ("/r/plain", "/r/plain"),
        ] {
            assert_eq!(names(template).of(&now(), Kind::Answer, b"c0ffee"), name);
        }
        let names = names("/r/%i");
        let name = names.of(&now(), Kind::Request, b"x");
        assert!(name.len() == 11 && name[3..].bytes().all(|b| b.is_ascii_lowercase()));
        assert_eq!(names.of(&now(), Kind::Request, b"y"), name);
    }

    /// The first chunk of an empty directory, as GoReplay calls it.
    #[test]
    fn a_chunk_has_its_number_before_the_last_suffix() {
        for (template, first) in [
            ("/r/logs", "/r/logs_0"),
            ("/r/logs.gz", "/r/logs_0.gz"),
            ("/r/logs_1", "/r/logs_0"),
            ("/r/logs_10.gz", "/r/logs_0.gz"),
            ("/r/logs_underscores.gz", "/r/logs_underscores_0.gz"),
            ("/r/shop.gor.gz", "/r/shop.gor_0.gz"),
            ("/r.d/logs", "/r.d/logs_0"),
            ("/r_1/logs", "/r_1/logs_0"),
            // What a placeholder puts there is no number of a chunk.
            ("/r/%Y_%m.gz", "/r/2026_03_0.gz"),
            ("/r/%Y_%m_5.gz", "/r/2026_03_0.gz"),
        ] {
            let name = names(template).of(&now(), Kind::Request, b"x");
            assert_eq!(chunk(&name, 0), Path::new(first), "{template}");
        }
    }

    #[test]
    fn the_next_chunk_comes_behind_all_others() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("2015.gor").display().to_string();
        assert_eq!(next_index(&name).unwrap(), 0);
        for (file, next) in [
            ("2015.gor", 0),
            ("2015_x.gor", 0),
            ("2015_7.gor.gz", 0),
            ("20150_7.gor", 0),
            ("2015_-3.gor", 0),
            ("2015_2.gor", 3),
            ("2015_10.gor", 11),
            ("2015_9.gor", 11),
            ("2015_99999999999999999999999.gor", 11),
        ] {
            fs::write(dir.path().join(file), "").unwrap();
            assert_eq!(next_index(&name).unwrap(), next, "{file}");
        }
    }

    #[test]
    fn the_directory_ends_before_the_first_placeholder() {
        for (template, directory, varies) in [
            ("/r/a/x-%Y.gor", "/r/a", false),
            ("/r/a%d/%H/x.gor", "/r", true),
            ("/x.gor", "/", false),
            ("/%Y/x.gor", "/", true),
        ] {
            let names = names(template);
            assert_eq!(names.directory(), Path::new(directory), "{template}");
            assert_eq!(names.directory_varies(), varies, "{template}");
        }
    }
}
