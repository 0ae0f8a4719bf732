//! Explains the packets that a relay dropped: for `oxide ctl drops` and `oxide top`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use oxide::telemetry::DropReason;
use oxide_cli::admin::NodeView;
use serde_json::json;

/// Prints the packets that `view` dropped, summed over all queues, most frequent reason first. With `only` it prints
/// this reason alone.
pub(crate) fn show(view: &NodeView, only: Option<&str>, json: bool) {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, count) in view.queues.iter().flat_map(|queue| &queue.drops) {
        *counts.entry(reason).or_default() += count;
    }
    let chosen = chosen(&counts, only);
    if json {
        let one = |(name, count): &(&str, u64)| match DropReason::by_name(name) {
            Some(reason) => json!({
                "reason": name, "dropped": count, "stage": reason.stage(), "meaning": reason.explanation(),
                "cause": reason.cause(), "remedy": reason.remedy(),
            }),
            None => json!({ "reason": name, "dropped": count }),
        };
        outln!("{:#}", json!(chosen.iter().map(one).collect::<Vec<_>>()));
    } else if chosen.is_empty() {
        outln!("no packets were dropped");
    } else {
        out!("{}", chosen.iter().map(|(name, count)| paragraph(name, *count)).collect::<String>());
    }
}

fn chosen<'a>(counts: &BTreeMap<&'a str, u64>, only: Option<&'a str>) -> Vec<(&'a str, u64)> {
    if let Some(name) = only {
        return vec![(name, counts.get(name).copied().unwrap_or(0))];
    }
    let mut all: Vec<_> = counts.iter().map(|(name, count)| (*name, *count)).collect();
    all.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
    all
}

fn paragraph(name: &str, count: u64) -> String {
    let mut text = format!("{name}: {count} packets dropped\n");
    match DropReason::by_name(name) {
        Some(reason) => {
            let _ = writeln!(text, "  meaning: {}", reason.explanation());
            let _ = writeln!(text, "  likely cause: {}", reason.cause());
            let _ = writeln!(text, "  remedy: {}", reason.remedy());
        }
        None => text.push_str("  unknown to this version of `oxide`; see docs/metrics.md of the relay's version\n"),
    }
    text
}

/// Explains the most frequent of `drops` in one line, for `oxide top`. Returns an empty text if nothing was dropped.
pub(crate) fn most_frequent(drops: &BTreeMap<String, u64>) -> String {
    let most = drops.iter().max_by_key(|(_, count)| **count).and_then(|(name, _)| DropReason::by_name(name));
    most.map_or_else(String::new, |reason| {
        format!("{}: {} {} Remedy: {}", reason.name(), reason.explanation(), reason.cause(), reason.remedy())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_packets_are_explained_most_frequent_first() {
        let counts = BTreeMap::from([("wrong_peer", 3), ("tx_full", 7), ("of_tomorrow", 1)]);
        assert_eq!(chosen(&counts, None), [("tx_full", 7), ("wrong_peer", 3), ("of_tomorrow", 1)]);
        assert_eq!(chosen(&counts, Some("no_route")), [("no_route", 0)]);
        let text = paragraph("wrong_peer", 3);
        let reason = DropReason::WrongPeer;
        for part in ["wrong_peer: 3 ", reason.explanation(), reason.cause(), reason.remedy()] {
            assert!(text.contains(part), "{text}");
        }
        assert!(paragraph("of_tomorrow", 1).contains("unknown"));
        let drops = BTreeMap::from([("no_route".to_owned(), 1), ("wrong_peer".to_owned(), 2)]);
        assert!(most_frequent(&drops).starts_with("wrong_peer: "));
        assert_eq!(most_frequent(&BTreeMap::new()), "");
    }
}
