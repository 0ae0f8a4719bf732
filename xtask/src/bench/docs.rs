//! Writes `docs/performance.md`: the part between its two markers comes from the JSON of a bench; the rest is written
//! by hand. The JSON and the charts are in `docs/bench/`, so that every figure can be traced to its record.

use super::record::{self, About, Record, short};
use super::{charts, goals};
use crate::process::{Result, failed, io_error};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

const PAGE: &str = "docs/performance.md";
const BEGIN: &str = "<!-- figures: made by `cargo xtask bench --docs FILE`; do not edit -->";
const END: &str = "<!-- end of figures -->";

/// Returns the folder of the records and their charts.
fn folder() -> PathBuf {
    super::root().join("docs/bench")
}

/// Writes the figures of `records` into the page, and the records and their charts into the folder.
pub(super) fn write(records: &[Record]) -> Result<()> {
    let folder = folder();
    // Charts of measures that no longer exist must not stay.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).map_err(io_error(folder.display()))?;
    record::write_json(&folder.join("bench.json"), records)?;
    charts::write(&folder, records)?;
    let path = super::root().join(PAGE);
    let page = std::fs::read_to_string(&path).map_err(io_error(path.display()))?;
    let page = replace(&page, &figures(records))?;
    std::fs::write(&path, page).map_err(io_error(path.display()))?;
    println!("{PAGE}: {} records written; the records and their charts are in docs/bench", records.len());
    Ok(())
}

fn replace(page: &str, figures: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        return failed(format!("{PAGE}: no markers; expected `{BEGIN}` and `{END}`"));
    };
    Ok(format!("{before}{BEGIN}\n{figures}{END}{after}"))
}

fn figures(records: &[Record]) -> String {
    let mut text = String::new();
    let abouts: Vec<&About> = records.iter().map(|r| &r.about).fold(vec![], |mut all, about| {
        if !all.contains(&about) {
            all.push(about);
        }
        all
    });
    for About { machine, kernel, build, date, command } in abouts {
        let _ = writeln!(
            text,
            "\nMachine: {machine}. Kernel: {kernel}. Driver and mode: see each line. Build: {build}. Date: {date} UTC.\nCommand: `{command}`."
        );
    }
    text.push_str("\nThe records: [bench/bench.json](bench/bench.json).\n");
    text.push_str("\n### Goals\n\n| goal | figure | |\n|---|---|---|\n");
    for verdict in goals::verdicts(records) {
        let _ = writeln!(text, "| {} | {} | {} |", verdict.goal, verdict.figure, verdict.label());
    }
    let (ahead, behind): (Vec<&Record>, Vec<&Record>) = records
        .iter()
        .filter(|r| r.measure == "throughput" && !r.peer.is_empty())
        .partition(|r| r.wins() == Some(true));
    for (title, list) in [("Where we are ahead", ahead), ("Where we are behind", behind)] {
        let _ = writeln!(text, "\n### {title}\n");
        if list.is_empty() {
            text.push_str("Nowhere in this run.\n");
        }
        for r in list {
            let _ = writeln!(
                text,
                "- {} compared with {}, {} B, {} flows: **{}** x ({}-{})",
                r.subject,
                r.peer,
                r.shape.frame,
                r.shape.flows,
                short(r.ratio_median.unwrap_or_default()),
                short(r.ratio_min.unwrap_or_default()),
                short(r.ratio_max.unwrap_or_default())
            );
        }
    }
    text.push_str("\n### All figures\n");
    let mut order: Vec<&str> = vec![];
    let mut by_measure: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        if !by_measure.contains_key(record.measure.as_str()) {
            order.push(&record.measure);
        }
        by_measure.entry(&record.measure).or_default().push(record);
    }
    for measure in order {
        table(&mut text, measure, by_measure.get(measure).map_or(&[], Vec::as_slice));
    }
    text.push('\n');
    text
}

