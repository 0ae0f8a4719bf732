//! Checks every packet and frame of a run, and keeps the first failure.

use std::collections::VecDeque;

use serde::Serialize;

use super::app::{Rule, relayed};
use super::forward::{CLIENTS, SERVERS, forward, host_mac};
use super::traffic::{Direction, HOPS, Label, Traffic, read};
use oxide::packet::parse;
use oxide::port::sim::SimInterface;

/// Names a check, for reports and failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Checker {
    /// Checks that every packet that leaves is, byte for byte, what the application must make of a received one.
    Content,
    /// Checks that the relay decides about every packet as the slow reference relay does.
    Reference,
    /// Checks that the packets of a flow leave in the order in which the link delivered them, and none twice.
    Order,
    /// Checks that a fault at one queue costs no other queue a packet.
    Isolation,
    /// Checks that every packet put on a link arrives or is counted as lost by the link.
    Links,
    /// Checks that every frame has exactly one state. At a quiescent point no frame may belong to the application or be
    /// in transmission.
    Ledger,
    /// Checks that the kernel's side counts the same frames as the ledger and sees no rule violated.
    Kernel,
    /// Checks, for every queue, that each received packet left or was dropped with a reason.
    Packets,
    /// Checks that nothing is lost without faults.
    Lossless,
    /// Checks that, after faults end, every queue runs again and finishes all pending work in bounded time.
    Recovery,
    /// Checks that no queue is restarted more often than its budget allows, or earlier than its backoff.
    Budget,
    /// Checks that a client socket has at most one session at an entry, whichever queues its packets came to.
    Sessions,
}

impl Checker {
    /// Lists all checkers.
    pub const ALL: [Self; 12] = [
        Self::Content,
        Self::Reference,
        Self::Order,
        Self::Isolation,
        Self::Links,
        Self::Ledger,
        Self::Kernel,
        Self::Packets,
        Self::Lossless,
        Self::Recovery,
        Self::Budget,
        Self::Sessions,
    ];

    /// Returns the name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Reference => "reference",
            Self::Order => "order",
            Self::Isolation => "isolation",
            Self::Links => "links",
            Self::Ledger => "ledger",
            Self::Kernel => "kernel",
            Self::Packets => "packets",
            Self::Lossless => "lossless",
            Self::Recovery => "recovery",
            Self::Budget => "budget",
            Self::Sessions => "sessions",
        }
    }
}

/// Describes the first failed check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Names the checker that failed.
    pub checker: Checker,
    /// Counts the simulation steps before the failure.
    pub step: u64,
    /// States the observed and the expected value.
    pub text: String,
}

/// Records the packets of one flow.
#[derive(Debug, Clone, Default)]
struct FlowRecord {
    /// Lists packets that arrived and have not left, in order: requests, then answers.
    came: [VecDeque<u64>; 2],
    /// States that no fault may cost this flow a packet.
    fault_free: bool,
    /// Is the first sequence number that the link has not delivered yet.
    asked: u64,
    /// Is the sequence number below which answers may go to another client. Their session is gone, and a new session
    /// with the same source port cannot be distinguished from it.
    forgiven: u64,
}

pub(super) struct InvariantChecker {
    pub(super) step: u64,
    /// Counts packets that left towards servers (`there`) and towards clients (`back`).
    pub(super) there: u64,
    pub(super) back: u64,
    /// Holds the first failure.
    pub(super) failure: Option<Failure>,
    /// Hashes all packets that left, with step and port.
    pub(super) fingerprint: u64,
    checks: [u64; Checker::ALL.len()],
    flows: Vec<FlowRecord>,
    expected: Vec<u8>,
    rule: Rule,
    /// Counts answers that went to another client and were excused ([`FlowRecord::forgiven`]).
    pub(super) misdelivered: u64,
}

impl InvariantChecker {
    pub(super) fn new(fault_free: Vec<bool>, rule: Rule) -> Self {
        Self {
            step: 0,
            there: 0,
            back: 0,
            failure: None,
            fingerprint: 0xcbf2_9ce4_8422_2325,
            checks: [0; Checker::ALL.len()],
            flows: fault_free
                .into_iter()
                .map(|fault_free| FlowRecord { fault_free, ..FlowRecord::default() })
                .collect(),
            expected: Vec::new(),
            rule,
            misdelivered: 0,
        }
    }

    /// Counts a check, and keeps the first that fails.
    pub(super) fn check(&mut self, checker: Checker, holds: bool, text: impl FnOnce() -> String) {
        self.checks[checker as usize] += 1;
        if !holds && self.failure.is_none() {
            self.failure = Some(Failure { checker, step: self.step, text: text() });
        }
    }

