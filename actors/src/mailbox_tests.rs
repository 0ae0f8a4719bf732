#![allow(clippy::unwrap_used, clippy::panic)]
use std::cell::Cell;
use std::io::Write as _;
use std::sync::atomic::AtomicUsize;

use super::*;

/// Is so long that a lost wake-up shows as `WakeReason::Timeout`. No test here accepts that as an answer.
const LONG: Duration = Duration::from_secs(60);

fn is_idle(bell: &Doorbell) -> bool {
    bell.0.idle.0.load(Ordering::SeqCst)
}

fn was_rung(bell: &Doorbell) -> bool {
    let fd = bell.0.fd.as_fd();
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&now)).unwrap() == 1
}

#[test]
fn message_sent_before_wait_is_found_without_wakeup() {
    let (address, mailbox) = mailbox(4).unwrap();
    address.try_send(1).unwrap();
    assert!(!was_rung(&mailbox.doorbell()), "the actor was awake, so no system call was needed");
    let asked = Cell::new(false);
    let reason = mailbox.wait(&[], LONG, || {
        asked.set(true);
        false
    });
    assert_eq!(reason, WakeReason::Message);
    assert!(!asked.get());
    assert_eq!((mailbox.try_recv(), mailbox.try_recv()), (Some(1), None));
    assert!(!is_idle(&mailbox.doorbell()));
}

#[test]
fn message_sent_between_last_check_and_sleep_wakes() {
    let (address, mailbox) = mailbox(4).unwrap();
    // The flag is set while `last_look` runs. This is the last moment at which a message can arrive before the sleep.
    let reason = mailbox.wait(&[], LONG, || {
        address.try_send(2).unwrap();
        false
    });
    assert_eq!(reason, WakeReason::Message);
    assert_eq!(mailbox.try_recv(), Some(2));
    assert!(!was_rung(&mailbox.doorbell()), "the doorbell was drained");
    assert_eq!(mailbox.wait(&[], Duration::ZERO, || false), WakeReason::Timeout);
}

#[test]
fn message_sent_during_sleep_wakes() {
    let (address, mailbox) = mailbox(4).unwrap();
    let bell = mailbox.doorbell();
    let sender = std::thread::spawn(move || {
        while !is_idle(&bell) {
            std::thread::yield_now();
        }
        address.send_timeout(3, LONG).unwrap();
    });
    assert_eq!(mailbox.wait(&[], LONG, || false), WakeReason::Message);
    assert_eq!(mailbox.try_recv(), Some(3));
    sender.join().unwrap();
}

#[test]
fn inbox_shares_the_wakeup_descriptor() {
    let (_address, mailbox) = mailbox::<()>(1).unwrap();
    let (peer, inbox) = Inbox::with_doorbell(2, mailbox.doorbell()).unwrap();
    // The message comes before the flag: the sender does not ring, and the last check finds the message.
    peer.try_send("early").unwrap();
    assert!(!was_rung(&mailbox.doorbell()));
    assert_eq!(mailbox.wait(&[], LONG, || !inbox.is_empty()), WakeReason::Ready(0));
    assert_eq!(inbox.try_recv(), Some("early"));
    // The message comes after the check: the sender rings.
    let reason = mailbox.wait(&[], LONG, || {
        let found = !inbox.is_empty();
        peer.try_send("late").unwrap();
        found
    });
    assert_eq!(reason, WakeReason::Message);
    assert_eq!((inbox.try_recv(), inbox.try_recv()), (Some("late"), None));
}

#[test]
fn stale_wakeup_ends_one_wait_only() {
    let (_address, mailbox) = mailbox::<()>(1).unwrap();
    // This sender saw the flag and was delayed before its write.
    mailbox.doorbell().ring();
    mailbox.doorbell().ring();
    assert_eq!(mailbox.wait(&[], LONG, || false), WakeReason::Message);
    assert_eq!(mailbox.try_recv(), None);
    assert_eq!(mailbox.wait(&[], Duration::ZERO, || false), WakeReason::Timeout);
}

#[test]
fn readable_and_broken_descriptors_set_their_bits() {
    let (_address, mailbox) = mailbox::<()>(1).unwrap();
    let (quiet_rx, _quiet_tx) = std::io::pipe().unwrap();
    let (data_rx, data_tx) = std::io::pipe().unwrap();
    let (hung_rx, hung_tx) = std::io::pipe().unwrap();
    let (broken_rx, broken_tx) = std::io::pipe().unwrap();
    (&data_tx).write_all(b"x").unwrap();
    drop(hung_tx); // POLLHUP
    drop(broken_rx); // POLLERR
    let fds = [quiet_rx.as_fd(), data_rx.as_fd(), hung_rx.as_fd(), broken_tx.as_fd()];
    assert_eq!(mailbox.wait(&fds, LONG, || false), WakeReason::Ready(0b1110));
    assert_eq!(mailbox.wait(&fds[..1], Duration::ZERO, || false), WakeReason::Timeout);
    // Nothing is written to `data_tx`, yet the pipe is writable: only POLLIN counts.
    assert_eq!(mailbox.wait(&[data_tx.as_fd()], Duration::ZERO, || false), WakeReason::Timeout);
}

#[test]
fn last_of_64_descriptors_has_its_bit_and_wakeup_is_drained() {
    let (_address, mailbox) = mailbox::<()>(1).unwrap();
    let (quiet_rx, _quiet_tx) = std::io::pipe().unwrap();
    let (data_rx, data_tx) = std::io::pipe().unwrap();
    (&data_tx).write_all(b"x").unwrap();
    let mut fds = vec![quiet_rx.as_fd(); WAIT_FDS_MAX];
    fds[WAIT_FDS_MAX - 1] = data_rx.as_fd();
    mailbox.doorbell().ring();
    assert_eq!(mailbox.wait(&fds, LONG, || false), WakeReason::Ready(1 << 63));
    assert!(!was_rung(&mailbox.doorbell()));
}

