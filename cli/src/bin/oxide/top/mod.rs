//! Implements `oxide top`: shows a running relay. It uses only the control socket, so it needs no other privilege.

mod draw;
mod model;
#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use oxide::engine::RestartScope;
use oxide_cli::admin::protocol::ControlRequest;
use oxide_cli::admin::{Client, ClientError};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind};

use crate::ctl::{Where, code};
use draw::{KeyAction, Ui, draw, plain};
use model::Model;

/// Maximum wait for an answer of the relay.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Interval between the first two samples: rates are known after it.
const FIRST: Duration = Duration::from_millis(200);

#[derive(Args)]
pub(crate) struct TopCommand {
    #[command(flatten)]
    relay: Where,
    /// Print one sample and end.
    #[arg(long)]
    once: bool,
    /// Print JSON (with --once).
    #[arg(long, requires = "once")]
    json: bool,
    /// Seconds between two samples.
    #[arg(long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    interval: u64,
}

pub(crate) fn top(command: &TopCommand) -> Result<ExitCode, String> {
    let mut client = match Client::connect(&command.relay.path()) {
        Ok(client) => client,
        Err(error) => {
            errln!("oxide: {error}");
            return Ok(ExitCode::from(code(&error)));
        }
    };
    let interval = Duration::from_secs(command.interval);
    let mut model = Model::default();
    let looked = if command.once {
        once(&mut client, &mut model, interval, command.json)
    } else if std::io::stdout().is_terminal() {
        return screen(command, client, model, interval);
    } else {
        lines(&mut client, &mut model, interval)
    };
    match looked {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            errln!("oxide: {error}");
            Ok(ExitCode::from(code(&error)))
        }
    }
}

fn look(client: &mut Client, model: &mut Model) -> Result<(), ClientError> {
    let value = client.ask(&ControlRequest::Queues {}, ANSWER_WITHIN)?;
    // Another version may send other fields: only the common ones are shown.
    model.take(serde_json::from_value(value).unwrap_or_default());
    Ok(())
}

fn once(client: &mut Client, model: &mut Model, interval: Duration, json: bool) -> Result<(), ClientError> {
    look(client, model)?;
    sleep(interval);
    look(client, model)?;
    if json {
        outln!("{}", serde_json::to_string_pretty(model).unwrap_or_default());
    } else {
        out!("{}", plain(model));
    }
    Ok(())
}

fn lines(client: &mut Client, model: &mut Model, interval: Duration) -> Result<(), ClientError> {
    loop {
        look(client, model)?;
        out!("{}", plain(model));
        sleep(interval);
    }
}

fn screen(command: &TopCommand, client: Client, mut model: Model, interval: Duration) -> Result<ExitCode, String> {
    let mut terminal = ratatui::try_init().map_err(|e| format!("terminal: {e}"))?;
    let mut relay = Some(client);
    let mut ui = Ui::default();
    let mut next = Instant::now();
    let outcome = loop {
        if Instant::now() >= next {
            next = Instant::now() + if model.queues.is_empty() { FIRST } else { interval };
            refresh(command, &mut relay, &mut model, &mut ui);
        }
        if let Err(error) = terminal.draw(|frame| draw(frame, &model, &ui)) {
            break Err(format!("terminal: {error}"));
        }
        let key = match event::poll(next.saturating_duration_since(Instant::now()))
            .and_then(|there| there.then(event::read).transpose())
        {
            Ok(Some(Event::Key(key))) if key.kind == KeyEventKind::Press => key.code,
            Ok(_) => continue,
            Err(error) => break Err(format!("terminal: {error}")),
        };
        match press(key, &mut ui, model.queues.len()) {
            Press::Nothing => {}
            Press::Quit => break Ok(ExitCode::SUCCESS),
            Press::Do(wanted) => ui.said = carry_out(command, wanted, &model, ui.selected),
        }
    };
    ratatui::restore();
    outcome
}

/// Takes a sample. If the relay is gone, it connects again, and the last sample stays on the screen.
fn refresh(command: &TopCommand, relay: &mut Option<Client>, model: &mut Model, ui: &mut Ui) {
    if relay.is_none() {
        *relay = Client::connect(&command.relay.path()).ok();
    }
    let Some(client) = relay else { return };
    if let Err(error) = look(client, model) {
        ui.said = error.to_string();
        *relay = None;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Press {
    Nothing,
    Quit,
    Do(KeyAction),
}

/// Interprets a key. An action needs a second key as confirmation.
fn press(key: KeyCode, ui: &mut Ui, queues: usize) -> Press {
    if let Some(wanted) = ui.ask.take() {
        return if matches!(key, KeyCode::Char('y' | 'Y')) { Press::Do(wanted) } else { Press::Nothing };
    }
    match key {
        KeyCode::Char('q') | KeyCode::Esc => return Press::Quit,
        KeyCode::Up | KeyCode::Char('k') => ui.selected = ui.selected.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => ui.selected = (ui.selected + 1).min(queues.saturating_sub(1)),
        KeyCode::Char('r') => ui.ask = Some(KeyAction::Restart),
        KeyCode::Char('d') => ui.ask = Some(KeyAction::Drain),
        _ => ui.said.clear(),
    }
    Press::Nothing
}

/// Sends the command on a new connection: a drain may take long, and the screen continues.
fn carry_out(command: &TopCommand, wanted: KeyAction, model: &Model, selected: usize) -> String {
    let Some(queue) = model.queues.get(selected).and_then(|row| row.ports.first()).cloned() else {
        return "this queue has no port now".to_owned();
    };
    let path = command.relay.path();
    let ask = move |request: ControlRequest, within: Duration| Client::connect(&path)?.ask(&request, within);
    match wanted {
        KeyAction::Restart => match ask(ControlRequest::Restart { queue, depth: RestartScope::Queue }, ANSWER_WITHIN) {
            Ok(answer) => answer.as_str().unwrap_or_default().to_owned(),
            Err(error) => error.to_string(),
        },
        KeyAction::Drain => {
            let said = format!("{queue}: draining");
            // The table shows the end of the drain.
            std::thread::spawn(move || {
                ask(ControlRequest::Drain { queue: Some(queue), within_s: None }, Duration::from_secs(3700))
            });
            said
        }
    }
}
