//! Reports changes of the machine since the plan, with their effect and remedy.

use oxide_topology::Nic;

/// Returns one sentence for each difference between an interface at start and now. It ignores missing interfaces, which
/// netlink reports.
pub(super) fn differences(planned: &[Nic], now: &[Nic]) -> Vec<String> {
    let pairs = planned.iter().filter_map(|then| Some((then, now.iter().find(|nic| nic.name == then.name)?)));
    pairs.flat_map(|(then, now)| of_one(then, now)).collect()
}

fn of_one(then: &Nic, now: &Nic) -> Vec<String> {
    let name = &then.name;
    let mut found = Vec::new();
    if let (Some(before), Some(after)) = (then.rx_queues, now.rx_queues)
        && before != after
    {
        found.push(format!(
            "{name}: {after} receive queues instead of {before}: packets of queues without a socket take the \
             fallback; to fix: restart the engine for a new plan, or reset the number with `ethtool -L {name}`"
        ));
    }
    if let (Some(before), Some(after)) = (&then.rss, &now.rss)
        && before != after
    {
        found.push(format!(
            "{name}: the RSS settings were changed: flows may arrive at other queues, which hand them over; to fix: \
             none needed; `ethtool -x {name}` shows the settings"
        ));
    }
    if let (Some(before), Some(after)) = (&then.offloads, &now.offloads)
        && before != after
    {
        found.push(format!(
            "offloads of {name} were changed: AF_XDP may not support them; to fix: run `oxide doctor`, which reports \
             those it does not support; `ethtool -k {name}` shows all"
        ));
    }
    if let (Some(before), Some(after)) = (then.mtu, now.mtu)
        && after > before
    {
        found.push(format!(
            "the MTU of {name} was raised from {before} to {after}: packets larger than a frame are dropped; to fix: \
             set `frame_size` to fit and restart the engine"
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_reports_only_changes_with_remedy() {
        let then = Nic { name: "eth0".to_owned(), rx_queues: Some(4), mtu: Some(1500), ..Nic::default() };
        assert_eq!(differences(std::slice::from_ref(&then), std::slice::from_ref(&then)), Vec::<String>::new());
        let now = Nic { rx_queues: Some(8), mtu: Some(9000), ..then.clone() };
        let found = differences(std::slice::from_ref(&then), &[now]).join("; ");
        for text in ["8 receive queues instead of 4", "ethtool -L eth0", "from 1500 to 9000"] {
            assert!(found.contains(text), "{text}: {found}");
        }
        // A missing interface or value gives no difference.
        assert_eq!(differences(std::slice::from_ref(&then), &[]), Vec::<String>::new());
        let silent = Nic { name: "eth0".to_owned(), ..Nic::default() };
        assert_eq!(differences(&[then], &[silent]), Vec::<String>::new());
    }
}
