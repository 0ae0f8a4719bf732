//! Compares two forwarders in alternation, A B A B, so that slow phases of the machine affect both within a pair.

use super::Bench;
use super::lab::Lab;
use super::record::{Measure, Record, Shape, short};
use super::sample::Saturated;
use super::subject::{self, Load};
use crate::process::Result;

const THROUGHPUT: Measure = Measure::higher("throughput", "Mpps");
const USER: Measure = Measure::lower("user side", "ns/pkt");
const KERNEL: Measure = Measure::lower("kernel side", "ns/pkt");

/// Subject, peer, load, and whether `--quick` runs the comparison.
type Comparison = (&'static str, &'static str, Load, bool);

pub(super) const SMALL: Load = Load::new(64, 256);
pub(super) const LARGE: Load = Load::new(1400, 256);
const BULK: Load = Load::new(64, 1);
const BULK_LARGE: Load = Load::new(1400, 1);

const COMPARISONS: &[Comparison] = &[
    ("slow-echo", "raw-echo", SMALL, true),
    ("l2fwd", "testpmd-af_xdp", SMALL, true),
    ("relay", "testpmd-af_xdp", SMALL, true),
    ("relay", "testpmd-af_xdp", LARGE, true),
    ("relay", "gro-gso", SMALL, true),
    ("relay", "gro-gso", BULK_LARGE, true),
    ("relay", "nginx", SMALL, true),
    ("relay", "quilkin", SMALL, true),
    ("relay", "nft-dnat", SMALL, false),
    ("relay", "mmsg", SMALL, false),
    ("relay", "tokio", SMALL, false),
    ("relay", "testpmd-af_packet", SMALL, false),
    ("relay", "socat", BULK, false),
    ("relay", "xdp-redirect", SMALL, false),
    ("l2fwd", "xdp-tx", SMALL, false),
    ("relay", "quilkin", LARGE, false),
    ("relay", "gro-gso", BULK, false),
    ("relay", "gro-gso", LARGE, false),
    ("relay", "l2fwd", SMALL, false),
    ("engine-echo", "raw-echo", SMALL, true),
];

/// Returns the shape of a load for a record.
pub(super) fn shape(load: Load) -> Shape {
    Shape { mode: "veth, copy mode".to_owned(), frame: load.frame, flows: load.flows, queues: load.queues }
}

impl Bench<'_> {
    /// Returns whether the command line requests any comparison.
    pub(super) fn wants_comparison(&self) -> bool {
        COMPARISONS.iter().any(|(ours, theirs, ..)| self.wanted(ours) || self.wanted(theirs))
    }

    /// Runs all requested comparisons that this machine can run.
    pub(super) fn comparisons(&mut self, lab: &Lab) -> Result<()> {
        for &(ours, theirs, load, quick) in COMPARISONS {
            if !(self.wanted(ours) || self.wanted(theirs)) || (self.brief() && !quick) {
                continue;
            }
            let what = format!("{ours} compared with {theirs}, {} B, {} flows", load.frame, load.flows);
            let (Some(a), Some(b)) = (self.available(ours)?, self.available(theirs)?) else { continue };
            self.row(&what, 3, |bench| {
                let answer = bench.run_comparison(lab, a, b, load, &what);
                if let Some(records) = bench.unless_failed(&what, answer)? {
                    bench.records.extend(records);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn available(&mut self, name: &str) -> Result<Option<&'static subject::Subject>> {
        let subject = subject::named(name)?;
        if subject.present() {
            return Ok(Some(subject));
        }
        let line =
            format!("{name}: not installed; to fix: install {}", subject.needs.map_or("", |(_, package)| package));
        if !self.not_run.contains(&line) {
            self.not_run.push(line);
        }
        Ok(None)
    }

    fn run_comparison(
        &self,
        lab: &Lab,
        a: &subject::Subject,
        b: &subject::Subject,
        load: Load,
        what: &str,
    ) -> Result<Vec<Record>> {
        let mut pairs = vec![];
        for _ in 0..self.pace.pairs {
            pairs.push((self.saturate(lab, a, load)?, self.saturate(lab, b, load)?));
        }
        let shape = shape(load);
        let of = |value: fn(&Saturated) -> f64| pairs.iter().map(|(a, b)| (value(a), value(b))).collect::<Vec<_>>();
        let note = [a.note, b.note].iter().filter(|n| !n.is_empty()).copied().collect::<Vec<_>>().join("; ");
        let mut records = vec![Record::pairs(THROUGHPUT, a.name, b.name, &of(Saturated::mpps), &shape).note(note)];
        if !b.in_kernel() {
            records.push(Record::pairs(USER, a.name, b.name, &of(Saturated::user_ns), &shape));
            records.push(Record::pairs(KERNEL, a.name, b.name, &of(Saturated::kernel_ns), &shape));
        }
        let ratio = records[0].ratio_median.map(short).unwrap_or_default();
        self.log(format_args!("{what}: {} Mpps, {ratio} x", short(records[0].value_median)));
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_comparison_names_existing_forwarders() {
        for (ours, theirs, ..) in COMPARISONS {
            assert!(subject::named(ours).is_ok() && subject::named(theirs).is_ok(), "{ours} compared with {theirs}");
        }
    }
}
