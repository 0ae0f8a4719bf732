//! What was changed under a running engine that it was planned for: told, with what it means and what mends it.

use oxide_topology::Nic;

/// Each difference between an interface at start and now, a sentence each. Those that are not there are netlink's to
/// tell.
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
            "{name} has {after} receive queues instead of {before}: packets of queues that nobody serves take the \
             fallback; restart the engine to plan anew, or `ethtool -L {name}` back"
        ));
    }
    if let (Some(before), Some(after)) = (&then.rss, &now.rss)
        && before != after
    {
        found.push(format!(
            "the spread of {name}'s packets over its queues was changed (`ethtool -x {name}`): flows may come in on \
             other queues, which hand them over; nothing needs a restart"
        ));
    }
    if let (Some(before), Some(after)) = (&then.offloads, &now.offloads)
        && before != after
    {
        found.push(format!(
            "offloads of {name} were changed (`ethtool -k {name}`): nothing needs a restart; `oxide doctor` says which \
             of them AF_XDP cannot have"
        ));
    }
    if let (Some(before), Some(after)) = (then.mtu, now.mtu)
        && after > before
    {
        found.push(format!(
            "the MTU of {name} was raised from {before} to {after}: packets that do not fit a frame are dropped; restart \
             the engine if `frame_size` is to follow"
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
        for words in ["8 receive queues instead of 4", "ethtool -L eth0", "from 1500 to 9000"] {
            assert!(found.contains(words), "{words}: {found}");
        }
        // Not there, or not told: nothing is claimed.
        assert_eq!(differences(std::slice::from_ref(&then), &[]), Vec::<String>::new());
        let silent = Nic { name: "eth0".to_owned(), ..Nic::default() };
        assert_eq!(differences(&[then], &[silent]), Vec::<String>::new());
    }
}
