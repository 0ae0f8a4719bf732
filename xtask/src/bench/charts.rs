//! Draws charts of the results, one file for each measure. Ratios are bars that start at one (logarithmic); values
//! without a peer are bars that start at zero. The loss curve has lines. Bars show medians; a thin line shows minimum
//! and maximum.

use super::record::{Better, Record, short};
use crate::process::{Result, io_error};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const BARS: f64 = 460.0;
const ROW: f64 = 26.0;
const TOP: f64 = 64.0;
/// Space to the right of the bars, for the label of a bar that ends there.
const RIGHT: f64 = 80.0;
const AHEAD: &str = "#3b7a57";
const BEHIND: &str = "#b5533c";
const PLAIN: &str = "#4a6d8c";
const GREY: &str = "#666";

/// Prefix and suffix of the loss curve's measures: `loss at 80 % of peak`.
const CURVE: [&str; 2] = ["loss at ", " % of peak"];
const CURVE_FILE: &str = "loss-curve.svg";

/// Writes a file for every measure and returns the paths.
pub(super) fn write(folder: &Path, records: &[Record]) -> Result<Vec<PathBuf>> {
    let mut paths = vec![];
    for (name, picture) in all(records) {
        let path = folder.join(name);
        std::fs::write(&path, picture).map_err(io_error(path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

/// Returns file name and drawing of every chart of `records`.
pub(super) fn all(records: &[Record]) -> BTreeMap<String, String> {
    let mut charts: BTreeMap<(String, &str), Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|r| r.runs > 0 && percent(&r.measure).is_none()) {
        charts.entry((file(record), &record.measure)).or_default().push(record);
    }
    let mut pictures: BTreeMap<String, String> =
        charts.iter().map(|((file, measure), records)| (file.clone(), bars(measure, records))).collect();
    let mut points: Vec<(f64, &Record)> =
        records.iter().filter_map(|r| Some((percent(&r.measure)?, r))).filter(|(_, r)| r.runs > 0).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    if points.len() > 1 {
        pictures.insert(CURVE_FILE.to_owned(), curve(&points));
    }
    pictures
}

/// Returns the file name of a record's chart. Ratios and values without a peer have different charts.
pub(super) fn file(record: &Record) -> String {
    if percent(&record.measure).is_some() {
        return CURVE_FILE.to_owned();
    }
    let words: Vec<&str> =
        record.measure.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    format!("{}{}.svg", words.join("-"), if record.ratio_median.is_some() { "" } else { "-values" })
}

/// Returns which point of the loss curve a measure is, in percent of the peak.
fn percent(measure: &str) -> Option<f64> {
    measure.strip_prefix(CURVE[0])?.strip_suffix(CURVE[1])?.parse().ok()
}

/// Maps values to positions, and chooses the labelled values.
struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
    left: f64,
    width: f64,
}

impl Axis {
    /// Creates the axis of ratios, which always contains one.
    fn ratios(records: &[&Record], left: f64) -> Self {
        let least = records.iter().filter_map(|r| r.ratio_min).filter(|r| *r > 0.0).fold(0.5, f64::min);
        let most = records.iter().filter_map(|r| r.ratio_max).fold(2.0, f64::max);
        Self { from: least, to: most, logarithmic: true, left, width: BARS }
    }

    fn values(most: f64, left: f64) -> Self {
        Self { from: 0.0, to: if most > 0.0 { most } else { 1.0 }, logarithmic: false, left, width: BARS }
    }

    fn at(&self, value: f64) -> f64 {
        let part = if self.logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.left + part.clamp(0.0, 1.0) * self.width
    }

    /// Returns round values within the range.
    fn ticks(&self) -> Vec<f64> {
        let decades = (-6..=9).map(|n| 10_f64.powi(n));
        if self.logarithmic {
            let all = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|n| n * decade));
            return all.filter(|t| (self.from..=self.to).contains(t)).collect();
        }
        let steps = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|n| n * decade));
        let step = steps.into_iter().find(|step| self.to / step <= 6.0).unwrap_or(self.to);
        (0..=6).map(|n| f64::from(n) * step).filter(|t| *t <= self.to).collect()
    }

    /// Draws vertical lines at the round values, with labels below.
    fn grid(&self, text: &mut String, bottom: f64) {
        for tick in self.ticks() {
            let x = self.at(tick);
            let _ = writeln!(
                text,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{GREY}\" font-size=\"11\" text-anchor=\"middle\">{}</text>",
                TOP - 6.0,
                bottom + 14.0,
                tick_text(tick),
            );
        }
    }
}

