//! How an actor is spoken to, and how it sleeps.
//!
//! A mailbox is a bounded channel with a doorbell (an eventfd) and an idle flag. A spinning actor looks at the
//! channel (2 ns) and no sender makes a system call. An actor with nothing to do raises the flag, looks once more,
//! and sleeps in `ppoll` on its sockets and the doorbell; a sender that sees the flag rings.
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
//! Between the two fences one of the two sees the other's write, whatever the order: either the actor finds the
//! message in its last look, or the sender finds the flag up. So no message waits for the timeout.
//! One actor may have further channels on the same doorbell ([`Inbox::with_doorbell`]).

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, TrySendError, bounded};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Most file descriptors one [`Mailbox::wait`] can watch: the bits of [`WakeReason::Ready`].
pub const WAIT_FDS_MAX: usize = 64;

/// Why a mailbox was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MailboxError {
    /// A channel without room cannot be polled.
    #[error("a mailbox of 0 messages was asked for; at least 1 is needed")]
    NoRoom,
    /// The kernel gave no eventfd.
    #[error("no eventfd for the mailbox's doorbell: {0}; look at `ulimit -n` (open files of this process)")]
    Doorbell(std::io::Error),
}

/// A message that was not taken, given back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SendError<T> {
    /// No room, within the time given.
    Timeout(T),
    /// The actor's end is gone.
    Closed(T),
}

impl<T> SendError<T> {
    /// The message.
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
            Self::Timeout(_) => "the mailbox stayed full",
            Self::Closed(_) => "the mailbox's owner is gone",
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

/// The flag of an actor that is going to sleep. Each fence stands between a side's write and its look at the other's.
#[derive(Debug, Default)]
struct Idle(AtomicBool);

impl Idle {
    /// The actor's side, before its last look at what senders write.
    fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn withdraw(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// The sender's side, after its write.
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

    /// Wakes the actor if it sleeps or is about to. Call it after the work is visible to the actor.
    #[inline]
    pub fn ring_if_idle(&self) {
        if self.0.idle.is_announced() {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        // The only refusal is EAGAIN, at 2^64 - 2 unanswered rings: it is rung then.
        let _ = rustix::io::write(&self.0.fd, &1u64.to_ne_bytes());
    }

    fn drain(&self) {
        // One read takes all rings; EAGAIN: there was none.
        let _ = rustix::io::read(&self.0.fd, &mut [0u8; 8]);
    }
}

/// Held by every address of a channel; gone with the last.
#[derive(Debug)]
struct Open;

/// The sending end of a mailbox or an inbox.
pub struct Address<T> {
    sender: Sender<T>,
    doorbell: Doorbell,
    open: Arc<Open>,
}

impl<T> Address<T> {
    /// Messages that wait to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sender.len()
    }

    /// Sends, waiting for room at most `patience`.
    ///
    /// # Errors
    /// The message, with the reason.
    pub fn send_timeout(&self, message: T, patience: Duration) -> Result<(), SendError<T>> {
        self.sender.send_timeout(message, patience).map_err(|error| match error {
            SendTimeoutError::Timeout(message) => SendError::Timeout(message),
            SendTimeoutError::Disconnected(message) => SendError::Closed(message),
        })?;
        self.doorbell.ring_if_idle();
        Ok(())
    }

    /// Sends if there is room now. About 30 ns, and a system call more if the actor sleeps.
    ///
    /// # Errors
    /// The message, with the reason ([`SendError::Timeout`]: no room).
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

/// A receiving end that cannot sleep by itself: the mailbox whose doorbell it shares does.
pub struct Inbox<T> {
    receiver: Receiver<T>,
    open: Weak<Open>,
}

impl<T> Inbox<T> {
    /// A channel of `capacity` messages whose senders wake the actor that `doorbell` belongs to.
    ///
    /// The actor must look at [`Inbox::is_empty`] in the `last_look` of its [`Mailbox::wait`].
    ///
    /// # Errors
    /// [`MailboxError::NoRoom`] for a capacity of 0.
    pub fn with_doorbell(capacity: usize, doorbell: Doorbell) -> Result<(Address<T>, Self), MailboxError> {
        if capacity == 0 {
            return Err(MailboxError::NoRoom);
        }
        let (sender, receiver) = bounded(capacity);
        let open = Arc::new(Open);
        let inbox = Self { receiver, open: Arc::downgrade(&open) };
        Ok((Address { sender, doorbell, open }, inbox))
    }

    /// Whether no message is there. About 2 ns.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// The next message.
    #[inline]
    pub fn try_recv(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Whether no address is left. Messages sent before can still be received.
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

/// Why [`Mailbox::wait`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// The doorbell rang, or a message is there; may be stale, so that no message is found.
    Message,
    /// Bit *n* is set if descriptor *n* is readable, or has an error or hang-up to report. Zero: the last look
    /// found work.
    Ready(u64),
    /// Nothing within the time given.
    Timeout,
}

/// The receiving end, with which its actor sleeps.
#[derive(Debug)]
pub struct Mailbox<T> {
    inbox: Inbox<T>,
    doorbell: Doorbell,
}

/// A mailbox of `capacity` messages.
///
/// # Errors
/// [`MailboxError`]: capacity 0, or no file descriptor left.
pub fn mailbox<T>(capacity: usize) -> Result<(Address<T>, Mailbox<T>), MailboxError> {
    let doorbell = Doorbell::new()?;
    let (address, inbox) = Inbox::with_doorbell(capacity, doorbell.clone())?;
    Ok((address, Mailbox { inbox, doorbell }))
}

impl<T> Mailbox<T> {
    /// Whether no message is there. About 2 ns.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// The next message.
    #[inline]
    pub fn try_recv(&self) -> Option<T> {
        self.inbox.try_recv()
    }

    /// Whether no address is left. Messages sent before can still be received.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inbox.is_closed()
    }

    /// The bell to share with further channels of the same actor.
    #[must_use]
    pub fn doorbell(&self) -> Doorbell {
        self.doorbell.clone()
    }

    /// Sleeps until a message, a readable descriptor of `fds` (at most [`WAIT_FDS_MAX`]), or `timeout`.
    ///
    /// `last_look` is called once, when senders already know that this actor is about to sleep: it must look at
    /// everything else that could give work (own rings, inboxes on this doorbell) and says whether there is any.
    /// Only POLLIN is asked for, as an AF_XDP socket is always ready for POLLOUT. A poll that the kernel refuses
    /// (`ENOMEM`) counts as a timeout.
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
        // The doorbell first, then the caller's; built on the stack, unused places are not polled.
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

/// Polls until something is ready (true) or the time is over, through interruptions by signals.
fn poll_until(set: &mut [PollFd<'_>], timeout: Duration) -> bool {
    // Longer than any wait here may be, and small enough for every arithmetic below.
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
