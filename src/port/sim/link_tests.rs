#![allow(clippy::unwrap_used)]
use super::*;

fn link(text: &str) -> SimLink<u32> {
    SimLink::new(text.parse().unwrap(), Rng::new(7))
}

/// Offers `count` packets of 976 bytes (1000 on the wire), `every_ns` apart. Returns arrival time and number of each.
fn run(link: &mut SimLink<u32>, count: u32, every_ns: u64) -> Vec<(u64, u32)> {
    let mut arrived = Vec::new();
    for n in 0..count {
        let _ = link.offer(u64::from(n) * every_ns, 976, n);
    }
    let mut now_ns = 0;
    while link.counters().under_way > 0 {
        while let Some(packet) = link.next(now_ns) {
            arrived.push((now_ns, packet));
        }
        now_ns += 1000;
    }
    let LinkCounters { offered, lost, overflowed, delivered, .. } = link.counters();
    assert_eq!([offered; 2], [u64::from(count), lost + overflowed + delivered]);
    arrived
}

#[test]
fn plain_link_has_no_delay_and_no_loss() {
    let mut link = SimLink::new(LinkSpec::default(), Rng::new(1));
    for n in 0..100 {
        link.offer(5, 60, n).unwrap();
    }
    assert!((0..100).all(|n| link.next(5) == Some(n)));
}

#[test]
fn delay_is_exact() {
    let mut link = link("delay=2ms");
    link.offer(10, 60, 1).unwrap();
    assert_eq!(link.next(2_000_009), None);
    assert_eq!(link.next(2_000_010), Some(1));
}

#[test]
fn rate_spaces_packets_and_bounds_buffer() {
    // 1000 bytes at 8 Mbit/s: 1 ms each.
    let mut at_rate = link("rate=8M");
    let arrived = run(&mut at_rate, 20, 0);
    let wanted: Vec<_> = (0..20).map(|n| (1_000_000 * u64::from(n + 1), n)).collect();
    assert_eq!(arrived, wanted);
    // Packets of 50 ms wait, and one more is on the wire; the others are lost.
    let mut flooded = link("rate=8M");
    assert_eq!(run(&mut flooded, 1000, 0).len(), 51);
    assert_eq!(flooded.counters().overflowed, 949);
}

#[test]
fn loss_bursts_have_configured_length() {
    let mut link = link("loss=ge:0.01/0.25");
    let (mut lost, mut bursts, mut before) = (0u32, 0u32, false);
    for n in 0..400_000 {
        let dropped = link.offer(0, 60, n).is_err();
        lost += u32::from(dropped);
        bursts += u32::from(dropped && !before);
        before = dropped;
        while link.next(0).is_some() {}
    }
    // The mean loss is 0.01 / (0.01 + 0.25) of all packets, in bursts of 1 / 0.25.
    let (share, length) = (f64::from(lost) / 400_000.0, f64::from(lost) / f64::from(bursts));
    assert!((share - link.spec.loss.mean()).abs() < 0.002, "{share}");
    assert!((length - 4.0).abs() < 0.3, "{length}");
}

#[test]
fn losses_of_each_state_and_of_each_packet() {
    let both = "loss=ge:0.5/0.5/0.8/0.2".parse::<LinkSpec>().unwrap().loss;
    assert!((both.mean() - 0.5).abs() < 1e-9);
    for text in ["loss=ge:0.5/0.5/0.8/0.2", "loss=0.5"] {
        let mut link = link(text);
        let lost = (0..100_000).filter(|&n| link.offer(0, 60, n).is_err()).count();
        assert!((49_000..51_000).contains(&lost), "{text}: {lost}");
    }
}

#[test]
fn reordering_has_configured_rate_without_loss() {
    let mut link = link("delay=1ms,reorder=0.1");
    let arrived = run(&mut link, 20_000, 1000);
    let mut sorted: Vec<_> = arrived.iter().map(|&(_, packet)| packet).collect();
    assert!(!sorted.is_sorted());
    sorted.sort_unstable();
    assert_eq!(sorted, (0..20_000).collect::<Vec<_>>());
    assert!(
        arrived.iter().all(|&(at, packet)| at <= u64::from(packet) * 1000 + 1_001_000),
        "no packet arrives after the delay"
    );
    // One packet in ten overtakes all packets on the link, which then arrive after it.
    assert!(link.counters().overtaken > 10_000, "{:?}", link.counters());
}

#[test]
fn one_seed_is_one_link() {
    let spec = "delay=1ms,loss=ge:0.05/0.3,reorder=0.1,rate=1G";
    assert_eq!(run(&mut link(spec), 5000, 500), run(&mut link(spec), 5000, 500));
}

#[test]
fn printed_link_parses_back() {
    for text in
        ["delay=2ms,loss=ge:0.01/0.3,reorder=0.02,rate=1G", "rate=64k", "loss=0.001", "delay=1.5s", "delay=20us"]
    {
        let spec: LinkSpec = text.parse().unwrap();
        assert_eq!(spec.to_string().parse(), Ok(spec), "{spec}");
    }
}

#[test]
fn invalid_links_are_refused_with_example() {
    for text in [
        "",
        "delay",
        "delay=",
        "delay=2",
        "delay=-1ms",
        "delay=1h",
        "delay=61s",
        "loss=2",
        "loss=ge:0.1",
        "loss=ge:0.1/x",
        "loss=ge:1/1/1/1/1",
        "loss=nan",
        "reorder=0.1",
        "rate=0",
        "rate=1T",
        "rate=fast",
        "speed=1G",
        "rate=é",
    ] {
        let error = text.parse::<LinkSpec>().unwrap_err().to_string();
        assert!(error.contains("loss=ge:P/R"), "{text}: {error}");
    }
}
