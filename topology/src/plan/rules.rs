//! Applies the table of drivers to one interface.

use super::planner::PlanLog;
use super::{ReasonCode, WarningCode, ZeroCopy};
use crate::drivers::{Driver, Record, Spare, driver};
use crate::request::{PlanRequest, ZeroCopyWish};
use crate::snapshot::{HostLimits, Nic, Snapshot};

/// Returns `nic` as it will be while the relay's program is attached, as far as the driver's effect is known.
pub(crate) fn with_program(nic: &Nic, snapshot: &Snapshot, native: bool) -> Nic {
    let mut nic = nic.clone();
    let adds = driver(nic.driver.as_deref()).is_some_and(|row| row.spare == Some(Spare::AddsOnePerCpu));
    let Some(now) = nic.rx_queues.filter(|_| adds) else { return nic };
    let attached = nic.xdp_program.as_ref().is_some_and(|program| program.mode != "generic");
    let all = now.saturating_add(possible_cpus(snapshot));
    if native && !attached && nic.max_queues.is_some_and(|max| all <= max) {
        nic.rx_queues = Some(all);
    }
    // The added pairs have transmit queues, although the kernel's own sockets do not use them.
    nic.tx_queues = nic.tx_queues.max(nic.rx_queues);
    nic
}

fn possible_cpus(snapshot: &Snapshot) -> u32 {
    let machine = &snapshot.machine;
    machine.possible_cpus.unwrap_or((machine.cpus().len() + machine.offline.len()) as u32)
}

/// Applies the driver's rules to `nic` in its current state.
pub(super) fn apply(nic: &Nic, snapshot: &Snapshot, request: &PlanRequest, log: &mut PlanLog) {
    let Some(row) = driver(nic.driver.as_deref()) else { return };
    let name = &nic.name;
    match row.spare {
        Some(Spare::HalfOfMaximum) => half_of_maximum(nic, row.source, log),
        Some(Spare::AddsOnePerCpu) => adds_one_per_cpu(nic, snapshot, request, row.source, log),
        None => {}
    }
    if let (Some(mtu), Some(limit)) = (nic.mtu, row.native_mtu)
        && mtu > limit
    {
        let text = format!("MTU {mtu} is above the limit {limit} of native XDP on {}: generic mode is used", row.name);
        log.warn(WarningCode::Mtu, name, text, format!("ip link set dev {name} mtu {limit}"));
    }
    if let Some((text, remedy)) = row.note {
        log.warn(WarningCode::Driver, name, format!("{} {text}", row.name), remedy);
    }
    if nic.xdp_features.is_some_and(|f| f.zero_copy) && request.native {
        advise_zero_copy(nic, row, snapshot, request, log);
    }
}

/// Warns about known problems of zero-copy, unless the configuration disables it.
fn advise_zero_copy(nic: &Nic, row: &Driver, snapshot: &Snapshot, request: &PlanRequest, log: &mut PlanLog) {
    if request.zero_copy == ZeroCopyWish::Off || zero_copy(nic, &snapshot.limits, request.frame_size) != ZeroCopy::Avoid
    {
        return;
    }
    let (name, source) = (&nic.name, row.source);
    let required = request.zero_copy == ZeroCopyWish::Require;
    match row.zero_copy {
        Some(Record::GoodWithFrames(bytes)) => {
            let size = request.frame_size;
            let text =
                format!("zero-copy of {} needs frames of {bytes} bytes, frame_size is {size} ({source})", row.name);
            let remedy = format!("set frame_size = {bytes}, or zero_copy = \"off\" for copy mode");
            if required {
                log.refuse(ReasonCode::BadSize, name, text, remedy);
            } else {
                log.warn(WarningCode::Driver, name, format!("{text}: copy mode is used"), remedy);
            }
        }
        _ if required => {
            let text = format!("zero-copy is used as required, despite known problems: {source}");
            log.warn(WarningCode::Driver, name, text, "set zero_copy = \"auto\" to avoid it");
        }
        _ => {
            let text = format!("zero-copy is not used, because of known problems: {source}");
            log.warn(WarningCode::Driver, name, text, "set zero_copy = \"require\" to use it anyway");
        }
    }
}

/// Rates the zero-copy mode of `nic`: by the driver's reported features first, then by the table.
pub(crate) fn zero_copy(nic: &Nic, limits: &HostLimits, frame_size: u32) -> ZeroCopy {
    if nic.xdp_features.is_some_and(|features| !features.zero_copy) {
        return ZeroCopy::Absent;
    }
    let reported = nic.xdp_features.is_some();
    let record = driver(nic.driver.as_deref()).and_then(|row| row.zero_copy);
    match (record, limits.kernel_version()) {
        (Some(Record::Never), _) => ZeroCopy::Absent,
        (Some(Record::Bad), _) => ZeroCopy::Avoid,
        (Some(Record::GoodWithFrames(bytes)), _) if frame_size < bytes => ZeroCopy::Avoid,
        (Some(Record::GoodWithFrames(_)), _) if reported => ZeroCopy::Good,
        (Some(Record::GoodSince(since)), Some(kernel)) => {
            if kernel >= since {
                ZeroCopy::Good
            } else {
                ZeroCopy::Avoid
            }
        }
        (Some(Record::BadSince(since)), Some(kernel)) if kernel >= since => ZeroCopy::Avoid,
        (Some(Record::BadSince(_)), Some(_)) if reported => ZeroCopy::Good,
        _ => ZeroCopy::Unknown,
    }
}

fn half_of_maximum(nic: &Nic, source: &str, log: &mut PlanLog) {
    let name = &nic.name;
    match (nic.rx_queues, nic.max_queues) {
        (Some(now), Some(max)) if now > max / 2 => {
            let half = (max / 2).max(1);
            let text = format!(
                "{now} of {max} queues are in use; XDP needs the same number again, so at most {half} may be in use ({source})"
            );
            let remedy = format!("ethtool -L {name} combined {half}  (or: rx {half} tx {half})");
            log.refuse(ReasonCode::SpareQueues, name, text, remedy);
        }
        (Some(_), Some(_)) => {}
        _ => {
            let text = format!("XDP allows at most half of the queues in use, and the maximum is unknown ({source})");
            log.warn(WarningCode::Driver, name, text, format!("see ethtool -l {name}; describe it with max=N"));
        }
    }
}

/// Warns about added queues. They are served too; without spare pairs none is added.
fn adds_one_per_cpu(nic: &Nic, snapshot: &Snapshot, request: &PlanRequest, source: &str, log: &mut PlanLog) {
    let name = &nic.name;
    let (Some(now), Some(max)) = (nic.rx_queues, nic.max_queues) else { return };
    let then = with_program(nic, snapshot, request.native).rx_queues.unwrap_or(now);
    if then == now {
        return;
    }
    let cpus = possible_cpus(snapshot);
    let text = format!(
        "attaching XDP turns its {now} receive queues into {then}, one more for each of {cpus} cpus, because that many of \
         its {max} queue pairs are spare ({source})"
    );
    let fewest = (max + 1).saturating_sub(cpus).max(1);
    let remedy = format!(
        "for fewer queues reduce the spare pairs: ethtool -L {name} combined {fewest}; or give the virtual machine as many queue \
         pairs as cpus"
    );
    log.warn(WarningCode::Driver, name, text, remedy);
}
