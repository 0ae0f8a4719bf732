//! Draws the screen of `oxide top`.

use oxide::engine::{EngineState, QueueState};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row as Cells, Sparkline, Table, TableState, Wrap};

use super::model::{Model, Row, percent, short, time};
use crate::drops::most_frequent;

/// Holds the state of the user interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ui {
    pub(super) selected: usize,
    /// Action that waits for its confirmation.
    pub(super) ask: Option<KeyAction>,
    /// Result of the last command, or the reason why the relay does not answer.
    pub(super) said: String,
}

/// Lists the actions that a key can request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyAction {
    Restart,
    Drain,
}

/// Name, width and priority of each column. On a narrow screen columns with a high number are omitted: at 80 columns
/// those above 4.
pub(super) const COLUMNS: [(&str, u16, u8); 17] = [
    ("queue", 5, 0),
    ("state", 10, 0),
    ("cpu", 4, 2),
    ("mode", 9, 5),
    ("rx/s", 6, 0),
    ("tx/s", 6, 0),
    ("bit/s", 6, 6),
    ("drop/s", 6, 0),
    ("miss/s", 6, 1),
    ("fill", 4, 3),
    ("rx", 4, 4),
    ("tx", 4, 6),
    ("busy", 4, 1),
    ("batch", 5, 7),
    ("p50", 7, 7),
    ("p99", 7, 4),
    ("rst", 4, 1),
];
const KEYS: &str = "up/down choose   r restart   d drain   q quit";

/// Returns whether to use colours. A non-empty `NO_COLOR` disables them (no-color.org).
pub(super) fn coloured() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, ui: &Ui) {
    // Title, regimes, drops, event and keys take nine lines. The queues have priority over the history.
    let rows = u16::try_from(model.queues.len()).unwrap_or(u16::MAX).saturating_add(1);
    let room = frame.area().height.saturating_sub(9);
    let rows = rows.min(room.saturating_sub(3)).max(rows.min(6));
    let [head, table, spark, regimes, drops, event, _, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(rows),
        Constraint::Length(room.saturating_sub(rows).clamp(3, 12)),
        Constraint::Length(1),
        Constraint::Length(4),
        Constraint::Length(2),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let notice = model.notices.first().map_or_else(String::new, |first| {
        let more =
            if model.notices.len() > 1 { format!(" (and {} more)", model.notices.len() - 1) } else { String::new() };
        format!("  {first}{more}")
    });
    let title = format!("oxide {}  {}  up {}{notice}", model.version, state_of(model), age(model.uptime_s));
    let colour = if model.state == Some(EngineState::Running) { Color::Green } else { Color::Yellow };
    frame.render_widget(Line::styled(title, bold(colour)), head);

    let shown = columns(table.width);
    let pick = |all: [String; 17]| all.into_iter().enumerate().filter(|(at, _)| shown[*at]).map(|(_, text)| text);
    let rows = model.queues.iter().map(|row| {
        // Numbers are right-aligned.
        let cells = pick(cells(row))
            .enumerate()
            .map(|(at, text)| if at < 2 { Line::raw(text) } else { Line::raw(text).right_aligned() });
        Cells::new(cells.collect::<Vec<_>>()).style(coloured_style(state_colour(row)))
    });
    let widths =
        COLUMNS.iter().zip(shown).filter(|(_, shown)| *shown).map(|((_, width, _), _)| Constraint::Length(*width));
    let names = pick(COLUMNS.map(|(name, ..)| name.to_owned()));
    let names =
        names.enumerate().map(|(at, text)| if at < 2 { Line::raw(text) } else { Line::raw(text).right_aligned() });
    let list = Table::new(rows, widths)
        .header(Cells::new(names.collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(Some(ui.selected));
    frame.render_stateful_widget(list, table, &mut state);

    if let Some(row) = model.queues.get(ui.selected) {
        let title = format!("queue {}: packets received per second, last minute", row.queue);
        let history: Vec<u64> = row.history.iter().copied().collect();
        frame.render_widget(Sparkline::default().block(Block::bordered().title(title)).data(&history), spark);
        frame.render_widget(regime_line(row), regimes);
        let why = vec![drop_line(row), Line::raw(most_frequent(&row.drops))];
        frame.render_widget(Paragraph::new(why).wrap(Wrap { trim: true }), drops);
        let beat = row.heartbeat_age_s.map_or_else(|| "-".to_owned(), |s| format!("{s:.2} s"));
        let text = format!("heartbeat {beat}  sessions {}  {}", row.sessions, row.last_event);
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), event);
    }
    frame.render_widget(foot_line(model, ui), foot);
}

fn foot_line(model: &Model, ui: &Ui) -> Line<'static> {
    let queue = model.queues.get(ui.selected).map(|row| row.queue).unwrap_or_default();
    match ui.ask {
        Some(KeyAction::Restart) => {
            Line::styled(format!("restart queue {queue}? y: yes, any other key: no"), bold(Color::Yellow))
        }
        Some(KeyAction::Drain) => {
            let text = format!("drain queue {queue}? Its sessions end, then it stops. y: yes, any other key: no");
            Line::styled(text, bold(Color::Yellow))
        }
        None if ui.said.is_empty() => Line::raw(KEYS),
        None => Line::raw(ui.said.clone()),
    }
}

