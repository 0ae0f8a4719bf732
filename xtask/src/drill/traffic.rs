//! Sends traffic from the far end: one paced flow for each queue of each interface, to the relay, which returns it to
//! a sink.

use super::lab::{FIRST_PORT, PORTS_PER_QUEUE, QUEUES};
use crate::process::{Error, Result, failed, io_error};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Interval between two packets of a flow. Eight flows give two thousand packets per second, which every machine can
/// carry.
const PACE: Duration = Duration::from_millis(4);
/// Time for packets in flight when a count ends.
const GRACE: Duration = Duration::from_millis(500);
/// Size of the sink's receive buffer in bytes.
const SINK_BYTES: usize = 8 << 20;
/// Number of sockets tried for each interface until each queue has a flow.
const TRIES: usize = 400;

/// Interface and queue.
pub(super) type At = (u8, u32);
/// Number of packets sent, and number received at the sink, for each flow.
pub(super) type Counts = BTreeMap<At, (u64, u64)>;

/// Holds the sockets of the far namespace.
pub(super) struct FarEnd {
    sink: UdpSocket,
    flows: BTreeMap<At, UdpSocket>,
}

impl FarEnd {
    /// Finds a flow for each queue by trying source ports. The kernel hashes each port to a transmit queue of its
    /// end, which is the receive queue of the other end. The relay's source port identifies that queue.
    pub(super) fn find(pid: u32) -> Result<Self> {
        let thread = std::thread::spawn(move || {
            let path = format!("/proc/{pid}/ns/net");
            let namespace = File::open(&path).map_err(io_error(&path))?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .map_err(|e| Error::Failed(format!("{path}: cannot enter the namespace: {e}")))?;
            Self::search().map_err(io_error("sockets of the far end"))
        });
        let found = thread.join().unwrap_or_else(|_| failed("thread of the far end panicked"))?;
        if found.flows.len() != 2 * QUEUES as usize {
            return failed(format!("traffic: not every queue has a flow; found only {:?}", found.flows.keys()));
        }
        Ok(found)
    }

    fn search() -> std::io::Result<Self> {
        let sink = UdpSocket::bind("0.0.0.0:9000")?;
        // A queue that stopped sends all waiting packets at once. They must not displace packets of other queues.
        set_socket_recv_buffer_size_force(&sink, SINK_BYTES)?;
        sink.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut flows = BTreeMap::new();
        let mut token = 0_u16;
        for interface in 0..2 {
            for _ in 0..TRIES {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                // The first packet may have to wait for a next hop.
                token += 1;
                let Some(queue) = (0..3).find_map(|_| ask(&socket, &sink, interface, token)) else { continue };
                flows.entry((interface, queue)).or_insert(socket);
                if flows.keys().filter(|at| at.0 == interface).count() == QUEUES as usize {
                    break;
                }
            }
        }
        sink.set_nonblocking(true)?;
        Ok(Self { sink, flows })
    }

    /// Sends and counts until `end` is called.
    pub(super) fn run(self) -> Traffic {
        let (stop, cause_ended) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (seen, ended) = (Arc::clone(&stop), Arc::clone(&cause_ended));
        Traffic { stop, cause_ended, thread: std::thread::spawn(move || self.count(&seen, &ended)) }
    }

    fn count(self, stop: &AtomicBool, cause_ended: &Mutex<Option<Instant>>) -> Counted {
        let mut back = BTreeMap::new();
        let mut counts: Counts = self.flows.keys().map(|at| (*at, (0, 0))).collect();
        let mut last = Instant::now();
        while !stop.load(Ordering::Relaxed) || last.elapsed() < GRACE {
            for (at, socket) in self.flows.iter().filter(|_| !stop.load(Ordering::Relaxed)) {
                // A send that fails while the link is down is not counted: the relay did not lose it.
                if socket.send_to(&[at.0, at.1 as u8], relay(at.0)).is_ok() {
                    counts.entry(*at).or_default().0 += 1;
                    last = Instant::now();
                }
            }
            let mut packet = [0; 64];
            while let Ok((length, _)) = self.sink.recv_from(&mut packet) {
                if let [interface, queue] = packet[..length] {
                    let at = (interface, u32::from(queue));
                    counts.entry(at).or_default().1 += 1;
                    if let Some(end) = *cause_ended.lock().unwrap_or_else(PoisonError::into_inner) {
                        back.entry(at).or_insert_with(|| end.elapsed());
                    }
                }
            }
            std::thread::sleep(PACE);
        }
        Counted { far: self, counts, back }
    }
}

/// Returns the queue that serves this socket's packets. The token distinguishes the answer from a late answer of
/// another socket.
fn ask(socket: &UdpSocket, sink: &UdpSocket, interface: u8, token: u16) -> Option<u32> {
    let [high, low] = token.to_be_bytes();
    let question = [interface, high, low];
    socket.send_to(&question, relay(interface)).ok()?;
    let mut packet = [0; 64];
    loop {
        let (length, from) = sink.recv_from(&mut packet).ok()?;
        if packet[..length] == question {
            return Some(u32::from(from.port().checked_sub(FIRST_PORT)? / PORTS_PER_QUEUE));
        }
    }
}

fn relay(interface: u8) -> SocketAddr {
    SocketAddr::from(([10, 9, interface, 1], 7))
}

/// Holds the counts, and the sockets for the next run.
pub(super) struct Counted {
    pub(super) far: FarEnd,
    pub(super) counts: Counts,
    /// Time from the end of the cause to the first packet of each flow.
    pub(super) back: BTreeMap<At, Duration>,
}

/// Holds running traffic.
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    cause_ended: Arc<Mutex<Option<Instant>>>,
    thread: JoinHandle<Counted>,
}

impl Traffic {
    /// Records the end of the cause: from now on the first packet of each flow is timed.
    pub(super) fn cause_ended(&self) {
        *self.cause_ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn end(self) -> Result<Counted> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| Error::Failed("thread of the far end panicked".to_owned()))
    }
}

/// Returns the number of lost packets of the selected flows.
pub(super) fn lost(counts: &Counts, of: impl Fn(At) -> bool) -> u64 {
    counts.iter().filter(|(at, _)| of(**at)).map(|(_, (sent, got))| sent.saturating_sub(*got)).sum()
}
