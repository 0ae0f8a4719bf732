#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as Std;
use std::time::Instant;

use super::super::fake::Fake;
use super::super::{Client, ClientError};
use super::*;
use crate::admin::protocol::ControlErrorKind;
use oxide::engine::{EngineState, RestartScope};
use oxide_relay::config::{AdminConfig, ListenSetting};

struct Lab {
    admin: Admin,
    http: SocketAddr,
    fake: Arc<Fake>,
    _dir: tempfile::TempDir,
}

fn lab(limits: AdminLimits) -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let config = AdminConfig::new(
        ListenSetting::At("127.0.0.1:0".parse().unwrap()),
        ListenSetting::At(dir.path().join("relay.sock")),
    );
    let listeners = Listeners::open(&config, "relay").unwrap();
    let http = listeners.http().unwrap();
    let fake = Arc::new(Fake::default());
    let admin = Admin::serve(listeners, Arc::clone(&fake) as Arc<dyn Control>, limits, &[]).unwrap();
    Lab { admin, http, fake, _dir: dir }
}

impl Lab {
    fn tcp(&self) -> std::net::TcpStream {
        let stream = std::net::TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Returns the whole answer to these bytes.
    fn http(&self, bytes: &[u8]) -> String {
        let mut stream = self.tcp();
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    fn client(&self) -> Client {
        Client::connect(self.admin.socket().unwrap()).unwrap()
    }

    /// Returns the answer to one line.
    fn line(&self, bytes: &[u8]) -> ControlResponse {
        let mut stream = Std::connect(self.admin.socket().unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let _ = stream.write_all(bytes);
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn http_is_read_by_get_and_head() {
    let lab = lab(AdminLimits::default());
    let get = lab.http(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert!(get.starts_with("HTTP/1.1 200 OK\r\n") && get.ends_with("\r\n\r\ndegraded\n"), "{get}");
    assert!(get.contains("connection: close"), "{get}");
    let head = lab.http(b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n") && head.contains("version=0.0.4"), "{head}");
    assert!(
        lab.http(b"POST /live HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}").starts_with("HTTP/1.1 405")
    );
    assert!(lab.http(b"GET /live HTTP/1.1\r\nHost: evil.example\r\n\r\n").starts_with("HTTP/1.1 421"));
    assert!(lab.http(b"nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
}

#[test]
fn oversized_request_is_refused() {
    let lab = lab(AdminLimits::default());
    let long = format!("GET /{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "a".repeat(20_000));
    let answer = lab.http(long.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    let heads =
        (0..200).fold("GET /live HTTP/1.1\r\n".to_owned(), |text, n| text + &format!("X-{n}: {n}\r\n")) + "\r\n";
    assert!(lab.http(heads.as_bytes()).starts_with("HTTP/1.1 431"));
    let ControlResponse::Error(error) = lab.line(&vec![b'x'; 100_000]) else { panic!("accepted") };
    assert_eq!((error.code, error.text.contains("4096 bytes")), (ControlErrorKind::BadRequest, true));
    for bad in [&b"\n"[..], b"{}\n", b"[1]\n", b"\xff\xfe\n", b"{\"do\":\"reboot\"}\n"] {
        assert!(matches!(
            lab.line(bad),
            ControlResponse::Error(ControlError { code: ControlErrorKind::BadRequest, .. })
        ));
    }
    assert!(lab.http(b"GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").starts_with("HTTP/1.1 200"));
}

#[test]
fn slow_client_is_disconnected() {
    let lab = lab(AdminLimits {
        patience: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        ..AdminLimits::default()
    });
    let begun = Instant::now();
    let mut half = lab.tcp();
    half.write_all(b"GET /live HT").unwrap();
    let mut silent = Std::connect(lab.admin.socket().unwrap()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    silent.write_all(b"{\"do\":").unwrap();
    let mut rest = Vec::new();
    let _ = half.read_to_end(&mut rest);
    let _ = silent.read_to_end(&mut rest);
    assert!(begun.elapsed() < Duration::from_secs(15), "both connections were closed");
}

#[test]
fn excess_connections_are_refused_and_others_continue() {
    let lab = lab(AdminLimits { http: 3, control: 3, ..AdminLimits::default() });
    let held: Vec<_> = (0..3).map(|_| lab.tcp()).collect();
    let mut clients: Vec<_> = (0..3).map(|_| lab.client()).collect();
    for client in &mut clients {
        client.ask(&ControlRequest::Queues {}, SOON).unwrap();
    }
    // The kernel accepts in order, so the server has all three by now.
    let answer = lab.http(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("too many"), "{answer}");
    let refused = lab.client().ask(&ControlRequest::Queues {}, SOON);
    assert!(
        matches!(refused, Err(ClientError::Control(ControlError { code: ControlErrorKind::Busy, .. }))),
        "{refused:?}"
    );
    clients[0].ask(&ControlRequest::Queues {}, SOON).unwrap();
    drop((held, clients));
    let until = Instant::now() + SOON;
    while !lab.http(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").starts_with("HTTP/1.1 200") {
        assert!(Instant::now() < until, "closed connections free their places");
    }
}

#[test]
fn requests_are_executed_and_refusals_reported() {
    let lab = lab(AdminLimits::default());
    let mut client = lab.client();
    let restart = |queue: &str| ControlRequest::Restart { queue: queue.into(), depth: RestartScope::Handler };
    let begun = client.ask(&restart("eth0:1"), SOON).unwrap();
    assert!(begun.as_str().unwrap().contains("begun"), "{begun}");
    assert_eq!(lab.fake.commands.lock().unwrap().as_slice(), ["restart eth0:1 Handler"]);
    let refused = client.ask(&restart("eth0:2"), SOON).unwrap_err();
    assert!(matches!(&refused, ClientError::Control(t) if t.code == ControlErrorKind::Refused), "{refused:?}");
    assert_eq!(refused.to_string(), "no queue eth0:2; there are: eth0:0, eth0:1");
    let view: super::super::NodeView =
        serde_json::from_value(client.ask(&ControlRequest::Queues {}, SOON).unwrap()).unwrap();
    assert_eq!((view.queues.len(), view.state), (2, EngineState::Degraded));
}

#[test]
fn long_drain_does_not_block_other_requests() {
    let lab = lab(AdminLimits::default());
    let path = lab.admin.socket().unwrap().to_owned();
    let drain = ControlRequest::Drain { queue: Some("eth0:0".into()), within_s: Some(2) };
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let (path, drain) = (path.clone(), drain.clone());
            std::thread::spawn(move || Client::connect(&path).unwrap().ask(&drain, SOON))
        })
        .collect();
    for _ in 0..10 {
        lab.client().ask(&ControlRequest::Status {}, SOON).unwrap();
    }
    let (done, refused): (Vec<_>, Vec<_>) = waiting.into_iter().map(|t| t.join().unwrap()).partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (2, 2), "two wait, two are refused as busy");
}

#[test]
fn absent_relay_is_reported_with_remedy() {
    let error = Client::connect(Path::new("/nonexistent/relay.sock")).unwrap_err().to_string();
    assert!(error.contains("--socket"), "{error}");
}
