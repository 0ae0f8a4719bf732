//! Measures round trips: sends one packet at a time to an echo and waits for its return.

use crate::client::{self, Client, Ends};
use crate::figures::Percentiles;
use crate::frame::{LISTEN, MARK};
use crate::{Error, Result, cpu};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Options {
    /// Kind of client.
    #[arg(long, default_value = "xdp")]
    client: Kind,
    /// Number of round trips.
    #[arg(long, default_value_t = 10_000)]
    count: u32,
    /// Pause before each request in microseconds; with a long pause the echo sleeps.
    #[arg(long, default_value_t = 0)]
    gap_us: u64,
    /// Size of a frame in bytes.
    #[arg(long, default_value_t = 64)]
    frame: usize,
    /// UDP port of the echo.
    #[arg(long, default_value_t = 5000)]
    port: u16,
    /// Time limit for the first answer of the echo, in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    ready_ms: u64,
    #[arg(long, default_value_t = 0)]
    cpu: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// AF_XDP, busy polling.
    Xdp,
    /// A kernel socket, busy polling.
    Socket,
}

#[derive(Serialize)]
struct Report {
    lost: u32,
    #[serde(flatten)]
    percentiles: Percentiles,
}

/// Time after which an answer counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(200);

/// Sends requests and receives answers.
trait Pair {
    fn ask(&mut self, number: u32) -> Result<()>;
    /// Returns whether the answer to `number` has arrived.
    fn answered(&mut self, number: u32) -> Result<bool>;
}

struct Xdp {
    client: Client,
    template: Vec<u8>,
}

impl Pair for Xdp {
    fn ask(&mut self, number: u32) -> Result<()> {
        if !self.client.queue(&self.template, &number.to_be_bytes()) {
            return Err(Error::Text("no free frame".to_owned()));
        }
        self.client.send()
    }

    fn answered(&mut self, number: u32) -> Result<bool> {
        let mut found = false;
        self.client.receive(|payload| found |= payload.get(..4) == Some(&number.to_be_bytes()))?;
        Ok(found)
    }
}

struct Socket {
    socket: UdpSocket,
    packet: Vec<u8>,
}

impl Pair for Socket {
    fn ask(&mut self, number: u32) -> Result<()> {
        self.packet[4..8].copy_from_slice(&number.to_be_bytes());
        // ICMP refuses the packet while the echo does not run yet.
        let _ = self.socket.send(&self.packet);
        Ok(())
    }

    fn answered(&mut self, number: u32) -> Result<bool> {
        let mut answer = [0; 2048];
        Ok(self.socket.recv(&mut answer).is_ok_and(|n| n >= 8 && answer[4..8] == number.to_be_bytes()))
    }
}

fn socket(options: &Options) -> Result<Socket> {
    let socket = UdpSocket::bind((client::address(), 0)).map_err(Error::io("bind"))?;
    socket.connect((LISTEN, options.port)).map_err(Error::io("connect"))?;
    socket.set_nonblocking(true).map_err(Error::io("set non-blocking"))?;
    let mut packet = vec![0; options.frame.saturating_sub(crate::frame::HEADERS).max(20)];
    packet[..4].copy_from_slice(&MARK);
    Ok(Socket { socket, packet })
}

pub(crate) fn run(options: &Options) -> Result<()> {
    cpu::pin(options.cpu)?;
    let mut pair: Box<dyn Pair> = match options.client {
        Kind::Xdp => Box::new(Xdp {
            client: Client::open("va", 0, Ends::Back)?,
            template: client::templates(options.frame, 1, options.port, 1)?.swap_remove(0),
        }),
        Kind::Socket => Box::new(socket(options)?),
    };
    let start = Instant::now();
    while once(&mut *pair, u32::MAX)?.is_none() {
        if start.elapsed() > Duration::from_millis(options.ready_ms) {
            return Err(client::no_answer("from the echo"));
        }
    }
    // The first rounds fill caches and bring the echo into its regime.
    let warm = if options.gap_us == 0 { 1000 } else { 2 };
    let (mut values, mut lost) = (Vec::with_capacity(options.count as usize), 0);
    for number in 0..options.count + warm {
        if options.gap_us > 0 {
            std::thread::sleep(Duration::from_micros(options.gap_us));
        }
        match once(&mut *pair, number)? {
            Some(time) if number >= warm => values.push(time.as_nanos() as u64),
            Some(_) => {}
            None => lost += 1,
        }
    }
    let report = Report { lost, percentiles: Percentiles::of(values) };
    crate::print(&report)
}

fn once(pair: &mut dyn Pair, number: u32) -> Result<Option<Duration>> {
    let start = Instant::now();
    pair.ask(number)?;
    loop {
        let answered = pair.answered(number)?;
        let time = start.elapsed();
        if answered {
            return Ok(Some(time));
        }
        if time > LOST_AFTER {
            return Ok(None);
        }
    }
}
