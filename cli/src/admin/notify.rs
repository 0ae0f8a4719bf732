//! Reports the state of the relay to systemd (sd_notify(3)): ready, reloading, stopping, and live heartbeats. It does
//! nothing if `NOTIFY_SOCKET` is unset.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use oxide::engine::{EngineState, EngineStatus};

/// Maximum age in seconds of a heartbeat that counts as live.
const ALIVE_WITHIN_S: f64 = 1.0;
/// Minimum interval between two reports.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Maximum number of waiting messages.
const WAITING: usize = 16;

/// Reports to systemd about a running engine, from its own thread: a service manager that does not read must not
/// delay a reload or the exit. The thread ends with the last clone.
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
    /// Reports that the engine is ready. From now on systemd receives the status, and watchdog messages while
    /// heartbeats are live.
    ///
    /// # Errors
    /// Returns the kernel's error if it creates no thread.
    pub fn ready(status: impl Fn() -> EngineStatus + Send + 'static) -> std::io::Result<Self> {
        let every = sd_notify::watchdog_enabled().map_or(TELL_EVERY, |limit| TELL_EVERY.min(limit / 3));
        let (sender, messages) = flume::bounded(WAITING);
        std::thread::Builder::new().name("oxide-notify".to_owned()).spawn(move || run(&messages, every, status))?;
        let notifier = Self { sender };
        notifier.send(NotifyMessage::Ready);
        Ok(notifier)
    }

    /// Reports the begin of a reload; [`reloaded`](Self::reloaded) reports its end.
    pub fn reloading(&self) {
        self.send(NotifyMessage::Reloading);
    }

    /// Reports the end of a reload.
    pub fn reloaded(&self) {
        self.send(NotifyMessage::Ready);
    }

    /// Reports that the relay stops, and that this may take `within`.
    pub fn stopping(&self, within: Duration) {
        self.send(NotifyMessage::Stopping(within));
    }

    fn send(&self, what: NotifyMessage) {
        // If the queue is full, the service manager does not read, and the message is dropped.
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
        tracing::debug!(%error, "cannot notify systemd");
    }
}

fn status_text(status: &EngineStatus) -> String {
    let running = status.queues.iter().filter(|queue| queue.is_running()).count();
    format!("{}: {running} of {} queues run", status.state.name(), status.queues.len())
}

/// Returns whether to feed the watchdog. It is fed if at least one actor's heartbeat is live, or if no actor has one:
/// then the supervisor acts. One stuck queue is no reason to restart the others.
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
        assert!(should_feed_watchdog(&status), "one of two is live");
        set(&mut status, [Some(9.0), Some(9.0)], [true, true]);
        assert!(!should_feed_watchdog(&status), "none is live");
        set(&mut status, [Some(9.0), None], [true, false]);
        assert!(!should_feed_watchdog(&status), "the only actor is stuck");
        set(&mut status, [None, None], [false, false]);
        assert!(should_feed_watchdog(&status), "both actors wait for their interface");
        status.state = EngineState::Draining;
        set(&mut status, [Some(9.0), Some(9.0)], [true, true]);
        assert!(should_feed_watchdog(&status), "the relay ends");
    }
}
