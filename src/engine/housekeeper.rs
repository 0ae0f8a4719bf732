//! The housekeeping thread: between the kernel's tables and the actors.

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

/// How long the kernel may take to tell its tables at first.
const TABLES_WITHIN: Duration = Duration::from_secs(5);
/// How often programs are looked after: no event tells that one was taken off. A system call for each interface.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Devices that are busy polled are looked for at each so many looks, and the settings of all at each so many.
const SETTINGS_EVERY: u32 = 10;
const DRIFT_EVERY: u32 = 40;

/// What the thread keeps.
pub(super) struct Housekeeper {
    pub(super) net: NetService,
    pub(super) handle: SupervisorHandle<EngineMessage>,
    pub(super) interfaces: Arc<Mutex<Interfaces>>,
    pub(super) status: Arc<Mutex<EngineStatus>>,
    pub(super) destinations: DestinationsOf,
    /// Next hops that actors want resolved.
    pub(super) asked: flume::Receiver<(u32, IpAddr)>,
    pub(super) commands: flume::Receiver<HousekeeperCommand>,
    /// As they were told last.
    pub(super) tables: Arc<Tables>,
    /// The interfaces as they were at start.
    pub(super) planned: Vec<Nic>,
}

/// What the engine tells the thread.
pub(super) enum HousekeeperCommand {
    /// Other destinations are the engine's from now on, or still the former ones: then the error says why.
    Destinations(DestinationsOf, flume::Sender<Result<(), EngineError>>),
    /// End.
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
                Ok(HousekeeperEvent::Net(Some(event))) => tracing::warn!(?event, "netlink"),
                Ok(HousekeeperEvent::Asked(Some((interface, next_hop)))) => {
                    // Busy: the packet that waits for it asks again.
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

    /// Lists the destinations that `of` wants by the tables of the moment.
    fn list(&self, of: &DestinationsOf) -> Result<(), EngineError> {
        let wanted = of(&self.tables);
        self.interfaces.lock().unwrap_or_else(PoisonError::into_inner).set_destinations(&wanted)
    }

    /// Looks at the links of the served interfaces and at the listed addresses.
    fn observe(&self) {
        let links = operation::links(self.planned.iter().map(|nic| nic.name.as_str()), &self.tables);
        let wanted = (self.destinations)(&self.tables);
        let addresses = operation::addresses(&wanted, &self.tables, oxide_topology::takes_for_its_own);
        self.status.lock().unwrap_or_else(PoisonError::into_inner).observe(links, addresses);
    }

    fn publish(&mut self, tables: Arc<Tables>, actors: usize) {
        self.tables = Arc::clone(&tables);
        if let Err(error) = self.list(&self.destinations) {
            tracing::error!(%error, "destinations not listed: the former ones stay");
        }
        self.observe();
        let lost = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner).forget_lost(&tables);
        for name in &lost {
            tracing::warn!(interface = name, "gone, or made again: its queues are opened anew");
        }
        for actor in (0..actors).map(ActorId) {
            if let Err(error) = self.handle.send_engine_message(actor, EngineMessage::Tables(Arc::clone(&tables))) {
                tracing::warn!(?actor, %error, "tables not passed on");
            }
            // An interface that somebody waits for may be among them.
            let _ = self.handle.wake(actor);
        }
    }

    /// Programs that another process took off are put back. Where that cannot be, the interface's ports are closed and
    /// wait.
    fn check_programs(&self, actors: usize) {
        let events = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner).check_programs();
        for what in events {
            let close = match what {
                ProgramEvent::Reattached { interface } => {
                    tracing::warn!(interface, "the XDP program was taken off; it is back");
                    None
                }
                ProgramEvent::Detached { interface, why } => {
                    tracing::error!(interface, why, "the XDP program is not attached any more: no packets come in");
                    Some((interface, why))
                }
            };
            for actor in (0..actors).map(ActorId) {
                let told = match &close {
                    Some((interface, why)) => {
                        self.handle.send_engine_message(actor, EngineMessage::Close(interface.clone(), why.clone()))
                    }
                    None => self.handle.wake(actor),
                };
                if let Err(error) = told {
                    tracing::warn!(?actor, %error, "not told of its interface's program");
                }
            }
        }
    }

    /// Tells what was changed on the interfaces since they were planned for, once for each change.
    fn compare(&self) {
        let names: Vec<String> = self.planned.iter().map(|nic| nic.name.clone()).collect();
        // One that is not there is netlink's to tell; the next look comes soon.
        let Ok(now) = oxide_topology::live_nics(&names) else { return };
        let drift = drift::differences(&self.planned, &now);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        for news in drift.iter().filter(|sentence| !status.drift.contains(sentence)) {
            tracing::warn!(news, "not as planned any more");
        }
        status.drift = drift;
    }

    /// Devices that are busy polled get the settings for it.
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

/// Links, addresses, routes and neighbours of this network namespace, once.
///
/// # Errors
/// [`EngineError::Net`].
pub fn read_tables() -> Result<Tables, EngineError> {
    let net = NetService::start(NetOptions::default())?;
    let tables = first_tables(&net)?;
    net.stop(Duration::from_secs(1))?;
    Ok(tables)
}
