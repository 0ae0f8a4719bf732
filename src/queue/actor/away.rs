//! Ports of a living actor that are closed: why, until when, and how they are opened again while the others go on.

use std::time::{Duration, Instant};

use oxide_actors::supervisor::StateReport;

use super::{Actor, Report};
use crate::port::{Backend, Port, PortError, PortInfo};
use crate::queue::{Handler, PortRequests};
use crate::umem::{MAX_PORTS, PortIndex, PortList};

/// How long a queue may answer EBUSY: the kernel takes a socket down 15 to 60 ms after it was closed. Less than the
/// supervisor waits for the port.
const OPEN_WITHIN: Duration = Duration::from_millis(1500);
/// Between two tries.
const TRY_EVERY: Duration = Duration::from_millis(2);

/// What becomes of one closed port.
#[derive(Debug, Clone)]
enum Fate {
    /// The supervisor decides when it is opened again.
    Failed(String),
    /// There is nothing to open it on now; the engine says when there is.
    Waits(String),
    /// Opened as soon as its queue is free.
    Opening,
}

/// The closed ports.
#[derive(Default)]
pub(super) struct Away {
    fates: [Option<Fate>; MAX_PORTS as usize],
    /// While some are being opened: the next try, and when to give up.
    tries: Option<(Instant, Instant)>,
}

impl Away {
    /// How long the actor may sleep.
    pub(super) fn patience(&self) -> Duration {
        if self.tries.is_some() { TRY_EVERY } else { Duration::MAX }
    }

    fn set(&mut self, port: PortIndex, fate: Option<Fate>) {
        if let Some(place) = self.fates.get_mut(usize::from(port)) {
            *place = fate;
        }
    }

    fn opening(&self) -> impl Iterator<Item = PortIndex> + use<> {
        let fates = self.fates.clone();
        PortIndex::ALL
            .into_iter()
            .zip(fates)
            .filter(|(_, fate)| matches!(fate, Some(Fate::Opening)))
            .map(|(port, _)| port)
    }

    /// How an actor with these ports is, its handler aside. A failure goes before a wait: it can be mended now.
    pub(super) fn word(&self) -> StateReport {
        let fates = || (0_u8..).zip(&self.fates);
        let failed = fates().find_map(|(part, fate)| match fate {
            Some(Fate::Failed(cause)) => Some(StateReport::PartFailed { part, cause: cause.clone() }),
            Some(Fate::Opening) => Some(StateReport::PartFailed { part, cause: "it is being opened".to_owned() }),
            _ => None,
        });
        let waits = || {
            fates().find_map(|(_, fate)| match fate {
                Some(Fate::Waits(why)) => Some(StateReport::Waiting(why.clone())),
                _ => None,
            })
        };
        failed.or_else(waits).unwrap_or(StateReport::Running)
    }
}

/// What an actor was opened with: what it is without, what each port is, and those that are open.
pub(super) fn sort<P: Port>(opened: Vec<Result<P, PortError>>) -> (Away, Vec<PortInfo>, PortList<Option<P>>) {
    let (mut away, mut infos, mut ports) = (Away::default(), Vec::new(), PortList::new());
    for (opened, at) in opened.into_iter().zip(PortIndex::ALL) {
        match &opened {
            Ok(port) => infos.push(port.info().clone()),
            Err(error) => {
                away.set(at, Some(Fate::Waits(error.to_string())));
                infos.push(PortInfo::closed(error.id().clone(), error.to_string()));
            }
        }
        ports.push(opened.ok());
    }
    (away, infos, ports)
}

impl<B: Backend, H: Handler> Actor<B, H> {
    /// A port is of no more use: closes it and tells.
    pub(super) fn lose(&mut self, port: PortIndex, error: &PortError) {
        tracing::warn!(queue = self.info.queue, port = port.number(), %error, "port closed");
        self.worker.close_port(port);
        self.away.set(port, Some(Fate::Failed(error.to_string())));
        self.tell();
    }

    /// Closes ports that are of no use now, for a reason that somebody else knows.
    pub(super) fn close(&mut self, ports: u8, why: &str) {
        for port in PortIndex::ALL.into_iter().filter(|port| port.is_in(ports)) {
            self.worker.close_port(port);
            self.away.set(port, Some(Fate::Waits(why.to_owned())));
        }
        self.tell();
    }

    /// Opens what is closed, and `restart` anew; goes on in [`reopen`](Self::reopen).
    pub(super) fn open_ports(&mut self, restart: Option<PortIndex>, requests: PortRequests<B::Request>, now: Instant) {
        if self.stop_by.is_some() {
            return;
        }
        if let Some(port) = restart {
            self.worker.close_port(port);
        }
        let closed: Vec<PortIndex> = self.worker.closed().collect();
        for (port, request) in requests.into_iter().filter(|(port, _)| closed.contains(port)) {
            self.away.set(
                port,
                Some(match request {
                    Ok(request) => {
                        self.backend.renew(port, request);
                        Fate::Opening
                    }
                    Err(why) => Fate::Waits(why),
                }),
            );
        }
        self.away.tries = Some((now, now + OPEN_WITHIN));
        self.reopen(now);
    }

    /// Tries the ports that are being opened; when none is left, tells how it went.
    pub(super) fn reopen(&mut self, now: Instant) {
        let Some((next, until)) = self.away.tries.filter(|_| self.stop_by.is_none()) else { return };
        if now < next {
            return;
        }
        self.away.tries = Some((now + TRY_EVERY, until));
        let mut opened = false;
        for port in self.away.opening() {
            let outcome = self.backend.reopen(port, self.worker.umem_mut());
            let fate = match outcome.and_then(|open| self.worker.put_port(port, open)) {
                Ok(()) => {
                    opened = true;
                    None
                }
                Err(error) if error.is_busy() && now < until => continue,
                Err(error) if error.waits() => Some(Fate::Waits(error.to_string())),
                Err(error) => Some(Fate::Failed(error.to_string())),
            };
            self.away.set(port, fate);
        }
        if opened {
            self.info.ports = self.worker.infos().to_vec();
            self.link.report(Report::Ports(self.info.ports.clone()));
        }
        if self.away.opening().next().is_none() {
            self.away.tries = None;
            self.tell();
        }
    }

    /// Tells the supervisor how this actor is, all in all.
    pub(super) fn tell(&mut self) {
        let word = match self.worker.parked() {
            Some(words) => StateReport::SoftFailed(words.to_owned()),
            None => self.away.word(),
        };
        match word {
            StateReport::Running => _ = self.link.report(Report::Lost(self.costs.end(&self.worker))),
            _ => self.costs.begin(&self.worker),
        }
        self.link.report_state(word);
    }
}
