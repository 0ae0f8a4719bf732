//! Runs the housekeeping thread, which connects the kernel's tables with the actors.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oxide_actors::supervisor::{ActorId, SupervisorHandle};
use oxide_topology::Nic;

use super::EngineError;
use super::EngineStatus;
use super::controller::EngineMessage;
use super::destinations::DestinationsOf;
use super::drift;
use super::interfaces::{Interfaces, ProgramEvent};
use super::operation;
use crate::net::{NetError, NetEvent, NetOptions, NetService, Tables};

/// Limits the time in which the kernel sends its first tables.
const TABLES_WITHIN: Duration = Duration::from_secs(5);
/// Sets the interval of the program checks, since no event reports a removed program. A check is one system call per
/// interface.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Counts the checks between two searches for devices with busy polling.
const SETTINGS_EVERY: u32 = 10;
/// Counts the checks between two searches for drift.
const DRIFT_EVERY: u32 = 40;

/// Holds the state of the housekeeping thread.
pub(super) struct Housekeeper {
    pub(super) net: NetService,
    pub(super) handle: SupervisorHandle<EngineMessage>,
    pub(super) interfaces: Arc<Mutex<Interfaces>>,
    pub(super) status: Arc<Mutex<EngineStatus>>,
    pub(super) destinations: DestinationsOf,
    /// Next hops that actors want to resolve.
    pub(super) asked: flume::Receiver<(u32, IpAddr)>,
    pub(super) commands: flume::Receiver<HousekeeperCommand>,
    /// Tables as last published.
    pub(super) tables: Arc<Tables>,
    /// Interfaces as they were at start.
    pub(super) planned: Vec<Nic>,
}

/// Lists the commands of the engine to the housekeeping thread.
pub(super) enum HousekeeperCommand {
    /// Replaces the destinations. On an error, the former ones stay; the channel carries the result.
    Destinations(DestinationsOf, flume::Sender<Result<(), EngineError>>),
    /// Ends the thread.
    Stop,
}

enum HousekeeperEvent {
    Net(Option<NetEvent>),
    Asked(Option<(u32, IpAddr)>),
    Command(Option<HousekeeperCommand>),
}

impl Housekeeper {
    pub(super) fn run(mut self, actors: usize) {
        self.observe();
        let mut next_look = Instant::now() + LOOK_EVERY;
        let mut looks = 0_u32;
        loop {
            let event = flume::Selector::new()
                .recv(&self.net.events, |event| HousekeeperEvent::Net(event.ok()))
                .recv(&self.asked, |ask| HousekeeperEvent::Asked(ask.ok()))
                .recv(&self.commands, |order| HousekeeperEvent::Command(order.ok()))
                .wait_deadline(next_look);
            match event {
                Ok(HousekeeperEvent::Net(Some(NetEvent::Tables(tables)))) => self.publish(Arc::new(tables), actors),
                Ok(HousekeeperEvent::Net(Some(event))) => {
                    tracing::warn!(?event, "kernel tables read again after lost netlink messages")
                }
                Ok(HousekeeperEvent::Asked(Some((interface, next_hop)))) => {
                    // If the service is busy, a later packet repeats the request.
                    let _ = self.net.resolve(interface, next_hop);
                }
                Ok(HousekeeperEvent::Command(Some(HousekeeperCommand::Destinations(destinations, reply)))) => {
                    let listed = self.list(&destinations);
                    if listed.is_ok() {
                        self.destinations = destinations;
                        self.observe();
                    }
                    let _ = reply.send(listed);
                }
                Ok(HousekeeperEvent::Net(None)) => {
                    tracing::error!("netlink service ended: routes, neighbours and programs are no longer followed");
                    break;
                }
                Ok(
                    HousekeeperEvent::Asked(None) | HousekeeperEvent::Command(None | Some(HousekeeperCommand::Stop)),
                ) => break,
                Err(_) => {
                    next_look = Instant::now() + LOOK_EVERY;
                    looks = looks.wrapping_add(1);
                    self.check_programs(actors);
                    if looks.is_multiple_of(SETTINGS_EVERY) {
                        self.look();
                    }
                    if looks.is_multiple_of(DRIFT_EVERY) {
                        self.observe();
                        self.compare();
                    }
                }
            }
        }
        if let Err(error) = self.net.stop(Duration::from_secs(1)) {
            tracing::warn!(%error, "netlink service");
        }
    }

