//! Runs the admin thread. All resources are limited: connections, request sizes, times, and the number of requests
//! that wait for the engine.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::control::{Control, answer, may_wait};
use super::http::{self, HttpRequest, HttpResponse};
use super::line_io;
use super::listeners::Listeners;
use super::protocol::{ControlError, ControlRequest, ControlResponse, MAX_REQUEST};

/// Holds the limits of the admin endpoints.
#[derive(Debug, Clone, Copy)]
pub struct AdminLimits {
    /// Maximum number of HTTP connections.
    pub http: usize,
    /// Maximum number of connections to the control socket.
    pub control: usize,
    /// Time limit for receiving a request, and for sending an answer.
    pub patience: Duration,
    /// Time limit for a connection to the control socket without a request.
    pub idle: Duration,
    /// Time limit for an answer of the engine.
    pub answer: Duration,
    /// Maximum number of requests that wait for the engine.
    pub requests: usize,
    /// Maximum number of long requests among them.
    pub long: usize,
}

impl Default for AdminLimits {
    fn default() -> Self {
        Self {
            http: 32,
            control: 16,
            patience: Duration::from_secs(5),
            idle: Duration::from_secs(60),
            answer: Duration::from_secs(5),
            requests: 8,
            long: 2,
        }
    }
}

/// Maximum size of the HTTP headers of one request in bytes: the minimum that hyper allows.
const MAX_HEAD: usize = 8192;
const MAX_HEADERS: usize = 64;
/// Maximum wait for a drain, with a margin.
const LONGEST: Duration = Duration::from_secs(3700);
/// Answer to a connection above the limit.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 21\r\n\r\ntoo many connections\n";
const FULL_LINE: &[u8] = b"{\"error\":{\"code\":\"busy\",\"text\":\"too many connections; to fix: try again\"}}\n";

/// Serves the admin endpoints until it is dropped.
#[derive(Debug)]
pub struct Admin {
    listeners: Listeners,
    /// Dropping this ends the thread.
    stop: Option<flume::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves `listeners` from a new thread on one of `cpus`, or on any CPU if the list is empty.
    ///
    /// # Errors
    /// Returns the kernel's error if it creates no thread or runtime.
    pub fn serve(
        mut listeners: Listeners,
        control: Arc<dyn Control>,
        limits: AdminLimits,
        cpus: &[u32],
    ) -> io::Result<Self> {
        let (http, socket, named) = (listeners.http.take(), listeners.socket.take(), listeners.named);
        let (stop, stopped) = flume::bounded::<()>(0);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .thread_name("oxide-ask")
            .max_blocking_threads(limits.requests)
            .build()?;
        let cpus = cpus.to_vec();
        let thread = std::thread::Builder::new().name("oxide-admin".to_owned()).spawn(move || {
            stay_on(&cpus);
            let state = Arc::new(AdminState {
                control,
                limits,
                named,
                under_way: AtomicUsize::new(0),
                long: AtomicUsize::new(0),
            });
            runtime.block_on(async move {
                if let Some(listener) = http.and_then(|l| TcpListener::from_std(l).ok()) {
                    tokio::spawn(accept_http(listener, Arc::clone(&state)));
                }
                if let Some(listener) = socket.and_then(|l| UnixListener::from_std(l).ok()) {
                    tokio::spawn(accept_control(listener, state));
                }
                let _ = stopped.recv_async().await;
            });
            // Threads that wait for the engine are abandoned.
            runtime.shutdown_background();
        })?;
        Ok(Self { listeners, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the path of the control socket, if it is open.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        self.listeners.socket()
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("admin thread panicked");
        }
    }
}

/// Keeps the calling thread off the queues' cores, if the kernel allows it.
fn stay_on(cpus: &[u32]) {
    let mut set = rustix::thread::CpuSet::new();
    cpus.iter().for_each(|&cpu| set.set(cpu as usize));
    if !cpus.is_empty()
        && let Err(error) = rustix::thread::sched_setaffinity(None, &set)
    {
        tracing::debug!(%error, ?cpus, "cannot pin the admin thread");
    }
}

struct AdminState {
    control: Arc<dyn Control>,
    limits: AdminLimits,
    named: bool,
    under_way: AtomicUsize,
    long: AtomicUsize,
}

/// Counts one request against a limit until it is dropped.
struct RequestPermit(Arc<AdminState>, fn(&AdminState) -> &AtomicUsize);

impl RequestPermit {
    fn take(state: &Arc<AdminState>, of: fn(&AdminState) -> &AtomicUsize, most: usize) -> Option<Self> {
        // A count that is too high for a moment refuses a request and never admits too many.
        if of(state).fetch_add(1, Ordering::AcqRel) >= most {
            of(state).fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self(Arc::clone(state), of))
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::AcqRel);
    }
}

