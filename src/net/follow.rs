//! The service's loop: notices in, tables out, requests to the kernel. Everything here runs on the
//! service's thread.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::decode::TableUpdate;
use super::neighbour_requests::{AGAIN, NeighbourRequests};
use super::service::{NetError, NetEvent, NetOptions};
use super::sockets::{NetlinkNotice, NetlinkSockets};
use super::state::{Key, TableBuilder};

/// Work that costs the length of the tables is done at most a tenth of the time.
const SHARE: u32 = 10;
/// Not before this after the kernel has dropped routes in silence: it does so for many at once.
const SETTLE: Duration = Duration::from_millis(50);
/// The shortest time between two reads of everything.
const RESYNC: Duration = Duration::from_millis(100);
/// The log is not told more often that the kernel cannot resolve a neighbour.
const COMPLAINTS: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);

/// The service's ends of its channels.
pub(super) struct Channels {
    pub(super) events: flume::Sender<NetEvent>,
    pub(super) wanted: flume::Receiver<(u32, IpAddr)>,
    pub(super) stopped: flume::Receiver<()>,
}

/// Why following ended.
enum End {
    Stopped,
    Lost(String),
}

pub(super) struct Follower {
    options: NetOptions,
    channels: Channels,
    state: TableBuilder,
    neighbour_requests: NeighbourRequests,
    generation: u64,
    /// The tables differ from those last sent.
    dirty: bool,
    /// Not to be sent before.
    publish_at: Instant,
    /// A word about lost notices that is still to be sent.
    resynced: Option<String>,
    /// When to read the routes again.
    reread_at: Option<Instant>,
    /// When to look after the neighbours in use.
    check_at: Instant,
    audit_at: Instant,
    /// How long it took to read everything.
    dump_took: Duration,
    /// The next complaint about a request not before.
    complain_at: Instant,
}

/// Opens the sockets and reads everything. In this order: what changes meanwhile is noticed.
async fn read(receive_buffer: usize) -> io::Result<(NetlinkSockets, TableBuilder)> {
    let mut sockets = NetlinkSockets::open(receive_buffer)?;
    let state = sockets.state().await?;
    Ok((sockets, state))
}

impl Follower {
    /// Opens the sockets, reads everything, and sends the first tables.
    pub(super) async fn begin(mut options: NetOptions, channels: Channels) -> Result<(Self, NetlinkSockets), NetError> {
        // So that no sum of times overflows.
        (options.audit, options.quiet) = (options.audit.min(DAY), options.quiet.min(DAY));
        let now = Instant::now();
        let (sockets, state) = read(options.receive_buffer).await.map_err(|source| NetError::Read { source })?;
        let mut follower = Self {
            audit_at: now + options.audit,
            options,
            channels,
            state,
            neighbour_requests: NeighbourRequests::default(),
            generation: 0,
            dirty: true,
            publish_at: now,
            resynced: None,
            reread_at: None,
            check_at: now,
            dump_took: now.elapsed(),
            complain_at: now,
        };
        follower.publish();
        Ok((follower, sockets))
    }

    /// Follows until stopped.
    pub(super) async fn run(mut self, mut sockets: NetlinkSockets) {
        loop {
            match self.follow(&mut sockets).await {
                End::Stopped => return,
                End::Lost(why) => {
                    tracing::warn!(why, "netlink tables are read anew");
                    // Its backlog is of no use now.
                    drop(sockets);
                    match self.resync(why).await {
                        Some(new) => sockets = new,
                        None => return,
                    }
                }
            }
        }
    }

    async fn follow(&mut self, sockets: &mut NetlinkSockets) -> End {
        loop {
            self.publish();
            let wake = self.wake();
            tokio::select! {
                _ = self.channels.stopped.recv_async() => return End::Stopped,
                notice = sockets.notice() => {
                    // All that is here first: what belongs together comes out together.
                    let mut next = Some(notice);
                    while let Some(notice) = next {
                        match notice {
                            NetlinkNotice::Lost(why) => return End::Lost(why.into()),
                            NetlinkNotice::TableUpdate(update) => self.take(update, sockets).await,
                            NetlinkNotice::Other => {}
                        }
                        next = sockets.pending();
                    }
                }
                wanted = self.channels.wanted.recv_async() => match wanted {
                    Ok(key) => self.want(key, sockets).await,
                    Err(_) => return End::Stopped,
                },
                () = sleep_until(wake) => {}
            }
            if let Err(why) = self.timers(sockets).await {
                return End::Lost(why);
            }
        }
    }

    async fn take(&mut self, update: TableUpdate, sockets: &mut NetlinkSockets) {
        let effect = self.state.apply(update);
        self.dirty |= effect.changed;
        if effect.reread_routes && self.reread_at.is_none() {
            self.reread_at = Some(Instant::now() + SETTLE.max(self.dump_took * SHARE));
        }
        if let Some(key) = effect.lost {
            self.lost(key, sockets).await;
        }
    }

    /// The kernel has forgotten a neighbour: if it is in use its last MAC stays, and the kernel is asked.
    async fn lost(&mut self, key: Key, sockets: &mut NetlinkSockets) {
        if self.neighbour_requests.lost(key, Instant::now().into_std()) {
            self.ask(key, sockets).await;
        } else if !self.neighbour_requests.contains(key) {
            self.dirty |= self.state.drop_neighbour(key);
        }
    }

    async fn want(&mut self, key: Key, sockets: &mut NetlinkSockets) {
        if self.neighbour_requests.is_empty() {
            self.check_at = Instant::now() + AGAIN;
        }
        if self.neighbour_requests.want(key, Instant::now().into_std()) {
            self.ask(key, sockets).await;
        }
    }

