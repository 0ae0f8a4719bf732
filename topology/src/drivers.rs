//! What is on record about drivers, as data. One row for each driver; an absent driver has no rule.
//!
//! Each row names its source: a public thread as `repository#number`, or a kernel file.

/// What XDP asks of the number of queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spare {
    /// The driver takes transmit queues of its own for XDP: at most half of the maximum may be in use.
    HalfOfMaximum,
    /// Attaching native XDP adds a queue pair for each possible CPU where that many are spare, and the device
    /// spreads packets over the added receive queues too.
    AddsOnePerCpu,
}

/// What is on record about zero-copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// No zero-copy in this driver.
    Never,
    /// Good from this kernel on; bad before.
    GoodSince((u32, u32)),
    /// Bad from this kernel on.
    BadSince((u32, u32)),
    /// Good with frames of at least this size, bytes; smaller ones corrupt traffic.
    GoodWithFrames(u32),
    /// Bad in all kernels.
    Bad,
}

/// One driver.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) name: &'static str,
    pub(crate) spare: Option<Spare>,
    pub(crate) zero_copy: Option<Record>,
    /// Largest MTU that native XDP takes with one buffer, bytes.
    pub(crate) native_mtu: Option<u32>,
    /// What an operator should know, with its source; a warning of every plan.
    pub(crate) note: Option<(&'static str, &'static str)>,
    /// Where `zero_copy` and `spare` come from.
    pub(crate) source: &'static str,
}

const NONE: Driver = Driver { name: "", spare: None, zero_copy: None, native_mtu: None, note: None, source: "" };

/// The rules, by driver name.
pub(crate) const DRIVERS: &[Driver] = &[
    Driver {
        name: "ena",
        spare: Some(Spare::HalfOfMaximum),
        zero_copy: Some(Record::Bad),
        source: "aya#459; amzn-drivers#330 (memory corruption), amzn-drivers#221 (slower than copy)",
        ..NONE
    },
    Driver {
        name: "gve",
        spare: Some(Spare::HalfOfMaximum),
        note: Some((
            "gives packets 2 bytes of headroom: their start cannot be moved (firezone#8633)",
            "do not use handlers that add headers",
        )),
        source: "firezone#8538, quilkin#1455",
        ..NONE
    },
    Driver {
        name: "i40e",
        zero_copy: Some(Record::GoodSince((5, 19))),
        source: "firedancer's driver table; xsk-rs#49 (panic)",
        ..NONE
    },
    Driver {
        name: "ice",
        zero_copy: Some(Record::Bad),
        source: "firedancer#11245 (memory corruption), ethernet-linux-ice#59 (panic)",
        ..NONE
    },
    Driver {
        name: "igb",
        zero_copy: Some(Record::GoodWithFrames(4096)),
        source: "measured on 6.18 and 7.3: 2 KiB frames become 1 KiB buffers, longer packets are split, and the rest \
                 arrives as a packet of its own",
        ..NONE
    },
    Driver { name: "igc", zero_copy: Some(Record::Bad), source: "xsk-rs#49 (panic)", ..NONE },
    Driver {
        name: "ixgbe",
        zero_copy: Some(Record::BadSince((6, 14))),
        source: "bpf-examples#138 (busy polling stalls)",
        ..NONE
    },
    Driver {
        name: "mlx5_core",
        zero_copy: Some(Record::GoodSince((6, 1))),
        source: "firedancer's driver table",
        ..NONE
    },
    Driver {
        name: "veth",
        zero_copy: Some(Record::Never),
        native_mtu: Some(3506),
        note: Some((
            "wants an XDP program (or GRO) on the peer too for native XDP, or redirected frames vanish",
            "ethtool -K PEER gro on, and ethtool -K PEER tx off for right checksums of local sockets",
        )),
        source: "drivers/net/veth.c; bpfman#1675",
        ..NONE
    },
    Driver {
        name: "virtio_net",
        spare: Some(Spare::AddsOnePerCpu),
        source: "virtnet_xdp_set in drivers/net/virtio_net.c; measured on 7.3",
        ..NONE
    },
];

/// The row of a driver.
pub(crate) fn driver(name: Option<&str>) -> Option<&'static Driver> {
    DRIVERS.iter().find(|row| Some(row.name) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_unique_and_sourced() {
        assert!(DRIVERS.is_sorted_by(|a, b| a.name < b.name));
        assert!(DRIVERS.iter().all(|row| !row.source.is_empty()));
    }
}
