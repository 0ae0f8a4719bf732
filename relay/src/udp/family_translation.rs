//! A packet whose client and upstream are of different families.

use oxide::packet::{FlowChecksumDelta, Rewrite, translate};
use oxide::queue::Batch;
use oxide::telemetry::DropReason;

/// Replaces the IP header of `lane`. `length` is the packet's without Ethernet padding. A packet that is
/// refused is to be dropped: its start may have moved.
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
    // Without padding first: the new lengths fit then, the longer one by the room in front.
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
