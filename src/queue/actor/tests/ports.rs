//! Tests ports that fail, wait and reopen while their actor runs.

use super::*;

#[test]
fn failed_port_reopens_while_other_port_runs() {
    let mut rig = Rig::new();
    assert_eq!(rig.echoes(), [1, 1]);
    rig.net.kill_socket(&rig.ids[1]);
    rig.turns(2);
    assert_eq!(rig.failed(), [1]);
    assert_eq!(rig.echoes(), [1, 0]);
    rig.open(None);
    rig.turns(3);
    // The queue is busy while the kernel closes the old socket.
    assert_eq!((rig.echoes(), rig.ports.len()), ([1, 0], 0));
    rig.turns(60);
    assert_eq!((rig.reports.last(), rig.ports.len()), (Some(&StateReport::Running), 1));
    assert_eq!(rig.echoes(), [1, 1]);
    assert_eq!(rig.known.changes.load(Ordering::Relaxed), 1, "the handler sees the port change");
    assert!(rig.actor.datapath.balanced() && rig.actor.datapath.umem().census().written_off == 0);
}

#[test]
fn all_closed_ports_reopen_and_open_one_on_request() {
    let mut rig = Rig::new();
    rig.send(ActorCommand::Close(0b11, "no program".to_owned()));
    rig.turns(2);
    assert_eq!(rig.reports, [StateReport::Waiting("no program".to_owned())]);
    assert_eq!(rig.echoes(), [0, 0]);
    rig.open(None);
    rig.turns(60);
    assert_eq!(rig.echoes(), [1, 1]);
    let closed = || NAMES.map(|name| rig.net.counters(&QueueId::new(name, 0)).closed);
    assert_eq!(closed(), [1, 1]);
    rig.open(Some(PortIndex::P0));
    rig.turns(60);
    let closed = || NAMES.map(|name| rig.net.counters(&QueueId::new(name, 0)).closed);
    assert_eq!(closed(), [2, 1], "only the requested port must be reopened");
    assert_eq!((rig.echoes(), rig.reports.last()), ([1, 1], Some(&StateReport::Running)));
}

#[test]
fn port_opens_with_newest_parameters() {
    let mut rig = Rig::new();
    rig.ids[1].queue = 1;
    rig.open(Some(PortIndex::P1));
    rig.turns(60);
    assert_eq!(rig.ports, [rig.ids.clone()]);
    assert_eq!(rig.actor.datapath.infos()[1].id, rig.ids[1]);
    assert_eq!(rig.echoes(), [1, 1]);
    rig.send(ActorCommand::Open {
        restart: Some(PortIndex::P0),
        requests: vec![(PortIndex::P0, Err("interface missing".to_owned()))],
    });
    rig.turns(60);
    assert_eq!(rig.reports.last(), Some(&StateReport::Waiting("interface missing".to_owned())));
    assert_eq!(rig.echoes(), [0, 1]);
}

#[test]
fn busy_queue_fails_in_bounded_time() {
    let mut rig = Rig::new();
    rig.net.refuse_open(&rig.ids[0], libc::EBUSY, 100_000);
    rig.open(Some(PortIndex::P0));
    rig.turns(1_000);
    assert_eq!(rig.failed(), [] as [u8; 0], "retries must continue");
    rig.turns(1_000);
    assert_eq!(rig.failed(), [0]);
    assert_eq!(rig.echoes(), [0, 1]);
}

#[test]
fn port_without_completions_is_closed() {
    let mut rig = Rig::new();
    rig.net.set_faults(&rig.ids[1], KernelFaultRates { lost_ppm: 1_000_000, ..KernelFaultRates::none() });
    rig.inject(1, b"");
    rig.turns(400);
    assert_eq!(rig.failed(), [] as [u8; 0]);
    rig.turns(400);
    assert_eq!(rig.failed(), [1]);
    rig.net.set_faults(&rig.ids[1], KernelFaultRates::none());
    rig.open(None);
    rig.turns(60);
    assert_eq!(rig.echoes(), [1, 1]);
    assert_eq!(rig.actor.datapath.umem().census().written_off, 0, "the frame must be free again");
}

#[test]
fn stuck_tx_ring_delays_other_ports_briefly() {
    let mut rig = Rig::new();
    rig.net.set_link("left", false);
    // Send more packets than the ring and one batch hold.
    for _ in 0..10 {
        (0..64).for_each(|_| rig.inject(1, b"cross"));
        rig.turns(1);
    }
    rig.turns(100);
    assert_eq!(rig.echoes(), [0, 1]);
    assert!(rig.actor.datapath.counters().drops.of(crate::telemetry::DropReason::TxFull) > 0);
    rig.net.set_link("left", true);
    rig.turns(20);
    assert_eq!(rig.echoes(), [1, 1]);
}

#[test]
fn idle_port_of_deleted_interface_is_closed() {
    let mut rig = Rig::new();
    let links = rig.net.links().into_iter().filter(|link| link.name == "right").collect();
    rig.send(ActorCommand::Tables(Box::new(Tables::new(2, links, Vec::new(), Default::default()))));
    rig.turns(1);
    assert_eq!(rig.failed(), [0]);
}

#[test]
fn actor_starts_with_present_interface_and_adds_the_other() {
    let net = SimNet::new(&NAMES.map(|name| SimInterface::new(name, 2)), 1);
    net.delete("left");
    let mut rig = Rig::on(net.clone());
    rig.actor.begin();
    rig.turns(1);
    assert!(
        matches!(rig.reports.as_slice(), [StateReport::Waiting(why)] if why.contains("left:0")),
        "{:?}",
        rig.reports
    );
    assert_eq!(rig.actor.datapath.closed().collect::<Vec<_>>(), [PortIndex::P0]);
    rig.inject(1, b"");
    rig.turns(4);
    assert_eq!(rig.net.sent(&rig.ids[1]).len(), 1);
    net.create("left");
    rig.open(None);
    rig.turns(60);
    assert_eq!(rig.reports.last(), Some(&StateReport::Running));
    assert_eq!(rig.echoes(), [1, 1]);
    assert!(rig.actor.datapath.balanced());
    // Without any interface, the actor cannot start.
    NAMES.iter().for_each(|name| net.delete(name));
    assert!(SimBackend::new(&net, &rig.ids).open_available().is_err_and(|error| error.waits()));
}

#[test]
fn packets_for_closed_port_are_dropped_and_frames_freed() {
    let mut rig = Rig::new();
    rig.net.set_link("left", false);
    for _ in 0..7 {
        (0..64).for_each(|_| rig.inject(1, b"cross"));
        rig.turns(1);
    }
    let waiting = rig.actor.datapath.in_hand();
    assert!(waiting > 0, "the ring is full");
    rig.send(ActorCommand::Close(0b01, "no program".to_owned()));
    rig.turns(3);
    assert_eq!((rig.actor.datapath.in_hand(), rig.actor.datapath.umem().census().app), (0, 0));
    assert!(rig.actor.datapath.counters().drops.of(crate::telemetry::DropReason::PortClosed) >= waiting as u64);
    assert!(rig.actor.datapath.umem().census().written_off > 0, "the kernel may still read the frames on the ring");
    rig.net.set_link("left", true);
    rig.open(None);
    rig.turns(60);
    assert_eq!(rig.echoes(), [1, 1]);
    assert!(rig.actor.datapath.balanced() && rig.actor.datapath.umem().census().written_off == 0);
}
