//! Manages the closed ports of a running actor: the reason, and the reopening while the other ports run.

use std::time::{Duration, Instant};

use oxide_actors::supervisor::StateReport;

use super::{Actor, Report};
use crate::port::{Backend, Port, PortError, PortInfo};
use crate::queue::{Handler, PortRequests};
use crate::umem::{MAX_PORTS, PortIndex, PortList};

/// Limits the retries while a queue answers EBUSY. The kernel releases a socket 15 to 60 ms after its close. The
/// supervisor waits longer than this for the port.
const OPEN_WITHIN: Duration = Duration::from_millis(1500);
/// Sets the time between two attempts.
const TRY_EVERY: Duration = Duration::from_millis(2);

/// States why a port is closed.
#[derive(Debug, Clone)]
enum ClosedReason {
    /// The port failed. The supervisor decides when it is reopened.
    Failed(String),
    /// The port cannot be opened now. The engine sends a command when it can.
    Waits(String),
    /// The port is reopened as soon as its queue is free.
    Opening,
}

/// Holds the closed ports and their reasons.
#[derive(Default)]
pub(super) struct ClosedPorts {
    reasons: [Option<ClosedReason>; MAX_PORTS as usize],
    /// Holds the time of the next attempt and the time limit while ports are being opened.
    tries: Option<(Instant, Instant)>,
}

impl ClosedPorts {
    /// Returns how long the actor may sleep.
    pub(super) fn patience(&self) -> Duration {
        if self.tries.is_some() { TRY_EVERY } else { Duration::MAX }
    }

    fn set(&mut self, port: PortIndex, reason: Option<ClosedReason>) {
        if let Some(place) = self.reasons.get_mut(usize::from(port)) {
            *place = reason;
        }
    }

    fn opening(&self) -> impl Iterator<Item = PortIndex> + use<> {
        let reasons = self.reasons.clone();
        PortIndex::ALL
            .into_iter()
            .zip(reasons)
            .filter(|(_, reason)| matches!(reason, Some(ClosedReason::Opening)))
            .map(|(port, _)| port)
    }

    /// Returns the state report for these ports, without the handler. A failure precedes a wait, because a reopen can
    /// solve it now.
    pub(super) fn state_report(&self) -> StateReport {
        let reasons = || (0_u8..).zip(&self.reasons);
        let failed = reasons().find_map(|(part, reason)| match reason {
            Some(ClosedReason::Failed(cause)) => Some(StateReport::PartFailed { part, cause: cause.clone() }),
            Some(ClosedReason::Opening) => {
                Some(StateReport::PartFailed { part, cause: "the port is being opened".to_owned() })
            }
            _ => None,
        });
        let waits = || {
            reasons().find_map(|(_, reason)| match reason {
                Some(ClosedReason::Waits(why)) => Some(StateReport::Waiting(why.clone())),
                _ => None,
            })
        };
        failed.or_else(waits).unwrap_or(StateReport::Running)
    }
}

/// Splits the opened ports into closed ports, the description of every port, and the open ports.
pub(super) fn sort<P: Port>(opened: Vec<Result<P, PortError>>) -> (ClosedPorts, Vec<PortInfo>, PortList<Option<P>>) {
    let (mut closed_ports, mut infos, mut ports) = (ClosedPorts::default(), Vec::new(), PortList::new());
    for (opened, at) in opened.into_iter().zip(PortIndex::ALL) {
        match &opened {
            Ok(port) => infos.push(port.info().clone()),
            Err(error) => {
                closed_ports.set(at, Some(ClosedReason::Waits(error.to_string())));
                infos.push(PortInfo::closed(error.id().clone(), error.to_string()));
            }
        }
        ports.push(opened.ok());
    }
    (closed_ports, infos, ports)
}

impl<B: Backend, H: Handler> Actor<B, H> {
    /// Closes a failed port and reports the new state to the supervisor.
    pub(super) fn close_failed_port(&mut self, port: PortIndex, error: &PortError) {
        tracing::warn!(queue = self.info.queue, port = port.number(), %error, "port closed");
        self.datapath.close_port(port);
        self.closed_ports.set(port, Some(ClosedReason::Failed(error.to_string())));
        self.report_state();
    }

    /// Closes the ports in the mask `ports` for the reason `why`, which the engine gives.
    pub(super) fn close(&mut self, ports: u8, why: &str) {
        for port in PortIndex::ALL.into_iter().filter(|port| port.is_in(ports)) {
            self.datapath.close_port(port);
            self.closed_ports.set(port, Some(ClosedReason::Waits(why.to_owned())));
        }
        self.report_state();
    }

    /// Opens every closed port, and reopens `restart`. [`reopen`](Self::reopen) continues the attempts.
    pub(super) fn open_ports(
        &mut self,
        restart: Option<PortIndex>,
        requests: PortRequests<B::OpenParams>,
        now: Instant,
    ) {
        if self.stop_by.is_some() {
            return;
        }
        if let Some(port) = restart {
            self.datapath.close_port(port);
        }
        let closed: Vec<PortIndex> = self.datapath.closed().collect();
        for (port, request) in requests.into_iter().filter(|(port, _)| closed.contains(port)) {
            self.closed_ports.set(
                port,
                Some(match request {
                    Ok(request) => {
                        self.backend.set_params(port, request);
                        ClosedReason::Opening
                    }
                    Err(why) => ClosedReason::Waits(why),
                }),
            );
        }
        self.closed_ports.tries = Some((now, now + OPEN_WITHIN));
        self.reopen(now);
    }

    /// Tries to open the ports that are being opened. Reports the state when no attempt remains.
    pub(super) fn reopen(&mut self, now: Instant) {
        let Some((next, until)) = self.closed_ports.tries.filter(|_| self.stop_by.is_none()) else { return };
        if now < next {
            return;
        }
        self.closed_ports.tries = Some((now + TRY_EVERY, until));
        let mut opened = false;
        for port in self.closed_ports.opening() {
            let outcome = self.backend.reopen(port, self.datapath.umem_mut());
            let reason = match outcome.and_then(|open| self.datapath.put_port(port, open)) {
                Ok(()) => {
                    opened = true;
                    None
                }
                Err(error) if error.is_busy() && now < until => continue,
                Err(error) if error.waits() => Some(ClosedReason::Waits(error.to_string())),
                Err(error) => Some(ClosedReason::Failed(error.to_string())),
            };
            self.closed_ports.set(port, reason);
        }
        if opened {
            self.info.ports = self.datapath.infos().to_vec();
            self.link.report(Report::Ports(self.info.ports.clone()));
        }
        if self.closed_ports.opening().next().is_none() {
            self.closed_ports.tries = None;
            self.report_state();
        }
    }

    /// Reports the overall state of this actor to the supervisor.
    pub(super) fn report_state(&mut self) {
        let report = match self.datapath.handler_panic() {
            Some(message) => StateReport::SoftFailed(message.to_owned()),
            None => self.closed_ports.state_report(),
        };
        match report {
            StateReport::Running => _ = self.link.report(Report::Lost(self.loss_meter.end(&self.datapath))),
            _ => self.loss_meter.begin(&self.datapath),
        }
        self.link.report_state(report);
    }
}