#[test]
fn message_that_does_not_fit_is_returned() {
    let (address, mailbox) = mailbox(1).unwrap();
    address.try_send(1).unwrap();
    assert_eq!(address.try_send(2), Err(SendError::Timeout(2)));
    assert_eq!(address.send_timeout(3, Duration::from_millis(1)), Err(SendError::Timeout(3)));
    drop(mailbox);
    assert_eq!(address.try_send(4), Err(SendError::Closed(4)));
    assert_eq!(address.send_timeout(5, LONG).unwrap_err().into_inner(), 5);
}

#[test]
fn full_mailbox_takes_waiting_message_after_a_receive() {
    let (address, mailbox) = mailbox(1).unwrap();
    address.try_send(1).unwrap();
    let sender = std::thread::spawn(move || address.send_timeout(2, LONG));
    let mut got = Vec::new();
    while got.len() < 2 {
        assert_ne!(mailbox.wait(&[], LONG, || false), WakeReason::Timeout);
        got.extend(mailbox.try_recv());
    }
    assert_eq!(got, [1, 2]);
    sender.join().unwrap().unwrap();
}

#[test]
fn closed_mailbox_keeps_its_messages() {
    let (address, mailbox) = mailbox(2).unwrap();
    let second = address.clone();
    address.try_send(9).unwrap();
    drop(address);
    assert!(!mailbox.is_closed());
    drop(second);
    assert!(mailbox.is_closed());
    assert_eq!(mailbox.try_recv(), Some(9));
}

#[test]
fn zero_capacity_is_refused() {
    assert!(matches!(mailbox::<()>(0), Err(MailboxError::NoRoom)));
    let (_address, mailbox) = mailbox::<()>(1).unwrap();
    assert!(matches!(Inbox::<()>::with_doorbell(0, mailbox.doorbell()), Err(MailboxError::NoRoom)));
}

/// Runs the store-buffer litmus test on the flag itself. One side announces and looks for the message. The other side
/// writes the message and looks for the flag at nearly the same time. Without either fence the test fails in about
/// every second run on x86-64.
#[test]
fn sender_or_receiver_always_sees_the_other() {
    const ROUNDS: usize = 200_000;
    let flags: Vec<Idle> = (0..ROUNDS).map(|_| Idle::default()).collect();
    let messages: Vec<AtomicBool> = (0..ROUNDS).map(|_| AtomicBool::new(false)).collect();
    let at = [AtomicUsize::new(0), AtomicUsize::new(0)];
    // Each thread waits until the other has reached the same round.
    let meet = |me: usize, round: usize| {
        at[me].store(round, Ordering::Release);
        let mut spins = 0u32;
        while at[1 - me].load(Ordering::Acquire) < round {
            spins += 1;
            if spins.is_multiple_of(256) {
                std::thread::yield_now();
            }
        }
        // The thread that arrives second leaves first. The loop varies the other thread's lead over a few ns.
        for step in 0..(round / 2 % 24) * ((round % 2) ^ me) {
            std::hint::black_box(step);
        }
    };
    let (seen_by_actor, seen_by_sender) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let look = |round: usize| {
                meet(1, round + 1);
                messages[round].store(true, Ordering::Relaxed);
                flags[round].is_announced()
            };
            (0..ROUNDS).map(look).collect::<Vec<bool>>()
        });
        let look = |round: usize| {
            meet(0, round + 1);
            flags[round].announce();
            messages[round].load(Ordering::Relaxed)
        };
        ((0..ROUNDS).map(look).collect::<Vec<bool>>(), sender.join().unwrap())
    });
    let lost = seen_by_actor.iter().zip(&seen_by_sender).filter(|&(&actor, &sender)| !actor && !sender).count();
    assert_eq!(lost, 0, "messages of {ROUNDS} that neither side saw");
}

/// Passes a token between two actors, one way by a mailbox and the other way by an inbox. Each actor sleeps after a
/// varying number of empty turns, so that sends occur before, during and after the step into sleep.
#[test]
fn no_wakeup_is_lost_under_load() {
    const ROUNDS: u32 = 30_000;
    let (to_left, left) = mailbox::<u32>(1).unwrap();
    let (_to_right, right) = mailbox::<()>(1).unwrap();
    let (to_right, right_inbox) = Inbox::<u32>::with_doorbell(1, right.doorbell()).unwrap();
    let wait_for = |round: u32, try_recv: &dyn Fn() -> Option<u32>, wait: &dyn Fn() -> WakeReason| -> u32 {
        for _ in 0..(round.wrapping_mul(2_654_435_761) >> 26) {
            if let Some(token) = try_recv() {
                return token;
            }
        }
        loop {
            assert_ne!(wait(), WakeReason::Timeout, "a wake-up was lost in round {round}");
            if let Some(token) = try_recv() {
                return token;
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                let token =
                    wait_for(round, &|| right_inbox.try_recv(), &|| right.wait(&[], LONG, || !right_inbox.is_empty()));
                to_left.try_send(token + 1).unwrap();
            }
        });
        to_right.try_send(0).unwrap();
        for round in 0..ROUNDS {
            let token = wait_for(round, &|| left.try_recv(), &|| left.wait(&[], LONG, || false));
            assert_eq!(token, 2 * round + 1);
            if round + 1 < ROUNDS {
                to_right.try_send(token + 1).unwrap();
            }
        }
    });
}
