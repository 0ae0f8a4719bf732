//! What a failure costs, from when it is noticed until what failed is back.

use crate::port::Port;
use crate::queue::{Datapath, Handler};

#[derive(Default)]
pub(super) struct LossMeter {
    /// Of what the worker lost, the part that was told.
    reported: u64,
    /// What the kernel had missed when something failed; `None` while nothing has.
    missed: Option<u64>,
}

impl LossMeter {
    /// Something failed.
    pub(super) fn begin<P: Port, H: Handler>(&mut self, datapath: &Datapath<P, H>) {
        self.missed.get_or_insert_with(|| datapath.missed());
    }

    /// It is back: how many packets that cost.
    pub(super) fn end<P: Port, H: Handler>(&mut self, datapath: &Datapath<P, H>) -> u64 {
        let missed = self.missed.take().map_or(0, |before| datapath.missed().saturating_sub(before));
        let lost = datapath.lost();
        missed + (lost - std::mem::replace(&mut self.reported, lost))
    }
}
