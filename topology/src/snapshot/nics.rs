//! Reads the interfaces of the current network namespace with rtnetlink, ethtool netlink and the netdev family.
//!
//! sysfs is read only for facts that netlink does not report, and only if it cannot show another namespace. The
//! device tree is found by bus and device name, which have no namespace. `/sys/class/net/NAME` is used only if index
//! and hardware address agree with the kernel's answer.

use std::path::{Path, PathBuf};

use super::ethtool::Ethtool;
use super::netlink::{Netlink, attributes, find, put, text_of, u16_of, u32_of, u64_of};
use super::{NapiDefer, Nic, QueueIrq, SnapshotError, VethPeer, XdpFeatures, XdpProgram};

const RTM_GETLINK: u16 = 18;
// include/uapi/linux/if_link.h
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_CARRIER: u16 = 33;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
// include/uapi/linux/if_arp.h
const ARPHRD_ETHER: u16 = 1;
// include/uapi/linux/netdev.h
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_CMD_QUEUE_GET: u8 = 10;
const NETDEV_A_QUEUE_ID: u16 = 1;
const NETDEV_A_QUEUE_IFINDEX: u16 = 2;
const NETDEV_A_QUEUE_TYPE: u16 = 3;
const NETDEV_A_QUEUE_NAPI_ID: u16 = 4;
const NETDEV_A_QUEUE_XSK: u16 = 7;
/// Kernel version that reports the queues with an AF_XDP socket (netdev_nl_queue_fill_one, net/core/netdev-genl.c).
const TELLS_XSK: (u32, u32) = (6, 15);
const NETDEV_QUEUE_TYPE_RX: u32 = 0;
const NETDEV_CMD_NAPI_GET: u8 = 11;
const NETDEV_A_NAPI_IFINDEX: u16 = 1;
const NETDEV_A_NAPI_ID: u16 = 2;
const NETDEV_A_NAPI_IRQ: u16 = 3;

/// Holds rtnetlink's answer about one link. Other facts are added to `nic`.
pub(super) struct LinkReply {
    pub(super) nic: Nic,
    pub(super) index: u32,
    pub(super) loopback: bool,
    /// Alternative names of the interface (`ip link property add altname`).
    pub(super) alternatives: Vec<String>,
    allocated: (Option<u32>, Option<u32>),
    device: Option<PathBuf>,
    /// Index of a veth's peer, if it is in this namespace.
    peer: Option<u32>,
    /// Index of the bridge or bond that it is a member of.
    pub(super) master: Option<u32>,
}

/// Returns the named interfaces, or all except loopback if the list is empty.
pub(super) fn read(interfaces: &[String]) -> Result<Vec<Nic>, SnapshotError> {
    let links = links().map_err(|e| SnapshotError::Netlink { step: e.step, cause: e.cause })?;
    for name in interfaces {
        if !links.iter().any(|link| link.nic.name == *name) {
            let present = links.iter().map(|l| l.nic.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(SnapshotError::NoInterface { name: name.clone(), present });
        }
    }
    // If a family is absent (old kernel, driver without the call), its facts stay unknown.
    let mut generic = Netlink::generic().ok();
    let ethtool = generic.as_mut().and_then(|g| g.family("ethtool").ok());
    let netdev = generic.as_mut().and_then(|g| g.family("netdev").ok());
    let wanted = |link: &LinkReply| match interfaces {
        [] => link.nic.name != "lo",
        names => names.contains(&link.nic.name),
    };
    let sockets = xsk_diag();
    let names: Vec<(u32, String, bool)> =
        links.iter().map(|l| (l.index, l.nic.name.clone(), l.nic.xdp_program.is_some())).collect();
    let by_index = |index: u32| names.iter().find(|(i, ..)| *i == index);
    let mut nics = Vec::new();
    for mut link in links.into_iter().filter(wanted) {
        link.nic.master = link.master.and_then(by_index).map(|(_, name, _)| name.clone());
        link.nic.peer = link.peer.and_then(by_index).map(|(_, name, has_program)| VethPeer {
            name: name.clone(),
            offloads: None,
            has_program: *has_program,
        });
        link.nic.xsk_queues = sockets.as_ref().map(|all| queues_of(all, link.index));
        if let Some(generic) = generic.as_mut() {
            if let Some(family) = netdev {
                add_netdev(&mut link, generic, family);
            }
            if let Some(family) = ethtool {
                Ethtool { generic: &mut *generic, family, ifindex: link.index }.add_to(&mut link.nic);
                if let (Some(peer), Some(ifindex)) = (link.nic.peer.as_mut(), link.peer) {
                    peer.offloads = Ethtool { generic, family, ifindex }.offloads();
                }
            }
        }
        add_sysfs(&mut link);
        if link.nic.irqs.is_empty() {
            link.nic.irqs = irqs_by_name(&link);
        }
        add_veth_queues(&mut link);
        nics.push(link.nic);
    }
    nics.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nics)
}

