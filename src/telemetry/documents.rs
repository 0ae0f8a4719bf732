//! Generates the reference page and the Grafana dashboard from the registry.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::DropReason;
use super::metrics::{self, Kind, Metric};

/// Returns the content of `docs/metrics.md`.
#[must_use]
pub fn reference() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Served as Prometheus text at `/metrics` (see [operation.md](operation.md)). This page and the dashboard\n\
         `packaging/grafana/oxide.json` are made from the registry in `src/telemetry/metrics.rs`; a test fails when they are\n\
         stale, and `OXIDE_WRITE=1 cargo test --lib telemetry::documents` writes them again.\n\n\
         Units are base units, counters end in `_total`, and no label contains a client. `queue` is the queue's number, the same\n\
         on each of its interfaces. Counters survive the restart of a queue; they start at zero with the process.\n",
    );
    for section in sections() {
        let _ = write!(text, "\n## {section}\n| metric | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
        for metric in metrics::ALL.iter().filter(|m| m.section == section) {
            let labels = metric.labels.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {labels} | {} |",
                metric.name,
                metric.kind.name(),
                metric.unit,
                metric.help
            );
        }
    }
    text.push_str(
        "\n## Reasons of `oxide_drops_total`\nEach packet that is received, or taken over from another queue, is forwarded, handed over, \
         dropped for one of these\nreasons, or still in hand. No other case exists. `oxide ctl drops` prints these texts for the reasons that occurred;\n\
         `oxide top` does for the chosen queue. A reason marked *logged* is also a warning in the log, at most once a minute.\n\n\
         | reason | stage | meaning | likely cause | remedy |\n|---|---|---|---|---|\n",
    );
    for reason in DropReason::ALL {
        let logged = if reason.is_logged() { ", *logged*" } else { "" };
        let _ = writeln!(
            text,
            "| `{}` | {}{logged} | {} | {} | {} |",
            reason.name(),
            reason.stage(),
            reason.explanation(),
            reason.cause(),
            reason.remedy()
        );
    }
    let _ = write!(
        text,
        "\n## Events of the relay\nUnder `event` of `{}`.\n\n| event | meaning |\n|---|---|\n",
        metrics::HANDLER_EVENTS.name
    );
    for (name, meaning) in metrics::RELAY_EVENTS {
        let _ = writeln!(text, "| `{name}` | {meaning} |");
    }
    text.push_str(
        "\n## Alerts\n`packaging/prometheus/oxide.rules.yml` defines them, with a remedy for each; `oxide.rules.test.yml` states when \
         they fire.\n",
    );
    text
}

/// Returns the content of `packaging/grafana/oxide.json`: one panel for each metric, in a row for each section.
#[must_use]
pub fn dashboard() -> String {
    let mut panels = Vec::new();
    let mut y = 0;
    for section in sections() {
        panels.push(json!({
            "type": "row", "title": section, "collapsed": false, "id": panels.len() + 1,
            "gridPos": { "h": 1, "w": 24, "x": 0, "y": y }, "panels": [],
        }));
        y += 1;
        for (at, metric) in metrics::ALL.iter().filter(|m| m.section == section).enumerate() {
            let (x, row) = (at % 3 * 8, at / 3 * 8);
            panels.push(panel(metric, panels.len() + 1, x, y + row));
        }
        y += metrics::ALL.iter().filter(|m| m.section == section).count().div_ceil(3) * 8;
    }
    let dashboard = json!({
        "title": "OXIDE relay",
        "uid": "oxide-relay",
        "tags": ["oxide"],
        "schemaVersion": 39,
        "version": 1,
        "editable": true,
        "refresh": "10s",
        "time": { "from": "now-1h", "to": "now" },
        "templating": { "list": [
            { "name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source" },
            {
                "name": "instance", "type": "query", "label": "Node", "multi": true, "includeAll": true, "refresh": 2,
                "datasource": { "type": "prometheus", "uid": "${datasource}" },
                "query": format!("label_values({}, instance)", metrics::BUILD_INFO.name),
                "current": { "text": "All", "value": "$__all" },
            },
        ] },
        "panels": panels,
    });
    serde_json::to_string_pretty(&dashboard).unwrap_or_default() + "\n"
}

