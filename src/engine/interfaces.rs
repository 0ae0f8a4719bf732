//! The interfaces of an engine: program, list of destinations, device settings. One of each per
//! interface, attached as long as the engine lives, and attached anew when the interface was made again.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::EngineError;
use super::destinations::{ByAddress, Destinations, NotExchanged, by_address, exchange};
use super::status::SteeringStatus;
use crate::net::{BusyPollSettings, SettingsGuard, Tables, put_back_settings};
use crate::port::QueueId;
use crate::xdp::steering::{self, AttachMode, MAX_ADDRESSES, Steering, SteeringError, SteeringOptions};
use crate::xdp::{Device, PortOpenParams};

/// Programs by interface name.
pub(super) struct Interfaces {
    options: SteeringOptions,
    attached: BTreeMap<String, Attached>,
    /// There, wanted, and refused our program when that was last tried: another one was there first.
    refusing: BTreeMap<String, RetryDelay>,
    destinations: ByAddress,
}

struct Attached {
    steering: Steering,
    ifindex: u32,
    /// Device settings for busy polling, put back when this is dropped; `Err` where they were refused.
    settings: Option<Result<SettingsGuard, ()>>,
    /// Why the program is not on the interface though that is there, and when that was last looked at.
    detached_reason: Option<(String, RetryDelay)>,
}

/// Between two tries of a program that cannot be put back: each names who is in its place, which takes a while.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Until something that was refused is tried again.
#[derive(Clone, Copy)]
struct RetryDelay {
    since: Instant,
    /// Another program has the interface: it is asked for that at each look, which is one netlink question, where a try may
    /// be a program load.
    held: bool,
}

impl RetryDelay {
    fn new(held: bool) -> Self {
        Self { since: Instant::now(), held }
    }

    fn is_over(self, interface: &str) -> bool {
        if self.held { !steering::has_program(interface) } else { self.since.elapsed() >= TRY_EVERY }
    }
}

/// What became of a program that somebody took off.
pub(super) enum ProgramEvent {
    /// It is on its interface again; the sockets in its map never left it.
    Reattached { interface: String },
    /// It is not: another one is there, or the kernel refuses.
    Detached { interface: String, why: String },
}

impl Attached {
    /// Puts the program back if it was taken off; whether it was.
    fn put_back(&mut self, options: &SteeringOptions) -> Result<bool, SteeringError> {
        if self.steering.is_attached()? {
            return Ok(false);
        }
        self.steering.reattach(options)?;
        Ok(true)
    }
}

impl Interfaces {
    pub(super) fn new(options: SteeringOptions) -> Self {
        Self { options, attached: BTreeMap::new(), refusing: BTreeMap::new(), destinations: ByAddress::new() }
    }

    /// The program of `name`, attached if it is not there, or not there any more.
    fn ensure(&mut self, name: &str) -> Result<(), EngineError> {
        let gone = |source| EngineError::Interface { interface: name.to_owned(), source };
        let device = Device::named(name).map_err(gone)?;
        let same = self.attached.get_mut(name).filter(|attached| attached.ifindex == device.ifindex);
        if let Some(attached) = same {
            attached.put_back(&self.options).map_err(|e| refused(name, e))?;
        } else {
            // The old link goes first: two programs do not fit.
            self.attached.remove(name);
            let mut steering = Steering::attach(name, &self.options).map_err(|e| refused(name, e))?;
            // The interface is ours from now on.
            put_back_settings(name, device.ifindex);
            let listed = exchange(std::iter::once(&mut steering), &ByAddress::new(), &self.destinations);
            listed.map_err(|e| refused(name, e.error))?;
            let attached = Attached { steering, ifindex: device.ifindex, settings: None, detached_reason: None };
            self.attached.insert(name.to_owned(), attached);
        }
        Ok(())
    }

    /// Attaches the programs of `names`, as far as that is possible now: a refusal is reported by the queue that needs it.
    pub(super) fn attach(&mut self, names: &[String]) {
        for name in names {
            if let Err(error) = self.ensure(name) {
                tracing::debug!(interface = name, %error, "program not attached yet");
            }
        }
    }

    /// What a backend needs to open `id`. A refusal is looked after by [`check_programs`](Self::check_programs) from then on.
    pub(super) fn request(&mut self, id: &QueueId) -> Result<PortOpenParams, EngineError> {
        let ensured = self.ensure(&id.interface);
        if let Err(EngineError::Steering { .. }) = ensured {
            self.refuses(&id.interface);
        }
        ensured?;
        let gone = || EngineError::Interface {
            interface: id.interface.clone(),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        };
        let steering = &self.attached.get(&id.interface).ok_or_else(gone)?.steering;
        let slot = steering.slot(id.queue).map_err(|e| refused(&id.interface, e))?;
        let generic =
            (steering.mode() == AttachMode::Generic).then(|| steering.why().unwrap_or("as configured").to_owned());
        Ok(PortOpenParams { id: id.clone(), slot: Some(slot), generic })
    }

    /// Takes the sockets of `ports` out of the maps: their packets go the fallback's way.
    pub(super) fn steer_away(&self, ports: Vec<QueueId>) {
        for id in ports {
            let Some(attached) = self.attached.get(&id.interface) else { continue };
            if let Err(error) = attached.steering.slot(id.queue).and_then(|slot| slot.remove()) {
                tracing::warn!(port = %id, %error, "steering away");
            }
        }
    }