/// Returns index and name of every interface, or an empty list if the kernel does not list them.
pub(super) fn names() -> Vec<(u32, String)> {
    links().map(|links| links.into_iter().map(|link| (link.index, link.nic.name)).collect()).unwrap_or_default()
}

pub(super) fn links() -> Result<Vec<LinkReply>, super::netlink::NetlinkError> {
    let answers = Netlink::open(None)?.dump(RTM_GETLINK, &[0; 16])?;
    Ok(answers.iter().filter_map(|answer| link(answer)).collect())
}

/// Parses one `struct ifinfomsg` with its attributes.
fn link(answer: &[u8]) -> Option<LinkReply> {
    let kind_of_device = u16_of(answer.get(2..4)?)?;
    let index = u32_of(answer.get(4..8)?)?;
    let flags = u32_of(answer.get(8..12)?)?;
    let rest = answer.get(16..)?;
    let number = |kind| find(rest, kind).and_then(u32_of);
    let text = |kind| find(rest, kind).and_then(text_of);
    let up = flags & IFF_UP != 0;
    let kind = find(rest, IFLA_LINKINFO).and_then(|i| find(i, IFLA_INFO_KIND)).and_then(text_of);
    // The names become part of a path, so only single path components are accepted.
    let plain = |name: &String| !name.contains('/') && !name.starts_with('.');
    let device = text(IFLA_PARENT_DEV_NAME)
        .filter(plain)
        .zip(text(IFLA_PARENT_DEV_BUS_NAME).filter(plain))
        .map(|(name, bus)| Path::new("/sys/bus").join(bus).join("devices").join(name));
    let nic = Nic {
        name: text(IFLA_IFNAME)?,
        ifindex: Some(index),
        is_virtual: kind.is_some().then_some(true).or(device.is_some().then_some(false)),
        driver: kind,
        ethernet: Some(kind_of_device == ARPHRD_ETHER),
        mtu: number(IFLA_MTU),
        up: Some(up),
        // The kernel reports carrier 0 for a link that is down, with any cable.
        carrier: find(rest, IFLA_CARRIER).and_then(|v| v.first()).map(|&c| c != 0).filter(|_| up),
        mac: find(rest, IFLA_ADDRESS).filter(|a| a.len() == 6).map(mac),
        xdp_program: find(rest, IFLA_XDP).and_then(xdp_program),
        ..Nic::default()
    };
    let is_veth = nic.driver.as_deref() == Some("veth");
    // If there is also a namespace id, the index belongs to that other namespace.
    let peer = number(IFLA_LINK).filter(|_| is_veth && find(rest, IFLA_LINK_NETNSID).is_none());
    let allocated = (number(IFLA_NUM_RX_QUEUES), number(IFLA_NUM_TX_QUEUES));
    let names = attributes(find(rest, IFLA_PROP_LIST).unwrap_or_default());
    let names = names.filter(|(kind, _)| *kind == IFLA_ALT_IFNAME).filter_map(|(_, name)| text_of(name)).collect();
    let (loopback, master) = (flags & IFF_LOOPBACK != 0, number(IFLA_MASTER));
    Some(LinkReply { nic, index, loopback, alternatives: names, allocated, device, peer, master })
}

/// Returns interface and queue of every AF_XDP socket in this namespace (net/xdp/xsk_diag.c), if the kernel has that
/// module.
fn xsk_diag() -> Option<Vec<(u32, u32)>> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const AF_XDP: u8 = 44;
    const XDP_SHOW_INFO: u32 = 1;
    const XDP_DIAG_INFO: u16 = 1;
    // The request is struct xdp_diag_req: family, protocol, padding, inode, show, cookie.
    let mut request = vec![AF_XDP, 0, 0, 0, 0, 0, 0, 0];
    request.extend_from_slice(&XDP_SHOW_INFO.to_ne_bytes());
    request.extend_from_slice(&[0xff; 8]);
    let mut diag = Netlink::open(Some(rustix::net::netlink::SOCK_DIAG)).ok()?;
    let answers = diag.dump(SOCK_DIAG_BY_FAMILY, &request).ok()?;
    let bound = |answer: &Vec<u8>| {
        let info = find(answer.get(16..)?, XDP_DIAG_INFO)?;
        Some((u32_of(info)?, u32_of(info.get(4..)?)?))
    };
    Some(answers.iter().filter_map(bound).collect())
}

