//! Implements `oxide ctl`: queries and commands a running relay over its control socket.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use oxide::engine::RestartScope;
use oxide::telemetry::DropReason;
use oxide_cli::admin::protocol::{ControlErrorKind, ControlRequest};
use oxide_cli::admin::{Client, ClientError, NodeView, default_socket};
use serde_json::Value;

use crate::drops;

/// Selects a running relay, for `ctl` and `top`.
#[derive(Args)]
pub(crate) struct Where {
    /// Control socket of the relay.
    #[arg(long, value_name = "PATH", conflicts_with = "name", global = true)]
    socket: Option<PathBuf>,
    /// Name of the relay: that of its configuration file, without `.toml`. Needed if several relays run.
    #[arg(long, value_name = "NAME", global = true)]
    name: Option<String>,
}

impl Where {
    /// Returns the path of the socket. Without a name it is the only socket that exists, if there is exactly one.
    pub(crate) fn path(&self) -> PathBuf {
        if let Some(path) = &self.socket {
            return path.clone();
        }
        let usual = default_socket(self.name.as_deref().unwrap_or("relay"));
        if self.name.is_some() || usual.exists() {
            return usual;
        }
        let there = usual.parent().and_then(|dir| std::fs::read_dir(dir).ok());
        let mut sockets = there
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "sock"));
        match (sockets.next(), sockets.next()) {
            (Some(only), None) => only,
            _ => usual,
        }
    }
}

