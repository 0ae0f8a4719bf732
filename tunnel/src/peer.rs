//! The data side of one peer: three sessions, the timers of section 6 of the white paper, and the endpoint.
//!
//! One thread owns a peer. It asks for handshakes by [`Wants`] and gets their sessions by [`Peer::install`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::message::{DATA_OVERHEAD, DataHeader, KEEPALIVE_LEN};
use crate::session::{OpenError, REJECT_AFTER, REKEY_AFTER, REKEY_AFTER_MESSAGES, SealError, Session};

/// A keepalive is sent if a peer received data and sent nothing for this time.
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// An initiation is repeated after this time.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// All sessions are forgotten if there was no new one for this time.
const FORGET_AFTER: Duration = REJECT_AFTER.saturating_mul(3);
/// The initiator makes a new session before the old one ends, also if it only receives.
const REKEY_BEFORE_END: Duration = REJECT_AFTER.saturating_sub(KEEPALIVE).saturating_sub(REKEY_TIMEOUT);

/// Says what a peer needs from its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// A handshake with the peer.
    pub handshake: bool,
    /// A keepalive: a sealed empty packet.
    pub keepalive: bool,
}

/// Holds the sessions, the timers and the endpoint of one peer.
#[derive(Default)]
pub struct Peer {
    current: Option<Session>,
    previous: Option<Session>,
    /// A responder's new session, until the initiator has used it.
    next: Option<Session>,
    endpoint: Option<SocketAddr>,
    persistent: Option<Duration>,
    wants: Wants,
    released: Vec<u32>,
    /// When the last handshake was asked for: not again within [`REKEY_TIMEOUT`].
    asked: Option<Instant>,
    /// The initiator asked for a new session because it received a packet on an old one.
    asked_before_end: bool,
    keepalive_at: Option<Instant>,
    another_keepalive: bool,
    answer_due: Option<Instant>,
    persistent_at: Option<Instant>,
    forget_at: Option<Instant>,
}

impl Peer {
    /// Starts without a session. `persistent` is the interval of persistent keepalives.
    #[must_use]
    pub fn new(endpoint: Option<SocketAddr>, persistent: Option<Duration>, now: Instant) -> Self {
        let persistent_at = persistent.map(|interval| now + interval);
        Self { endpoint, persistent, persistent_at, ..Self::default() }
    }

