#![allow(clippy::unwrap_used, clippy::panic)]
//! Tests that flows stay at their home queue: four queues on simulated NICs that spread packets by key and table.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use oxide_actors::mailbox::{Inbox, mailbox};

use super::{World, config, datagram, ends_unchecked};
use crate::{RelayPlan, UdpRelay};
use oxide::packet::reflect;
use oxide::port::sim::{SimBackend, SimInterface, SimNet, SimPort};
use oxide::port::{Backend, Port, QueueId, Rss};
use oxide::queue::{Datapath, DatapathParts, Handler, QueueInfo, QueuePeers};
use oxide::simd::Processor;

const QUEUES: u32 = 4;
const CLIENTS: u32 = 400;

struct Nics {
    net: SimNet,
    workers: Vec<Datapath<SimPort, UdpRelay>>,
    now: Instant,
    key: Vec<u8>,
    /// Source of each client's packets at the server.
    sources: HashMap<u32, SocketAddr>,
}

impl Nics {
    /// Makes the NICs; `reports_key` states whether the drivers report their RSS key.
    fn new(reports_key: bool) -> Self {
        let net = SimNet::new(&["sim0", "sim1"].map(|name| SimInterface::new(name, QUEUES)), 7);
        let key: Vec<u8> = (0..40u8).map(|n| n.wrapping_mul(91) ^ 0x6d).collect();
        let table: Vec<u32> = (0..128).map(|n| n % QUEUES).collect();
        let rss = Rss::new(Processor::detect(), &key, &table, true, true).unwrap();
        ["sim0", "sim1"].iter().for_each(|name| net.set_rss(name, rss.clone()));
        let plan = RelayPlan::new(&config(""), &[]).unwrap();
        let now = Instant::now();
        let mut addresses = Vec::new();
        let mut workers: Vec<_> = (0..QUEUES)
            .map(|queue| {
                let ids = ["sim0", "sim1"].map(|name| QueueId::new(name, queue));
                let (umem, ports) = SimBackend::new(&net, &ids).open().unwrap();
                let info = QueueInfo {
                    queue,
                    queues: QUEUES,
                    place: queue,
                    ports: ports.iter().map(|port| port.info().clone()).collect(),
                    changes: 0,
                    rss: vec![reports_key.then(|| Arc::new(rss.clone())); 2],
                    processor: Processor::detect(),
                    seed: u64::from(queue) + 1,
                };
                let (_, bell) = mailbox::<()>(1).unwrap();
                let (address, inbox) = Inbox::with_doorbell(512, bell.doorbell()).unwrap();
                addresses.push(address);
                let handler = UdpRelay::new(&plan, &info);
                let (processor, peers) = (info.processor, QueuePeers::new(inbox, QUEUES));
                let parts = DatapathParts {
                    umem,
                    ports: ports.into_iter().map(Some).collect(),
                    handler,
                    processor,
                    info,
                    peers,
                    batch_size: 64,
                };
                let mut datapath = Datapath::new(parts, now);
                datapath.set_tables(Box::new(World::default().tables(1)));
                datapath.steer(true).unwrap();
                datapath
            })
            .collect();
        for (queue, datapath) in workers.iter_mut().enumerate() {
            for (peer, address) in addresses.iter().enumerate().filter(|&(peer, _)| peer != queue) {
                datapath.set_peer(peer as u32, Some(address.clone()));
            }
        }
        Self { net, workers, now, key, sources: HashMap::new() }
    }

    /// The NIC spreads packets over the queues in another way from now on; the relay keeps what it read at start.
    fn change_rss(&mut self, name: &str, shift: u32) {
        let table: Vec<u32> = (0..128).map(|n| (n + shift) % QUEUES).collect();
        self.net.set_rss(name, Rss::new(Processor::detect(), &self.key, &table, true, true).unwrap());
    }

    fn run(&mut self) {
        for _ in 0..8 {
            for datapath in &mut self.workers {
                datapath.turn(self.now).unwrap();
                let (umem, ports) = datapath.kernel_side();
                ports.for_each(|port| port.run_kernel(umem));
            }
        }
    }

    fn left(&self, interface: &str) -> Vec<Vec<u8>> {
        (0..QUEUES).flat_map(|queue| self.net.sent(&QueueId::new(interface, queue))).collect()
    }

