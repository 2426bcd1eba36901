//! The report as a page: one file, which needs nothing else.
//!
//! What enters: a report. What leaves: HTML with its plots as SVG within. What may be lost: nothing.

use std::fmt::{Display, Write as _};

use plotters::prelude::*;

use super::report::{Point, Report};

/// A line in a plot: its name, its colour and its value of each second.
type Line<'a> = (&'a str, RGBColor, Box<dyn Fn(&Point) -> f64>);

const STYLE: &str = "body{font:15px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}\
td,th{padding:.25rem .9rem .25rem 0;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}.stopped{color:#b00}";

/// Draws the page.
///
/// # Errors
/// When a plot can't be drawn.
pub(super) fn render(report: &Report) -> anyhow::Result<String> {
    let mut page =
        String::from("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    let title = format!("Load test of {}", report.target);
    write!(
        page,
        "<title>{0}</title><style>{STYLE}</style></head><body><h1>{0}</h1>",
        escape(&title)
    )?;
    write!(
        page,
        "<p>{} {}</p>",
        escape(&report.recording.join(", ")),
        escape(&report.how)
    )?;
    if let Some(why) = &report.stopped_by {
        write!(
            page,
            "<p class=\"stopped\">Stopped early: {}</p>",
            escape(why)
        )?;
    }
    summary(&mut page, report)?;
    quantiles(&mut page, report)?;
    plots(&mut page, report)?;
    page.push_str("</body></html>\n");
    Ok(page)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn rows<K: Display, V: Display>(
    page: &mut String,
    rows: impl IntoIterator<Item = (K, V)>,
) -> std::fmt::Result {
    page.push_str("<table>");
    for (name, value) in rows {
        write!(
            page,
            "<tr><td>{}</td><td>{}</td></tr>",
            escape(&name.to_string()),
            escape(&value.to_string())
        )?;
    }
    page.push_str("</table>");
    Ok(())
}

fn summary(page: &mut String, report: &Report) -> std::fmt::Result {
    let fidelity = &report.fidelity;
    rows(
        page,
        [
            ("requests intended", report.intended.to_string()),
            ("sent", report.sent.to_string()),
            ("of which over 10 ms late", report.late.to_string()),
            ("answered", report.answered.to_string()),
            ("unknown", report.unknown.to_string()),
            (
                "not wanted by the target's rules",
                report.filtered.to_string(),
            ),
            ("seconds", format!("{:.1}", report.seconds)),
            ("fidelity", format!("{:.4}", fidelity.score)),
            (
                "out of order within their session",
                fidelity.inversions.to_string(),
            ),
            ("mean pause, ms", format!("{:.3}", fidelity.gap_ms)),
            (
                "mean difference of pauses, ms",
                format!("{:.3}", fidelity.gap_off_ms),
            ),
        ],
    )?;
    for (title, counts) in [
        (
            "Answers by status",
            report
                .statuses
                .iter()
                .map(|(k, v)| (k.to_string(), *v))
                .collect::<Vec<_>>(),
        ),
        (
            "Errors by cause",
            report.errors.iter().map(|(k, v)| (k.clone(), *v)).collect(),
        ),
        (
            "Not sent, by reason",
            report
                .dropped
                .iter()
                .map(|(k, v)| (k.clone(), *v))
                .collect(),
        ),
        (
            "Sent by replayer",
            report
                .replayers
                .iter()
                .map(|(k, v)| (k.clone(), *v))
                .collect(),
        ),
    ] {
        if !counts.is_empty() {
            write!(page, "<h2>{title}</h2>")?;
            rows(page, counts)?;
        }
    }
    Ok(())
}

fn quantiles(page: &mut String, report: &Report) -> std::fmt::Result {
    page.push_str("<h2>Milliseconds</h2><table><tr><th></th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>p99.99</th><th>max</th></tr>");
    for (name, q) in [
        ("latency, from when it was due", report.latency),
        ("of which the target's answer", report.service),
        ("of which late", report.lateness),
    ] {
        write!(page, "<tr><td>{name}</td>")?;
        for value in [q.p50, q.p90, q.p99, q.p99_9, q.p99_99, q.max] {
            write!(page, "<td>{value:.3}</td>")?;
        }
        page.push_str("</tr>");
    }
    page.push_str("</table>");
    Ok(())
}

fn plots(page: &mut String, report: &Report) -> anyhow::Result<()> {
    let of_class = |class: &'static str| -> Box<dyn Fn(&Point) -> f64> {
        Box::new(move |p| p.classes.get(class).copied().unwrap_or(0) as f64)
    };
    let charts: [(&str, &str, Vec<Line<'_>>); 3] = [
        (
            "Requests a second",
            "requests",
            vec![
                ("sent", BLUE, Box::new(|p| p.sent as f64)),
                ("2xx", RGBColor(0, 140, 60), of_class("2xx")),
                ("3xx", RGBColor(120, 120, 120), of_class("3xx")),
                ("4xx", RGBColor(230, 150, 0), of_class("4xx")),
                ("5xx", RED, of_class("5xx")),
                ("no answer", BLACK, Box::new(|p| p.failed as f64)),
            ],
        ),
        (
            "Latency, from when each request was due",
            "ms",
            vec![
                ("p50", BLUE, Box::new(|p| p.p50_ms)),
                ("p99", RED, Box::new(|p| p.p99_ms)),
            ],
        ),
        (
            "Lateness of sending",
            "ms",
            vec![("p99", RED, Box::new(|p| p.late_p99_ms))],
        ),
    ];
    for (title, unit, lines) in charts {
        write!(page, "<h2>{title}</h2>")?;
        page.push_str(&plot(&report.series, unit, &lines)?);
    }
    Ok(())
}

/// One plot, as SVG.
fn plot(series: &[Point], unit: &str, lines: &[Line<'_>]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (900, 280)).into_drawing_area();
        let failed = |error: &dyn Display| anyhow::anyhow!("{error}");
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let values = series
            .iter()
            .flat_map(|p| lines.iter().map(|(_, _, value)| value(p)));
        let highest = values.fold(0.0_f64, f64::max).max(1.0) * 1.1;
        let last = series.last().map_or(1, |p| p.second.max(1)) as f64;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(32)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..last, 0.0..highest)
            .map_err(|e| failed(&e))?;
        chart
            .configure_mesh()
            .x_desc("seconds")
            .y_desc(unit)
            .light_line_style(WHITE)
            .draw()
            .map_err(|e| failed(&e))?;
        for (name, colour, value) in lines {
            if series.iter().all(|p| value(p) == 0.0) {
                continue;
            }
            let points = series.iter().map(|p| (p.second as f64, value(p)));
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(points, style))
                .map_err(|e| failed(&e))?
                .label(*name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
        chart
            .configure_series_labels()
            .background_style(WHITE)
            .border_style(RGBColor(220, 220, 220))
            .draw()
            .map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
    }
    Ok(svg)
}
