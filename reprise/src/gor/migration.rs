//! The table of flags in `docs/migrating-from-goreplay.md`.
//!
//! What enters: the table of flags. What leaves: the page's. What may be lost: nothing; a page that says something else
//! fails the test, and `REPRISE_WRITE_DOCS=1` writes it anew.

use std::fmt::Write as _;

use super::flags::{Fate, Flag, SECTIONS};

const PAGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/migrating-from-goreplay.md"
);

/// What stands around the table.
const BEGIN: &str = "<!-- flags: written by a test -->\n";
const END: &str = "<!-- end of flags -->\n";

/// Flag, default, what becomes of it.
fn row(flag: &Flag) -> [String; 3] {
    let what = match flag.fate {
        Fate::Honoured => flag.help.to_owned(),
        Fate::Noted(note) => format!("**taken, without effect**: {note}"),
        Fate::Refused(instead) => format!("**refused**: {instead}"),
        Fate::Old(name) => format!("the same as `--{name}`"),
    };
    let default = match flag.default {
        "" => String::new(),
        default => format!("`{default}`"),
    };
    // A bar ends a cell, and * and < are Markdown's.
    let what = match flag.fate {
        Fate::Honoured => what.replace('*', "\\*"),
        _ => what,
    };
    let name = format!("`--{} {}", flag.name, flag.kind.value());
    let name = format!("{}`", name.trim_end());
    [name, default, what].map(|cell| cell.replace('|', "\\|"))
}

fn table() -> String {
    let mut out = String::new();
    for section in &SECTIONS {
        let title = section.title;
        write!(
            out,
            "\n### {title}\n\n| Flag | Default | |\n|---|---|---|\n"
        )
        .unwrap();
        for flag in section.flags {
            let [name, default, what] = row(flag);
            writeln!(out, "| {name} | {default} | {what} |").unwrap();
        }
    }
    out.push('\n');
    out
}

#[test]
fn the_page_has_the_table_of_the_code() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the table's begin");
    let (there, after) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("REPRISE_WRITE_DOCS").is_some() {
        let page = format!("{before}{BEGIN}{}{END}{after}", table());
        std::fs::write(PAGE, page).unwrap();
        return;
    }
    assert_eq!(
        there,
        table(),
        "to write it anew: REPRISE_WRITE_DOCS=1 cargo test -p reprise migration"
    );
}