/// Returns which columns fit `width`, by priority.
pub(super) fn columns(width: u16) -> [bool; 17] {
    let fits = |most: u8| {
        let chosen = COLUMNS.iter().filter(|(.., order)| *order <= most);
        chosen.map(|(_, width, _)| width + 1).sum::<u16>() <= width + 1
    };
    let most = (0..=7).rev().find(|most| fits(*most)).unwrap_or(0);
    COLUMNS.map(|(.., order)| order <= most)
}

/// Formats a time with at most two units.
fn age(seconds: f64) -> String {
    let s = seconds as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

fn cells(row: &Row) -> [String; 17] {
    let ring = |name: &str| percent(row.rings.get(name));
    [
        row.queue.to_string(),
        match (row.stalled, row.paused.is_empty()) {
            (true, _) => "stalled",
            (false, false) if row.state == QueueState::Running => "paused",
            _ => row.state.name(),
        }
        .to_owned(),
        row.cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string()),
        match row.modes.as_slice() {
            [] => "-".to_owned(),
            [one] => one.clone(),
            _ => "mixed".to_owned(),
        },
        short(row.rx_pps),
        short(row.tx_pps),
        short(row.rx_bps),
        short(row.drops_ps),
        short(row.missed_ps),
        ring("fill"),
        ring("rx"),
        ring("tx"),
        percent(row.regimes.get("busy")),
        row.batch.map_or_else(|| "-".to_owned(), |batch| format!("{batch:.1}")),
        time(row.turn_p50_ns),
        time(row.turn_p99_ns),
        row.restarts.to_string(),
    ]
}

fn regime_line(row: &Row) -> Line<'static> {
    let names = ["busy", "backpressure", "spin", "sleep", "control", "down"];
    let shares = names.map(|name| format!("{name} {}", percent(row.regimes.get(name))));
    Line::raw(format!("time: {}", shares.join("  ")))
}

fn drop_line(row: &Row) -> Line<'static> {
    if row.drops.is_empty() {
        return Line::raw("drops since start: none");
    }
    let reasons = row.drops.iter().map(|(reason, n)| format!("{reason} {}", short(Some(*n as f64))));
    let text = reasons.collect::<Vec<_>>().join("  ");
    Line::from(vec![Span::raw("drops since start: "), Span::styled(text, coloured_style(Color::Red))])
}

/// Formats one line for each queue, for output that is not a terminal.
pub(super) fn plain(model: &Model) -> String {
    let mut text = format!("oxide {} {}, up {:.0} s\n", model.version, state_of(model), model.uptime_s);
    let line = |cells: &[String]| {
        cells.iter().map(|cell| format!("{cell:<9}")).collect::<String>().trim_end().to_owned() + "\n"
    };
    text += &line(&COLUMNS.map(|(name, ..)| name.to_owned()));
    model.queues.iter().for_each(|row| text += &line(&cells(row)));
    model.notices.iter().for_each(|notice| text += &format!("notice: {notice}\n"));
    text
}

fn state_of(model: &Model) -> &'static str {
    model.state.map_or("", EngineState::name)
}

fn state_colour(row: &Row) -> Color {
    match row.state {
        _ if row.stalled => Color::Red,
        QueueState::Running => Color::Green,
        QueueState::Failed | QueueState::Stopped => Color::Red,
        _ => Color::Yellow,
    }
}

fn coloured_style(colour: Color) -> Style {
    if coloured() { Style::new().fg(colour) } else { Style::new() }
}

fn bold(colour: Color) -> Style {
    coloured_style(colour).add_modifier(Modifier::BOLD)
}