    /// Returns the number of checks of each checker.
    pub(super) fn checks(&self) -> impl Iterator<Item = (Checker, u64)> + '_ {
        Checker::ALL.into_iter().zip(self.checks)
    }

    /// Records a packet that the link delivered.
    #[inline]
    pub(super) fn came(&mut self, label: Label) {
        if let Some(record) = self.flows.get_mut(label.flow as usize) {
            record.came[usize::from(label.direction == Direction::Back)].push_back(label.sequence);
            record.asked = record.asked.max(label.sequence + 1);
        }
    }

    /// Records that `queue`, one of `queues`, lost its sessions: answers in flight may meet new sessions.
    pub(super) fn sessions_lost(&mut self, queue: u32, queues: u32) {
        for record in self.flows.iter_mut().skip(queue as usize).step_by(queues as usize) {
            record.forgiven = record.asked;
        }
    }

    /// Discards the packets that have not left by a quiescent point, because they are lost. A fault-free flow must
    /// have none.
    pub(super) fn at_rest(&mut self) {
        let late =
            self.flows.iter().position(|record| record.fault_free && record.came.iter().any(|came| !came.is_empty()));
        if self.flows.iter().any(|record| record.fault_free) {
            self.check(Checker::Isolation, late.is_none(), || {
                format!("flow {late:?} of a queue without faults lost its last packets")
            });
        }
        for record in &mut self.flows {
            record.came.iter_mut().for_each(VecDeque::clear);
            record.forgiven = 0;
        }
    }

    /// Checks a frame of a replayed capture that left by `port`: the handler made it, and it is the next of its flow.
    pub(super) fn left_replayed(&mut self, port: u8, frame: &[u8]) {
        let right = matches!(&self.rule, Rule::Made(made) if made.take(port, frame));
        self.check(Checker::Content, right, || {
            format!("port {port}: frame not made by the handler, duplicated, or out of order: {frame:02x?}")
        });
        *(if port == CLIENTS { &mut self.back } else { &mut self.there }) += 1;
        let sum = frame.iter().fold(u64::from(port), |sum, byte| sum.rotate_left(7) ^ u64::from(*byte));
        self.mark(self.step ^ sum);
    }

    /// Checks a frame that left by `port`. Returns its label if it has a valid one.
    pub(super) fn left(&mut self, port: u8, frame: &[u8], traffic: &mut Traffic) -> Option<Label> {
        let label = read(frame).filter(|label| (label.flow as usize) < self.flows.len());
        let expected_direction = |label: &Label| (label.direction == Direction::Back) == (port == CLIENTS);
        let Some(label) = label.filter(expected_direction) else {
            self.check(Checker::Content, false, || {
                format!("port {port}: no label, or a packet of the other direction: {frame:02x?}")
            });
            return None;
        };
        let mut expected = std::mem::take(&mut self.expected);
        match &self.rule {
            Rule::Forwarded => {
                traffic.write(label, &mut expected);
                forward(&mut expected);
            }
            Rule::Relayed => {
                let forgiven = label.sequence < self.flows[label.flow as usize].forgiven;
                let home = rewritten(traffic, label, forgiven, frame, &mut expected);
                self.misdelivered += u64::from(!home);
            }
            Rule::Made(made) => {
                expected.clear();
                if made.take(port, frame) {
                    expected.extend_from_slice(frame);
                }
            }
        }
        self.check(Checker::Content, expected == frame, || {
            format!("{label:?} left by port {port} as\n{frame:02x?}; expected\n{expected:02x?}")
        });
        self.expected = expected;
        self.in_order(label);
        match label.direction {
            Direction::There => self.there += 1,
            Direction::Back => self.back += 1,
        }
        self.mark(self.step ^ u64::from(label.flow) << 40 ^ label.sequence << 8 ^ u64::from(port));
        Some(label)
    }

    fn in_order(&mut self, label: Label) {
        let FlowRecord { came, fault_free, .. } = &mut self.flows[label.flow as usize];
        let (came, fault_free) = (&mut came[usize::from(label.direction == Direction::Back)], *fault_free);
        let mut lost = 0u64;
        let found = loop {
            match came.pop_front() {
                Some(sequence) if sequence == label.sequence => break true,
                Some(_) => lost += 1,
                None => break false,
            }
        };
        self.check(Checker::Order, found, || {
            format!("{label:?}: never arrived, left twice, or left after a later packet")
        });
        if fault_free {
            self.check(Checker::Isolation, lost == 0, || {
                format!("{lost} packets before {label:?} were lost, but its queue has no faults")
            });
        }
    }

    /// Adds a value to the fingerprint.
    pub(super) fn mark(&mut self, value: u64) {
        self.fingerprint = (self.fingerprint.rotate_left(5) ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

/// Writes the frame that must have left, given the addresses of the frame that did leave. The relay may choose the
/// source port towards the upstream. A `forgiven` answer may go to any client of the queue. With wrong addresses
/// `expected` stays empty. Returns true if the frame went to its own client or server.
fn rewritten(traffic: &mut Traffic, label: Label, forgiven: bool, frame: &[u8], expected: &mut Vec<u8>) -> bool {
    expected.clear();
    let head = std::array::from_fn(|at| frame.get(at).copied().unwrap_or(0));
    let Ok(parsed) = parse(&head, frame.len() as u16) else { return true };
    let there = label.direction == Direction::There;
    let home = relayed(there, traffic.ends(label.flow).source, &parsed.flow);
    let other = parsed.flow.destination;
    let excused =
        |traffic: &Traffic| forgiven && relayed(there, other, &parsed.flow) && traffic.is_fellow(label.flow, other);
    if home || excused(traffic) {
        traffic.write_between(parsed.flow, label, HOPS - 1, expected);
        let (to, from) = if there { (SERVERS, "servers") } else { (CLIENTS, "clients") };
        expected[..6].copy_from_slice(&host_mac(to).0);
        expected[6..12].copy_from_slice(&SimInterface::new(from, 1).mac.0);
    }
    home
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::app::FORWARDED;
    use oxide::port::sim::Rng;

    /// Checks packets 0 to 3 of one flow, changed by `spoil`. Returns the checker that failed.
    fn judged(spoil: impl Fn(u64, &mut Vec<u8>)) -> Option<Checker> {
        let mut traffic = Traffic::new(1, FORWARDED);
        let mut invariants = InvariantChecker::new(vec![false; traffic.flows()], Rule::Forwarded);
        let first = traffic.pick(0, &mut Rng::new(1));
        for sequence in 0..4 {
            let mut frame = Vec::new();
            invariants.came(Label { sequence, ..first });
            traffic.write(Label { sequence, ..first }, &mut frame);
            forward(&mut frame);
            spoil(sequence, &mut frame);
            invariants.left(SERVERS, &frame, &mut traffic);
        }
        invariants.failure.map(|failure| failure.checker)
    }

    #[test]
    fn wrong_packet_is_detected() {
        assert_eq!(judged(|_, _| {}), None);
        let flip = |at: usize| {
            judged(move |n, frame| {
                if n == 2 {
                    frame[at] ^= 1
                }
            })
        };
        for at in [0, 11, 12, 16, 22, 30, 36, 40, 59] {
            assert_eq!(flip(at), Some(Checker::Content), "byte {at}");
        }
        assert_eq!(
            judged(|n, frame| if n == 2 {
                frame.truncate(50)
            }),
            Some(Checker::Content)
        );
        assert_eq!(
            judged(|n, frame| if n == 2 {
                frame.push(0)
            }),
            Some(Checker::Content)
        );
        assert_eq!(
            judged(|n, frame| if n == 2 {
                forward(frame)
            }),
            Some(Checker::Content)
        );
    }

    #[test]
    fn reordering_and_repetition_are_detected() {
        let run = |order: &[u64]| in_order(&[0, 1, 2, 3, 4, 5, 6], order, false);
        assert_eq!(run(&[0, 1, 5, 6]), None, "a loss is no reordering");
        assert_eq!(run(&[0, 2, 1]), Some(Checker::Order));
        assert_eq!(run(&[0, 1, 1]), Some(Checker::Order));
        assert_eq!(run(&[7]), Some(Checker::Order), "it never arrived");
        // Packets that a link reordered must leave in the order in which they arrived.
        assert_eq!(in_order(&[1, 0, 2], &[1, 0, 2], true), None);
        assert_eq!(in_order(&[1, 0, 2], &[0, 1, 2], false), Some(Checker::Order));
    }

    #[test]
    fn loss_without_faults_is_detected() {
        assert_eq!(in_order(&[0, 1, 2], &[0, 2], true), Some(Checker::Isolation));
        assert_eq!(
            in_order(&[0, 1, 2], &[0, 1], true),
            Some(Checker::Isolation),
            "the loss of the last packet is detected at the quiescent point"
        );
        assert_eq!(in_order(&[0, 1, 2], &[0, 1, 2], true), None);
    }

    /// Checks a flow whose packets arrive as `came` and leave as `left`. Returns the checker that failed.
    fn in_order(came: &[u64], left: &[u64], fault_free: bool) -> Option<Checker> {
        let mut traffic = Traffic::new(1, FORWARDED);
        let mut invariants = InvariantChecker::new(vec![fault_free; traffic.flows()], Rule::Forwarded);
        let first = traffic.pick(0, &mut Rng::new(1));
        came.iter().for_each(|&sequence| invariants.came(Label { sequence, ..first }));
        for &sequence in left {
            let mut frame = Vec::new();
            traffic.write(Label { sequence, ..first }, &mut frame);
            forward(&mut frame);
            invariants.left(SERVERS, &frame, &mut traffic);
        }
        invariants.at_rest();
        invariants.failure.map(|failure| failure.checker)
    }
}
