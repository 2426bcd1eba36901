//! All flags of `gor`, in one table.
//!
//! What enters: nothing. What leaves: each flag's name, kind, default, help and fate; the parser, the help, the search
//! for near names and the page for those who come from GoReplay are all made of it. What may be lost: nothing.

mod destinations;
mod general;
mod requests;
mod sources;

/// A flag.
#[derive(Debug)]
pub(super) struct Flag {
    /// Without dashes.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// As one would write it; empty for none.
    pub(super) default: &'static str,
    /// What it does, in a line without a full stop.
    pub(super) help: &'static str,
    pub(super) fate: Fate,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, `=true`, `=false` and what else Go takes for those, or `true` or `false` behind a blank.
    Switch,
    /// A small number, or nothing, which is 1.
    Level,
    /// A whole number.
    Count,
    /// A number of bytes.
    Size,
    /// A duration as Go writes them.
    Time,
    /// One of these words, in any case.
    OneOf(&'static [&'static str]),
    /// A text, here with its name; given twice, the last one counts.
    Text(&'static str),
    /// A text for each time that the flag is given.
    Each(&'static str),
    /// A text or nothing.
    Maybe(&'static str),
}

/// What becomes of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Honoured,
    /// Taken and without effect; the text says why nothing is missing, or what does it instead.
    Noted(&'static str),
    /// The text says what to do instead.
    Refused(&'static str),
    /// Another name of that flag.
    Old(&'static str),
}

/// Flags that belong together.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) flags: &'static [Flag],
}

/// The table. Old names come last.
pub(super) static SECTIONS: [Section; 9] = [
    Section {
        title: "Global",
        flags: general::GLOBAL,
    },
    Section {
        title: "Simple inputs and outputs",
        flags: general::SIMPLE,
    },
    Section {
        title: "Raw capture",
        flags: sources::RAW,
    },
    Section {
        title: "Files",
        flags: sources::FILES,
    },
    Section {
        title: "TCP, HTTP, WebSocket and binary",
        flags: sources::NETWORK,
    },
    Section {
        title: "HTTP output",
        flags: destinations::HTTP,
    },
    Section {
        title: "Kafka",
        flags: destinations::KAFKA,
    },
    Section {
        title: "Modifiers, in the order in which they act",
        flags: requests::MODIFIERS,
    },
    Section {
        title: "Old names",
        flags: requests::OLD,
    },
];

/// All flags.
pub(super) fn all() -> impl Iterator<Item = &'static Flag> {
    SECTIONS.iter().flat_map(|section| section.flags)
}

/// The flag of that name, old or new.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// The name that is most like a misspelt one, where any is.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let few = 1 + name.chars().count() / 5;
    all()
        // One letter is near to any other.
        .filter(|flag| flag.name.len() > 1)
        .map(|flag| {
            let likeness = strsim::jaro_winkler(name, flag.name);
            (strsim::osa_distance(name, flag.name), likeness, flag.name)
        })
        .filter(|(changes, ..)| *changes <= few)
        .min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)))
        .map(|(.., name)| name)
}

impl Flag {
    /// Itself, or the flag that it is an old name of.
    pub(super) fn current(&'static self) -> &'static Flag {
        match self.fate {
            Fate::Old(name) => find(name).unwrap_or(self),
            _ => self,
        }
    }

    /// Whether all its values count, not the last one.
    pub(super) fn repeats(&self) -> bool {
        matches!(self.kind, Kind::Each(_) | Kind::Maybe(_))
    }
}

impl Kind {
    /// How its value is written.
    pub(super) fn value(self) -> String {
        match self {
            Kind::Switch => String::new(),
            Kind::Level => "[N]".to_owned(),
            Kind::Count => "N".to_owned(),
            Kind::Size => "SIZE".to_owned(),
            Kind::Time => "TIME".to_owned(),
            Kind::OneOf(words) => words.join("|"),
            Kind::Text(name) | Kind::Each(name) => name.to_owned(),
            Kind::Maybe(name) => format!("[{name}]"),
        }
    }

    /// What is allowed, as the end of a line.
    pub(super) fn allowed(self) -> String {
        match self {
            Kind::Switch => "write true or false".to_owned(),
            Kind::Level => "write a number from 0 to 9".to_owned(),
            Kind::Count => "write a whole number".to_owned(),
            Kind::Size => {
                "write bytes, or a whole number with kb, mb, gb or tb, as 512kb".to_owned()
            }
            Kind::Time => "write a duration with its unit, as 300ms, 2s or 1m30s".to_owned(),
            Kind::OneOf(words) => format!("write {}", words.join(", ")),
            Kind::Text(name) | Kind::Each(name) | Kind::Maybe(name) => format!("write {name}"),
        }
    }
}

const fn on(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default,
        help,
        fate: Fate::Honoured,
    }
}

const fn noted(name: &'static str, kind: Kind, note: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default: "",
        help: note,
        fate: Fate::Noted(note),
    }
}

const fn refused(name: &'static str, kind: Kind, instead: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default: "",
        help: instead,
        fate: Fate::Refused(instead),
    }
}

/// Its kind is that of the flag that took its place, but for those that were written without a value.
const fn old(name: &'static str, kind: Kind, now: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default: "",
        help: "",
        fate: Fate::Old(now),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_sound() {
        let names: BTreeSet<&str> = all().map(|flag| flag.name).collect();
        assert_eq!(names.len(), all().count(), "a name stands twice");
        for flag in all() {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(flag.name.bytes().all(fits), "{}", flag.name);
            match flag.fate {
                Fate::Old(now) => {
                    let now = find(now).expect(now);
                    assert!(!matches!(now.fate, Fate::Old(_)), "{}", flag.name);
                }
                _ => assert!(!flag.help.is_empty(), "{}", flag.name),
            }
            assert!(!flag.help.ends_with('.'), "{}", flag.name);
            assert!(!flag.help.contains('\n'), "{}", flag.name);
        }
    }

    #[test]
    fn misspelt_names_find_the_nearest() {
        for (name, near) in [
            ("output-htp", Some("output-http")),
            ("input-rawe", Some("input-raw")),
            ("http-alow-url", Some("http-allow-url")),
            ("outptu-file", Some("output-file")),
            (
                "input-raw-track-responses",
                Some("input-raw-track-response"),
            ),
            ("exit_after", Some("exit-after")),
            ("frobnicate", None),
            ("", None),
            ("q", None),
        ] {
            assert_eq!(nearest(name), near, "{name}");
        }
    }
}