fn bars(measure: &str, records: &[&Record]) -> String {
    let ratios = records.iter().all(|r| r.ratio_median.is_some());
    let labels: Vec<(String, String)> = records.iter().map(|r| label(r)).collect();
    let longest = labels.iter().map(|(name, shape)| name.chars().count() + shape.chars().count() + 1).max();
    let left = 24.0 + 7.3 * longest.unwrap_or(0) as f64;
    let axis = if ratios {
        Axis::ratios(records, left)
    } else {
        Axis::values(records.iter().map(|r| r.value_max).fold(0.0, f64::max), left)
    };
    let unit = records.first().map_or("", |r| r.unit.as_str());
    let way = match records.first().map(|r| r.better) {
        Some(Better::Lower) => "less is better",
        _ => "more is better",
    };
    let scale = if ratios {
        format!("ratio to the peer in the same run, logarithmic; {way}")
    } else {
        format!("{unit}; {way}")
    };
    let bottom = TOP + ROW * records.len() as f64;
    let mut text = frame(measure, &scale, (left + BARS + RIGHT, bottom + 46.0), records);
    axis.grid(&mut text, bottom);
    for ((n, record), (name, shape)) in records.iter().enumerate().zip(&labels) {
        let y = TOP + ROW * n as f64;
        let [median, least, most, start] = if ratios {
            let [a, b, c] = [record.ratio_median, record.ratio_min, record.ratio_max].map(Option::unwrap_or_default);
            [a, b, c, 1.0]
        } else {
            [record.value_median, record.value_min, record.value_max, 0.0]
        };
        let fill = match record.wins().filter(|_| ratios) {
            Some(true) => AHEAD,
            Some(false) => BEHIND,
            None => PLAIN,
        };
        let (from, to) = (axis.at(median).min(axis.at(start)), axis.at(median).max(axis.at(start)));
        let _ = writeln!(
            text,
            "<text x=\"10\" y=\"{:.1}\">{} <tspan fill=\"{GREY}\">{shape}</tspan></text>\n\
             <rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" fill=\"{fill}\"/>\n\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#222\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            y + 13.0,
            escape(name),
            y + 2.0,
            (to - from).max(1.0),
            axis.at(least),
            axis.at(most),
            y + 9.0,
            y + 9.0,
            axis.at(most).max(to) + 8.0,
            y + 13.0,
            short(median),
        );
    }
    if ratios {
        let x = axis.at(1.0);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" stroke=\"#222\"/>",
            TOP - 6.0
        );
    }
    text + "</svg>\n"
}

/// Returns the names of subject and peer, and the shape of the packets.
fn label(record: &Record) -> (String, String) {
    let name =
        if record.peer.is_empty() { record.subject.clone() } else { format!("{} / {}", record.subject, record.peer) };
    let mut shape = vec![];
    if record.shape.frame > 0 {
        shape.push(format!("{} B", record.shape.frame));
    }
    if record.shape.flows > 0 {
        shape.push(format!("{} flow{}", record.shape.flows, if record.shape.flows == 1 { "" } else { "s" }));
    }
    if record.shape.queues > 1 {
        shape.push(format!("{} queues", record.shape.queues));
    }
    if let Some(entries) = record.note.strip_suffix(" relay entries") {
        shape.push(format!("{entries} entries"));
    }
    (name, shape.join(", "))
}

