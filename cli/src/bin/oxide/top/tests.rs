#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use oxide::engine::{EngineState, QueueState};
use oxide_cli::admin::{NodeView, QueueView};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::draw::{COLUMNS, columns};
use super::*;

fn view(second: u64) -> NodeView {
    let queue = |queue: u32| QueueView {
        queue,
        ports: vec![format!("eth0:{queue}"), format!("eth1:{queue}")],
        state: if queue == 0 { QueueState::Running } else { QueueState::Waiting },
        last_event: "opened".to_owned(),
        cpu: Some(queue + 2),
        modes: vec!["copy".to_owned()],
        rx_packets: second * 1_250_000,
        rx_bytes: second * 1_250_000 * 100,
        tx_packets: second * 1_249_000,
        drops: BTreeMap::from([("no_session".to_owned(), second * 700), ("tx_full".to_owned(), second * 300)]),
        rings: BTreeMap::from([("fill".to_owned(), 0.9), ("rx".to_owned(), 0.25), ("tx".to_owned(), 0.5)]),
        regimes: BTreeMap::from([
            ("busy".to_owned(), second * 600_000_000),
            ("sleep".to_owned(), second * 400_000_000),
        ]),
        batches: second * 50_000,
        batched: second * 1_250_000,
        turns: (0..32).map(|i| if i == 13 { second * 50_000 } else { 0 }).collect(),
        restarts: queue,
        heartbeat_age_s: Some(0.04),
        sessions: 12,
        ..QueueView::default()
    };
    NodeView {
        version: "0.1.0".into(),
        state: EngineState::Degraded,
        uptime_s: second as f64,
        queues: (0..2).map(queue).collect(),
        ..NodeView::default()
    }
}

fn screen(model: &Model, ui: &Ui) -> String {
    sized(132, 18, model, ui)
}

fn sized(width: u16, height: u16, model: &Model, ui: &Ui) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, ui)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn screen_shows_rates_shares_and_reasons() {
    let mut model = Model::default();
    model.take(view(10));
    let first = screen(&model, &Ui::default());
    let line = first.lines().find(|l| l.contains("running")).unwrap();
    assert!(line.contains(" - "), "an unknown value is a dash, not a zero: {first}");
    model.take(view(11));
    let text = screen(&model, &Ui::default());
    println!("{text}");
    for wanted in [
        "degraded",
        "1.2M",
        "1.0G",
        "1.0k",
        "90%",
        "25%",
        "60%",
        "25.0",
        "us",
        "no_session 7.7k",
        "No relay entry and no session matches this packet.",
        "busy 60%",
        "sleep 40%",
        "q quit",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let plain = plain(&model);
    assert!(plain.lines().count() == 4 && plain.contains("waiting"), "{plain}");
    let json = serde_json::to_value(&model).unwrap();
    assert_eq!(json["queues"][0]["rx_pps"], 1_250_000.0, "{json:#}");
}

#[test]
fn small_and_empty_screens_are_drawn() {
    let mut model = Model::default();
    for (width, height) in [(1, 1), (20, 3), (80, 24), (300, 100)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, &model, &Ui::default())).unwrap();
        model.take(view(1));
        terminal.draw(|frame| draw(frame, &model, &Ui { selected: 9, ..Ui::default() })).unwrap();
    }
}

#[test]
fn command_needs_confirmation() {
    let mut ui = Ui::default();
    let key = |c: char, ui: &mut Ui| press(KeyCode::Char(c), ui, 2);
    assert_eq!(key('r', &mut ui), Press::Nothing);
    assert_eq!(ui.ask, Some(KeyAction::Restart));
    assert_eq!(key('n', &mut ui), Press::Nothing);
    assert_eq!(key('y', &mut ui), Press::Nothing, "the question was answered with no");
    key('d', &mut ui);
    let mut model = Model::default();
    model.take(view(1));
    assert!(screen(&model, &ui).contains("drain queue 0"), "{}", screen(&model, &ui));
    assert_eq!(key('y', &mut ui), Press::Do(KeyAction::Drain));
    key('j', &mut ui);
    key('j', &mut ui);
    assert_eq!(ui.selected, 1);
    assert_eq!(key('q', &mut ui), Press::Quit);
}

/// Checks that eight queues fit the smallest terminal, and that no column is cut.
#[test]
fn eight_queues_fit_eighty_columns() {
    let mut model = Model::default();
    for second in [10, 11] {
        let mut node = view(second);
        node.queues = (0..8).map(|queue| QueueView { queue, ..node.queues[(queue % 2) as usize].clone() }).collect();
        model.take(node);
    }
    let text = sized(80, 24, &model, &Ui { selected: 7, ..Ui::default() });
    for wanted in ["queue state", "drop/s", "miss/s", "busy", "p99", "rst", "queue 7:", "heartbeat", "opened", "q quit"]
    {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert_eq!(text.lines().filter(|l| l.contains("running") || l.contains("waiting")).count(), 8, "{text}");
    let wide = sized(200, 60, &model, &Ui::default());
    assert!(COLUMNS.iter().all(|(name, ..)| wide.contains(name)), "{wide}");
    assert_eq!(columns(20).iter().filter(|shown| **shown).count(), 5, "columns of high priority are omitted last");
}

#[test]
fn numbers_are_as_short_as_their_columns() {
    for value in [0.0, 7.4, 999.4, 999.6, 999_949.0, 999_951.0, 123_456_789.0, 9.99e12] {
        let (number, time) = (model::short(Some(value)), model::time(Some(value)));
        assert!(number.len() <= 6 && time.len() <= 7, "{value}: {number} {time}");
    }
    assert_eq!((model::short(Some(999.6)), model::short(None)), ("1.0k".to_owned(), "-".to_owned()));
}

#[test]
fn paused_port_and_notices_are_shown() {
    let mut model = Model::default();
    let mut seen = view(10);
    seen.queues[1].state = QueueState::Running;
    seen.queues[1].paused = vec!["eth0:1".into()];
    seen.notices = vec!["eth0:1 is paused".into(), "link of eth1 is down".into()];
    model.take(seen);
    let text = screen(&model, &Ui::default());
    assert!(text.contains("paused   ") && text.contains("eth0:1 is paused (and 1 more)"), "{text}");
    let text = plain(&model);
    assert!(text.contains("notice: link of eth1 is down"), "{text}");
}
