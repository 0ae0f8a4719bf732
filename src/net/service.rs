//! The service that follows the kernel: one thread, one tokio runtime, started in the caller's network
//! namespace. It owns the sockets and the tables being built; what leaves it is a message.

use std::io;
use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;

use super::follow::{Channels, Follower};
use super::tables::Tables;

/// How the service works. The defaults are for a relay host.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Bytes of notices the kernel keeps for us (`SO_RCVBUF`); full means a new dump.
    pub receive_buffer: usize,
    /// At most one new generation of tables in this time; the first after a quiet time comes at once.
    pub quiet: Duration,
    /// Everything is read and compared this often: the kernel does not tell all (routes of a deleted
    /// next-hop object, for one). Zero: never.
    pub audit: Duration,
    /// Events that wait for their receiver. A full channel delays the next tables, and loses none but
    /// those that newer ones replace.
    pub events: usize,
    /// Requests that wait for the service.
    pub requests: usize,
    /// For the first dump at the start.
    pub start_deadline: Duration,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            receive_buffer: 4 << 20,
            quiet: Duration::from_millis(20),
            audit: Duration::from_secs(60),
            events: 16,
            requests: 1024,
            start_deadline: Duration::from_secs(10),
        }
    }
}

/// What the service tells.
#[derive(Debug)]
#[non_exhaustive]
pub enum NetEvent {
    /// The tables have changed; these are all of them.
    Tables(Tables),
    /// The tables could not be followed and were read anew; they come next.
    Resynced {
        /// What was lost.
        why: String,
    },
}

/// Too many requests wait, or the service has ended: try again later, or see `events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the netlink service is busy")]
pub struct Busy;

/// Why the service did not start, or did not end well.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// No thread or no runtime.
    #[error("netlink service: cannot {step}: {source}; see `ulimit -u` and `ulimit -n`")]
    Start {
        /// What was tried.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The kernel did not give its tables.
    #[error(
        "netlink service: cannot read links, addresses, routes and neighbours: {source}; \
         a sandbox must allow sockets of family AF_NETLINK (systemd: RestrictAddressFamilies=AF_NETLINK ...)"
    )]
    Read {
        /// The system's answer.
        source: io::Error,
    },
    /// It took longer than it may.
    #[error("netlink service: {step} took longer than {after:?}")]
    Late {
        /// What was waited for.
        step: &'static str,
        /// How long.
        after: Duration,
    },
    /// It panicked: a defect in this crate.
    #[error("netlink service: its thread panicked")]
    Panicked,
}

/// The running service. Ends when dropped; [`NetService::stop`] says how that went.
///
/// It needs `CAP_NET_ADMIN` for as long as it runs, for [`NetService::resolve`] only.
#[derive(Debug)]
pub struct NetService {
    /// What it tells, first the tables as they were at the start. Disconnected when the service has ended.
    pub events: flume::Receiver<NetEvent>,
    requests: flume::Sender<(u32, IpAddr)>,
    /// Dropped to end the service.
    stop: Option<flume::Sender<()>>,
    /// Disconnected when the thread is about to end.
    done: flume::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl NetService {
    /// Starts the thread in the network namespace of the calling one, and waits until the first tables are
    /// read; they are in `events` then.
    ///
    /// # Errors
    /// [`NetError`] if the thread, its sockets or the first dump could not be had.
    pub fn start(options: NetOptions) -> Result<Self, NetError> {
        let (tell, events) = flume::bounded(options.events.max(2));
        let (requests, wanted) = flume::bounded(options.requests.max(1));
        let (stop, stopped) = flume::bounded(0);
        let (ending, done) = flume::bounded::<()>(0);
        let (ready, started) = flume::bounded(1);
        let deadline = options.start_deadline;
        let thread = std::thread::Builder::new()
            .name("oxide-net".into())
            .spawn(move || {
                run(options, Channels { events: tell, wanted, stopped }, &ready);
                drop(ending);
            })
            .map_err(|source| NetError::Start { step: "start a thread", source })?;
        let service = Self { events, requests, stop: Some(stop), done, thread: Some(thread) };
        match started.recv_timeout(deadline) {
            Ok(Ok(())) => Ok(service),
            Ok(Err(error)) => Err(error),
            Err(flume::RecvTimeoutError::Timeout) => Err(NetError::Late { step: "starting", after: deadline }),
            Err(flume::RecvTimeoutError::Disconnected) => Err(NetError::Panicked),
        }
    }

    /// Asks the kernel for the MAC of `next_hop` on `interface`; the answer comes as new tables. Cheap and
    /// never blocks. Repeated requests are merged: the kernel is asked at most once in 500 ms, and for two
    /// minutes after the last request every 20 s, so that a neighbour in use whose MAC changes is noticed
    /// although its traffic does not pass the kernel. So call it for every next hop in use, known or not,
    /// at least once a minute.
    ///
    /// # Errors
    /// [`Busy`] if too many requests wait already.
    pub fn resolve(&self, interface: u32, next_hop: IpAddr) -> Result<(), Busy> {
        self.requests.try_send((interface, next_hop.to_canonical())).map_err(|_| Busy)
    }

    /// Ends the service and waits for its thread.
    ///
    /// # Errors
    /// [`NetError::Late`] if it has not ended within `deadline` (it is left to end by itself then), or
    /// [`NetError::Panicked`] if it had panicked.
    pub fn stop(mut self, deadline: Duration) -> Result<(), NetError> {
        self.end(deadline)
    }

    fn end(&mut self, deadline: Duration) -> Result<(), NetError> {
        self.stop.take();
        let Some(thread) = self.thread.take() else { return Ok(()) };
        match self.done.recv_timeout(deadline) {
            Err(flume::RecvTimeoutError::Timeout) => Err(NetError::Late { step: "ending", after: deadline }),
            _ => thread.join().map_err(|_| NetError::Panicked),
        }
    }
}

impl Drop for NetService {
    fn drop(&mut self) {
        if let Err(error) = self.end(Duration::from_secs(2)) {
            tracing::warn!(%error, "netlink service dropped");
        }
    }
}

fn run(options: NetOptions, channels: Channels, ready: &flume::Sender<Result<(), NetError>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let (follower, wire) = Follower::begin(options, channels).await?;
            let _ = ready.send(Ok(()));
            follower.run(wire).await;
            Ok(())
        }),
        Err(source) => Err(NetError::Start { step: "make a runtime", source }),
    };
    if let Err(error) = result {
        let _ = ready.send(Err(error));
    }
}
