//! Bars of ratios, one file per measure: median as a bar, least and most as a line, one at the dashed line.

use super::record::{Better, Record, short};
use crate::process::{Result, io_error};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const LABELS: f64 = 430.0;
const BARS: f64 = 420.0;
const ROW: f64 = 26.0;

/// Writes `<measure>.svg` for every measure that has ratios; their paths.
pub(super) fn write(folder: &Path, records: &[Record]) -> Result<Vec<PathBuf>> {
    let mut by_measure: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|r| r.ratio_median.is_some()) {
        by_measure.entry(&record.measure).or_default().push(record);
    }
    let mut paths = vec![];
    for (measure, records) in by_measure {
        let name: String = measure.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = folder.join(format!("{name}.svg"));
        std::fs::write(&path, svg(measure, &records)).map_err(io_error(path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

fn svg(measure: &str, records: &[&Record]) -> String {
    let most = records.iter().filter_map(|r| r.ratio_max).fold(1.2, f64::max);
    let x = |ratio: f64| LABELS + ratio / most * BARS;
    let (width, height) = (LABELS + BARS + 90.0, 46.0 + ROW * records.len() as f64 + 22.0);
    let way = match records.first().map(|r| r.better) {
        Some(Better::Lower) => "less is better",
        _ => "more is better",
    };
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"16\">{}: ratio to the peer in the same run ({way})</text>\n",
        escape(measure)
    );
    for (n, record) in records.iter().enumerate() {
        let y = 40.0 + ROW * n as f64;
        let [median, least, top] =
            [record.ratio_median, record.ratio_min, record.ratio_max].map(Option::unwrap_or_default);
        let fill = if record.wins() == Some(true) { "#3b7a57" } else { "#b5533c" };
        let label = format!("{} / {}", record.subject, record.peer);
        let shape = format!("{} B, {} flows", record.shape.frame, record.shape.flows);
        let _ = writeln!(
            text,
            "<text x=\"10\" y=\"{:.1}\">{} <tspan fill=\"#777\">{shape}</tspan></text>\n\
             <rect x=\"{LABELS}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" fill=\"{fill}\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#222\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            y + 13.0,
            escape(&label),
            y + 2.0,
            x(median) - LABELS,
            x(least),
            x(top),
            y + 9.0,
            y + 9.0,
            x(top) + 6.0,
            y + 13.0,
            short(median),
        );
    }
    let about = records.first().map(|r| format!("{}, kernel {}, {}", r.about.machine, r.about.kernel, r.about.date));
    let _ = writeln!(
        text,
        "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"36\" y2=\"{1:.1}\" stroke=\"#222\" stroke-dasharray=\"4 3\"/>\n\
         <text x=\"10\" y=\"{2:.1}\" fill=\"#777\" font-size=\"11\">{3}</text>\n</svg>",
        x(1.0),
        height - 20.0,
        height - 6.0,
        escape(&about.unwrap_or_default()),
    );
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::record::{Measure, Shape};
    use super::*;

    #[test]
    fn a_bar_for_every_record() {
        let record = Record::pairs(Measure::higher("m", "u"), "a<b", "c", &[(1.0, 2.0)], &Shape::default());
        let svg = svg("m", &[&record, &record]);
        assert_eq!((svg.matches("height=\"14\"").count(), svg.contains("a&lt;b")), (2, true));
    }
}
