//! Owns program, destinations and device settings of each interface. A program stays attached until the engine ends,
//! and is attached again when its interface is re-created.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::EngineError;
use super::destinations::{ByAddress, Destinations, NotExchanged, by_address, exchange};
use super::status::SteeringStatus;
use crate::net::{BusyPollSettings, SettingsGuard, Tables, put_back_settings};
use crate::port::QueueId;
use crate::xdp::steering::{self, AttachMode, MAX_ADDRESSES, Steering, SteeringError, SteeringOptions};
use crate::xdp::{Device, PortOpenParams};

/// Holds the programs by interface name.
pub(super) struct Interfaces {
    options: SteeringOptions,
    attached: BTreeMap<String, Attached>,
    /// Interfaces that exist but refused the program, because another program is attached.
    refusing: BTreeMap<String, RetryDelay>,
    destinations: ByAddress,
    /// Prefixes whose packets are steered; they do not change.
    prefixes: Vec<(IpAddr, u8)>,
}

struct Attached {
    steering: Steering,
    ifindex: u32,
    /// Device settings for busy polling, restored on drop; `Err` if the kernel refused them.
    settings: Option<Result<SettingsGuard, ()>>,
    /// Reason why the program is detached from an existing interface, and the delay before the next attempt.
    detached_reason: Option<(String, RetryDelay)>,
}

/// Sets the time between two attempts to attach a program. Each attempt looks up the conflicting program, which is
/// slow.
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Delays the next attempt after a refusal.
#[derive(Clone, Copy)]
struct RetryDelay {
    since: Instant,
    /// Whether another program has the interface. Then each check sends one netlink request, and attempts nothing while
    /// the other program stays. An attempt may have to load a program.
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

/// Reports the result of a program check.
pub(super) enum ProgramEvent {
    /// The program is attached to its interface again. The sockets stayed in its map.
    Reattached { interface: String },
    /// The program is detached, because another one is attached or the kernel refuses it.
    Detached { interface: String, why: String },
}

impl Attached {
    /// Attaches the program again if it was detached. Returns whether it did.
    fn put_back(&mut self, options: &SteeringOptions) -> Result<bool, SteeringError> {
        if self.steering.is_attached()? {
            return Ok(false);
        }
        self.steering.reattach(options)?;
        Ok(true)
    }
}

impl Interfaces {
    pub(super) fn new(options: SteeringOptions, prefixes: Vec<(IpAddr, u8)>) -> Self {
        let destinations = ByAddress::new();
        Self { options, attached: BTreeMap::new(), refusing: BTreeMap::new(), destinations, prefixes }
    }

    /// Ensures that the program is attached to `name`, and attaches it if necessary.
    fn ensure(&mut self, name: &str) -> Result<(), EngineError> {
        let missing = |source| EngineError::Interface { interface: name.to_owned(), source };
        let device = Device::named(name).map_err(missing)?;
        let same = self.attached.get_mut(name).filter(|attached| attached.ifindex == device.ifindex);
        if let Some(attached) = same {
            attached.put_back(&self.options).map_err(|e| refused(name, e))?;
        } else {
            // The old link must be removed first, because an interface takes only one program.
            self.attached.remove(name);
            let mut steering = Steering::attach(name, &self.options).map_err(|e| refused(name, e))?;
            // From now on, the engine owns the interface.
            put_back_settings(name, device.ifindex);
            let listed = exchange(std::iter::once(&mut steering), &ByAddress::new(), &self.destinations);
            listed.map_err(|e| refused(name, e.error))?;
            for (address, length) in &self.prefixes {
                steering.allow_prefix(*address, *length).map_err(|e| refused(name, e))?;
            }
            let attached = Attached { steering, ifindex: device.ifindex, settings: None, detached_reason: None };
            self.attached.insert(name.to_owned(), attached);
        }
        Ok(())
    }

    /// Attaches the programs of `names` where possible. The queue that needs a program reports its refusal.
    pub(super) fn attach(&mut self, names: &[String]) {
        for name in names {
            if let Err(error) = self.ensure(name) {
                tracing::debug!(interface = name, %error, "program not attached yet");
            }
        }
    }