    /// Returns where packets to this peer go: the source of its last authentic message.
    #[must_use]
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.endpoint
    }

    /// Whether a packet can be sealed now.
    #[must_use]
    pub fn has_session(&self, now: Instant) -> bool {
        self.current.as_ref().is_some_and(|session| session.may_seal(now))
    }

    /// Returns the indices of the sessions that this peer receives on.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        [&self.current, &self.previous, &self.next].into_iter().flatten().map(Session::local)
    }

    /// Takes the session of a finished handshake. `endpoint` is where the handshake message came from.
    pub fn install(&mut self, session: Session, endpoint: SocketAddr, now: Instant) {
        self.endpoint = Some(endpoint);
        self.forget_at = Some(now + FORGET_AFTER);
        self.answer_due = None;
        (self.asked, self.asked_before_end) = (None, false);
        if session.is_initiator() {
            let former = self.current.replace(session);
            // A session that the peer has confirmed is worth more than one that it never used.
            let next = self.next.take();
            let (kept, dropped) = if next.is_some() { (next, former) } else { (former, None) };
            self.release(dropped);
            let replaced = std::mem::replace(&mut self.previous, kept);
            self.release(replaced);
            // The responder may not send before it received a packet of this session.
            self.wants.keepalive = true;
        } else {
            let replaced = self.next.replace(session);
            self.release(replaced);
            let previous = self.previous.take();
            self.release(previous);
        }
    }

    /// Opens a data message in place. `payload` is what follows the header. Returns the length of the padded packet at
    /// the start of `payload`; zero for a keepalive. Sets the endpoint to `source`, only after authentication.
    ///
    /// # Errors
    /// [`OpenError`]; nothing has changed then.
    pub fn open(
        &mut self,
        header: DataHeader,
        payload: &mut [u8],
        source: SocketAddr,
        now: Instant,
    ) -> Result<usize, OpenError> {
        let slots = [&mut self.current, &mut self.next, &mut self.previous];
        let session = slots.into_iter().flatten().find(|session| session.local() == header.receiver);
        let length = session.ok_or(OpenError::UnknownIndex)?.open(header.counter, payload, now)?;
        self.confirm(header.receiver);
        self.endpoint = Some(source);
        self.answer_due = None;
        self.rearm_persistent(now);
        if length > 0 {
            match self.keepalive_at {
                Some(_) => self.another_keepalive = true,
                None => self.keepalive_at = Some(now + KEEPALIVE),
            }
        }
        let ends_soon = |session: &Session| session.is_initiator() && session.age(now) >= REKEY_BEFORE_END;
        if !self.asked_before_end && self.current.as_ref().is_some_and(ends_soon) {
            self.asked_before_end = true;
            self.ask(now);
        }
        Ok(length)
    }

    /// Seals a packet in place: `message` is room for the header, the padded packet, and room for the tag.
    ///
    /// # Errors
    /// [`SealError::NoSession`] asks for a handshake; [`SealError::TooShort`].
    pub fn seal(&mut self, message: &mut [u8], now: Instant) -> Result<(), SealError> {
        let Some(session) = self.current.as_mut().filter(|session| session.may_seal(now)) else {
            self.ask(now);
            return Err(SealError::NoSession);
        };
        session.seal(message, now)?;
        let old = session.is_initiator() && session.age(now) >= REKEY_AFTER;
        if old || session.sealed() > REKEY_AFTER_MESSAGES {
            self.ask(now);
        }
        (self.keepalive_at, self.another_keepalive) = (None, false);
        if message.len() > DATA_OVERHEAD && self.answer_due.is_none() {
            self.answer_due = Some(now + KEEPALIVE + REKEY_TIMEOUT);
        }
        self.rearm_persistent(now);
        Ok(())
    }

    /// Seals a keepalive.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn keepalive(&mut self, now: Instant) -> Result<[u8; KEEPALIVE_LEN], SealError> {
        let mut message = [0; KEEPALIVE_LEN];
        self.seal(&mut message, now).map(|()| message)
    }

    /// Looks at the timers. Call it at least every second.
    pub fn poll(&mut self, now: Instant) {
        let due = |at: &mut Option<Instant>| at.take_if(|at| *at <= now).is_some();
        if due(&mut self.keepalive_at) {
            self.wants.keepalive = true;
            self.keepalive_at = std::mem::take(&mut self.another_keepalive).then(|| now + KEEPALIVE);
        }
        if due(&mut self.persistent_at) {
            self.wants.keepalive = true;
            self.rearm_persistent(now);
        }
        if due(&mut self.answer_due) {
            self.ask(now);
        }
        if due(&mut self.forget_at) {
            for session in [self.current.take(), self.previous.take(), self.next.take()] {
                self.release(session);
            }
        }
    }

    /// Returns what this peer needs, once.
    pub fn take_wants(&mut self) -> Wants {
        std::mem::take(&mut self.wants)
    }

    /// Returns the indices of the sessions that were dropped since the last call.
    pub fn take_released(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.released)
    }

    /// The initiator used the new session, so it has the keys.
    fn confirm(&mut self, index: u32) {
        if let Some(session) = self.next.take_if(|session| session.local() == index) {
            let former = self.current.replace(session);
            let replaced = std::mem::replace(&mut self.previous, former);
            self.release(replaced);
            (self.asked, self.asked_before_end) = (None, false);
        }
    }

    fn release(&mut self, session: Option<Session>) {
        self.released.extend(session.map(|session| session.local()));
    }

    fn ask(&mut self, now: Instant) {
        if self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= REKEY_TIMEOUT) {
            self.asked = Some(now);
            self.wants.handshake = true;
        }
    }

    fn rearm_persistent(&mut self, now: Instant) {
        self.persistent_at = self.persistent.map(|interval| now + interval);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use crate::message::Message;
    use crate::session::tests::pair;

    const HERE: &str = "192.0.2.1:1";
    const THERE: &str = "192.0.2.2:2";

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn peers(now: Instant) -> (Peer, Peer) {
        let (mut ours, mut theirs) = (Peer::new(None, None, now), Peer::new(None, None, now));
        install(&mut ours, &mut theirs, 1, now);
        (ours, theirs)
    }

    /// A new session between two peers, begun by the first: its indices are `n` and `n + 1`.
    fn install(ours: &mut Peer, theirs: &mut Peer, n: u32, now: Instant) {
        let (one, other) = pair(now, n, n + 1);
        theirs.install(other, address(HERE), now);
        ours.install(one, address(THERE), now);
    }

    fn send(from: &mut Peer, to: &mut Peer, packet: &[u8], source: &str, now: Instant) -> Result<usize, OpenError> {
        let mut message = [&[0; 16][..], packet, &[0; 16]].concat();
        from.seal(&mut message, now).unwrap();
        receive(to, &mut message, source, now)
    }

    fn receive(to: &mut Peer, message: &mut [u8], source: &str, now: Instant) -> Result<usize, OpenError> {
        let Ok(Message::Data(header)) = Message::parse(message) else { panic!("not a data message") };
        to.open(header, &mut message[16..], address(source), now)
    }

    #[test]
    fn responder_sends_after_the_initiator_used_the_session() {
        let now = Instant::now();
        let (mut ours, mut theirs) = peers(now);
        assert!(ours.take_wants().keepalive && !theirs.has_session(now));
        assert_eq!(theirs.keepalive(now), Err(SealError::NoSession));
        assert_eq!(receive(&mut theirs, &mut ours.keepalive(now).unwrap(), HERE, now), Ok(0));
        assert_eq!(send(&mut theirs, &mut ours, b"hello", THERE, now), Ok(5));
    }

    #[test]
    fn endpoint_moves_only_after_authentication() {
        let now = Instant::now();
        let (mut ours, mut theirs) = peers(now);
        let mut message = ours.keepalive(now).unwrap();
        let mut forged = message;
        forged[20] ^= 1;
        assert_eq!(receive(&mut theirs, &mut forged, "198.51.100.9:9", now), Err(OpenError::NotAuthentic));
        assert_eq!(theirs.endpoint(), Some(address(HERE)));
        let mut copy = message;
        assert_eq!(receive(&mut theirs, &mut message, "192.0.2.7:7", now), Ok(0));
        assert_eq!(theirs.endpoint(), Some(address("192.0.2.7:7")), "the peer roamed");
        assert!(receive(&mut theirs, &mut copy, "198.51.100.9:9", now).is_err());
        assert_eq!(theirs.endpoint(), Some(address("192.0.2.7:7")), "a replayed copy from a foreign address");
    }

    #[test]
    fn packets_of_the_previous_session_are_still_received() {
        let now = Instant::now();
        let (mut ours, mut theirs) = peers(now);
        send(&mut ours, &mut theirs, b"first", HERE, now).unwrap();
        let mut late = [&[0; 16][..], b"late", &[0; 16]].concat();
        ours.seal(&mut late, now).unwrap();
        install(&mut ours, &mut theirs, 11, now);
        send(&mut ours, &mut theirs, b"second", HERE, now).unwrap();
        assert_eq!(receive(&mut theirs, &mut late, HERE, now), Ok(4));
        install(&mut ours, &mut theirs, 21, now);
        send(&mut ours, &mut theirs, b"third", HERE, now).unwrap();
        assert_eq!((ours.take_released(), theirs.take_released()), (vec![1], vec![2]));
        assert_eq!(receive(&mut theirs, &mut late, HERE, now), Err(OpenError::UnknownIndex));
        assert_eq!(ours.indices().chain(theirs.indices()).collect::<Vec<_>>(), [21, 11, 22, 12]);
    }

    #[test]
    fn initiator_asks_for_a_new_session_when_its_own_is_old() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut ours, mut theirs) = peers(start);
        ours.take_wants();
        send(&mut ours, &mut theirs, b"x", HERE, at(119)).unwrap();
        assert!(!ours.take_wants().handshake);
        send(&mut ours, &mut theirs, b"x", HERE, at(120)).unwrap();
        assert!(ours.take_wants().handshake);
        send(&mut ours, &mut theirs, b"x", HERE, at(124)).unwrap();
        assert!(!ours.take_wants().handshake, "asked already");
        send(&mut theirs, &mut ours, b"x", THERE, at(125)).unwrap();
        assert!(!theirs.take_wants().handshake, "the responder leaves it to the initiator");
        send(&mut theirs, &mut ours, b"x", THERE, at(165)).unwrap();
        assert!(ours.take_wants().handshake, "it only receives, and the session ends soon");
        assert_eq!(ours.keepalive(at(180)), Err(SealError::NoSession));
        assert_eq!(theirs.keepalive(at(180)), Err(SealError::NoSession));
        assert!(theirs.take_wants().handshake, "without a session the responder begins, too");
    }

    #[test]
    fn received_data_is_answered_by_a_keepalive() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut ours, mut theirs) = peers(start);
        send(&mut ours, &mut theirs, b"x", HERE, start).unwrap();
        theirs.poll(at(9));
        assert_eq!(theirs.take_wants(), Wants::default());
        theirs.poll(at(10));
        assert!(theirs.take_wants().keepalive);
        receive(&mut ours, &mut theirs.keepalive(at(10)).unwrap(), THERE, at(10)).unwrap();
        ours.take_wants();
        for seconds in 11..100 {
            ours.poll(at(seconds));
            theirs.poll(at(seconds));
        }
        assert_eq!((ours.take_wants(), theirs.take_wants()), Default::default(), "keepalives are not answered");
    }

    #[test]
    fn unanswered_data_asks_for_a_handshake() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut ours, _) = peers(start);
        ours.take_wants();
        ours.keepalive(start).unwrap();
        ours.poll(at(20));
        assert_eq!(ours.take_wants(), Wants::default(), "a keepalive needs no answer");
        ours.seal(&mut [0; 48], at(20)).unwrap();
        ours.poll(at(34));
        assert_eq!(ours.take_wants(), Wants::default());
        ours.poll(at(35));
        assert!(ours.take_wants().handshake);
    }

    #[test]
    fn sessions_are_forgotten_after_nine_minutes() {
        let start = Instant::now();
        let (mut ours, _) = peers(start);
        ours.poll(start + Duration::from_secs(539));
        assert_eq!(ours.indices().count(), 1);
        ours.poll(start + Duration::from_secs(540));
        assert_eq!((ours.indices().count(), ours.take_released()), (0, vec![1]));
    }

    #[test]
    fn persistent_keepalive_repeats_and_begins_a_handshake() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut ours = Peer::new(Some(address(THERE)), Some(Duration::from_secs(25)), start);
        for seconds in [25, 50, 75] {
            ours.poll(at(seconds - 1));
            assert!(!ours.take_wants().keepalive);
            ours.poll(at(seconds));
            assert!(ours.take_wants().keepalive);
            assert_eq!(ours.keepalive(at(seconds)), Err(SealError::NoSession));
            assert!(ours.take_wants().handshake);
        }
    }
}
