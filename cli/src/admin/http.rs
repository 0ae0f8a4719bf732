//! Serves the relay's status over HTTP. It accepts only GET and HEAD: HTTP cannot change anything.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::control::{Control, answer};
use super::protocol::{ControlError, ControlErrorKind, ControlRequest};
use super::{NodeView, scrape};
use oxide::engine::{EngineState, EngineStatus};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Media type of exposition format 0.0.4.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const INDEX: &str = "\
/live      200 while the process answers, 503 once the engine has stopped
/ready     200 while at least one queue receives packets and the relay does not drain, else 503
/metrics   Prometheus text
/queues    summary of each queue; ?format=text for a table
/sessions  ?queue=eth0:3&limit=100
/plan      the plan: core and memory of each queue, with reasons
/config    the configuration in use; ?format=toml
";

/// Holds a parsed HTTP request.
#[derive(Debug, Clone, Default)]
pub(super) struct HttpRequest {
    pub(super) get: bool,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) host: Option<String>,
}

/// Holds an HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpResponse {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: String,
}

impl HttpResponse {
    pub(super) fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, kind: TEXT, body: body.into() }
    }

    fn json(status: u16, body: &Value) -> Self {
        Self { status, kind: JSON, body: format!("{body:#}\n") }
    }

    pub(super) fn error(error: &ControlError) -> Self {
        let status = match error.code {
            ControlErrorKind::Refused => 409,
            ControlErrorKind::BadRequest => 400,
            ControlErrorKind::Busy => 503,
        };
        Self::json(status, &json!({ "error": error }))
    }
}

/// Answers `ask`. If `named` is true, the `Host` header may contain any name.
pub(super) fn reply(control: &dyn Control, ask: &HttpRequest, named: bool) -> HttpResponse {
    if !ask.get {
        return HttpResponse::text(405, "method: expected GET or HEAD; to fix: use `oxide ctl` to change something\n");
    }
    if !named && !names_this_host(ask.host.as_deref()) {
        return HttpResponse::text(
            421,
            "host: expected an address of this host; another name may belong to a web page\n",
        );
    }
    let as_text = parameter(&ask.query, "format") == Some("text");
    let asked = |request: ControlRequest| match answer(control, &request) {
        Ok(value) => HttpResponse::json(200, &value),
        Err(error) => HttpResponse::error(&error),
    };
    match ask.path.as_str() {
        "/" => HttpResponse::text(200, INDEX),
        "/live" => live(&control.status()),
        "/ready" => ready(&control.status()),
        "/metrics" => HttpResponse { status: 200, kind: PROMETHEUS, body: scrape(&control.status()) },
        "/queues" if as_text => HttpResponse::text(200, NodeView::from(&control.status()).table()),
        "/queues" => asked(ControlRequest::Queues {}),
        "/status" => asked(ControlRequest::Status {}),
        "/plan" => asked(ControlRequest::Plan {}),
        "/config" if parameter(&ask.query, "format") == Some("toml") => match control.config().to_toml() {
            Ok(text) => HttpResponse::text(200, text),
            Err(text) => HttpResponse::text(500, text),
        },
        "/config" => asked(ControlRequest::Config {}),
        "/sessions" => {
            let limit = parameter(&ask.query, "limit").map(str::parse).transpose();
            let Ok(limit) = limit else { return HttpResponse::text(400, "limit: not a number\n") };
            asked(ControlRequest::Sessions { queue: parameter(&ask.query, "queue").map(str::to_owned), limit })
        }
        _ => HttpResponse::text(404, INDEX),
    }
}

fn live(status: &EngineStatus) -> HttpResponse {
    let code = if status.state == EngineState::Stopped { 503 } else { 200 };
    HttpResponse::text(code, format!("{}\n", status.state.name()))
}

fn ready(status: &EngineStatus) -> HttpResponse {
    let running = status.queues.iter().filter(|queue| queue.is_running() && !queue.stalled).count();
    let open = matches!(status.state, EngineState::Running | EngineState::Degraded);
    let code = if open && running > 0 { 200 } else { 503 };
    let body = json!({
        "state": status.state, "queues": status.queues.len(), "queues_running": running,
        "notices": status.current_notices(),
    });
    HttpResponse::json(code, &body)
}

/// Returns the value of `name` in a query string. It decodes nothing: queue names and numbers need no escapes.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

/// Returns whether a `Host` header names this host by address or as localhost. Otherwise a web page could make a
/// browser send requests with the page's own name to our address (DNS rebinding), and read the answers.
fn names_this_host(host: Option<&str>) -> bool {
    let Some(host) = host else { return true };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::*;

    fn get(path: &str) -> HttpResponse {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let ask =
            HttpRequest { get: true, path: path.to_owned(), query: query.to_owned(), host: Some("127.0.0.1:1".into()) };
        reply(&Fake::default(), &ask, false)
    }

    #[test]
    fn every_page_of_the_index_exists() {
        for line in INDEX.lines() {
            let path = line.split(' ').next().unwrap_or_default();
            assert_eq!(get(path).status, 200, "{path}: {:?}", get(path));
        }
        assert_eq!(get("/nothing").status, 404);
        assert!(get("/queues?format=text").body.contains("running"));
        assert!(get("/config?format=toml").body.contains("interfaces = [\"eth0\"]"));
        assert_eq!(get("/metrics").kind, PROMETHEUS);
        assert_eq!(get("/sessions?queue=eth0").status, 400);
        assert_eq!(get("/sessions?limit=many").status, 400);
        assert_eq!(get("/sessions?queue=eth7:0").status, 409);
    }

    #[test]
    fn http_allows_only_reads_and_local_hosts() {
        let post = HttpRequest { get: false, path: "/live".into(), ..HttpRequest::default() };
        assert_eq!(reply(&Fake::default(), &post, false).status, 405);
        let by = |host: &str| {
            let ask =
                HttpRequest { get: true, path: "/live".into(), host: Some(host.into()), ..HttpRequest::default() };
            (reply(&Fake::default(), &ask, false).status, reply(&Fake::default(), &ask, true).status)
        };
        for host in ["127.0.0.1", "127.0.0.1:9797", "localhost:9797", "[::1]:9797", "[::1]"] {
            assert_eq!(by(host), (200, 200), "{host}");
        }
        for host in ["example.org", "example.org:9797", "127.0.0.1.example.org", ""] {
            assert_eq!(by(host), (421, 200), "{host}");
        }
    }

    #[test]
    fn ready_reports_whether_packets_are_received() {
        let mut status = oxide::engine::sample::status();
        assert_eq!(ready(&status).status, 200, "one of two queues runs");
        status.state = EngineState::Draining;
        assert_eq!((ready(&status).status, live(&status).status), (503, 200));
        status.state = EngineState::Stopped;
        assert_eq!((ready(&status).status, live(&status).status), (503, 503));
    }
}
