//! Tests links, devices and sockets that disappear and return, and two ports on one memory.

use std::time::Duration;

use oxide::port::sim::{Driver, KernelFaultRates, SimBackend, SimInterface, SimNet, SimPort};
use oxide::port::{Backend, Burst, Kick, Port, PortError, QueueId};
use oxide::umem::{PortIndex, RingSizes, Umem};

use super::SimRig;
use super::contract::{Rig, number, packet};

#[test]
fn packets_queued_during_link_down_leave_after_link_up() {
    let mut rig = SimRig::opened(Driver::Copy, KernelFaultRates::none(), 4);
    rig.post(0, 20);
    rig.net.set_link("sim0", false);
    rig.inject(&packet(1, 60));
    for _ in 0..5 {
        assert_eq!(rig.port.kick().unwrap(), Kick::LinkDown);
        rig.kernel();
    }
    assert_eq!(rig.port.reclaim(&mut rig.umem), 0);
    assert_eq!(rig.net.counters(&rig.id).passed, 1);
    rig.net.set_link("sim0", true);
    assert_eq!(rig.port.kick().unwrap(), Kick::Done);
    rig.kernel();
    assert_eq!(rig.sent().len(), 20);
    assert_eq!(rig.port.reclaim(&mut rig.umem), 20);
    rig.check_accounting();
}

#[test]
fn deleted_interface_never_returns_to_its_socket() {
    let mut rig = SimRig::opened(Driver::Copy, KernelFaultRates::none(), 5);
    rig.post(0, 5);
    rig.net.delete("sim0");
    assert!(matches!(rig.port.kick(), Err(PortError::Gone { .. })));
    let mut backend = SimBackend::new(&rig.net, std::slice::from_ref(&rig.id));
    assert!(matches!(backend.clone().open(), Err(PortError::Gone { .. })));
    rig.net.create("sim0");
    rig.kernel();
    assert!(matches!(rig.port.kick(), Err(PortError::Gone { .. })), "the old socket stays dead");
    assert!(rig.sent().is_empty());
    assert!(rig.port.steer(true).is_err() && rig.port.steer(false).is_ok());
    drop(rig.port);
    let (receive, transmit) = rig.umem.at_port(PortIndex::P0);
    assert_eq!(rig.umem.write_off(PortIndex::P0), receive + transmit);
    assert_eq!(transmit, 5);
    rig.net.advance(Duration::from_millis(50));
    let (mut umem, mut ports) = backend.open().unwrap();
    ports[0].fill(&mut umem);
    ports[0].steer(true).unwrap();
    rig.net.inject(&rig.id, &packet(1, 60));
    ports[0].run_kernel(&mut umem);
    assert_eq!(ports[0].occupancy().rx, 1);
}

#[test]
fn closed_queue_stays_busy_for_some_time() {
    let rig = SimRig::new(Driver::Copy, KernelFaultRates::none(), 6);
    let mut backend = SimBackend::new(&rig.net, std::slice::from_ref(&rig.id));
    let busy = |result: Result<(Umem, Vec<SimPort>), PortError>| match result {
        Err(PortError::Refused { step, source, .. }) => step == "bind" && source.raw_os_error() == Some(libc::EBUSY),
        _ => false,
    };
    assert!(busy(backend.clone().open()), "another socket is bound");
    drop(rig.port);
    assert!(busy(backend.clone().open()), "the old socket is not closed yet");
    rig.net.advance(Duration::from_millis(14));
    assert!(busy(backend.clone().open()));
    rig.net.advance(Duration::from_millis(36));
    assert!(backend.open().is_ok());
}

/// One port reopens while the other continues; its frames stay written off until its queue could be bound.
#[test]
fn one_port_reopens_while_other_runs() {
    let net = SimNet::new(&[SimInterface::new("sim0", 1), SimInterface::new("sim1", 1)], 8);
    let ids = [QueueId::new("sim0", 0), QueueId::new("sim1", 0)];
    let mut backend = SimBackend::new(&net, &ids);
    let (mut umem, mut ports) = backend.open().unwrap();
    for port in &mut ports {
        port.fill(&mut umem);
        port.steer(true).unwrap();
    }
    let (receive, _) = umem.at_port(PortIndex::P1);
    drop(ports.pop());
    let mut echoed = 0;
    let port = loop {
        match backend.reopen(PortIndex::P1, &mut umem) {
            Ok(port) => break port,
            Err(error) => assert!(error.is_busy(), "{error}"),
        }
        let census = umem.census();
        assert!(census.balanced() && census.written_off == receive, "{census:?}");
        assert_eq!(umem.at_port(PortIndex::P1), (0, 0));
        net.inject(&ids[0], &packet(echoed, 60));
        ports[0].run_kernel(&mut umem);
        let mut burst = Burst::new();
        assert_eq!(ports[0].receive(&mut umem, &mut burst, 64), 1);
        assert_eq!(ports[0].transmit(&mut umem, &mut burst), 1);
        ports[0].kick().unwrap();
        ports[0].run_kernel(&mut umem);
        assert_eq!(net.sent(&ids[0]).iter().map(|p| number(p)).collect::<Vec<_>>(), [echoed]);
        ports[0].reclaim(&mut umem);
        ports[0].fill(&mut umem);
        echoed += 1;
        net.advance(Duration::from_millis(1));
    };
    assert!(echoed >= 15, "free after {echoed} ms");
    ports.push(port);
    let census = umem.census();
    assert!(census.balanced() && census.written_off == 0, "{census:?}");
    ports[1].fill(&mut umem);
    ports[1].steer(true).unwrap();
    net.inject(&ids[1], &packet(7, 60));
    ports[1].run_kernel(&mut umem);
    assert_eq!(ports[1].receive(&mut umem, &mut Burst::new(), 0), 0);
    assert_eq!(ports[1].occupancy().rx, 1);
    assert!(net.violations(&ids[1]).is_empty());
}

#[test]
fn two_ports_share_memory_without_copy() {
    let net = SimNet::new(&[SimInterface::new("in", 2), SimInterface::new("out", 2)], 9);
    let ids = [QueueId::new("in", 1), QueueId::new("out", 1)];
    let rings = RingSizes::from_ring_size(64).unwrap();
    let (mut umem, mut ports) = SimBackend::new(&net, &ids).with_rings(rings).open().unwrap();
    for port in &mut ports {
        port.fill(&mut umem);
        port.steer(true).unwrap();
    }
    net.inject(&ids[0], &packet(1, 1400));
    ports[0].run_kernel(&mut umem);
    let mut burst = Burst::new();
    ports[0].receive(&mut umem, &mut burst, 64);
    let at = umem.bytes(&burst[0]).as_ptr();
    assert_eq!(ports[1].transmit(&mut umem, &mut burst), 1);
    ports[1].kick().unwrap();
    ports[1].run_kernel(&mut umem);
    assert_eq!(net.sent(&ids[1]), [packet(1, 1400)]);
    assert_eq!(ports[1].reclaim(&mut umem), 1);
    let frame = umem.take().unwrap();
    assert_eq!(umem.bytes(&frame).as_ptr(), at, "the same frame, free again");
    umem.give(frame);
    assert_eq!(net.counters(&ids[1]).sent, 1);
    assert_eq!(net.counters(&QueueId::new("out", 0)).sent, 0);
}
