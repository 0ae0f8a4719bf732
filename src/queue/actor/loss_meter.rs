//! Counts the packets lost between a failure and its recovery.

use crate::port::Port;
use crate::queue::{Datapath, Handler};

#[derive(Default)]
pub(super) struct LossMeter {
    /// Packets lost by the datapath that were reported already.
    reported: u64,
    /// Packets missed by the kernel at the time of the failure; `None` while nothing has failed.
    missed: Option<u64>,
}

impl LossMeter {
    /// Starts the measurement at a failure.
    pub(super) fn begin<P: Port, H: Handler>(&mut self, datapath: &Datapath<P, H>) {
        self.missed.get_or_insert_with(|| datapath.missed());
    }

    /// Ends the measurement at the recovery. Returns the number of packets lost.
    pub(super) fn end<P: Port, H: Handler>(&mut self, datapath: &Datapath<P, H>) -> u64 {
        let missed = self.missed.take().map_or(0, |before| datapath.missed().saturating_sub(before));
        let lost = datapath.lost();
        missed + (lost - std::mem::replace(&mut self.reported, lost))
    }
}
