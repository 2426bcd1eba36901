//! Requests as lines on standard output.
//!
//! What enters: requests, one by one. What leaves: a JSON object or a table's row for each, at once where somebody may
//! be waiting. What may be lost: on a terminal, the end of a target that is longer than the line.

use std::borrow::Cow;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use reprise_traffic::Answer;
use rustix::termios::tcgetwinsize;

use super::row::{Row, latin1};
use super::{InspectArgs, Seen};

/// Of the lines that are shortened this much of the target stays, however narrow the terminal.
const MIN_TARGET: usize = 16;

/// Where and how lines are written.
pub(super) struct Listing {
    out: BufWriter<Stdout>,
    json: bool,
    answers: bool,
    /// Several files; the table names each.
    several: bool,
    /// Whether each line goes out at once: to a person, or from a pipe that may pause.
    at_once: bool,
    /// Characters in a line of the terminal.
    width: Option<usize>,
    file: String,
    heading: bool,
}

impl Listing {
    pub(super) fn new(args: &InspectArgs) -> Listing {
        let out = io::stdout();
        let terminal = out.is_terminal();
        let size = terminal.then(|| tcgetwinsize(&out).ok()).flatten();
        Listing {
            json: args.json,
            answers: args.responses,
            several: args.files.len() > 1,
            at_once: terminal || args.files.iter().any(|file| file == Path::new("-")),
            width: size.map(|size| usize::from(size.ws_col)).filter(|n| *n > 0),
            out: BufWriter::new(out),
            file: String::new(),
            heading: false,
        }
    }

    /// What follows is in `file`.
    pub(super) fn begin(&mut self, file: &str) {
        file.clone_into(&mut self.file);
        self.heading = !self.json;
    }

    /// Writes a request.
    pub(super) fn line(&mut self, seen: &Seen) -> io::Result<()> {
        if self.json {
            Row::new(&self.file, seen, self.answers).write(&mut self.out)?;
        } else {
            self.table_line(seen)?;
        }
        match self.at_once {
            true => self.out.flush(),
            false => Ok(()),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn table_line(&mut self, seen: &Seen) -> io::Result<()> {
        if std::mem::take(&mut self.heading) {
            if self.several {
                writeln!(self.out, "{}:", self.file)?;
            }
            let answer = self.answers.then_some(("status", "first byte"));
            let heading = before_target("time", "client", "server", "method", answer, "body");
            writeln!(self.out, "{heading}target")?;
        }
        let (client, server) = match seen.ends {
            Some((client, server)) => (client.to_string(), server.to_string()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let time = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(seen.at_ns));
        let answer = self.answers.then(|| answer(seen));
        let answer = answer.as_ref().map(|(status, first)| (&**status, &**first));
        let start = before_target(
            &time.to_string(),
            &client,
            &server,
            seen.head.method(),
            answer,
            &seen.body.len().to_string(),
        );
        let room = self
            .width
            .map(|width| width.saturating_sub(start.chars().count()));
        let target = latin1(seen.head.target());
        writeln!(self.out, "{start}{}", shown(&target, room))
    }
}

/// The columns before the target, which is the one of any length.
fn before_target(
    time: &str,
    client: &str,
    server: &str,
    method: &str,
    answer: Option<(&str, &str)>,
    body: &str,
) -> String {
    let answer = answer.map_or(String::new(), |(status, first)| {
        format!("{status:>6}  {first:>10}  ")
    });
    format!("{time:<24}  {client:<21}  {server:<21}  {method:<7}  {answer}{body:>9}  ")
}

/// Status and time to the first byte.
fn answer(seen: &Seen) -> (String, String) {
    let Some(answer) = seen.answer.as_deref() else {
        return ("-".to_owned(), "-".to_owned());
    };
    let Answer { first_byte_ns, .. } = *answer;
    // An answer may begin before its request is complete, but not before it begins; clocks do such things.
    let micros = first_byte_ns.saturating_sub(seen.at_ns) / 1000;
    let first = format!("{}.{:03}ms", micros / 1000, micros % 1000);
    (answer.head.status().to_string(), first)
}

/// A target for people: without what terminals take for commands, and no longer than there is room.
fn shown(target: &str, room: Option<usize>) -> Cow<'_, str> {
    let target: Cow<'_, str> = match target.contains(char::is_control) {
        true => target.chars().map(visible).collect::<String>().into(),
        false => target.into(),
    };
    match room.map(|room| room.max(MIN_TARGET)) {
        Some(room) if target.chars().count() > room => {
            let start: String = target.chars().take(room - 1).collect();
            format!("{start}…").into()
        }
        _ => target,
    }
}

fn visible(character: char) -> char {
    match character.is_control() {
        true => char::REPLACEMENT_CHARACTER,
        false => character,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shortened_and_harmless() {
        assert_eq!(shown("/a", None), "/a");
        let long = "/".repeat(40);
        assert_eq!(shown(&long, None), long);
        assert_eq!(shown(&long, Some(20)), format!("{}…", "/".repeat(19)));
        assert_eq!(shown(&long, Some(0)).chars().count(), MIN_TARGET);
        assert_eq!(shown("/\u{9b}31m", None), "/\u{fffd}31m");
    }
}
