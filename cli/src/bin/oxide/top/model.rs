//! Holds the data of `oxide top`: the last view, rates since the previous one, and a minute of history.

use std::collections::{BTreeMap, VecDeque};

use oxide::engine::{EngineState, QueueState};
use oxide::telemetry::quantile;
use oxide_cli::admin::{NodeView, QueueView};
use serde::Serialize;

/// Number of history samples kept for each queue.
const HISTORY: usize = 60;

/// Holds the displayed values of a queue. An unknown value is `None`, never zero.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Row {
    pub(super) queue: u32,
    pub(super) ports: Vec<String>,
    pub(super) state: QueueState,
    pub(super) stalled: bool,
    /// Ports that an operator paused.
    pub(super) paused: Vec<String>,
    pub(super) cpu: Option<u32>,
    pub(super) modes: Vec<String>,
    pub(super) rx_pps: Option<f64>,
    pub(super) tx_pps: Option<f64>,
    pub(super) rx_bps: Option<f64>,
    pub(super) drops_ps: Option<f64>,
    pub(super) missed_ps: Option<f64>,
    /// Number of dropped packets since the start, by reason.
    pub(super) drops: BTreeMap<String, u64>,
    pub(super) rings: BTreeMap<String, f64>,
    /// Shares of the time since the last sample, 0 to 1.
    pub(super) regimes: BTreeMap<String, f64>,
    pub(super) batch: Option<f64>,
    pub(super) turn_p50_ns: Option<f64>,
    pub(super) turn_p99_ns: Option<f64>,
    pub(super) sessions: u64,
    pub(super) restarts: u32,
    pub(super) last_gap_ms: Option<f64>,
    pub(super) heartbeat_age_s: Option<f64>,
    pub(super) last_event: String,
    #[serde(skip)]
    pub(super) history: VecDeque<u64>,
}

/// Holds the displayed values of the relay.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Model {
    pub(super) version: String,
    /// State of the engine; `None` before the first answer.
    pub(super) state: Option<EngineState>,
    pub(super) uptime_s: f64,
    pub(super) queues: Vec<Row>,
    pub(super) notices: Vec<String>,
    #[serde(skip)]
    last: Option<NodeView>,
}

impl Model {
    /// Stores a new view and computes the rates.
    pub(super) fn take(&mut self, view: NodeView) {
        // The interval is measured by the engine's clock, so that delays of the network and of this process do not
        // count.
        let seconds = self.last.as_ref().map(|last| view.uptime_s - last.uptime_s).filter(|s| *s > 0.0);
        let rows = view.queues.iter().map(|queue| {
            let before = self.last.as_ref().and_then(|last| last.queues.iter().find(|q| q.queue == queue.queue));
            let mut history = self
                .queues
                .iter()
                .find(|row| row.queue == queue.queue)
                .map(|row| row.history.clone())
                .unwrap_or_default();
            let mut row = row(queue, before.zip(seconds));
            if let Some(pps) = row.rx_pps {
                history.push_back(pps as u64);
            }
            while history.len() > HISTORY {
                history.pop_front();
            }
            row.history = history;
            row
        });
        let rows = rows.collect();
        (self.version, self.state, self.uptime_s) = (view.version.clone(), Some(view.state), view.uptime_s);
        self.notices.clone_from(&view.notices);
        (self.queues, self.last) = (rows, Some(view));
    }
}

fn row(now: &QueueView, before: Option<(&QueueView, f64)>) -> Row {
    let rate = |of: fn(&QueueView) -> u64| before.map(|(b, s)| of(now).saturating_sub(of(b)) as f64 / s);
    let since = |of: fn(&QueueView) -> u64| of(now) - before.map_or(0, |(b, _)| of(b)).min(of(now));
    let (batches, batched) = (since(|q| q.batches), since(|q| q.batched));
    let earlier = |i: usize| before.and_then(|(b, _)| b.turns.get(i)).copied().unwrap_or(0);
    let turns: Vec<u64> = now.turns.iter().enumerate().map(|(i, n)| n.saturating_sub(earlier(i))).collect();
    let spent = |name: &str| {
        let then = before.and_then(|(b, _)| b.regimes.get(name)).copied().unwrap_or(0);
        now.regimes.get(name).copied().unwrap_or(0).saturating_sub(then) as f64
    };
    let all: f64 = now.regimes.keys().map(|name| spent(name)).sum::<f64>().max(1.0);
    Row {
        queue: now.queue,
        ports: now.ports.clone(),
        state: now.state,
        stalled: now.stalled,
        paused: now.paused.clone(),
        cpu: now.cpu,
        modes: now.modes.clone(),
        rx_pps: rate(|q| q.rx_packets),
        tx_pps: rate(|q| q.tx_packets),
        rx_bps: rate(|q| q.rx_bytes).map(|bytes| bytes * 8.0),
        drops_ps: rate(QueueView::dropped),
        missed_ps: rate(|q| q.rx_missed),
        drops: now.drops.clone(),
        rings: now.rings.clone(),
        regimes: now.regimes.keys().map(|name| (name.clone(), spent(name) / all)).collect(),
        batch: (batches > 0).then(|| batched as f64 / batches as f64),
        turn_p50_ns: quantile(&turns, 0.5),
        turn_p99_ns: quantile(&turns, 0.99),
        sessions: now.sessions,
        restarts: now.restarts,
        last_gap_ms: now.last_gap_ms,
        heartbeat_age_s: now.heartbeat_age_s,
        last_event: now.last_event.clone(),
        history: VecDeque::new(),
    }
}

/// Formats a number in at most six characters; `-` if it is unknown.
pub(super) fn short(value: Option<f64>) -> String {
    scaled(value, &[("", 0), ("k", 1), ("M", 1), ("G", 1), ("T", 1)])
}

/// Formats a time in at most seven characters.
pub(super) fn time(ns: Option<f64>) -> String {
    scaled(ns, &[("ns", 0), ("us", 1), ("ms", 1), ("s", 1)])
}

/// Formats a value with the first unit that needs less than four digits after rounding. Each unit is a thousand times
/// the previous one.
fn scaled(value: Option<f64>, units: &[(&str, usize)]) -> String {
    let Some(mut value) = value else { return "-".to_owned() };
    let mut text = String::new();
    for (unit, digits) in units {
        text = format!("{value:.digits$}{unit}");
        if value < 1000.0 - 0.5 / 10_f64.powi(*digits as i32) {
            break;
        }
        value /= 1000.0;
    }
    text
}

/// Formats a share as percent.
pub(super) fn percent(share: Option<&f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", share * 100.0))
}