fn table(text: &mut String, measure: &str, records: &[&Record]) {
    let unit = records.first().map_or("", |r| &r.unit);
    let mut files: Vec<String> = records.iter().filter(|r| r.runs > 0).map(|r| charts::file(r)).collect();
    files.sort_unstable();
    files.dedup();
    let links: Vec<String> = files.iter().map(|file| format!("[chart](bench/{file})")).collect();
    let charts = if links.is_empty() { String::new() } else { format!(" {}", links.join(" ")) };
    let _ = writeln!(
        text,
        "\n**{measure}** ({unit}){charts}\n\n| subject | peer | mode | frame | flows | queues | value (min-max) | peer's | ratio (min-max) | runs | |\n\
         |---|---|---|---|---|---|---|---|---|---|---|"
    );
    for r in records {
        let ratio = match (r.ratio_median, r.ratio_min, r.ratio_max) {
            (Some(median), Some(least), Some(most)) => {
                format!("{} ({}-{})", short(median), short(least), short(most))
            }
            _ => String::new(),
        };
        let shape = [r.shape.frame, r.shape.flows, r.shape.queues];
        let [frame, flows, queues] = shape.map(|n| if n == 0 { String::new() } else { n.to_string() });
        let _ = writeln!(
            text,
            "| {} | {} | {} | {frame} | {flows} | {queues} | {} ({}-{}) | {} | {ratio} | {} | {} |",
            r.subject,
            r.peer,
            r.shape.mode,
            short(r.value_median),
            short(r.value_min),
            short(r.value_max),
            r.peer_median.map(short).unwrap_or_default(),
            r.runs,
            r.note,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Measure, Shape};
    use super::*;

    #[test]
    fn handwritten_text_stays() {
        let page = format!("# P\n{BEGIN}\nold\n{END}\n## Experiments\nby hand\n");
        let new = replace(&page, "new\n").unwrap_or_default();
        assert_eq!(new, format!("# P\n{BEGIN}\nnew\n{END}\n## Experiments\nby hand\n"));
        assert!(replace("# P", "new").is_err());
    }

    /// Checks the markers of the page: otherwise a missing one would be found only after a bench of half an hour.
    #[test]
    fn page_has_its_markers() {
        let page = std::fs::read_to_string(super::super::root().join(PAGE)).unwrap_or_default();
        assert!(replace(&page, "").is_ok());
    }

    /// Checks that each figure of the JSON is in the page's table, in the list of wins or losses, with the goal, and
    /// in the chart.
    #[test]
    fn page_and_charts_match_json() {
        let json = r#"[{"measure":"throughput","subject":"relay","peer":"testpmd-af_xdp","ratio_median":1.0625,
            "ratio_min":0.53,"ratio_max":1.37,"runs":5,"unit":"Mpps","better":"higher","value_median":0.8712,
            "value_min":0.81,"value_max":0.93,"peer_median":0.8199,"mode":"veth, copy mode","frame":64,"flows":256,
            "queues":1,"note":"a note","machine":"M","kernel":"6.18","build":"b","date":"d","command":"c"}]"#;
        let records: Vec<Record> = serde_json::from_str(json).unwrap_or_default();
        let page = figures(&records);
        let row = "| relay | testpmd-af_xdp | veth, copy mode | 64 | 256 | 1 | 0.87 (0.81-0.93) | 0.82 | 1.06 (0.53-1.37) | 5 | a note |";
        assert!(page.contains(row), "{page}");
        assert!(
            page.contains("- relay compared with testpmd-af_xdp, 64 B, 256 flows: **1.06** x (0.53-1.37)"),
            "{page}"
        );
        assert!(page.contains("at least 1 x | 1.06 x (0.53-1.37); 0.87 Mpps; ratios of 5 runs spread from 0.53 to 1.37 | inconclusive |"), "{page}");
        assert!(page.contains("[chart](bench/throughput.svg)"), "{page}");
        let charts = charts::all(&records);
        assert!(charts["throughput.svg"].contains(">1.06</text>"), "{charts:?}");
    }

    /// Checks that the committed JSON, page and charts come from one run.
    #[test]
    fn committed_page_matches_json() {
        let json = folder().join("bench.json");
        if !json.exists() {
            return;
        }
        let records = record::read_json(&json).unwrap_or_default();
        let page = std::fs::read_to_string(super::super::root().join(PAGE)).unwrap_or_default();
        assert!(replace(&page, &figures(&records)).is_ok_and(|made| made == page), "cargo xtask bench --docs {json:?}");
        for (name, picture) in charts::all(&records) {
            let kept = std::fs::read_to_string(folder().join(&name)).unwrap_or_default();
            assert!(kept == picture, "docs/bench/{name} does not match {json:?}");
        }
    }

    #[test]
    fn numbers_without_a_peer_have_no_ratio() {
        let record = Record::alone(Measure::lower("idle core", "%"), "engine-echo", &[1.0], &Shape::default());
        assert!(figures(&[record]).contains("| engine-echo |  |  |  |  |  | 1.00 (1.00-1.00) |  |  | 1 |  |"));
    }
}