    /// Replaces the list of destinations on every interface, or on none. What stays on the list is served without a gap.
    pub(super) fn set_destinations(&mut self, wanted: &Destinations) -> Result<(), EngineError> {
        let wanted = by_address(wanted);
        if wanted == self.destinations {
            return Ok(());
        }
        if wanted.len() > MAX_ADDRESSES as usize {
            return Err(EngineError::TooManyDestinations { found: wanted.len(), limit: MAX_ADDRESSES as usize });
        }
        let lists = self.attached.values_mut().map(|attached| &mut attached.steering);
        exchange(lists, &self.destinations, &wanted).map_err(|failed| self.not_exchanged(failed))?;
        self.destinations = wanted;
        Ok(())
    }

    fn not_exchanged(&self, NotExchanged { list, error, rollback }: NotExchanged) -> EngineError {
        let name = self.attached.keys().nth(list).map_or("", String::as_str);
        let error = refused(name, error);
        match rollback {
            None => error,
            Some(rollback) => EngineError::DestinationsInPart { change: Box::new(error), rollback },
        }
    }

    /// Preferred busy polling is in force on `name`: the device defers its interrupts to it from now on.
    /// Done once, and put back when the engine ends.
    pub(super) fn busy_polls(&mut self, name: &str) {
        let Some(attached) = self.attached.get_mut(name).filter(|a| a.settings.is_none()) else { return };
        let wanted = BusyPollSettings::default();
        tracing::info!(interface = name, ?wanted, "device settings for busy polling, put back at the end");
        attached.settings = Some(wanted.apply(name, attached.ifindex).map_err(|error| {
            tracing::warn!(interface = name, %error, "device settings for busy polling");
        }));
    }

    /// Puts the device settings back. In the ordered end of the engine: handles to it may live on.
    pub(super) fn put_settings_back(&mut self) {
        self.attached.values_mut().for_each(|attached| attached.settings = None);
    }

    /// Puts programs back that another process took off. Tells each change once.
    pub(super) fn check_programs(&mut self) -> Vec<ProgramEvent> {
        let mut events = self.retry_refusing();
        let Self { attached, options, .. } = self;
        let check = |(name, attached): (&String, &mut Attached)| {
            let interface = name.clone();
            if attached.detached_reason.as_ref().is_some_and(|(_, pause)| !pause.is_over(name)) {
                return None;
            }
            match attached.put_back(options) {
                // Put back by somebody else than this look, perhaps: a queue that was started meanwhile.
                Ok(put) => {
                    (attached.detached_reason.take().is_some() || put).then_some(ProgramEvent::Reattached { interface })
                }
                // Deleted, or another one of that name: netlink says so.
                Err(_) if Device::named(name).map_or(0, |device| device.ifindex) != attached.ifindex => None,
                Err(error) => {
                    let why = error.to_string();
                    let news = attached.detached_reason.as_ref().is_none_or(|(before, _)| *before != why);
                    let held = matches!(error, SteeringError::Busy { .. });
                    attached.detached_reason = Some((why.clone(), RetryDelay::new(held)));
                    news.then_some(ProgramEvent::Detached { interface, why })
                }
            }
        };
        events.extend(attached.iter_mut().filter_map(check));
        events
    }

    /// Those whose program could not be attached when a port was to be opened: now?
    fn retry_refusing(&mut self) -> Vec<ProgramEvent> {
        // Or a queue that came later found the place free: those that were refused before it are to be told, and the
        // program that has the interface now is ours.
        let ours = |name: &str| self.attached.get(name).is_some_and(|a| a.steering.is_attached().unwrap_or(false));
        let now = |(name, pause): &(&String, &RetryDelay)| ours(name) || pause.is_over(name);
        let due: Vec<String> = self.refusing.iter().filter(now).map(|(name, _)| name.clone()).collect();
        let mut events = Vec::new();
        for interface in due {
            self.refusing.remove(&interface);
            match self.ensure(&interface) {
                Ok(()) => events.push(ProgramEvent::Reattached { interface }),
                Err(EngineError::Steering { .. }) => self.refuses(&interface),
                // Not there at all: netlink tells when it is.
                Err(_) => {}
            }
        }
        events
    }

    fn refuses(&mut self, interface: &str) {
        let held = !self.attached.contains_key(interface) && steering::has_program(interface);
        self.refusing.insert(interface.to_owned(), RetryDelay::new(held));
    }

    /// Drops the programs of interfaces that are not there any more, or were made again under the same
    /// name, and returns their names: whoever serves them must open them anew.
    pub(super) fn forget_lost(&mut self, tables: &Tables) -> Vec<String> {
        let lost = |(name, attached): &(&String, &Attached)| {
            tables.link_named(name).is_none_or(|link| link.index != attached.ifindex)
        };
        let lost: Vec<String> = self.attached.iter().filter(lost).map(|(name, _)| name.clone()).collect();
        for name in &lost {
            self.attached.remove(name);
        }
        lost
    }

    /// What each program counted.
    pub(super) fn status(&self) -> Vec<SteeringStatus> {
        let one = |(name, attached): (&String, &Attached)| {
            let counters = attached.steering.counters().ok()?;
            let verdicts = counters.nonzero().map(|(verdict, n)| (verdict.name().to_owned(), n)).collect();
            Some(SteeringStatus { interface: name.clone(), verdicts })
        };
        self.attached.iter().filter_map(one).collect()
    }
}

fn refused(interface: &str, source: SteeringError) -> EngineError {
    EngineError::Steering { interface: interface.to_owned(), source }
}
