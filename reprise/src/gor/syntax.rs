//! Go's way to write flags.
//!
//! What enters: the words behind `gor`. What leaves: the flags that were given, in their order, each with the text of
//! its value; or one line that says which word is wrong and what to write. What may be lost: nothing; there is no word
//! that is passed over.

use std::time::Duration;

use reprise_node::config::ByteSize;

use super::flags::{self, Flag, Kind};
use super::number;

/// A command line that makes no sense, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(super) String);

/// A flag as it was given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// An old name is resolved.
    pub(super) flag: &'static Flag,
    /// The name that was written, in the spelling of the table.
    pub(super) written: &'static str,
    /// None where nothing was written, which no flag but [`Kind::Switch`], [`Kind::Level`] and [`Kind::Maybe`] allows.
    pub(super) value: Option<String>,
    /// Words behind the value: the further files of `--input-file`.
    pub(super) more: Vec<String>,
}

/// Reads the words.
///
/// # Errors
/// At the first word that is no flag, no value and no file.
pub(super) fn read(words: &[String]) -> Result<Vec<Given>, UsageError> {
    let mut all: Vec<Given> = Vec::new();
    let mut words = words.iter().map(String::as_str).peekable();
    let mut flags_end = false;
    while let Some(word) = words.next() {
        if word == "--" && !flags_end {
            flags_end = true;
            continue;
        }
        let dashed = word.strip_prefix('-').filter(|rest| !rest.is_empty());
        let Some(dashed) = dashed.filter(|_| !flags_end) else {
            further(&mut all, word)?;
            continue;
        };
        let text = dashed.strip_prefix('-').unwrap_or(dashed);
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let flag = flags::find(name).ok_or_else(|| unknown(word, name))?;
        let value = match (flag.kind, value, words.peek().copied()) {
            (_, Some(value), _) => Some(value),
            (Kind::Switch, None, next) => next.filter(|next| matches!(*next, "true" | "false")),
            (Kind::Level, None, next) => next.filter(|next| is_level(next)),
            (Kind::Maybe(_), None, next) => next.filter(|next| !next.starts_with('-')),
            (_, None, Some(next)) if !looks_like_flag(next) => Some(next),
            (kind, None, next) => return Err(missing(name, kind, next)),
        };
        if value.is_some() && !text.contains('=') {
            words.next();
        }
        all.push(Given {
            flag: flag.current(),
            written: flag.name,
            value: value.map(str::to_owned),
            more: Vec::new(),
        });
    }
    Ok(all)
}

/// A word on its own is one of the files that a shell made of a pattern.
fn further(all: &mut [Given], word: &str) -> Result<(), UsageError> {
    match all.last_mut() {
        Some(last) if last.flag.name == "input-file" => {
            last.more.push(word.to_owned());
            Ok(())
        }
        Some(last) if matches!(last.flag.kind, Kind::Switch | Kind::Level) => {
            Err(UsageError(format!(
                "{word:?} belongs to no flag; what --{} takes is written --{0}=VALUE",
                last.written
            )))
        }
        _ => Err(UsageError(format!(
            "{word:?} belongs to no flag; a value with blanks, *, | or & stands in quotes"
        ))),
    }
}

fn is_level(word: &str) -> bool {
    matches!(word, "true" | "false")
        || (!word.is_empty() && word.bytes().all(|b| b.is_ascii_digit()))
}

/// Go takes whatever comes for a value. Nobody means `--input-raw --output-stdout` so; `-1` is one.
fn looks_like_flag(word: &str) -> bool {
    let Some(rest) = word.strip_prefix('-') else {
        return false;
    };
    let long = rest.strip_prefix('-');
    let name = long.unwrap_or(rest);
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    let letter = name.starts_with(|c: char| c.is_ascii_alphabetic());
    (long.is_some() && letter) || flags::find(name).is_some()
}