/// Draws loss over load, for subject and peer.
fn curve(points: &[(f64, &Record)]) -> String {
    const LEFT: f64 = 60.0;
    const HEIGHT: f64 = 240.0;
    let records: Vec<&Record> = points.iter().map(|(_, r)| *r).collect();
    let most = records.iter().map(|r| r.value_median.max(r.peer_median.unwrap_or(0.0))).fold(0.0, f64::max);
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    let y_axis = Axis { left: 0.0, width: HEIGHT, ..Axis::values(most * 1.05, 0.0) };
    let x = |percent: f64| LEFT + (percent - first) / (last - first).max(1.0) * BARS;
    let y = |loss: f64| TOP + HEIGHT - y_axis.at(loss);
    let bottom = TOP + HEIGHT;
    let scale = "% of packets lost (upwards) at % of the relay's saturated rate (to the right)";
    let mut text = frame("loss curve", scale, (LEFT + BARS + 140.0, bottom + 46.0), &records);
    for tick in y_axis.ticks() {
        let _ = writeln!(
            text,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#ddd\"/>\n\
             <text x=\"{2:.1}\" y=\"{3:.1}\" fill=\"{GREY}\" font-size=\"11\" text-anchor=\"end\">{4} %</text>",
            LEFT + BARS,
            y(tick),
            LEFT - 6.0,
            y(tick) + 4.0,
            tick_text(tick),
        );
    }
    for (percent, _) in points {
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"{GREY}\" font-size=\"11\" text-anchor=\"middle\">{percent} %</text>",
            x(*percent),
            bottom + 16.0
        );
    }
    let (subject, peer) = (&records[0].subject, &records[0].peer);
    type Value = fn(&Record) -> f64;
    let lines: [(&str, &str, Value); 2] =
        [(subject, AHEAD, |r| r.value_median), (peer, PLAIN, |r| r.peer_median.unwrap_or_default())];
    for (n, (name, colour, value)) in lines.into_iter().enumerate().filter(|(_, (name, ..))| !name.is_empty()) {
        let corners: Vec<String> =
            points.iter().map(|(percent, r)| format!("{:.1},{:.1}", x(*percent), y(value(r)))).collect();
        let at = TOP + 12.0 + 20.0 * n as f64;
        let _ = writeln!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{at:.1}\" fill=\"{colour}\">{}</text>",
            corners.join(" "),
            LEFT + BARS + 20.0,
            escape(name)
        );
        for corner in corners {
            let (cx, cy) = corner.split_once(',').unwrap_or_default();
            let _ = writeln!(text, "<circle cx=\"{cx}\" cy=\"{cy}\" r=\"3.5\" fill=\"{colour}\"/>");
        }
    }
    text + "</svg>\n"
}

/// Draws the background, the title, the scale and the origin of the figures.
fn frame(title: &str, scale: &str, (width, height): (f64, f64), records: &[&Record]) -> String {
    let about = records
        .first()
        .map(|r| format!("{}, kernel {}, {} UTC, {}", r.about.machine, r.about.kernel, r.about.date, r.about.build));
    let about = about.unwrap_or_default();
    // The width avoids clipping: 6 px for each character of the smallest text, 9 of the title.
    let wide =
        [about.chars().count() as f64 * 6.0, title.chars().count() as f64 * 9.0, scale.chars().count() as f64 * 7.0];
    let width = wide.into_iter().map(|w| w + 20.0).fold(width, f64::max);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"22\" font-size=\"16\">{}</text>\n\
         <text x=\"10\" y=\"42\" fill=\"{GREY}\">{}</text>\n\
         <text x=\"10\" y=\"{:.1}\" fill=\"{GREY}\" font-size=\"11\">{}</text>\n",
        escape(title),
        escape(scale),
        height - 8.0,
        escape(&about)
    )
}

fn tick_text(tick: f64) -> String {
    // The rounding turns 0.30000000000000004 into 0.3.
    let rounded = (tick * 1e6).round() / 1e6;
    format!("{rounded}")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::record::{Measure, Shape};
    use super::*;

    const RATE: Measure = Measure::higher("m", "Mpps");

    #[test]
    fn each_record_has_a_bar_from_one() {
        let record = Record::pairs(RATE, "a<b", "c", &[(1.0, 2.0)], &Shape::default());
        let svg = bars("m", &[&record, &record]);
        assert_eq!((svg.matches("height=\"14\"").count(), svg.contains("a&lt;b / c")), (2, true));
        let axis = Axis::ratios(&[&record], 100.0);
        // The axis goes from 0.5 to 2, so one is in the middle.
        assert_eq!((axis.at(0.5), axis.at(1.0), axis.at(2.0)), (100.0, 330.0, 560.0));
        assert_eq!(axis.ticks(), [0.5, 1.0, 2.0]);
    }

    #[test]
    fn values_without_a_peer_have_their_unit() {
        let record = Record::alone(RATE, "a", &[3.0], &Shape::default());
        let svg = bars("m", &[&record]);
        assert!(svg.contains("Mpps; more is better") && svg.contains(">3.00</text>"), "{svg}");
    }

    #[test]
    fn loss_curve_is_one_chart() {
        const POINTS: [Measure; 2] =
            [Measure::lower("loss at 80 % of peak", "%"), Measure::lower("loss at 100 % of peak", "%")];
        let records = POINTS.map(|measure| Record::pairs(measure, "a", "b", &[(1.0, 0.0)], &Shape::default()));
        let all = all(&records);
        assert_eq!(all.keys().collect::<Vec<_>>(), [CURVE_FILE]);
        assert!(all.values().all(|svg| svg.matches("<circle").count() == 4 && svg.contains(">80 %</text>")));
    }
}