    async fn ask(&mut self, key: Key, sockets: &mut NetlinkSockets) {
        if !self.state.askable(key) {
            return;
        }
        let result = sockets.use_neighbour(key).await;
        let (why, remedy) = match result {
            Ok(()) if self.state.can_solicit(key) => return,
            Ok(()) => (
                "the interface has no link-local address to ask from".to_owned(),
                "sysctl net.ipv6.conf.<interface>.addr_gen_mode=0, or ip address add fe80::<n>/64 dev <interface>",
            ),
            Err(error) => {
                let remedy = match error.raw_os_error() {
                    Some(libc::EPERM) => "the process needs CAP_NET_ADMIN",
                    Some(libc::ENOBUFS) => "the neighbour table is full: raise net.ipv4|ipv6.neigh.default.gc_thresh3",
                    _ => "",
                };
                (error.to_string(), remedy)
            }
        };
        let now = Instant::now();
        if now >= self.complain_at {
            self.complain_at = now + COMPLAINTS;
            tracing::warn!(interface = key.0, address = %key.1, why, remedy, "the kernel cannot resolve a neighbour");
        }
    }

    /// When there is something to do even if nothing happens.
    fn wake(&self) -> Instant {
        let mut wake = Instant::now() + Duration::from_secs(3600);
        let unsent = self.dirty || self.resynced.is_some();
        let times = [
            unsent.then_some(self.publish_at),
            self.reread_at,
            (!self.neighbour_requests.is_empty()).then_some(self.check_at),
            (!self.options.audit.is_zero()).then_some(self.audit_at),
        ];
        for time in times.into_iter().flatten() {
            wake = wake.min(time);
        }
        wake
    }

    async fn timers(&mut self, sockets: &mut NetlinkSockets) -> Result<(), String> {
        let now = Instant::now();
        if self.reread_at.is_some_and(|at| at <= now) {
            self.reread_at = None;
            let routes = sockets.routes().await.map_err(|error| format!("cannot read routes: {error}"))?;
            self.dirty |= self.state.set_routes(routes);
        }
        if !self.neighbour_requests.is_empty() && self.check_at <= now {
            self.check_at = now + AGAIN;
            for key in self.neighbour_requests.due(now.into_std()) {
                self.ask(key, sockets).await;
            }
            self.dirty |= self.state.forget(|key| self.neighbour_requests.contains(key));
        }
        if !self.options.audit.is_zero() && self.audit_at <= now {
            self.audit(sockets).await.map_err(|error| format!("cannot read tables: {error}"))?;
            self.audit_at = now + self.options.audit.max(self.dump_took * SHARE);
        }
        Ok(())
    }

    /// Reads everything and compares.
    async fn audit(&mut self, sockets: &mut NetlinkSockets) -> Result<(), String> {
        let start = Instant::now();
        let mut fresh = sockets.state().await.map_err(|error| error.to_string())?;
        self.dump_took = start.elapsed();
        // What has happened meanwhile is in the dump or on its way here. Facts may come twice.
        tokio::time::sleep(Duration::from_millis(5)).await;
        while let Some(notice) = sockets.pending() {
            match notice {
                NetlinkNotice::Lost(why) => return Err(why.into()),
                NetlinkNotice::TableUpdate(update) => {
                    fresh.apply(update.clone());
                    self.take(update, sockets).await;
                }
                NetlinkNotice::Other => {}
            }
        }
        if let Some(what) = self.state.difference(&fresh) {
            tracing::info!(what, "netlink tables had drifted from the kernel's");
            self.resynced = Some(format!("{what} had drifted from the kernel's"));
            self.adopt(fresh, sockets).await;
        }
        Ok(())
    }

    /// New sockets, and everything anew; `None` when stopped meanwhile.
    async fn resync(&mut self, why: String) -> Option<NetlinkSockets> {
        let mut pause = RESYNC.max(self.dump_took * SHARE);
        loop {
            tokio::select! {
                _ = self.channels.stopped.recv_async() => return None,
                () = tokio::time::sleep(pause) => {}
            }
            let start = Instant::now();
            match read(self.options.receive_buffer).await {
                Ok((mut sockets, fresh)) => {
                    self.dump_took = start.elapsed();
                    self.resynced = Some(why);
                    self.reread_at = None;
                    self.adopt(fresh, &mut sockets).await;
                    return Some(sockets);
                }
                Err(error) => {
                    tracing::warn!(%error, "netlink tables cannot be read, trying again");
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    async fn adopt(&mut self, mut fresh: TableBuilder, sockets: &mut NetlinkSockets) {
        let lost = fresh.succeed(&self.state, |key| self.neighbour_requests.contains(key));
        self.state = fresh;
        self.dirty = true;
        for key in lost {
            self.lost(key, sockets).await;
        }
    }

    /// Sends what is due. A full channel is tried again; the tables sent then are the newest.
    fn publish(&mut self) {
        let start = Instant::now();
        if start < self.publish_at || !(self.dirty || self.resynced.is_some()) {
            return;
        }
        self.publish_at = start + self.options.quiet;
        let events = &self.channels.events;
        // Nobody else sends, so there is room for both below. Disconnected: nobody will ever want them.
        if events.capacity().is_some_and(|capacity| events.len() + 2 > capacity) {
            return;
        }
        if let Some(why) = self.resynced.take() {
            let _ = events.try_send(NetEvent::Resynced { why });
        }
        if std::mem::take(&mut self.dirty) {
            self.generation += 1;
            let _ = events.try_send(NetEvent::Tables(self.state.tables(self.generation)));
            self.publish_at = start + self.options.quiet.max(start.elapsed() * SHARE);
        }
    }
}
