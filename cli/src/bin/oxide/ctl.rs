//! `oxide ctl`: asks and tells a running relay over its control socket.

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

/// Where a relay is found; for `ctl` and `top`.
#[derive(Args)]
pub(crate) struct Where {
    /// Control socket of the relay.
    #[arg(long, value_name = "PATH", conflicts_with = "name", global = true)]
    socket: Option<PathBuf>,
    /// Name of the relay: that of its configuration file, without `.toml`. Needed where several run.
    #[arg(long, value_name = "NAME", global = true)]
    name: Option<String>,
}

impl Where {
    /// The path of the socket; the only one there is, if none was named.
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
    /// How long to wait for an answer, seconds; a drain is waited for as long as it may take.
    #[arg(long, global = true, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Everything the engine says of itself, as JSON.
    Status,
    /// A line for each queue.
    Queues,
    /// Print why packets were dropped: each reason that occurred, what it means, its likely cause and the remedy.
    Drops {
        /// Only this reason, such as wrong_peer, whether it occurred or not.
        reason: Option<String>,
    },
    /// Sessions of one queue, or of each.
    Sessions {
        /// Which, as interface:queue.
        queue: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Rebuild what serves a queue; the others go on.
    Restart {
        /// Which, as interface:queue.
        queue: String,
        /// How much is rebuilt: the handler (sessions are handed over, sockets and memory stay), the port (the socket of
        /// this interface), or the queue (the actor with memory, sockets and handler).
        #[arg(long, value_parser = scopes(), default_value_t = RestartScope::Queue)]
        depth: RestartScope,
    },
    /// Take no new packets of a queue, until it is resumed.
    Pause {
        /// Which, as interface:queue.
        queue: String,
    },
    /// Take packets of a paused queue again.
    Resume {
        /// Which, as interface:queue.
        queue: String,
    },
    /// Begin no new sessions, serve those there are for a while, then stop: one queue, or the whole relay.
    Drain {
        /// Which, as interface:queue; the whole relay, which ends then, without it.
        queue: Option<String>,
        /// How long sessions are still served, seconds [default: sessions.drain_s].
        #[arg(long, value_parser = clap::value_parser!(u32).range(0..=3600))]
        within: Option<u32>,
    },
    /// What is logged; with a filter, log that from now on.
    Log {
        /// error, warn, info, debug, trace, or a filter such as `oxide=debug`.
        filter: Option<String>,
    },
    /// Read the configuration file again, bring into force what can be, and name what needs a restart.
    Reload,
    /// The plan it runs by.
    Plan,
    /// The configuration in force.
    Config,
    /// Prometheus text.
    Metrics,
}

/// Reads the name of a restart scope.
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
        errln!("oxide: no drop reason is called {name}; there are {known}");
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

/// 1 refused, 2 makes no sense, 3 no relay, 4 busy or no answer.
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