    /// Sets the destinations that `of` computes from the current tables.
    fn list(&self, of: &DestinationsOf) -> Result<(), EngineError> {
        let wanted = of(&self.tables);
        self.interfaces.lock().unwrap_or_else(PoisonError::into_inner).set_destinations(&wanted)
    }

    /// Updates the status of the served links and of the listed addresses.
    fn observe(&self) {
        let links = operation::links(self.planned.iter().map(|nic| nic.name.as_str()), &self.tables);
        let wanted = (self.destinations)(&self.tables);
        let addresses = operation::addresses(&wanted, &self.tables, oxide_topology::takes_for_its_own);
        self.status.lock().unwrap_or_else(PoisonError::into_inner).observe(links, addresses);
    }

    fn publish(&mut self, tables: Arc<Tables>, actors: usize) {
        self.tables = Arc::clone(&tables);
        if let Err(error) = self.list(&self.destinations) {
            tracing::error!(%error, "cannot update the destinations; the former ones stay");
        }
        self.observe();
        let lost = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner).forget_lost(&tables);
        for name in &lost {
            tracing::warn!(interface = name, "interface deleted or re-created; reopening its queues");
        }
        for actor in (0..actors).map(ActorId) {
            if let Err(error) = self.handle.send_engine_message(actor, EngineMessage::Tables(Arc::clone(&tables))) {
                tracing::warn!(?actor, %error, "cannot send tables to an actor");
            }
            // The new tables may contain an interface that the actor waits for.
            let _ = self.handle.wake(actor);
        }
    }

    /// Attaches programs again that another process detached. If that fails, the ports of the interface are closed and
    /// wait.
    fn check_programs(&self, actors: usize) {
        let events = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner).check_programs();
        for what in events {
            let close = match what {
                ProgramEvent::Reattached { interface } => {
                    tracing::warn!(interface, "XDP program was detached; attached again");
                    None
                }
                ProgramEvent::Detached { interface, why } => {
                    tracing::error!(interface, why, "XDP program detached; no packets arrive");
                    Some((interface, why))
                }
            };
            for actor in (0..actors).map(ActorId) {
                let sent = match &close {
                    Some((interface, why)) => {
                        self.handle.send_engine_message(actor, EngineMessage::Close(interface.clone(), why.clone()))
                    }
                    None => self.handle.wake(actor),
                };
                if let Err(error) = sent {
                    tracing::warn!(?actor, %error, "cannot report the XDP program's state to an actor");
                }
            }
        }
    }

    /// Reports changes of the interfaces since the plan, each once.
    fn compare(&self) {
        let names: Vec<String> = self.planned.iter().map(|nic| nic.name.clone()).collect();
        // Netlink reports a missing interface, so this check is skipped until the next one.
        let Ok(now) = oxide_topology::live_nics(&names) else { return };
        let drift = drift::differences(&self.planned, &now);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        for change in drift.iter().filter(|sentence| !status.drift.contains(sentence)) {
            tracing::warn!(change, "machine changed since the plan");
        }
        status.drift = drift;
    }

    /// Applies the busy polling settings to the devices that are busy polled.
    fn look(&self) {
        let polled: BTreeSet<String> = {
            let status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            let modes = status.queues.iter().flat_map(|queue| &queue.mode);
            modes.filter(|mode| mode.busy_polling).map(|mode| mode.interface.clone()).collect()
        };
        let mut interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        for interface in &polled {
            interfaces.busy_polls(interface);
        }
    }
}

pub(super) fn first_tables(net: &NetService) -> Result<Tables, EngineError> {
    let until = Instant::now() + TABLES_WITHIN;
    loop {
        match net.events.recv_deadline(until) {
            Ok(NetEvent::Tables(tables)) => return Ok(tables),
            Ok(_) => {}
            Err(_) => {
                let step = "sending its first tables";
                return Err(NetError::Late { step, after: TABLES_WITHIN }.into());
            }
        }
    }
}

/// Reads links, addresses, routes and neighbours of this network namespace once.
///
/// # Errors
/// Returns [`EngineError::Net`].
pub fn read_tables() -> Result<Tables, EngineError> {
    let net = NetService::start(NetOptions::default())?;
    let tables = first_tables(&net)?;
    net.stop(Duration::from_secs(1))?;
    Ok(tables)
}
