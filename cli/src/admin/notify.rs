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
    sender: flume::Sender<NotifyMessage>,
}

#[derive(Debug)]
enum NotifyMessage {
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
        let (sender, messages) = flume::bounded(WAITING);
        std::thread::Builder::new().name("oxide-notify".to_owned()).spawn(move || run(&messages, every, status))?;
        let notifier = Self { sender };
        notifier.send(NotifyMessage::Ready);
        Ok(notifier)
    }

    /// A reload begins; [`reloaded`](Self::reloaded) ends it.
    pub fn reloading(&self) {
        self.send(NotifyMessage::Reloading);
    }

    /// A reload is over.
    pub fn reloaded(&self) {
        self.send(NotifyMessage::Ready);
    }

    /// The end has begun, and may take so long.
    pub fn stopping(&self, within: Duration) {
        self.send(NotifyMessage::Stopping(within));
    }

    fn send(&self, what: NotifyMessage) {
        // Full: the manager does not read.
        let _ = self.sender.try_send(what);
    }
}

fn run(messages: &flume::Receiver<NotifyMessage>, every: Duration, status: impl Fn() -> EngineStatus) {
    let mut last_text = String::new();
    let mut next = Instant::now() + every;
    loop {
        match messages.recv_deadline(next) {
            Ok(NotifyMessage::Ready) => notify(&[NotifyState::Ready]),
            Ok(NotifyMessage::Reloading) => match NotifyState::monotonic_usec_now() {
                Ok(now) => notify(&[NotifyState::Reloading, now]),
                Err(_) => notify(&[NotifyState::Reloading]),
            },
            Ok(NotifyMessage::Stopping(within)) => {
                let within = within + Duration::from_secs(10);
                let micros = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
                notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
            }
            Err(flume::RecvTimeoutError::Disconnected) => return,
            Err(flume::RecvTimeoutError::Timeout) => {
                next = Instant::now() + every;
                let status = status();
                let text = status_text(&status);
                if text != last_text {
                    notify(&[NotifyState::Status(&text)]);
                    last_text = text;
                }
                if should_feed_watchdog(&status) {
                    notify(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}

fn notify(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::debug!(%error, "sd_notify");
    }
}

fn status_text(status: &EngineStatus) -> String {
    let running = status.queues.iter().filter(|queue| queue.is_running()).count();
    format!("{}: {running} of {} queues run", status.state.name(), status.queues.len())
}

/// Whether the watchdog may be fed: at least one actor's heart beats, or none is there to beat, which is the
/// supervisor's business. One stuck queue is no reason to take the others down.
fn should_feed_watchdog(status: &EngineStatus) -> bool {
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
    fn watchdog_is_fed_while_one_heartbeat_moves() {
        let mut status = oxide::engine::sample::status();
        assert!(should_feed_watchdog(&status));
        assert_eq!(status_text(&status), "degraded: 1 of 2 queues run");
        let set = |status: &mut EngineStatus, ages: [Option<f64>; 2], stalled: [bool; 2]| {
            for (queue, (age, stalled)) in status.queues.iter_mut().zip(ages.into_iter().zip(stalled)) {
                (queue.heartbeat_age_s, queue.stalled) = (age, stalled);
            }
        };
        set(&mut status, [Some(9.0), Some(0.1)], [true, false]);
        assert!(should_feed_watchdog(&status), "one of two");
        set(&mut status, [Some(9.0), Some(9.0)], [true, true]);
        assert!(!should_feed_watchdog(&status), "none");
        set(&mut status, [Some(9.0), None], [true, false]);
        assert!(!should_feed_watchdog(&status), "the only one there");
        set(&mut status, [None, None], [false, false]);
        assert!(should_feed_watchdog(&status), "both wait for their interface");
        status.state = EngineState::Draining;
        set(&mut status, [Some(9.0), Some(9.0)], [true, true]);
        assert!(should_feed_watchdog(&status), "it ends anyway");
    }
}
