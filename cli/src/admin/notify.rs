//! What systemd is told (sd_notify(3)): ready, reloading, stopping, and that actors' hearts beat. Nothing happens
//! where nobody listens (`NOTIFY_SOCKET` unset).

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use oxide::engine::{EngineState, EngineStatus};

/// A heart that has not beaten for so long does not count.
const ALIVE_WITHIN_S: f64 = 1.0;
/// How often systemd is told, at most.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What may wait to be told.
const WAITING: usize = 16;

/// Tells systemd about a running engine, from a thread of its own: a manager that does not read must hold up neither a
/// reload nor the end. Ends with its last clone.
#[derive(Debug, Clone)]
pub struct Notifier {
    tell: flume::Sender<Tell>,
}

#[derive(Debug)]
enum Tell {
    Ready,
    Reloading,
    Stopping(Duration),
}

impl Notifier {
    /// The engine is ready. From now on systemd hears how it is, and its watchdog as long as hearts beat.
    ///
    /// # Errors
    /// The kernel's, if there is no thread to be had.
    pub fn ready(status: impl Fn() -> EngineStatus + Send + 'static) -> std::io::Result<Self> {
        let every = sd_notify::watchdog_enabled().map_or(TELL_EVERY, |limit| TELL_EVERY.min(limit / 3));
        let (tell, told) = flume::bounded(WAITING);
        std::thread::Builder::new().name("oxide-notify".to_owned()).spawn(move || keep(&told, every, status))?;
        let notifier = Self { tell };
        notifier.say(Tell::Ready);
        Ok(notifier)
    }

    /// A reload begins; [`reloaded`](Self::reloaded) ends it.
    pub fn reloading(&self) {
        self.say(Tell::Reloading);
    }

    /// A reload is over.
    pub fn reloaded(&self) {
        self.say(Tell::Ready);
    }

    /// The end has begun, and may take so long.
    pub fn stopping(&self, within: Duration) {
        self.say(Tell::Stopping(within));
    }

    fn say(&self, what: Tell) {
        // Full: the manager does not read.
        let _ = self.tell.try_send(what);
    }
}

fn keep(told: &flume::Receiver<Tell>, every: Duration, status: impl Fn() -> EngineStatus) {
    let mut last_words = String::new();
    let mut next = Instant::now() + every;
    loop {
        match told.recv_deadline(next) {
            Ok(Tell::Ready) => tell(&[NotifyState::Ready]),
            Ok(Tell::Reloading) => match NotifyState::monotonic_usec_now() {
                Ok(now) => tell(&[NotifyState::Reloading, now]),
                Err(_) => tell(&[NotifyState::Reloading]),
            },
            Ok(Tell::Stopping(within)) => {
                let within = within + Duration::from_secs(10);
                let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
                tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
            }
            Err(flume::RecvTimeoutError::Disconnected) => return,
            Err(flume::RecvTimeoutError::Timeout) => {
                next = Instant::now() + every;
                let status = status();
                let words = words(&status);
                if words != last_words {
                    tell(&[NotifyState::Status(&words)]);
                    last_words = words;
                }
                if hearts_beat(&status) {
                    tell(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::debug!(%error, "sd_notify");
    }
}

fn words(status: &EngineStatus) -> String {
    let running = status.queues.iter().filter(|queue| queue.is_running()).count();
    format!("{}: {running} of {} queues run", status.state.name(), status.queues.len())
}

/// Whether the watchdog may be fed: at least one actor's heart beats, or none is there to beat, which is the
/// supervisor's business. One stuck queue is no reason to take the others down.
fn hearts_beat(status: &EngineStatus) -> bool {
    if matches!(status.state, EngineState::Draining | EngineState::Stopped) {
        return true;
    }
    let mut there = status.queues.iter().filter_map(|queue| Some((queue.heartbeat_age_s?, queue.stalled))).peekable();
    there.peek().is_none() || there.any(|(age, stalled)| !stalled && age < ALIVE_WITHIN_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_as_long_as_one_heart_beats() {
        let mut status = oxide::engine::sample::status();
        assert!(hearts_beat(&status));
        assert_eq!(words(&status), "degraded: 1 of 2 queues run");
        let set = |status: &mut EngineStatus, ages: [Option<f64>; 2], stalled: [bool; 2]| {
            for (queue, (age, stalled)) in status.queues.iter_mut().zip(ages.into_iter().zip(stalled)) {
                (queue.heartbeat_age_s, queue.stalled) = (age, stalled);
            }
        };
        set(&mut status, [Some(9.0), Some(0.1)], [true, false]);
        assert!(hearts_beat(&status), "one of two");
        set(&mut status, [Some(9.0), Some(9.0)], [true, true]);
        assert!(!hearts_beat(&status), "none");
        set(&mut status, [Some(9.0), None], [true, false]);
        assert!(!hearts_beat(&status), "the only one there");
        set(&mut status, [None, None], [false, false]);
        assert!(hearts_beat(&status), "both wait for their interface");
        status.state = EngineState::Draining;
        set(&mut status, [Some(9.0), Some(9.0)], [true, true]);
        assert!(hearts_beat(&status), "it ends anyway");
    }
}
