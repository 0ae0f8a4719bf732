//! Tests that every public function checks its configuration, also one made in code, and that no actor gets more ports
//! than the ledger has states for.
#![allow(clippy::unwrap_used, clippy::panic)]

use oxide::engine::{Engine, EngineError, PlannedMachine, make_plan, request};
use oxide::port::sim::{SimBackend, SimInterface, SimNet};
use oxide::port::{Backend, PortError, QueueId};
use oxide::queue::{Batch, Context, Handler};
use oxide::umem::{LayoutError, MAX_PORTS, PortIndex, RingSizes, UmemLayout};
use oxide::xdp::{PortOpenParams, XdpBackend, XdpOptions};
use oxide_relay::config::{Choice, Config, EngineConfig, Realtime};
use oxide_relay::{PlanError, RelayPlan};

struct Nothing;

impl Handler for Nothing {
    fn handle(&mut self, _: &mut Batch<'_>, _: &mut Context<'_>) {}
}

fn named(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("none{n}"))
}

/// Returns configurations with one wrong value each, and the field that the error must name.
fn wrong() -> Vec<(&'static str, EngineConfig)> {
    let change = |field, change: fn(&mut EngineConfig)| {
        let mut config = EngineConfig::new(["none0"]);
        change(&mut config);
        (field, config)
    };
    vec![
        ("engine.interfaces", EngineConfig::new(named(9))),
        ("engine.interfaces", EngineConfig::new(named(0))),
        change("engine.ring_size", |c| c.ring_size = 1 << 31),
        change("engine.frame_size", |c| c.frame_size = 0),
        change("engine.frame_count", |c| c.frame_count = Choice::Fixed(1)),
        change("engine.batch_size", |c| c.batch_size = 65),
        change("engine.busy_poll_timeout_us", |c| c.busy_poll_timeout_us = 0),
        change("engine.queues", |c| c.queues = Choice::Fixed(vec![])),
        change("engine.pin", |c| c.pin = Choice::Fixed(vec![u32::MAX])),
        change("engine.numa", |c| c.numa = Choice::Fixed(u32::MAX)),
        change("engine.realtime", |c| c.realtime = Realtime(Some(99))),
    ]
}

#[test]
fn engine_entries_refuse_each_wrong_value_by_its_field() {
    for (field, config) in wrong() {
        let refused = [
            Engine::builder(config.clone(), |_| Nothing).start().map(drop),
            PlannedMachine::new(&config).map(drop),
            make_plan(&config).map(drop),
            request(&config).map(drop),
        ];
        for (entry, refused) in ["start", "survey", "plan", "request"].into_iter().zip(refused) {
            match refused {
                Err(EngineError::Config(error)) => {
                    let fields: Vec<&str> = error.problems().iter().map(|problem| problem.field.as_str()).collect();
                    assert_eq!(fields, [field], "{entry}: {error}");
                }
                other => panic!("{entry} does not refuse {field}: {other:?}"),
            }
        }
    }
}

#[test]
fn relay_plan_refuses_a_configuration_changed_in_code() {
    let text = "engine.interfaces = [\"none0\"]\n[[relay]]\nname = \"a\"\nlisten = \"192.0.2.1:53\"\n\
                upstreams = [\"203.0.113.9:53\"]\n";
    let mut config = Config::from_toml(text).unwrap();
    assert!(RelayPlan::new(&config, &[]).is_ok());
    config.sessions.capacity = 0;
    let refused = RelayPlan::new(&config, &[]).unwrap_err();
    assert!(
        matches!(&refused, PlanError::Config(error) if error.problems()[0].field == "sessions.capacity"),
        "{refused}"
    );
    config = Config::from_toml(text).unwrap();
    config.engine.interfaces.clear();
    assert!(matches!(RelayPlan::new(&config, &[]), Err(PlanError::Config(_))));
}

#[test]
fn backends_refuse_a_ninth_port() {
    let interfaces: Vec<_> = named(9).map(|name| SimInterface::new(&name, 1)).collect();
    let ids: Vec<_> = named(9).map(|name| QueueId::new(name, 0)).collect();
    let net = SimNet::new(&interfaces, 1);
    let (umem, ports) = SimBackend::new(&net, &ids[..8]).open().unwrap();
    drop((umem, ports));
    let too_many = |result: Result<(), PortError>| match result {
        Err(PortError::Layout { source: LayoutError::TooManyPorts { got: 9 }, .. }) => {}
        other => panic!("{other:?}"),
    };
    too_many(SimBackend::new(&net, &ids).open().map(drop));
    too_many(SimBackend::new(&net, &ids).open_available().map(drop));
    // Every host has a loopback interface, and reading it needs no privilege.
    let request = |queue| PortOpenParams { id: QueueId::new("lo", queue), slot: None, generic: None };
    too_many(XdpBackend::new(XdpOptions::default(), (0..9).map(request).collect()).open().map(drop));
}

/// The check comes before any memory is mapped, and does not overflow.
#[test]
fn layout_refuses_sizes_that_cannot_be() {
    let rings = RingSizes::from_ring_size(64).unwrap();
    let layout =
        |frames, headroom, rings: &RingSizes, ports, mtu| UmemLayout::new(2048, frames, headroom, rings, ports, mtu);
    let most = UmemLayout::frames_for(&rings, MAX_PORTS.into());
    assert!(layout(most, 0, &rings, MAX_PORTS.into(), 1500).is_ok());
    for ports in [u32::from(MAX_PORTS) + 1, u32::MAX] {
        let refused = layout(u32::MAX, 0, &rings, ports, 1500).unwrap_err();
        assert_eq!(refused, LayoutError::TooManyPorts { got: ports as usize });
    }
    assert!(matches!(layout(most, u32::MAX, &rings, 1, 1500), Err(LayoutError::MtuTooLarge { .. })));
    assert!(matches!(layout(most, 0, &rings, 1, u32::MAX), Err(LayoutError::MtuTooLarge { .. })));
    for entries in [1 << 31, 1 << 17] {
        let vast = RingSizes { fill: entries, rx: 64, tx: 64, completion: 64 };
        assert!(matches!(layout(most, 0, &vast, 1, 1500), Err(LayoutError::RingSize { name: "fill", .. })));
        let vast = RingSizes { completion: entries, ..rings };
        assert!(matches!(layout(most, 0, &vast, 1, 1500), Err(LayoutError::RingSize { name: "completion", .. })));
    }
}

#[test]
fn port_numbers_end_where_the_ledger_does() {
    assert!(PortIndex::new(usize::from(MAX_PORTS)).is_none() && PortIndex::new(usize::MAX).is_none());
    for (number, port) in PortIndex::ALL.into_iter().enumerate() {
        assert_eq!((PortIndex::new(number), usize::from(port), port.bit()), (Some(port), number, 1 << number));
    }
}