    /// Returns the parameters to open `id` with. [`check_programs`](Self::check_programs) retries a refused program.
    pub(super) fn request(&mut self, id: &QueueId) -> Result<PortOpenParams, EngineError> {
        let ensured = self.ensure(&id.interface);
        if let Err(EngineError::Steering { .. }) = ensured {
            self.refuses(&id.interface);
        }
        ensured?;
        let missing = || EngineError::Interface {
            interface: id.interface.clone(),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        };
        let steering = &self.attached.get(&id.interface).ok_or_else(missing)?.steering;
        let slot = steering.slot(id.queue).map_err(|e| refused(&id.interface, e))?;
        let generic =
            (steering.mode() == AttachMode::Generic).then(|| steering.why().unwrap_or("as configured").to_owned());
        Ok(PortOpenParams { id: id.clone(), slot: Some(slot), generic })
    }

    /// Removes the sockets of `ports` from the XSKMAPs, so that their packets take the fallback.
    pub(super) fn steer_away(&self, ports: Vec<QueueId>) {
        for id in ports {
            let Some(attached) = self.attached.get(&id.interface) else { continue };
            if let Err(error) = attached.steering.slot(id.queue).and_then(|slot| slot.remove()) {
                tracing::warn!(port = %id, %error, "cannot steer packets away");
            }
        }
    }

    /// Replaces the destinations on every interface, or on none. Unchanged destinations are served without
    /// interruption.
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

    /// Applies the device settings for busy polling to `name`, which defer its interrupts. They are applied once and
    /// restored when the engine ends.
    pub(super) fn busy_polls(&mut self, name: &str) {
        let Some(attached) = self.attached.get_mut(name).filter(|a| a.settings.is_none()) else { return };
        let wanted = BusyPollSettings::default();
        tracing::info!(interface = name, ?wanted, "applying device settings for busy polling");
        attached.settings = Some(wanted.apply(name, attached.ifindex).map_err(|error| {
            tracing::warn!(interface = name, %error, "cannot apply device settings for busy polling");
        }));
    }

    /// Restores the device settings at the end of the engine, because handles may still keep this value.
    pub(super) fn put_settings_back(&mut self) {
        self.attached.values_mut().for_each(|attached| attached.settings = None);
    }

    /// Attaches programs again that another process detached. Reports each change once.
    pub(super) fn check_programs(&mut self) -> Vec<ProgramEvent> {
        let mut events = self.retry_refusing();
        let Self { attached, options, .. } = self;
        let check = |(name, attached): (&String, &mut Attached)| {
            let interface = name.clone();
            if attached.detached_reason.as_ref().is_some_and(|(_, pause)| !pause.is_over(name)) {
                return None;
            }
            match attached.put_back(options) {
                // A queue that started in between may have attached the program already.
                Ok(put) => {
                    (attached.detached_reason.take().is_some() || put).then_some(ProgramEvent::Reattached { interface })
                }
                // The interface was deleted or re-created, which netlink reports.
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

    /// Retries the interfaces that refused the program when a port was opened.
    fn retry_refusing(&mut self) -> Vec<ProgramEvent> {
        // A queue that opened later may have attached the engine's program. Queues that were refused earlier must then
        // get an event too.
        let attached = |name: &str| self.attached.get(name).is_some_and(|a| a.steering.is_attached().unwrap_or(false));
        let now = |(name, pause): &(&String, &RetryDelay)| attached(name) || pause.is_over(name);
        let due: Vec<String> = self.refusing.iter().filter(now).map(|(name, _)| name.clone()).collect();
        let mut events = Vec::new();
        for interface in due {
            self.refusing.remove(&interface);
            match self.ensure(&interface) {
                Ok(()) => events.push(ProgramEvent::Reattached { interface }),
                Err(EngineError::Steering { .. }) => self.refuses(&interface),
                // The interface does not exist; netlink reports when it does.
                Err(_) => {}
            }
        }
        events
    }

    fn refuses(&mut self, interface: &str) {
        let held = !self.attached.contains_key(interface) && steering::has_program(interface);
        self.refusing.insert(interface.to_owned(), RetryDelay::new(held));
    }

    /// Drops the programs of interfaces that were deleted or re-created under the same name. Returns their names; the
    /// queues of these interfaces must be reopened.
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

    /// Returns the counters of each program.
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