impl AdminState {
    /// Runs `work` on a thread that may wait.
    async fn ask<R: Send + 'static>(
        self: &Arc<Self>,
        long: bool,
        work: impl FnOnce(&dyn Control) -> R + Send + 'static,
    ) -> Result<R, ControlError> {
        let busy = || ControlError::busy("too many requests are in progress; to fix: try again");
        let (of, most, within): (fn(&Self) -> &AtomicUsize, _, _) = if long {
            (|state| &state.long, self.limits.long, LONGEST)
        } else {
            (|state| &state.under_way, self.limits.requests - self.limits.long, self.limits.answer)
        };
        let place = RequestPermit::take(self, of, most).ok_or_else(busy)?;
        let control = Arc::clone(&self.control);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&*control);
            drop(place);
            result
        });
        match tokio::time::timeout(within, done).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(ControlError::refused("internal error; to fix: please report the log")),
            Err(_) => Err(ControlError::busy(format!("engine: busy: no answer within {within:?}; to fix: try again"))),
        }
    }
}

async fn accept_http(listener: TcpListener, state: Arc<AdminState>) {
    let open = Arc::new(());
    loop {
        let Some(stream) = accepted(listener.accept().await.map(|(stream, _)| stream)).await else { continue };
        // The loop itself holds one clone.
        if Arc::strong_count(&open) > state.limits.http {
            let _ = stream.try_write(FULL);
            continue;
        }
        let (state, place) = (Arc::clone(&state), Arc::clone(&open));
        tokio::spawn(async move {
            serve_http(stream, state).await;
            drop(place);
        });
    }
}

async fn accept_control(listener: UnixListener, state: Arc<AdminState>) {
    let open = Arc::new(());
    loop {
        let Some(stream) = accepted(listener.accept().await.map(|(stream, _)| stream)).await else { continue };
        if Arc::strong_count(&open) > state.limits.control {
            let _ = stream.try_write(FULL_LINE);
            continue;
        }
        let (state, place) = (Arc::clone(&state), Arc::clone(&open));
        tokio::spawn(async move {
            if let Err(error) = serve_control(&stream, &state).await {
                tracing::debug!(%error, "control connection failed");
            }
            drop(place);
        });
    }
}

/// Returns an accepted stream. accept(2) fails at once without a free file descriptor, so a pause prevents a busy
/// loop.
async fn accepted<S>(stream: io::Result<S>) -> Option<S> {
    match stream {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::debug!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// Serves one request and closes the connection, so that no client occupies a connection.
async fn serve_http(stream: TcpStream, state: Arc<AdminState>) {
    let (patience, answer) = (state.limits.patience, state.limits.answer);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(respond(&state, &request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(2 * patience + answer, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "HTTP connection failed"),
        Err(_) => tracing::debug!("HTTP connection timed out"),
    }
}

async fn respond(state: &Arc<AdminState>, request: &hyper::Request<Incoming>) -> Response<Full<Bytes>> {
    let ask = HttpRequest {
        get: matches!(*request.method(), Method::GET | Method::HEAD),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        host: request.headers().get(HOST).map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned()),
    };
    let named = state.named;
    let reply = state.ask(false, move |control| http::reply(control, &ask, named)).await;
    let HttpResponse { status, kind, body } = reply.unwrap_or_else(|error| HttpResponse::error(&error));
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Serves requests in sequence until the client closes the connection.
async fn serve_control(stream: &UnixStream, state: &Arc<AdminState>) -> io::Result<()> {
    let mut rest = Vec::new();
    loop {
        let line = match tokio::time::timeout(state.limits.idle, line_io::read(stream, &mut rest, MAX_REQUEST)).await {
            Err(_) | Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(line))) => line,
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                let text = format!("request: too long; expected one line of at most {MAX_REQUEST} bytes");
                return send_response(stream, state, &ControlResponse::Error(ControlError::bad(text))).await;
            }
            Ok(Err(error)) => return Err(error),
        };
        let answer = match serde_json::from_slice::<ControlRequest>(&line) {
            Err(error) => ControlResponse::Error(ControlError::bad(format!("request: invalid: {error}"))),
            Ok(request) => {
                let long = may_wait(&request);
                if !matches!(
                    request,
                    ControlRequest::Status {} | ControlRequest::Queues {} | ControlRequest::Metrics {}
                ) {
                    tracing::info!(?request, "request on the control socket");
                }
                let asked = state.ask(long, move |control| answer(control, &request)).await;
                asked.and_then(|result| result).map_or_else(ControlResponse::Error, ControlResponse::Ok)
            }
        };
        send_response(stream, state, &answer).await?;
    }
}

async fn send_response(stream: &UnixStream, state: &AdminState, answer: &ControlResponse) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(answer)?;
    bytes.push(b'\n');
    let written = tokio::time::timeout(state.limits.patience, line_io::write(stream, &bytes)).await;
    written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
