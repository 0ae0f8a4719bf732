//! `docs/performance.md`: what stands between its two marks is made from a bench's JSON; the rest is written by hand.

use super::goals;
use super::record::{About, Record, short};
use crate::process::{Result, failed, io_error};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const PAGE: &str = "docs/performance.md";
const BEGIN: &str = "<!-- figures: made by `cargo xtask bench --docs FILE`; do not edit -->";
const END: &str = "<!-- end of figures -->";

/// Puts the figures of `records` into the page.
pub(super) fn write(records: &[Record]) -> Result<()> {
    let path = super::root().join(PAGE);
    let page = std::fs::read_to_string(&path).map_err(io_error(path.display()))?;
    let page = replace(&page, &figures(records))?;
    std::fs::write(&path, page).map_err(io_error(path.display()))?;
    println!("{PAGE} holds {} records", records.len());
    Ok(())
}

fn replace(page: &str, figures: &str) -> Result<String> {
    let parts = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        return failed(format!("{PAGE} lacks its marks, `{BEGIN}` and `{END}`"));
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
            "\nMachine: {machine}. Kernel: {kernel}. Driver and mode: as each line says. Build: {build}. Date: {date} UTC.\nCommand: `{command}`."
        );
    }
    text.push_str("\n### Goals\n\n| goal | figure | |\n|---|---|---|\n");
    for verdict in goals::verdicts(records) {
        let _ = writeln!(text, "| {} | {} | {} |", verdict.goal, verdict.figure, verdict.word());
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
                "- {} beside {}, {} B, {} flows: **{}** x ({}-{})",
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
    let _ = writeln!(
        text,
        "\n**{measure}** ({unit})\n\n| subject | peer | mode | frame | flows | queues | value (least-most) | peer's | ratio (least-most) | runs | |\n\
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
    use super::*;

    #[test]
    fn what_is_written_by_hand_stays() {
        let page = format!("# P\n{BEGIN}\nold\n{END}\n## Experiments\nby hand\n");
        let new = replace(&page, "new\n").unwrap_or_default();
        assert_eq!(new, format!("# P\n{BEGIN}\nnew\n{END}\n## Experiments\nby hand\n"));
        assert!(replace("# P", "new").is_err());
    }

    /// A page without its marks would be found out only after a bench of half an hour.
    #[test]
    fn the_page_has_its_marks() {
        let page = std::fs::read_to_string(super::super::root().join(PAGE)).unwrap_or_default();
        assert!(replace(&page, "").is_ok());
    }
}
