//! Holds the known facts about drivers, as data. Each driver has one row; a driver without a row has no rules.
//!
//! Each row names its source: a public thread as `repository#number`, or a kernel file.

/// Describes what a driver requires of the number of queues for XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spare {
    /// The driver needs its own transmit queues for XDP: at most half of the maximum may be in use.
    HalfOfMaximum,
    /// Attaching native XDP adds a queue pair for each possible CPU if that many are spare. The device then also
    /// spreads packets over the added receive queues.
    AddsOnePerCpu,
}

/// Rates the zero-copy mode of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// The driver has no zero-copy mode.
    Never,
    /// It is good from this kernel version, and bad before.
    GoodSince((u32, u32)),
    /// It is bad from this kernel version.
    BadSince((u32, u32)),
    /// It is good with frames of at least this size in bytes; smaller frames corrupt traffic.
    GoodWithFrames(u32),
    /// It is bad in all kernels.
    Bad,
}

/// Holds the facts about one driver.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) name: &'static str,
    pub(crate) spare: Option<Spare>,
    pub(crate) zero_copy: Option<Record>,
    /// Maximum MTU in bytes for native XDP with one buffer.
    pub(crate) native_mtu: Option<u32>,
    /// Warning of every plan with this driver, and its remedy.
    pub(crate) note: Option<(&'static str, &'static str)>,
    /// Source of `zero_copy` and `spare`.
    pub(crate) source: &'static str,
}

const NONE: Driver = Driver { name: "", spare: None, zero_copy: None, native_mtu: None, note: None, source: "" };

/// Holds the rows, sorted by driver name.
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
            "gives packets only 2 bytes of headroom, so headers cannot grow (firezone#8633)",
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
            "needs an XDP program (or GRO) on the peer for native XDP; otherwise redirected frames are lost",
            "ethtool -K PEER gro on, and ethtool -K PEER tx off for correct checksums of local sockets",
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

/// Returns the row of a driver.
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
