//! The table of drivers, applied to one interface.

use super::planner::Notes;
use super::{ReasonCode, WarningCode, ZeroCopy};
use crate::drivers::{Record, Spare, driver};
use crate::snapshot::{Limits, Nic, Snapshot};

pub(super) fn apply(nic: &Nic, snapshot: &Snapshot, notes: &mut Notes) {
    let Some(row) = driver(nic.driver.as_deref()) else { return };
    let name = &nic.name;
    match row.spare {
        Some(Spare::HalfOfMaximum) => half_of_maximum(nic, row.source, notes),
        Some(Spare::OnePerCpu(since)) => one_per_cpu(nic, snapshot, since, row.source, notes),
        None => {}
    }
    if let (Some(mtu), Some(limit)) = (nic.mtu, row.native_mtu)
        && mtu > limit
    {
        let text =
            format!("MTU {mtu} is above the {limit} that native XDP takes on {}: generic mode is left", row.name);
        notes.warn(WarningCode::Mtu, name, text, format!("ip link set dev {name} mtu {limit}"));
    }
    if let Some((text, mend)) = row.note {
        notes.warn(WarningCode::Driver, name, format!("{} {text}", row.name), mend);
    }
    if nic.xdp_features.is_some_and(|f| f.zero_copy) && zero_copy(nic, &snapshot.limits) == ZeroCopy::Avoid {
        let text = format!("zero-copy is left alone: {}", row.source);
        notes.warn(WarningCode::Driver, name, text, "zero_copy = \"require\" takes it all the same");
    }
}

/// The driver's word first; then what is on record.
pub(crate) fn zero_copy(nic: &Nic, limits: &Limits) -> ZeroCopy {
    if nic.xdp_features.is_some_and(|features| !features.zero_copy) {
        return ZeroCopy::Absent;
    }
    let told = nic.xdp_features.is_some();
    let record = driver(nic.driver.as_deref()).and_then(|row| row.zero_copy);
    match (record, limits.kernel_version()) {
        (Some(Record::Never), _) => ZeroCopy::Absent,
        (Some(Record::Bad), _) => ZeroCopy::Avoid,
        (Some(Record::GoodSince(since)), Some(kernel)) => {
            if kernel >= since {
                ZeroCopy::Good
            } else {
                ZeroCopy::Avoid
            }
        }
        (Some(Record::BadSince(since)), Some(kernel)) if kernel >= since => ZeroCopy::Avoid,
        (Some(Record::BadSince(_)), Some(_)) if told => ZeroCopy::Good,
        _ => ZeroCopy::Unknown,
    }
}

fn half_of_maximum(nic: &Nic, source: &str, notes: &mut Notes) {
    let name = &nic.name;
    match (nic.rx_queues, nic.max_queues) {
        (Some(now), Some(max)) if now > max / 2 => {
            let half = (max / 2).max(1);
            let text = format!(
                "{now} of {max} queues are in use; XDP takes as many again, so at most {half} may be ({source})"
            );
            let mend = format!("ethtool -L {name} combined {half}  (or: rx {half} tx {half})");
            notes.refuse(ReasonCode::SpareQueues, name, text, mend);
        }
        (Some(_), Some(_)) => {}
        _ => {
            let text =
                format!("XDP needs at most half of the queues in use here, and the maximum is unknown ({source})");
            notes.warn(WarningCode::Driver, name, text, format!("see ethtool -l {name}; describe it with max=N"));
        }
    }
}

fn one_per_cpu(nic: &Nic, snapshot: &Snapshot, since: (u32, u32), source: &str, notes: &mut Notes) {
    let name = &nic.name;
    // The kernel counts every possible CPU; those that are present are the nearest that is known.
    let cpus = snapshot.machine.cpus().len() + snapshot.machine.offline.len();
    let (Some(now), Some(max)) = (nic.rx_queues, nic.max_queues) else { return };
    if now as usize + cpus <= max as usize {
        return;
    }
    let spare = max.saturating_sub(now);
    let need = format!("native XDP wants {cpus} spare queue pairs, one for each cpu, and has {spare} ({source})");
    let mend = format!("give the virtual machine more queues (about twice its cpus), or ethtool -L {name} combined 1");
    match snapshot.limits.kernel_version() {
        Some(kernel) if kernel < since => {
            let text = format!("{need}: this kernel refuses it, so generic mode is left");
            notes.warn(WarningCode::Driver, name, text, mend);
        }
        _ => {
            let text = format!("{need}: packets that other programs redirect here take a lock");
            notes.warn(WarningCode::Driver, name, text, mend);
        }
    }
}
