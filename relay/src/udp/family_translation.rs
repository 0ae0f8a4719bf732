//! Translates packets between IPv4 and IPv6.

use oxide::packet::{FlowChecksumDelta, Rewrite, translate};
use oxide::queue::Batch;
use oxide::telemetry::DropReason;

/// Replaces the IP header of `lane`. `length` is the packet's length without Ethernet padding. After an error the
/// packet must be dropped, because its start may have moved.
#[cold]
pub(super) fn translate_family(
    batch: &mut Batch<'_>,
    lane: usize,
    length: u16,
    new: &Rewrite,
    change: FlowChecksumDelta,
) -> Result<(), DropReason> {
    let columns = batch.columns();
    let at = (columns.l3[lane], columns.l4[lane]);
    // Remove the padding first, so that the new length fits. A longer packet uses the headroom.
    let mut fits = batch.set_length(lane, length);
    if columns.ipv4 & 1 << lane != 0 {
        if !batch.move_start(lane, -translate::GROWTH) {
            return Err(DropReason::NoHeadroom);
        }
        translate::to_ipv6(batch.packet_mut(lane), at, new, change)?;
    } else {
        translate::to_ipv4(batch.packet_mut(lane), at, new, change)?;
        fits &= batch.move_start(lane, translate::GROWTH);
    }
    if fits { Ok(()) } else { Err(DropReason::NoHeadroom) }
}