#[derive(Args)]
pub(crate) struct CtlCommand {
    #[command(flatten)]
    relay: Where,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Seconds to wait for an answer. The wait for a drain is longer by the time limit of the drain.
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Print the full status of the engine as JSON.
    Status,
    /// Print a line for each queue.
    Queues,
    /// Print why packets were dropped: each reason that occurred, what it means, its likely cause and the remedy.
    Drops {
        /// Print only this reason, such as wrong_peer, even if it did not occur.
        reason: Option<String>,
    },
    /// List the sessions of one queue, or of each queue.
    Sessions {
        /// Queue as interface:queue.
        queue: Option<String>,
        /// Maximum number of sessions.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Restart a queue or a part of it. The other queues continue.
    Restart {
        /// Queue as interface:queue.
        queue: String,
        /// Scope of the restart: the handler (sessions are kept, sockets and memory stay), the port (the socket of
        /// this interface), or the queue (the actor with memory, sockets and handler).
        #[arg(long, value_parser = scopes(), default_value_t = RestartScope::Queue)]
        depth: RestartScope,
    },
    /// Stop the reception of new packets on a queue until it is resumed.
    Pause {
        /// Queue as interface:queue.
        queue: String,
    },
    /// Resume the reception on a paused queue.
    Resume {
        /// Queue as interface:queue.
        queue: String,
    },
    /// Start no new sessions, serve the existing ones for a while, then stop one queue or the whole relay.
    Drain {
        /// Queue as interface:queue. Without it the whole relay drains and ends.
        queue: Option<String>,
        /// Time limit for existing sessions in seconds [default: sessions.drain_s].
        #[arg(long, value_parser = clap::value_parser!(u32).range(0..=3600))]
        within: Option<u32>,
    },
    /// Print the log filter. With a filter, set it first.
    Log {
        /// The level error, warn, info, debug or trace, or a filter such as `oxide=debug`.
        filter: Option<String>,
    },
    /// Read the configuration file again, apply the changes that need no restart, and list those that do.
    Reload,
    /// Print the plan in use.
    Plan,
    /// Print the configuration in use.
    Config,
    /// Print the metrics as Prometheus text.
    Metrics,
}

/// Parses the name of a restart scope.
fn scopes() -> impl TypedValueParser<Value = RestartScope> {
    let names = PossibleValuesParser::new(RestartScope::ALL.map(RestartScope::name));
    names.map(|name| RestartScope::ALL.into_iter().find(|scope| scope.name() == name).unwrap_or(RestartScope::Queue))
}

impl What {
    fn request(&self) -> ControlRequest {
        match self {
            Self::Status => ControlRequest::Status {},
            Self::Queues | Self::Drops { .. } => ControlRequest::Queues {},
            Self::Sessions { queue, limit } => ControlRequest::Sessions { queue: queue.clone(), limit: Some(*limit) },
            Self::Restart { queue, depth } => ControlRequest::Restart { queue: queue.clone(), depth: *depth },
            Self::Pause { queue } => ControlRequest::Pause { queue: queue.clone() },
            Self::Resume { queue } => ControlRequest::Resume { queue: queue.clone() },
            Self::Drain { queue, within } => ControlRequest::Drain { queue: queue.clone(), within_s: *within },
            Self::Log { filter } => ControlRequest::Log { filter: filter.clone() },
            Self::Reload => ControlRequest::Reload {},
            Self::Plan => ControlRequest::Plan {},
            Self::Config => ControlRequest::Config {},
            Self::Metrics => ControlRequest::Metrics {},
        }
    }
}

pub(crate) fn ctl(command: &CtlCommand) -> ExitCode {
    if let What::Drops { reason: Some(name) } = &command.what
        && DropReason::by_name(name).is_none()
    {
        let known = DropReason::ALL.iter().map(|reason| reason.name()).collect::<Vec<_>>().join(", ");
        errln!("oxide: drop reason {name}: unknown; expected one of {known}");
        return ExitCode::from(2);
    }
    let patience = match &command.what {
        What::Drain { within, .. } => u64::from(within.unwrap_or(3600)) + command.wait,
        _ => command.wait,
    };
    let request = command.what.request();
    let path = command.relay.path();
    let answer = Client::connect(&path).and_then(|mut client| client.ask(&request, Duration::from_secs(patience)));
    match answer {
        Ok(value) => {
            show(&command.what, command.json, &value);
            ExitCode::SUCCESS
        }
        Err(error) => {
            errln!("oxide: {error}");
            ExitCode::from(code(&error))
        }
    }
}

/// Returns the exit code: 1 refused, 2 invalid request, 3 no relay, 4 busy or no answer.
pub(crate) fn code(error: &ClientError) -> u8 {
    match error {
        ClientError::NoRelay { .. } => 3,
        ClientError::Control(error) => match error.code {
            ControlErrorKind::Refused => 1,
            ControlErrorKind::BadRequest => 2,
            _ => 4,
        },
        _ => 4,
    }
}

fn show(what: &What, json: bool, value: &Value) {
    let view = serde_json::from_value::<NodeView>(value.clone());
    if let (What::Drops { reason }, Ok(view)) = (what, &view) {
        drops::show(view, reason.as_deref(), json);
        return;
    }
    if json {
        outln!("{value:#}");
        return;
    }
    match (what, view, value) {
        (What::Queues, Ok(view), _) => out!("{}", view.table()),
        (What::Sessions { .. }, _, Value::Array(sessions)) => {
            sessions.iter().for_each(|session| outln!("{}", line(session)))
        }
        (What::Reload, ..) => {
            let lines = value.get("text").and_then(Value::as_array).cloned().unwrap_or_default();
            lines.iter().filter_map(Value::as_str).for_each(|line| outln!("{line}"));
        }
        (What::Metrics, _, Value::String(text)) => out!("{text}"),
        (_, _, Value::String(text)) => outln!("{text}"),
        _ => outln!("{value:#}"),
    }
}

fn line(session: &Value) -> String {
    let of = |name: &str| {
        session.get(name).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).unwrap_or_default()
    };
    let idle = session.get("idle").and_then(|idle| idle.get("secs")).and_then(Value::as_u64).unwrap_or(0);
    let [queue, client, listen, source, upstream] = ["queue", "client", "listen", "source", "upstream"].map(of);
    format!("queue {queue}  {client} -> {listen}  {source} -> {upstream}  idle {idle} s")
}
