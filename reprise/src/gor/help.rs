//! `gor -h`.
//!
//! What enters: the table of flags, the terminal's width. What leaves: text. What may be lost: nothing.

use textwrap::Options as Wrapping;

use super::flags::{Fate, Flag, SECTIONS};

/// No line is longer, as in the help of the other modes.
const WIDEST: usize = 100;

/// Below that wrapping makes nothing better.
const NARROWEST: usize = 40;

/// A blank at which no line ends.
const NO_BREAK: char = '\u{a0}';

const PURPOSE: &str = "Run GoReplay's command lines as they are: its flags of all versions, with one dash or two. \
A flag that has no effect here says so at the start.";

/// What people come for, and how it is written behind the program's name.
const EXAMPLES: [(&str, &str); 6] = [
    (
        "--input-raw :8000 --output-http http://staging:8080",
        "replay what reaches port 8000 to another server (needs CAP_NET_RAW)",
    ),
    (
        "--input-raw :8000 --output-file requests-%Y%m%d.gor.gz",
        "record it",
    ),
    (
        "--input-file \"requests-*.gor.gz|200%\" --output-http \"http://staging:8080|10%\"",
        "replay recordings twice as fast, a tenth of the requests",
    ),
    (
        "--input-raw :80 --output-tcp replay:28020",
        "ship to another process, which has --input-tcp :28020 --output-http http://staging",
    ),
    (
        "--input-raw :80 --output-stdout --http-allow-url ^/api --http-set-header \"X-Env: staging\"",
        "look at what filters let through, and at what they make of it",
    ),
    ("file-server :8000", "serve the files of this directory"),
];

/// The width to wrap at: that of the terminal, within bounds.
pub(super) fn width() -> usize {
    let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    width.map_or(WIDEST, |width| width.clamp(NARROWEST, WIDEST))
}

/// The whole help of the program of that name.
pub(super) fn text(program: &str, width: usize) -> String {
    let mut out = String::new();
    wrap(&mut out, PURPOSE, "", width);
    out.push_str(&format!(
        "\nUsage: {program} INPUTS OUTPUTS [FLAGS]\n       {program} file-server [HOST]:PORT\n\nExamples:\n"
    ));
    for (call, what) in EXAMPLES {
        out.push_str(&format!("  {program} {call}\n"));
        wrap(&mut out, what, "      ", width);
    }
    out.push('\n');
    wrap(
        &mut out,
        "A LIMIT behind an address lets only that much through: |10 ten requests a second, |10% a tenth of them; behind \
a file or an offset of Kafka, |200% is twice the speed. Sizes are written 512kb or 32mb, times 300ms or 1m30s.",
        "",
        width,
    );
    for section in &SECTIONS {
        out.push_str(&format!("\n{}:\n", section.title));
        for flag in section.flags {
            describe(&mut out, flag, width);
        }
    }
    out
}

fn describe(out: &mut String, flag: &Flag, width: usize) {
    if let Fate::Old(now) = flag.fate {
        out.push_str(&format!("  --{}: --{now}\n", flag.name));
        return;
    }
    out.push_str(&format!("  --{} {}", flag.name, flag.kind.value()));
    out.truncate(out.trim_end().len());
    out.push('\n');
    let mut about = match flag.fate {
        Fate::Noted(note) => format!("Taken, without effect: {note}"),
        Fate::Refused(instead) => format!("Refused: {instead}"),
        Fate::Honoured | Fate::Old(_) => flag.help.to_owned(),
    };
    if flag.repeats() && !about.contains("repeatable") {
        about.push_str("; repeatable");
    }
    if !flag.default.is_empty() {
        about.push_str(&format!(" [default:{NO_BREAK}{}]", flag.default));
    }
    wrap(out, &about, "          ", width);
}

fn wrap(out: &mut String, text: &str, indent: &str, width: usize) {
    let wrapping = Wrapping::new(width)
        .initial_indent(indent)
        .subsequent_indent(indent)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    out.push_str(&textwrap::fill(text, wrapping).replace(NO_BREAK, " "));
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gor::flags;

    #[test]
    fn every_flag_stands_in_the_help() {
        for width in [NARROWEST, 80, WIDEST] {
            let help = text("reprise gor", width);
            for flag in flags::all() {
                let line = format!("  --{}", flag.name);
                let there = help.lines().any(|l| {
                    let rest = l.strip_prefix(&line);
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ':']))
                });
                assert!(there, "{}", flag.name);
                let default = format!("[default: {}]", flag.default);
                let unwrapped = help.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(flag.default.is_empty() || unwrapped.contains(&default));
            }
            assert!(help.contains("Examples:\n  reprise gor --input-raw"));
        }
    }

    #[test]
    fn text_is_wrapped_at_the_width() {
        // Calls and the forms of values are left as they are.
        let help = text("gor", 80);
        let long = help
            .lines()
            .filter(|line| line.chars().count() > 80 && line.starts_with("     "));
        assert_eq!(long.collect::<Vec<_>>(), Vec::<&str>::new());
    }
}