fn missing(name: &str, kind: Kind, next: Option<&str>) -> UsageError {
    let hint = next.map_or(String::new(), |next| {
        format!(" (if {next:?} is meant: --{name}={next})")
    });
    UsageError(format!(
        "--{name}: a value is missing; {}{hint}",
        kind.allowed()
    ))
}

fn unknown(word: &str, name: &str) -> UsageError {
    let odd = name.is_empty() || name.starts_with('-');
    UsageError(match flags::nearest(name) {
        _ if odd => format!("{word:?} is not how a flag is written: --NAME or --NAME=VALUE"),
        Some(near) => format!("there is no flag --{name}; --{near} is the nearest"),
        None => format!("there is no flag --{name}, and none with a name like that"),
    })
}

impl Given {
    /// An error about this flag's value.
    pub(super) fn wrong(&self, problem: &str) -> UsageError {
        let value = hide_login(self.text());
        UsageError(format!("--{} {value:?}: {problem}", self.written))
    }

    fn not_of_kind(&self) -> UsageError {
        self.wrong(&self.flag.kind.allowed())
    }

    /// The value as it stands; empty where there is none.
    pub(super) fn text(&self) -> &str {
        self.value.as_deref().unwrap_or_default()
    }

    /// A text of which an empty one is none, as in `--middleware "$COMMAND"`.
    pub(super) fn some_text(&self) -> Option<String> {
        Some(self.text().to_owned()).filter(|text| !text.is_empty())
    }

    /// The value, by a parser that says what is wrong and what to write.
    pub(super) fn read<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, UsageError> {
        if self.text().is_empty() {
            return Err(self.wrong(&format!("is empty; {}", self.flag.kind.allowed())));
        }
        parse(self.text()).map_err(|problem| self.wrong(&problem))
    }

    /// Whether it is on. An old name for a switch may have had a text.
    pub(super) fn switch(&self) -> Result<bool, UsageError> {
        match &self.value {
            None => Ok(true),
            Some(_) if self.flag.name != self.written && self.was_text() => {
                Ok(self.text() != "false")
            }
            Some(text) => number::switch(text).ok_or_else(|| self.not_of_kind()),
        }
    }

    fn was_text(&self) -> bool {
        flags::find(self.written).is_some_and(|flag| matches!(flag.kind, Kind::Maybe(_)))
    }

    /// From 0 to 9; what is switched on is 1.
    pub(super) fn level(&self) -> Result<u8, UsageError> {
        let level = match self.value.as_deref() {
            None | Some("true") => Some(1),
            Some("false") => Some(0),
            Some(text) => number::integer(text).and_then(|n| u8::try_from(n).ok()),
        };
        level.filter(|n| *n <= 9).ok_or_else(|| self.not_of_kind())
    }

    /// A whole number within bounds.
    pub(super) fn count(&self, least: i64, most: i64) -> Result<i64, UsageError> {
        number::integer(self.text())
            .filter(|n| (least..=most).contains(n))
            .ok_or_else(|| self.wrong(&format!("write a whole number from {least} to {most}")))
    }

    pub(super) fn size(&self) -> Result<ByteSize, UsageError> {
        number::size(self.text()).ok_or_else(|| self.not_of_kind())
    }

    pub(super) fn time(&self) -> Result<Duration, UsageError> {
        number::duration(self.text()).ok_or_else(|| self.not_of_kind())
    }

    /// The word of [`Kind::OneOf`] that was meant.
    pub(super) fn word(&self) -> Result<&'static str, UsageError> {
        let words = match self.flag.kind {
            Kind::OneOf(words) => words,
            _ => &[],
        };
        let meant = words
            .iter()
            .find(|word| word.eq_ignore_ascii_case(self.text()));
        meant.copied().ok_or_else(|| self.not_of_kind())
    }
}