fn queues_of(sockets: &[(u32, u32)], ifindex: u32) -> Vec<u32> {
    let mut queues: Vec<u32> = sockets.iter().filter(|(index, _)| *index == ifindex).map(|(_, queue)| *queue).collect();
    queues.sort_unstable();
    queues.dedup();
    queues
}

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

fn xdp_program(attribute: &[u8]) -> Option<XdpProgram> {
    let mode = match find(attribute, IFLA_XDP_ATTACHED)?.first()? {
        1 => "native",
        2 => "generic",
        3 => "offload",
        4 => "several",
        _ => return None,
    };
    Some(XdpProgram { mode: mode.into(), id: find(attribute, IFLA_XDP_PROG_ID).and_then(u32_of) })
}

/// Builds the payload of a generic netlink request: command, version 1, attributes.
fn request(command: u8, attributes: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = vec![command, 1, 0, 0];
    attributes(&mut payload);
    payload
}

fn add_netdev(link: &mut LinkReply, generic: &mut Netlink, family: u16) {
    let index = link.index.to_ne_bytes();
    if let Ok(answers) = generic.get(family, &request(NETDEV_CMD_DEV_GET, |p| put(p, NETDEV_A_DEV_IFINDEX, &index))) {
        let bits = answers.first().and_then(|a| find(a.get(4..)?, NETDEV_A_DEV_XDP_FEATURES)).and_then(u64_of);
        link.nic.xdp_features = bits.map(|bits| XdpFeatures {
            basic: bits & 1 != 0,
            redirect: bits & 2 != 0,
            zero_copy: bits & 8 != 0,
            multi_buffer: bits & 32 != 0,
        });
    }
    let queues = generic.dump(family, &request(NETDEV_CMD_QUEUE_GET, |p| put(p, NETDEV_A_QUEUE_IFINDEX, &index)));
    let napis = generic.dump(family, &request(NETDEV_CMD_NAPI_GET, |p| put(p, NETDEV_A_NAPI_IFINDEX, &index)));
    let (Ok(queues), Ok(napis)) = (queues, napis) else { return };
    let irq_of = |napi: u32| {
        let answer = napis.iter().find(|a| number(a, NETDEV_A_NAPI_ID) == Some(napi))?;
        number(answer, NETDEV_A_NAPI_IRQ)
    };
    let (mut rx, mut tx, mut taken) = (0, 0, Vec::new());
    for answer in &queues {
        let Some(queue) = number(answer, NETDEV_A_QUEUE_ID) else { continue };
        if number(answer, NETDEV_A_QUEUE_TYPE) != Some(NETDEV_QUEUE_TYPE_RX) {
            tx += 1;
            continue;
        }
        rx += 1;
        if answer.get(4..).and_then(|a| find(a, NETDEV_A_QUEUE_XSK)).is_some() {
            taken.push(queue);
        }
        if let Some(irq) = number(answer, NETDEV_A_QUEUE_NAPI_ID).and_then(irq_of)
            && let Some(cpus) = irq_cpus(irq)
        {
            link.nic.irqs.push(QueueIrq { queue, irq, cpus });
        }
    }
    // The list is empty while the link is down; that does not give the number of queues.
    if rx > 0 && tx > 0 {
        link.nic.rx_queues = Some(rx);
        link.nic.tx_queues = Some(tx);
        if super::system::kernel_version().is_some_and(|version| version >= TELLS_XSK) {
            link.nic.xsk_queues = Some(taken);
        }
    }
}

/// Returns a 32-bit attribute of a generic netlink answer, after its 4-byte header.
fn number(answer: &[u8], kind: u16) -> Option<u32> {
    find(answer.get(4..)?, kind).and_then(u32_of)
}

fn irq_cpus(irq: u32) -> Option<crate::CpuList> {
    let read = |name: &str| super::system::text(&format!("/proc/irq/{irq}/{name}"));
    read("effective_affinity_list").filter(|t| !t.is_empty()).or_else(|| read("smp_affinity_list"))?.parse().ok()
}

/// Finds the interrupts of queues by name. Drivers that do not report them to the kernel use names such as
/// `eth0-TxRx-3`, `ice-eth0-TxRx-3`, `virtio2-input.3`, `mlx5_comp3@pci:0000:01:00.0`.
fn irqs_by_name(link: &LinkReply) -> Vec<QueueIrq> {
    let device = link.device.as_ref().and_then(|d| d.file_name()).map(|d| d.to_string_lossy().into_owned());
    let table = super::system::text("/proc/interrupts").unwrap_or_default();
    let mut irqs: Vec<QueueIrq> = table
        .lines()
        .filter_map(|line| {
            let irq: u32 = line.trim_start().split_once(':')?.0.parse().ok()?;
            let queue = queue_of_interrupt(line.split_whitespace().next_back()?, &link.nic.name, device.as_deref())?;
            Some(QueueIrq { queue, irq, cpus: irq_cpus(irq)? })
        })
        .collect();
    irqs.sort_by_key(|irq| (irq.queue, irq.irq));
    irqs.dedup_by_key(|irq| irq.queue);
    irqs
}

