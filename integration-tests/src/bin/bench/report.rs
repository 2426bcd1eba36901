//! Figures as people read them: Markdown, on the screen and in a file.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};

use crate::meter::Memory;

/// The most that a listener may have resident, KiB.
const RESIDENT: u64 = 64 << 10;

/// What a part found.
#[derive(Debug, Default)]
pub(crate) struct Section {
    pub(crate) title: String,
    /// How it was measured, and how to read it.
    pub(crate) about: String,
    pub(crate) header: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) notes: Vec<String>,
    pub(crate) aims: Vec<Aim>,
}

/// Something that is to hold, and whether it does.
#[derive(Debug)]
pub(crate) struct Aim {
    what: String,
    aim: String,
    figure: String,
    ratio: String,
    met: bool,
}

impl Aim {
    /// A figure that is to be no higher than `aim`.
    pub(crate) fn at_most(what: impl Into<String>, figure: f64, aim: f64, unit: &str) -> Aim {
        Aim {
            what: what.into(),
            aim: format!("≤ {aim} {unit}").trim().to_owned(),
            figure: format!("{figure:.2} {unit}").trim().to_owned(),
            ratio: ratio(figure, Some(aim)),
            met: figure <= aim,
        }
    }

    /// A figure that is to be no lower than `aim`; as elsewhere, `×` below 1 is better.
    pub(crate) fn at_least(what: impl Into<String>, figure: f64, aim: f64, unit: &str) -> Aim {
        let written = |figure: f64| match figure < 1000.0 {
            true => format!("{figure:.2} {unit}"),
            false => format!("{} {unit}", thousands(figure as u64)),
        };
        Aim {
            what: what.into(),
            aim: format!("≥ {}", written(aim)),
            figure: written(figure),
            ratio: ratio(aim, Some(figure)),
            met: figure >= aim,
        }
    }

    /// All `of` them.
    pub(crate) fn all(what: impl Into<String>, figure: u64, of: u64) -> Aim {
        Aim {
            what: what.into(),
            aim: format!("all {}", thousands(of)),
            figure: thousands(figure),
            ratio: ratio(figure as f64, Some(of as f64)),
            met: figure == of,
        }
    }

    /// Resident memory at its highest.
    pub(crate) fn resident(what: impl Into<String>, memory: Memory) -> Aim {
        Aim {
            what: what.into(),
            aim: format!("≤ {}", mib(RESIDENT)),
            figure: mib(memory.resident),
            ratio: ratio(memory.resident as f64, Some(RESIDENT as f64)),
            met: memory.resident <= RESIDENT,
        }
    }
}

impl Section {
    /// A part that could not be measured.
    pub(crate) fn failed(part: &str, error: &anyhow::Error) -> Section {
        Section {
            title: format!("{part}: not measured"),
            about: format!("`{error:#}`"),
            ..Section::default()
        }
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.title, self.about);
        if !self.header.is_empty() {
            text.push_str(&table(&self.header, &self.rows));
        }
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        text
    }
}

/// All aims of a run at a glance.
pub(crate) fn aims(aims: &[Aim]) -> String {
    let met = aims.iter().filter(|aim| aim.met).count();
    let rows: Vec<Vec<String>> = aims
        .iter()
        .map(|aim| {
            let met = if aim.met { "yes" } else { "NO" };
            let cells = [&aim.what, &aim.aim, &aim.figure, &aim.ratio];
            let cells = cells.into_iter().map(String::as_str).chain([met]);
            cells.map(str::to_owned).collect()
        })
        .collect();
    let header = ["aim", "is to be", "is", "×", "met"];
    format!(
        "## Aims\n\n{met} of {} are met.\n\n{}",
        aims.len(),
        table(&header, &rows)
    )
}

fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Left);
    }
    format!("{table}\n\n")
}

/// A line about what goes on.
pub(crate) fn progress(text: &str) {
    eprintln!("bench: {text}");
}

/// Writes the results, and makes the directory where there is none.
///
/// # Errors
/// When that isn't possible.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("make {}", directory.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// `1.23×`; nothing where there is nothing to compare with.
pub(crate) fn ratio(figure: f64, yardstick: Option<f64>) -> String {
    match yardstick {
        Some(yardstick) if yardstick > 0.0 => format!("{:.2}×", figure / yardstick),
        _ => "–".to_owned(),
    }
}

/// What was resident, against the aim.
pub(crate) fn resident(memory: Memory) -> String {
    let ratio = ratio(memory.resident as f64, Some(RESIDENT as f64));
    let (resident, anonymous) = (mib(memory.resident), mib(memory.anonymous));
    format!("{resident}, {ratio} ({anonymous})")
}

/// `12 MiB`, of KiB.
pub(crate) fn mib(kib: u64) -> String {
    format!("{:.0} MiB", kib as f64 / 1024.0)
}

/// `1,234,567`.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The middle one, or the mean of the two in the middle; 0 of none.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => f64::midpoint(figures[middle - 1], figures[middle]),
        _ => figures[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_as_people_read_them() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(ratio(3.0, Some(1.5)), "2.00×");
        assert_eq!(ratio(3.0, Some(0.0)), "–");
        assert_eq!(mib(65_536), "64 MiB");
    }

    #[test]
    fn an_aim_is_met_or_not() {
        let memory = |resident| Memory {
            resident,
            anonymous: 0,
        };
        for (aim, met) in [
            (Aim::at_most("x", 2.0, 2.0, "ms"), true),
            (Aim::at_most("x", 2.01, 2.0, "ms"), false),
            (Aim::at_least("x", 0.5, 0.5, "× y"), true),
            (Aim::at_least("x", 499_999.9, 500_000.0, "/s"), false),
            (Aim::all("x", 5, 5), true),
            (Aim::all("x", 4, 5), false),
            (Aim::resident("x", memory(65_536)), true),
            (Aim::resident("x", memory(65_537)), false),
        ] {
            assert_eq!(aim.met, met, "{aim:?}");
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median([]), 0.0);
    }
}
