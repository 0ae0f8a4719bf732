//! Tests signals, panics and stuck handlers.

use std::net::UdpSocket;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::rig::{Bench, lab};

#[test]
fn sigterm_drains_and_second_one_does_not_wait() {
    lab("sigterm_drains_and_second_one_does_not_wait", "[sessions]\ndrain_s = 600", |_, bench| {
        bench.serves(5000);
        let socket = bench.clients.run(|_| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect("10.1.0.1:5000").unwrap();
            socket.send(b"one").unwrap();
            socket.recv(&mut [0; 64]).unwrap();
            socket
        });
        bench.signal(Signal::TERM);
        bench.wait("not ready any more", |b| b.get("/ready").0 == 503);
        bench.notified("STOPPING=1\n");
        bench.notified("WATCHDOG=1\n");
        assert_eq!(bench.get("/live").0, 200);
        assert_eq!(bench.answered(5000, 2, 1), 0, "no new sessions");
        socket.send(b"two").unwrap();
        socket.recv(&mut [0; 64]).expect("the old session is served");
        assert!(bench.child.try_wait().unwrap().is_none(), "the relay waits for its sessions");
        bench.signal(Signal::TERM);
        assert_eq!(bench.end(), 130);
    });
}

/// Returns a client with a session, and its source port as the upstream sees it.
fn client(bench: &Bench) -> UdpSocket {
    bench.clients.run(|_| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect("10.1.0.1:5000").unwrap();
        socket
    })
}

/// Returns the source port of this client's packets at the upstream.
fn seen_as(client: &UdpSocket) -> u16 {
    client.send(b"who am I").unwrap();
    let mut answer = [0; 64];
    let length = client.recv(&mut answer).expect("an answer");
    std::str::from_utf8(&answer[..length]).unwrap().parse().unwrap()
}

/// Returns the queue that serves this client, from `ctl sessions`.
fn queue_of(bench: &Bench, client: &UdpSocket) -> u64 {
    let sessions: Value = serde_json::from_str(&bench.get("/sessions?limit=100").1).unwrap();
    let own = client.local_addr().unwrap().to_string();
    let session = sessions.as_array().unwrap().iter().find(|session| session["client"] == own.as_str());
    session.unwrap_or_else(|| panic!("{own}: {sessions:#}"))["queue"].as_u64().unwrap()
}

#[test]
fn sessions_survive_handler_panic() {
    lab("sessions_survive_handler_panic", "", |_, bench| {
        bench.serves(5000);
        let clients: Vec<_> = (0..16).map(|_| client(bench)).collect();
        let before: Vec<_> = clients.iter().map(seen_as).collect();
        let queue = queue_of(bench, &clients[0]);
        // One packet, its answer, and one packet that is lost with its handler.
        bench.inject(&format!("panic r0:{queue} 3"));
        bench.wait("the fault is injected", |b| b.log().contains("injected a fault"));
        assert_eq!(seen_as(&clients[0]), before[0]);
        clients[0].send(b"one too many").unwrap();
        bench.wait("a new handler runs", |b| b.queues()["queues"][queue as usize]["restarts"] == 1);
        bench.inject(&format!("panic r0:{queue} 0"));
        bench.wait("it runs", |b| b.queues()["state"] == "running");
        for (client, before) in clients.iter().zip(before) {
            assert_eq!(seen_as(client), before);
        }
        let status: Value = serde_json::from_str(&bench.ctl_output(&["status"])).unwrap();
        let last = &status["queues"][queue as usize]["last_restart"];
        assert_eq!((&last["depth"], &last["lost"]), (&"handler".into(), &1.into()), "{last:#}");
        assert_eq!(last["cause"], "panic", "{last:#}");
        assert!(last["detail"].as_str().unwrap().contains("injected panic"), "{last:#}");
        assert!(last["gap_ms"].is_number(), "{last:#}");
        assert_eq!(status["queues"][1 - queue as usize]["restarts"], 0);
    });
}

/// Makes the handler of the next packet's queue hang.
fn stuck(bench: &mut Bench) {
    bench.serves(5000);
    bench.inject("stall r0:0 3600000");
    bench.wait("the fault is injected", |b| {
        b.answered(5000, 8, 1);
        b.queues()["queues"][0]["stalled"] == true
    });
    assert_eq!(bench.queues()["queues"][1]["stalled"], false);
}

#[test]
fn stuck_handler_does_not_block_exit_and_has_exit_code() {
    lab("a_stuck_handler_does_not_hold_up_the_end", "[sessions]\ndrain_s = 1", |_, bench| {
        stuck(bench);
        bench.signal(Signal::TERM);
        assert_eq!(bench.end(), 4);
        assert!(bench.log().contains("their threads end with the process"), "{}", bench.log());
    });
}

#[test]
fn second_signal_does_not_wait_for_stuck_handler() {
    lab("second_signal_does_not_wait_for_stuck_handler", "[sessions]\ndrain_s = 600", |_, bench| {
        stuck(bench);
        bench.signal(Signal::TERM);
        bench.wait("not ready any more", |b| b.get("/ready").0 == 503);
        bench.signal(Signal::TERM);
        assert_eq!(bench.end(), 130);
    });
}
