//! Finds rules by which the kernel translates source addresses and chooses ports for flows of other hosts. The kernel
//! does not know the relay's ports, so it may choose the same ones. This module only reads; nfnetlink needs
//! CAP_NET_ADMIN.

use std::collections::BTreeSet;

use super::netlink::{Netlink, attributes, find, text_of};

/// Value of `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE` (include/uapi/linux/netfilter/nf_tables.h).
const GETRULE: u16 = 10 << 8 | 7;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_MASQ_REG_PROTO_MIN: u16 = 2;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_REG_PROTO_MIN: u16 = 5;
const NFTA_TARGET_NAME: u16 = 1;

/// Returns each chain that translates source addresses without a range of ports; `None` if the kernel does not
/// answer.
pub(crate) fn port_choosers() -> Option<Vec<String>> {
    let mut netlink = Netlink::open(Some(rustix::net::netlink::NETFILTER)).ok()?;
    // The payload is struct nfgenmsg for all families.
    let rules = netlink.dump(GETRULE, &[0; 4]).ok()?;
    let mut found: BTreeSet<String> = rules.iter().filter_map(|rule| chooser(rule)).collect();
    // The older iptables has separate tables.
    for (names, table) in
        [("ip_tables_names", "iptables-legacy -t nat"), ("ip6_tables_names", "ip6tables-legacy -t nat")]
    {
        let names = super::system::text(&format!("/proc/thread-self/net/{names}")).unwrap_or_default();
        if names.lines().any(|name| name == "nat") {
            found.insert(table.to_owned());
        }
    }
    Some(found.into_iter().collect())
}

/// Returns table and chain of a rule that leaves the choice of the port to the kernel.
fn chooser(rule: &[u8]) -> Option<String> {
    let family = match rule.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None,
    };
    let rest = rule.get(4..)?;
    let chooses = attributes(find(rest, NFTA_RULE_EXPRESSIONS)?).any(|(_, expression)| chooses_port(expression));
    let name = |kind| find(rest, kind).and_then(text_of);
    chooses.then(|| Some(format!("nft table {family} {}, chain {}", name(NFTA_RULE_TABLE)?, name(NFTA_RULE_CHAIN)?)))?
}

fn chooses_port(expression: &[u8]) -> bool {
    let data = find(expression, NFTA_EXPR_DATA).unwrap_or_default();
    match find(expression, NFTA_EXPR_NAME).and_then(text_of).as_deref() {
        Some("masq") => find(data, NFTA_MASQ_REG_PROTO_MIN).is_none(),
        // NFT_NAT_SNAT is 0.
        Some("nat") => find(data, NFTA_NAT_TYPE) == Some(&[0; 4]) && find(data, NFTA_NAT_REG_PROTO_MIN).is_none(),
        Some("target") => {
            matches!(find(data, NFTA_TARGET_NAME).and_then(text_of).as_deref(), Some("MASQUERADE" | "SNAT"))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::netlink::put;
    use super::*;
    use proptest::prelude::*;

    fn rule(name: &str, data: &[u8]) -> Vec<u8> {
        let mut expression = Vec::new();
        put(&mut expression, NFTA_EXPR_NAME, &[name.as_bytes(), b"\0"].concat());
        put(&mut expression, 0x8000 | NFTA_EXPR_DATA, data);
        let mut list = Vec::new();
        put(&mut list, 0x8000 | 1, &expression);
        let mut rule = vec![1, 0, 0, 0];
        put(&mut rule, NFTA_RULE_TABLE, b"fw\0");
        put(&mut rule, NFTA_RULE_CHAIN, b"post\0");
        put(&mut rule, 0x8000 | NFTA_RULE_EXPRESSIONS, &list);
        rule
    }

    fn number(kind: u16, value: u32) -> Vec<u8> {
        let mut data = Vec::new();
        put(&mut data, kind, &value.to_be_bytes());
        data
    }

    #[test]
    fn rules_that_choose_ports_are_found() {
        let place = Some("nft table inet fw, chain post".to_owned());
        assert_eq!(chooser(&rule("masq", &[])), place);
        assert_eq!(chooser(&rule("masq", &number(NFTA_MASQ_REG_PROTO_MIN, 1))), None);
        assert_eq!(chooser(&rule("nat", &number(NFTA_NAT_TYPE, 0))), place);
        assert_eq!(chooser(&rule("nat", &number(NFTA_NAT_TYPE, 1))), None, "a translation of the destination");
        let mut target = Vec::new();
        put(&mut target, NFTA_TARGET_NAME, b"MASQUERADE\0");
        assert_eq!(chooser(&rule("target", &target)), place);
        assert_eq!(chooser(&rule("counter", &[])), None);
    }

    proptest! {
        #[test]
        fn random_answers_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = chooser(&bytes);
        }
    }
}
