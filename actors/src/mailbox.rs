//! Carries messages to an actor and lets the actor sleep until one arrives.
//!
//! A mailbox is a bounded channel with a doorbell (an eventfd) and an idle flag. A busy actor polls the channel (2
//! ns), and senders make no system call. An actor without work sets the flag, checks once more, and sleeps in `ppoll`
//! on its sockets and the doorbell. A sender that sees the flag writes to the doorbell.
//!
//! ```text
//! actor (Mailbox, Inboxes)                    any thread (Address)
//!   idle = true                                 channel <- message
//!   fence(SeqCst)                               fence(SeqCst)
//!   channels empty? own work absent?            idle? -> write(doorbell)
//!   ppoll(sockets, doorbell, timeout)
//!   idle = false, drain doorbell
//! ```
//!
//! The two fences ensure that at least one side sees the write of the other. Either the actor finds the message in
//! its last check, or the sender finds the flag set. So no message waits for the timeout. An actor may have more
//! channels on the same doorbell ([`Inbox::with_doorbell`]).

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Limits the file descriptors of one [`Mailbox::wait`] to the number of bits in [`WakeReason::Ready`].
pub const WAIT_FDS_MAX: usize = 64;

/// Describes why a mailbox was not created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailboxError {
    /// The capacity is 0: such a channel cannot be polled.
    #[error("mailbox: the capacity is 0; expected at least 1")]
    NoRoom,
    /// The kernel created no eventfd.
    #[error("mailbox: cannot create an eventfd: {0}; to fix: raise the limit of open files (`ulimit -n`)")]
    Doorbell(std::io::Error),
}

/// Returns a message that was not accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SendError<T> {
    /// The channel stayed full for the time given.
    Timeout(T),
    /// The receiver is gone.
    Closed(T),
}

impl<T> SendError<T> {
    /// Returns the message.
    pub fn into_inner(self) -> T {
        match self {
            Self::Timeout(message) | Self::Closed(message) => message,
        }
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout(_) => "Timeout(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timeout(_) => "mailbox full",
            Self::Closed(_) => "mailbox closed",
        })
    }
}

impl<T> std::error::Error for SendError<T> {}

/// Wakes one actor, from any thread.
#[derive(Debug, Clone)]
pub struct Doorbell(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    fd: OwnedFd,
    idle: Idle,
}

/// Flags an actor that is about to sleep. Each fence separates a side's write from its read of the other side's data.
#[derive(Debug, Default)]
struct Idle(AtomicBool);

impl Idle {
    /// Sets the flag, for the actor, before its last check of what senders write.
    fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn withdraw(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Returns whether the flag is set, for the sender, after its write.
    #[inline]
    fn is_announced(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}

impl Doorbell {
    fn new() -> Result<Self, MailboxError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| MailboxError::Doorbell(errno.into()))?;
        Ok(Self(Arc::new(Bell { fd, idle: Idle::default() })))
    }

    /// Wakes the actor if it sleeps or is about to sleep. Call it after the work is visible to the actor.
    #[inline]
    pub fn ring_if_idle(&self) {
        if self.0.idle.is_announced() {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        // The only possible error is EAGAIN after 2^64 - 2 unread writes; the eventfd is readable then.
        let _ = rustix::io::write(&self.0.fd, &1u64.to_ne_bytes());
    }

    fn drain(&self) {
        // One read takes all pending writes; EAGAIN means that there were none.
        let _ = rustix::io::read(&self.0.fd, &mut [0u8; 8]);
    }
}

/// Is held by every address of a channel and dropped with the last one.
#[derive(Debug)]
struct Open;

/// Sends messages to a mailbox or an inbox.
pub struct Address<T> {
    sender: Sender<T>,
    doorbell: Doorbell,
    open: Arc<Open>,
}

impl<T> Address<T> {
    /// Returns the number of messages that the actor has not received yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sender.len()
    }

    /// Sends a message. Waits at most `patience` for a free place.
    ///
    /// # Errors
    /// Returns the message with the reason.
    pub fn send_timeout(&self, message: T, patience: Duration) -> Result<(), SendError<T>> {
        self.sender.send_timeout(message, patience).map_err(|error| match error {
            SendTimeoutError::Timeout(message) => SendError::Timeout(message),
            SendTimeoutError::Disconnected(message) => SendError::Closed(message),
        })?;
        self.doorbell.ring_if_idle();
        Ok(())
    }

    /// Sends a message if a place is free now. It costs about 30 ns, plus a system call if the actor sleeps.
    ///
    /// # Errors
    /// Returns the message with the reason; [`SendError::Timeout`] means that the channel is full.
    #[inline]
    pub fn try_send(&self, message: T) -> Result<(), SendError<T>> {
        self.sender.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) => SendError::Timeout(message),
            TrySendError::Disconnected(message) => SendError::Closed(message),
        })?;
        self.doorbell.ring_if_idle();
        Ok(())
    }
}

impl<T> Clone for Address<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), doorbell: self.doorbell.clone(), open: Arc::clone(&self.open) }
    }
}

impl<T> fmt::Debug for Address<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("queued", &self.sender.len()).finish_non_exhaustive()
    }
}

/// Receives messages but cannot sleep: the mailbox that shares its doorbell sleeps.
pub struct Inbox<T> {
    receiver: Receiver<T>,
    open: Weak<Open>,
}

