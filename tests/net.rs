//! Links, addresses, routes and neighbours as the kernel tells them, in namespaces of their own (root).
#![allow(clippy::unwrap_used)]

#[path = "common/netns.rs"]
mod netns;

use netns::{in_namespace, skip_unless_root};

#[test]
fn the_lab_is_its_own_world() {
    if skip_unless_root("the_lab_is_its_own_world") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("va", "vb", 2, "02:00:00:00:00:0a", "02:00:00:00:00:0b");
        lab.address("va", "10.0.0.1/24");
        lab.address("va", "fd00::1/64");
        let names: Vec<_> = std::fs::read_dir("/sys/class/net").unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().any(|n| n == "va") && !names.iter().any(|n| n == "eth0"), "{names:?}");
        let far = lab.second_namespace();
        lab.give("vb", &far);
        far.run(|lab| {
            lab.address("vb", "10.0.0.2/24");
            lab.address("vb", "fd00::2/64");
        });
        // The kernel routes between the two: a datagram arrives over the wire, in both families.
        for (near, there) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let address: std::net::IpAddr = there.parse().unwrap();
            let receiver = far.run(move |_| std::net::UdpSocket::bind((address, 7)).unwrap());
            receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let sender = std::net::UdpSocket::bind((near.parse::<std::net::IpAddr>().unwrap(), 0)).unwrap();
            sender.send_to(b"hello", (address, 7)).unwrap();
            let mut bytes = [0; 16];
            let (length, from) = receiver.recv_from(&mut bytes).unwrap();
            assert_eq!((&bytes[..length], from), (&b"hello"[..], sender.local_addr().unwrap()));
        }
        assert!(lab.ip("-6 address show dev va").contains("fd00::1"));
        assert!(!lab.ip("-6 address show dev va").contains("fe80"), "no address of its own making");
    });
}