/// What is printed may end in a log: of a URL's login nothing is.
fn hide_login(value: &str) -> String {
    let (scheme, rest) = match value.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), value),
    };
    match rest
        .split('/')
        .next()
        .and_then(|host| host.rsplit_once('@'))
    {
        Some((login, _)) => format!("{scheme}***{}", &rest[login.len()..]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, value, further words.
    type Seen = (String, Option<String>, Vec<String>);

    fn given(line: &str) -> Result<Vec<Seen>, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let all = read(&words).map_err(|error| error.to_string())?;
        let all = all.into_iter();
        Ok(all
            .map(|g| (g.flag.name.to_owned(), g.value, g.more))
            .collect())
    }

    fn one(line: &str) -> (String, Option<String>) {
        let mut all = given(line).unwrap();
        assert_eq!(all.len(), 1, "{line}");
        let (name, value, more) = all.remove(0);
        assert!(more.is_empty());
        (name, value)
    }

    #[test]
    fn flags_are_written_in_many_ways() {
        for (line, name, value) in [
            ("-input-raw :80", "input-raw", Some(":80")),
            ("--input-raw :80", "input-raw", Some(":80")),
            ("--input-raw=:80", "input-raw", Some(":80")),
            ("-input-raw=:80", "input-raw", Some(":80")),
            ("--http-set-param=a=b", "http-set-param", Some("a=b")),
            ("--stats", "stats", None),
            ("--stats true", "stats", Some("true")),
            ("--stats=T", "stats", Some("T")),
            ("--verbose", "verbose", None),
            ("--verbose 2", "verbose", Some("2")),
            (
                "--output-http-workers -1",
                "output-http-workers",
                Some("-1"),
            ),
            (
                "--input-kafka-offset -2|50%",
                "input-kafka-offset",
                Some("-2|50%"),
            ),
            ("--input-raw=--stats", "input-raw", Some("--stats")),
            ("--input-dummy", "input-dummy", None),
            ("--input-dummy ", "input-dummy", Some("")),
            ("-h", "help", None),
            ("--http-header A:b", "http-set-header", Some("A:b")),
            ("--middleware=", "middleware", Some("")),
            ("--stats --", "stats", None),
        ] {
            assert_eq!(
                one(line),
                (name.to_owned(), value.map(str::to_owned)),
                "{line}"
            );
        }
    }

    #[test]
    fn logins_are_not_shown() {
        for (value, shown) in [
            ("http://u:p@h/a@b", "http://***@h/a@b"),
            ("u:p@h", "***@h"),
            ("http://h/a@b", "http://h/a@b"),
            (":80", ":80"),
            ("", ""),
        ] {
            assert_eq!(hide_login(value), shown);
        }
    }

    #[test]
    fn words_behind_a_file_are_files() {
        let all = given("--input-file a.gor b.gor c.gor --stats false -- ").unwrap_err();
        assert!(all.contains("\"\" belongs to no flag"), "{all}");
        let all =
            given("--input-file a.gor b.gor c.gor --stats true --input-file d -- -e").unwrap();
        assert_eq!(all[0].2, ["b.gor", "c.gor"]);
        assert_eq!(all[1].1.as_deref(), Some("true"));
        assert_eq!(
            (all[2].1.as_deref(), &all[2].2[..]),
            (Some("d"), &["-e".to_owned()][..])
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (line, what) in [
            ("--output-htp x", "--output-http is the nearest"),
            ("--input-rawe x", "--input-raw is the nearest"),
            ("--http-alow-url=x", "--http-allow-url is the nearest"),
            ("--frobnicate", "none with a name like that"),
            ("x --stats", "\"x\" belongs to no flag"),
            ("--stats 1", "--stats=VALUE"),
            ("--output-http a b", "\"b\" belongs to no flag"),
            ("--input-raw", "--input-raw: a value is missing; write ADDR"),
            ("--input-raw --output-stdout", "--input-raw=--output-stdout"),
            ("--input-raw -stats", "a value is missing"),
            ("--exit-after", "write a duration"),
            ("---stats", "not how a flag is written"),
            ("-=x", "not how a flag is written"),
            ("-", "belongs to no flag"),
        ] {
            let error = given(line).unwrap_err();
            assert!(
                error.contains(what) && !error.contains('\n'),
                "{line}: {error}"
            );
        }
    }
}