impl<T> Inbox<T> {
    /// Creates a channel of `capacity` messages. Its senders wake the actor that owns `doorbell`.
    ///
    /// The actor must check [`Inbox::is_empty`] in the `last_look` of its [`Mailbox::wait`].
    ///
    /// # Errors
    /// Returns [`MailboxError::NoRoom`] for a capacity of 0.
    pub fn with_doorbell(capacity: usize, doorbell: Doorbell) -> Result<(Address<T>, Self), MailboxError> {
        if capacity == 0 {
            return Err(MailboxError::NoRoom);
        }
        let (sender, receiver) = bounded(capacity);
        let open = Arc::new(Open);
        let inbox = Self { receiver, open: Arc::downgrade(&open) };
        Ok((Address { sender, doorbell, open }, inbox))
    }

    /// Returns whether no message waits. It costs about 2 ns.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Returns the next message, if there is one.
    #[inline]
    pub fn try_recv(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Returns whether no address is left. Messages sent before can still be received.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.open.strong_count() == 0
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("queued", &self.receiver.len()).finish_non_exhaustive()
    }
}

/// Reports why [`Mailbox::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// The doorbell was rung or a message waits. The ring can be old, so that no message is found.
    Message,
    /// Bit *n* is set if descriptor *n* is readable, has an error or was closed by its peer. Zero means that
    /// `last_look` found work.
    Ready(u64),
    /// Nothing happened within the time given.
    Timeout,
}

/// Receives messages and lets its actor sleep.
#[derive(Debug)]
pub struct Mailbox<T> {
    inbox: Inbox<T>,
    doorbell: Doorbell,
}

/// Creates a mailbox of `capacity` messages.
///
/// # Errors
/// Returns [`MailboxError`] if the capacity is 0 or no file descriptor is left.
pub fn mailbox<T>(capacity: usize) -> Result<(Address<T>, Mailbox<T>), MailboxError> {
    let doorbell = Doorbell::new()?;
    let (address, inbox) = Inbox::with_doorbell(capacity, doorbell.clone())?;
    Ok((address, Mailbox { inbox, doorbell }))
}

impl<T> Mailbox<T> {
    /// Returns whether no message waits. It costs about 2 ns.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Returns the next message, if there is one.
    #[inline]
    pub fn try_recv(&self) -> Option<T> {
        self.inbox.try_recv()
    }

    /// Returns whether no address is left. Messages sent before can still be received.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Returns the doorbell, for more channels of the same actor.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// Sleeps until a message arrives, a descriptor of `fds` (at most [`WAIT_FDS_MAX`]) is readable, or `timeout`
    /// passes.
    ///
    /// `last_look` is called once, after senders can see that this actor is about to sleep. It must check every other
    /// source of work (own rings, inboxes on this doorbell) and return whether there is work. Only POLLIN is polled,
    /// because an AF_XDP socket is always ready for POLLOUT. If the kernel refuses the poll (`ENOMEM`), it counts as
    /// a timeout.
    pub fn wait(&self, fds: &[BorrowedFd<'_>], timeout: Duration, last_look: impl FnOnce() -> bool) -> WakeReason {
        let bell = &self.doorbell.0;
        bell.idle.announce();
        let reason = if !self.is_empty() {
            WakeReason::Message
        } else if last_look() {
            WakeReason::Ready(0)
        } else {
            self.sleep(fds, timeout)
        };
        bell.idle.withdraw();
        reason
    }

    fn sleep(&self, fds: &[BorrowedFd<'_>], timeout: Duration) -> WakeReason {
        debug_assert!(fds.len() <= WAIT_FDS_MAX, "{} descriptors, at most {WAIT_FDS_MAX}", fds.len());
        let bell = self.doorbell.0.fd.as_fd();
        // The doorbell is first, then the caller's descriptors. The array is on the stack; unused entries are not
        // polled.
        let mut set: [PollFd<'_>; WAIT_FDS_MAX + 1] = std::array::from_fn(|at| {
            let fd = at.checked_sub(1).and_then(|n| fds.get(n)).copied().unwrap_or(bell);
            PollFd::from_borrowed_fd(fd, PollFlags::IN)
        });
        let used = fds.len().min(WAIT_FDS_MAX) + 1;
        let (set, _) = set.split_at_mut(used);
        if !poll_until(set, timeout) {
            return WakeReason::Timeout;
        }
        let mut ready = 0u64;
        let mut rung = false;
        for (at, entry) in set.iter().enumerate() {
            if entry.revents().is_empty() {
                continue;
            }
            match at.checked_sub(1) {
                None => rung = true,
                Some(bit) => ready |= 1 << bit,
            }
        }
        if rung {
            self.doorbell.drain();
        }
        if ready != 0 { WakeReason::Ready(ready) } else { WakeReason::Message }
    }
}

/// Polls until a descriptor is ready (true) or the time is over (false). Continues after an interruption by a signal.
fn poll_until(set: &mut [PollFd<'_>], timeout: Duration) -> bool {
    // This is longer than any wait here, and small enough for the arithmetic below.
    const LONGEST: Duration = Duration::from_secs(3600);
    let mut left = timeout.min(LONGEST);
    let deadline = Instant::now() + left;
    loop {
        let spec = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(set, Some(&spec)) {
            Ok(count) => return count > 0,
            Err(rustix::io::Errno::INTR) => left = deadline.saturating_duration_since(Instant::now()),
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
#[path = "mailbox_tests.rs"]
mod tests;