fn queue_of_interrupt(interrupt: &str, nic: &str, device: Option<&str>) -> Option<u32> {
    if let Some((name, of)) = interrupt.split_once("@pci:") {
        return name.strip_prefix("mlx5_comp")?.parse().ok().filter(|_| Some(of) == device);
    }
    let (front, number) = interrupt.rsplit_once(['-', '.'])?;
    let words: Vec<&str> = front.split('-').collect();
    let ours = words.iter().any(|word| *word == nic || Some(*word) == device);
    let last = words.last()?.to_ascii_lowercase();
    let receives = matches!(last.as_str(), "txrx" | "rx" | "input");
    number.parse().ok().filter(|_| ours && receives)
}

fn add_sysfs(link: &mut LinkReply) {
    if let Some(device) = &link.device {
        if link.nic.driver.is_none() {
            link.nic.driver = link_name(&device.join("driver"));
        }
        link.nic.numa_node = numa_node(device);
    }
    let class = Path::new("/sys/class/net").join(&link.nic.name);
    let read = |name: &str| super::system::text(class.join(name).to_string_lossy().as_ref());
    let same = read("ifindex").and_then(|t| t.parse().ok()) == Some(link.index) && read("address") == link.nic.mac;
    if !same {
        return;
    }
    let timeout = read("gro_flush_timeout").and_then(|t| t.parse().ok());
    let defer = read("napi_defer_hard_irqs").and_then(|t| t.parse().ok());
    link.nic.napi = timeout
        .zip(defer)
        .map(|(gro_flush_timeout_ns, defer_hard_irqs)| NapiDefer { gro_flush_timeout_ns, defer_hard_irqs });
    if link.nic.rx_queues.is_none() || link.nic.tx_queues.is_none() {
        (link.nic.rx_queues, link.nic.tx_queues) = queue_folders(&class);
    }
    if link.device.is_none()
        && let Ok(device) = class.join("device").canonicalize()
    {
        link.nic.driver = link.nic.driver.take().or_else(|| link_name(&device.join("driver")));
        link.nic.is_virtual = Some(false);
        link.nic.numa_node = numa_node(&device);
    }
}

/// Adds the number of queues of a veth, which is that of its creation until ethtool changes it. The calls above would
/// have reported a change. For other devices the allocated number does not give the number in use.
fn add_veth_queues(link: &mut LinkReply) {
    if link.nic.driver.as_deref() == Some("veth") {
        link.nic.rx_queues = link.nic.rx_queues.or(link.allocated.0);
        link.nic.tx_queues = link.nic.tx_queues.or(link.allocated.1);
    }
}

fn link_name(path: &Path) -> Option<String> {
    Some(std::fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
}

fn queue_folders(class: &Path) -> (Option<u32>, Option<u32>) {
    let Ok(entries) = std::fs::read_dir(class.join("queues")) else { return (None, None) };
    let names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    let count = |prefix: &str| u32::try_from(names.iter().filter(|n| n.starts_with(prefix)).count()).ok();
    (count("rx-"), count("tx-"))
}

/// Returns the node of a device. A virtio NIC has no node file, but its parent, the PCI function, has one.
fn numa_node(device: &Path) -> Option<u32> {
    let real = device.canonicalize().ok()?;
    let node = |path: &Path| super::system::text(path.join("numa_node").to_string_lossy().as_ref());
    // The value -1 means "no node": it fails to parse, and the node stays unknown.
    node(&real).or_else(|| node(real.parent()?))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_name_their_queues() {
        let queue = |name: &str| queue_of_interrupt(name, "eth0", Some("virtio2"));
        assert_eq!(queue("eth0-TxRx-3"), Some(3));
        assert_eq!(queue("ice-eth0-TxRx-12"), Some(12));
        assert_eq!(queue("eth0-Tx-Rx-1"), Some(1));
        assert_eq!(queue("virtio2-input.0"), Some(0));
        for other in
            ["virtio2-output.0", "eth0-tx-3", "eth1-TxRx-3", "eth0", "virtio22-input.0", "eth0-TxRx-x", "timer"]
        {
            assert_eq!(queue(other), None, "{other}");
        }
        let mlx = |name: &str| queue_of_interrupt(name, "eth0", Some("0000:01:00.0"));
        assert_eq!((mlx("mlx5_comp7@pci:0000:01:00.0"), mlx("mlx5_comp7@pci:0000:02:00.0")), (Some(7), None));
    }
}