fn panel(metric: &Metric, id: usize, x: usize, y: usize) -> Value {
    let target = |reference: &str, expression: String, legend: String| {
        json!({ "refId": reference, "expr": expression, "legendFormat": legend,
                "datasource": { "type": "prometheus", "uid": "${datasource}" } })
    };
    let of = |suffix: &str| format!("{}{suffix}{{instance=~\"$instance\"}}", metric.name);
    let legend = metric.labels.iter().fold("{{instance}}".to_owned(), |text, label| text + " {{" + label + "}}");
    let by = ["instance"].iter().chain(metric.labels).copied().collect::<Vec<_>>().join(", ");
    let targets = match metric.kind {
        Kind::Counter => vec![target("A", format!("sum by ({by}) (rate({}[$__rate_interval]))", of("")), legend)],
        Kind::Gauge => vec![target("A", of(""), legend)],
        Kind::Histogram => ["0.5", "0.99"]
            .iter()
            .zip(["A", "B"])
            .map(|(q, reference)| {
                let rate = format!("sum by ({by}, le) (rate({}[$__rate_interval]))", of("_bucket"));
                target(reference, format!("histogram_quantile({q}, {rate})"), format!("{legend} p{}", &q[2..]))
            })
            .collect(),
    };
    let unit = match (metric.kind, metric.unit) {
        (Kind::Counter, "packets") => "pps",
        (Kind::Counter, "bytes") => "Bps",
        // The rate of seconds per second is a ratio.
        (Kind::Counter, "seconds") | (_, "ratio") => "percentunit",
        (Kind::Counter, _) => "ops",
        (_, "bytes") => "bytes",
        (_, "seconds") => "s",
        _ => "short",
    };
    json!({
        "type": "timeseries", "id": id, "title": metric.name, "description": metric.help,
        "datasource": { "type": "prometheus", "uid": "${datasource}" },
        "gridPos": { "h": 8, "w": 8, "x": x, "y": y },
        "fieldConfig": { "defaults": { "unit": unit, "min": 0 }, "overrides": [] },
        "targets": targets,
    })
}

fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = metrics::ALL.iter().map(|m| m.section).collect();
    sections.dedup();
    sections
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn is_true(path: &str, made: &str) {
        let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("OXIDE_WRITE").is_some() {
            std::fs::write(&path, made).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == made, "{path} is stale: OXIDE_WRITE=1 cargo test --lib telemetry::documents");
    }

    #[test]
    fn reference_page_matches_registry() {
        is_true("docs/metrics.md", &reference());
    }

    /// Checks that alerts use only metrics and labels that exist.
    #[test]
    fn alerts_name_only_registered_metrics() {
        let rules = include_str!("../../packaging/prometheus/oxide.rules.yml");
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let names: std::collections::BTreeSet<_> = rules.split(word).filter(|w| w.starts_with("oxide_")).collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(metrics::ALL.iter().any(|metric| metric.name == name), "{name}");
        }
        for label in rules.split("$labels.").skip(1).map(|rest| rest.split(word).next().unwrap()) {
            let there = metrics::ALL.iter().any(|metric| metric.labels.contains(&label)) || label == "instance";
            assert!(there, "{label}");
        }
    }

    /// Checks the alerts with `promtool`, if Prometheus is installed.
    #[test]
    fn promtool_accepts_alerts() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/prometheus");
        for arguments in [["check", "rules", "oxide.rules.yml"], ["test", "rules", "oxide.rules.test.yml"]] {
            let output = std::process::Command::new("promtool").args(arguments).current_dir(directory).output();
            let Ok(output) = output else { return };
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }

    #[test]
    fn dashboard_matches_registry() {
        is_true("packaging/grafana/oxide.json", &dashboard());
        let board: Value = serde_json::from_str(&dashboard()).unwrap();
        let panels = board["panels"].as_array().unwrap();
        for metric in metrics::ALL {
            assert_eq!(panels.iter().filter(|p| p["title"] == metric.name).count(), 1, "{}", metric.name);
        }
        let ids: std::collections::HashSet<_> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "ids are unique");
    }
}