    /// Sends a request from every client and its answer. Returns the number of answers that were handed over.
    fn everybody_asks(&mut self) -> u64 {
        let before = self.handed_over();
        for n in 0..CLIENTS {
            let (client, entry) = match n % 2 {
                0 => (format!("192.0.2.{}:{}", 2 + n % 8, 4000 + n), "192.0.2.1:53"),
                _ => (format!("[2001:db8:1::{}]:{}", 2 + n % 8, 4000 + n), "[2001:db8:1::1]:53"),
            };
            self.net.arrive("sim0", &datagram(&client, entry, b"?"));
            self.run();
            let mut asked = self.left("sim1");
            assert_eq!(asked.len(), 1);
            let (source, _) = ends_unchecked(&asked[0]);
            assert_eq!(*self.sources.entry(n).or_insert(source), source, "client {n} has one session");
            assert!(reflect(&mut asked[0]));
            self.net.arrive("sim1", &asked[0]);
            self.run();
            assert_eq!(self.left("sim0").len(), 1, "client {n} gets its answer");
        }
        self.handed_over() - before
    }

    fn handed_over(&self) -> u64 {
        self.workers.iter().map(|datapath| datapath.counters().handed_over).sum()
    }

    fn sessions(&self) -> u64 {
        self.workers.iter().map(|datapath| datapath.handler().sessions()).sum()
    }

    fn clients_handed_over(&self) -> u64 {
        self.workers.iter().map(|datapath| datapath.handler().counters().client_handed_over).sum()
    }

    fn misdirected(&self) -> u64 {
        self.workers.iter().map(|datapath| datapath.handler().counters().misdirected).sum()
    }
}

/// One client socket has one session, whichever queues its packets and their answers come to.
#[test]
fn each_rss_change_keeps_one_session_per_client() {
    let mut nics = Nics::new(true);
    assert_eq!(nics.everybody_asks(), 0);
    let clients = u64::from(CLIENTS);
    for (requests, answers) in [(1, 0), (2, 1), (3, 3), (0, 2)] {
        nics.change_rss("sim0", requests);
        nics.change_rss("sim1", answers);
        let before = nics.clients_handed_over();
        let all = nics.everybody_asks();
        assert_eq!(nics.sessions(), clients);
        // Each direction is handed over where it comes to another queue, which all flows of a shifted table do.
        let expected = [requests, answers].map(|shift| if shift == 0 { 0 } else { clients });
        assert_eq!((nics.clients_handed_over() - before, all), (expected[0], expected[0] + expected[1]));
    }
    nics.change_rss("sim1", 0);
    assert_eq!(nics.everybody_asks(), 0, "back at home");
}

/// The flows of a queue that has ended are served by the queues where their packets arrive.
#[test]
fn flows_of_ended_queue_move() {
    let mut nics = Nics::new(true);
    nics.everybody_asks();
    nics.change_rss("sim0", 1);
    for datapath in &mut nics.workers {
        datapath.set_peer(0, None);
    }
    let lost: Vec<u32> = {
        let mut list = Vec::new();
        nics.workers[0].handler().describe_sessions(usize::MAX, &mut list);
        (0..CLIENTS).filter(|n| list.iter().any(|one| one.source == nics.sources[n])).collect()
    };
    assert!(lost.len() > 50);
    lost.iter().for_each(|n| _ = nics.sources.remove(n));
    nics.everybody_asks();
    // The ended queue still has its sessions here, which nobody can reach.
    assert_eq!(nics.sessions(), u64::from(CLIENTS) + lost.len() as u64);
}

#[test]
fn known_rss_key_needs_no_handover() {
    let mut nics = Nics::new(true);
    assert_eq!((nics.everybody_asks(), nics.misdirected()), (0, 0));
    assert_eq!((nics.everybody_asks(), nics.misdirected()), (0, 0));
}

#[test]
fn unknown_rss_key_hands_over_and_counts() {
    let mut nics = Nics::new(false);
    let handed_over = nics.everybody_asks();
    // About three of four.
    assert!((250..350).contains(&handed_over), "{handed_over}");
    assert_eq!(nics.everybody_asks(), handed_over);
    assert_eq!(nics.misdirected(), 0, "without a key no session counts as misdirected");
}
