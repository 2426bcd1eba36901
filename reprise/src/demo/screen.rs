//! Where the demo speaks: a terminal, a file or pipe, or nowhere but for the closing figures.
//!
//! What enters: lines. What leaves: on a terminal a table that is drawn again in its place, elsewhere plain lines.
//! What may be lost: on a terminal, what doesn't fit in its width and height; on paper, nothing.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Stdout, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use rustix::termios::tcgetwinsize;

use super::board::Board;
use super::line::{Line, Tone};

/// Between two drawings of a table.
const REDRAW: Duration = Duration::from_millis(500);
/// Between two plain lines.
const PLAIN: Duration = Duration::from_secs(5);

/// The demo's standard output.
#[derive(Debug)]
pub(crate) struct Screen {
    out: Stdout,
    kind: Kind,
    colours: bool,
    /// Lines of the table that stand above the cursor.
    drawn: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Terminal,
    Plain,
    /// Only [`Screen::result`] is shown.
    Silent,
}

impl Screen {
    /// Standard output as it is; silent where only the result is asked for.
    pub(crate) fn new(silent: bool) -> Screen {
        let out = io::stdout();
        let able = out.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let kind = match (silent, able) {
            (true, _) => Kind::Silent,
            (false, true) => Kind::Terminal,
            (false, false) => Kind::Plain,
        };
        // https://no-color.org: set and not empty.
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Screen {
            out,
            kind,
            colours: kind == Kind::Terminal && !unwanted,
            drawn: 0,
        }
    }

    /// Between two calls of [`Screen::draw`].
    pub(crate) fn interval(&self) -> Duration {
        match self.kind {
            Kind::Terminal => REDRAW,
            Kind::Plain | Kind::Silent => PLAIN,
        }
    }

    /// Shows the table as it is now.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub(crate) fn draw(&mut self, board: &Board<'_>) -> anyhow::Result<()> {
        match self.kind {
            Kind::Silent => Ok(()),
            Kind::Plain => self.write(&format!("{}\n", board.summary())),
            Kind::Terminal => {
                let mut lines = board.lines();
                let size = tcgetwinsize(&self.out);
                // A size of 0 is that of a terminal which doesn't know.
                let size = size.ok().filter(|size| size.ws_row > 1 && size.ws_col > 0);
                let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row, size.ws_col));
                lines.truncate(usize::from(rows) - 1);
                let mut text = self.back();
                for line in &lines {
                    let shown: String = line.text.chars().take(usize::from(columns)).collect();
                    text.push_str(&self.toned(line.tone, &shown));
                    text.push('\n');
                }
                self.drawn = lines.len();
                self.write(&text)
            }
        }
    }

    /// Shows the table a last time; what is said from now on stands below it.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub(crate) fn close(&mut self, board: &Board<'_>) -> anyhow::Result<()> {
        match self.kind {
            Kind::Silent => return Ok(()),
            // On a terminal too: it may have been cut, and now it may scroll.
            Kind::Terminal | Kind::Plain => {
                let mut text = self.back();
                if self.kind == Kind::Plain {
                    text.push('\n');
                }
                for line in board.lines() {
                    let _ = writeln!(text, "{}", self.toned(line.tone, &line.text));
                }
                self.write(&text)?;
            }
        }
        self.drawn = 0;
        Ok(())
    }

    /// Says something that stays.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub(crate) fn say(&mut self, lines: &[Line]) -> anyhow::Result<()> {
        if self.kind == Kind::Silent {
            return Ok(());
        }
        let mut text = self.back();
        for line in lines {
            let _ = writeln!(text, "{}", self.toned(line.tone, &line.text));
        }
        self.drawn = 0;
        self.write(&text)
    }

    /// Prints the result, also where nothing else is shown.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub(crate) fn result(&mut self, text: &str) -> anyhow::Result<()> {
        self.write(&format!("{text}\n"))
    }

    /// Takes the cursor to the table's begin and clears from there.
    fn back(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn toned(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Strong => "1",
            Tone::Faint => "2",
            Tone::Good => "1;32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
            Tone::Plain => return text.to_owned(),
        };
        match self.colours {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    // One write for each drawing, or it would flicker; println! would panic on a closed pipe.
    fn write(&mut self, text: &str) -> anyhow::Result<()> {
        let mut out = self.out.lock();
        let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        written.context("write to standard output")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(colours: bool) -> Screen {
        Screen {
            out: io::stdout(),
            kind: Kind::Terminal,
            colours,
            drawn: 3,
        }
    }

    #[test]
    fn colours_end_where_they_were_wanted() {
        assert_eq!(screen(true).toned(Tone::Bad, "x"), "\x1b[1;31mx\x1b[0m");
        assert_eq!(screen(true).toned(Tone::Plain, "x"), "x");
        assert_eq!(screen(false).toned(Tone::Bad, "x"), "x");
    }

    #[test]
    fn the_cursor_goes_back_over_what_was_drawn() {
        assert_eq!(screen(false).back(), "\x1b[3A\x1b[J");
        assert_eq!(
            Screen {
                drawn: 0,
                ..screen(false)
            }
            .back(),
            ""
        );
    }
}
