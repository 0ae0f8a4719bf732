//! Compares the results of a run with the project's goals.

use super::noise::disagreement;
use super::record::{Record, short};

/// Selects the figure of a record and its bound.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    RatioAtLeast(f64),
    RatioAtMost(f64),
    ValueAtMost(f64),
    /// No goal: the figure is only reported.
    ReportOnly,
}

struct Goal {
    measure: &'static str,
    subject: &'static str,
    peer: &'static str,
    /// Size of a frame in bytes and number of flows; zero matches any.
    frame: u32,
    flows: u32,
    figure: Figure,
}

const fn goal(
    measure: &'static str,
    subject: &'static str,
    peer: &'static str,
    (frame, flows): (u32, u32),
    figure: Figure,
) -> Goal {
    Goal { measure, subject, peer, frame, flows, figure }
}

use Figure::{RatioAtLeast, RatioAtMost, ReportOnly, ValueAtMost};

const GOALS: &[Goal] = &[
    goal("throughput", "l2fwd", "testpmd-af_xdp", (64, 256), RatioAtLeast(1.0)),
    goal("user side", "l2fwd", "testpmd-af_xdp", (64, 256), RatioAtMost(0.5)),
    goal("throughput", "relay", "testpmd-af_xdp", (64, 256), RatioAtLeast(1.0)),
    goal("throughput", "relay", "quilkin", (64, 256), RatioAtLeast(1.7)),
    goal("throughput", "relay", "gro-gso", (64, 256), RatioAtLeast(2.4)),
    goal("throughput", "relay", "nginx", (64, 256), RatioAtLeast(3.0)),
    goal("throughput", "relay", "testpmd-af_xdp", (1400, 256), RatioAtLeast(1.0)),
    goal("throughput", "relay", "quilkin", (1400, 256), RatioAtLeast(1.4)),
    goal("throughput", "relay", "gro-gso", (1400, 1), ReportOnly),
    goal("throughput", "relay", "gro-gso", (64, 1), ReportOnly),
    goal("user side", "relay", "testpmd-af_xdp", (64, 256), ValueAtMost(80.0)),
    goal("user side as work grows", "relay", "", (64, 65_536), RatioAtMost(1.3)),
    goal("lost at 60 % of peak", "relay", "raw-echo", (0, 0), ValueAtMost(0.0)),
    goal("lost at 60 % of peak, ring_size 8192", "relay", "", (0, 0), ValueAtMost(0.0)),
    goal("dropped by the engine at overload", "relay", "", (0, 0), ValueAtMost(0.0)),
    goal("round trip p50", "engine-echo", "socket-echo", (0, 0), RatioAtMost(0.60)),
    goal("round trip p99", "engine-echo", "socket-echo", (0, 0), RatioAtMost(0.55)),
    goal("idle core", "engine-echo", "", (0, 0), ValueAtMost(2.0)),
    goal("first packet after idle p50", "engine-echo", "raw-echo-poll", (0, 0), RatioAtMost(1.2)),
    goal("restart gap, handler", "engine-echo", "", (0, 0), ValueAtMost(2.0)),
    goal("restart gap, queue", "engine-echo", "", (0, 0), ValueAtMost(60.0)),
    goal("lost on the other queue", "engine-echo", "", (0, 0), ValueAtMost(0.0)),
    goal("throughput", "engine-echo", "raw-echo", (64, 256), RatioAtLeast(0.95)),
    goal("throughput", "slow-echo", "raw-echo", (64, 256), RatioAtMost(0.95)),
];

/// Holds the comparison of a goal with the results.
pub(super) struct Verdict {
    pub(super) goal: String,
    pub(super) figure: String,
    /// Whether the goal is reached. `None` if there is no bound, nothing was measured, or the row is inconclusive.
    pub(super) reached: Option<bool>,
    /// Reason why the row is inconclusive; empty if it counts.
    pub(super) inconclusive: String,
}

impl Verdict {
    pub(super) fn label(&self) -> &'static str {
        match self.reached {
            Some(true) => "reached",
            Some(false) => "NOT REACHED",
            None if !self.inconclusive.is_empty() => "inconclusive",
            None if self.figure.is_empty() => "not measured",
            None => "reported",
        }
    }
}

/// Summarizes how many goals are reached. Inconclusive rows do not count.
pub(super) fn tally(verdicts: &[Verdict]) -> String {
    let count = |word: &str| verdicts.iter().filter(|verdict| verdict.label() == word).count();
    let (reached, missed, inconclusive) = (count("reached"), count("NOT REACHED"), count("inconclusive"));
    format!("{reached} of {} goals reached; {inconclusive} inconclusive (not counted)", reached + missed)
}

/// Compares every goal with the medians of `records`.
pub(super) fn verdicts(records: &[Record]) -> Vec<Verdict> {
    GOALS.iter().map(|goal| goal.verdict(records)).collect()
}

impl Goal {
    fn matches(&self, record: &Record) -> bool {
        let same = |wanted: u32, is: u32| wanted == 0 || wanted == is;
        record.measure == self.measure
            && record.subject == self.subject
            && (self.peer.is_empty() || record.peer == self.peer)
            && same(self.frame, record.shape.frame)
            && same(self.flows, record.shape.flows)
    }

    fn text(&self) -> String {
        let peer = if self.peer.is_empty() { String::new() } else { format!(" compared with {}", self.peer) };
        let shape = if self.frame == 0 { String::new() } else { format!(", {} B, {} flows", self.frame, self.flows) };
        let wanted = match self.figure {
            RatioAtLeast(bound) => format!(": at least {bound} x"),
            RatioAtMost(bound) => format!(": at most {bound} x"),
            ValueAtMost(bound) => format!(": at most {bound}"),
            ReportOnly => String::new(),
        };
        let check = if self.subject == "slow-echo" { " (a check of the bench itself)" } else { "" };
        format!("{}, {}{peer}{shape}{wanted}{check}", self.measure, self.subject)
    }

    fn verdict(&self, records: &[Record]) -> Verdict {
        let record = records.iter().find(|r| self.matches(r) && r.runs > 0);
        let ratio = |r: &Record| {
            let [median, least, most] = [r.ratio_median, r.ratio_min, r.ratio_max].map(Option::unwrap_or_default);
            format!("{} x ({}-{}); {} {}", short(median), short(least), short(most), short(r.value_median), r.unit)
        };
        let value = |r: &Record| {
            format!("{} {} ({}-{})", short(r.value_median), r.unit, short(r.value_min), short(r.value_max))
        };
        let (figure, reached) = match (record, self.figure) {
            (None, _) => (String::new(), None),
            (Some(r), RatioAtLeast(bound)) => (ratio(r), r.ratio_median.map(|ratio| ratio >= bound)),
            (Some(r), RatioAtMost(bound)) => (ratio(r), r.ratio_median.map(|ratio| ratio <= bound)),
            (Some(r), ValueAtMost(bound)) => (value(r), Some(r.value_median <= bound)),
            (Some(r), ReportOnly) => (ratio(r), None),
        };
        let bound = match self.figure {
            RatioAtLeast(bound) | RatioAtMost(bound) | ValueAtMost(bound) => Some(bound),
            ReportOnly => None,
        };
        let noise = record.map(|r| r.inconclusive.clone()).filter(|reason| !reason.is_empty());
        let apart = || disagreement(record?, Some(bound?));
        let inconclusive = noise.or_else(apart).filter(|_| bound.is_some()).unwrap_or_default();
        let (figure, reached) =
            if inconclusive.is_empty() { (figure, reached) } else { (format!("{figure}; {inconclusive}"), None) };
        Verdict { goal: self.text(), figure, reached, inconclusive }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Measure, Shape};
    use super::*;

    #[test]
    fn medians_decide() {
        let shape = Shape { frame: 64, flows: 256, ..Shape::default() };
        let measure = Measure::higher("throughput", "Mpps");
        let pairs = [(1.0, 1.0), (0.9, 1.0), (1.1, 1.0)];
        let records = [Record::pairs(measure, "l2fwd", "testpmd-af_xdp", &pairs, &shape)];
        let verdicts = verdicts(&records);
        assert_eq!((verdicts[0].label(), verdicts[1].label()), ("reached", "not measured"));
        assert!(verdicts[0].figure.starts_with("1.00 x (0.90-1.10)"), "{}", verdicts[0].figure);
    }

    #[test]
    fn only_conclusive_rows_count() {
        let shape = Shape { frame: 64, flows: 256, ..Shape::default() };
        let measure = Measure::higher("throughput", "Mpps");
        let record = |ratios: [f64; 3]| {
            let pairs = ratios.map(|ratio| (ratio, 1.0));
            Record::pairs(measure, "l2fwd", "testpmd-af_xdp", &pairs, &shape)
        };
        // These ratios come from a run that a build disturbed.
        let apart = verdicts(&[record([0.15, 1.04, 3.9])]);
        assert_eq!(apart[0].label(), "inconclusive");
        assert!(apart[0].figure.contains("spread from 0.15 to 3.90"), "{}", apart[0].figure);
        assert_eq!(tally(&apart), "0 of 0 goals reached; 1 inconclusive (not counted)");
        let mut disturbed = record([1.03, 1.04, 1.05]);
        assert_eq!(tally(&verdicts(&[disturbed.clone()])), "1 of 1 goals reached; 0 inconclusive (not counted)");
        disturbed.inconclusive = "the hypervisor took 9.00 % of the cores".to_owned();
        let verdicts = verdicts(&[disturbed]);
        assert_eq!(verdicts[0].label(), "inconclusive");
        assert!(verdicts[0].figure.ends_with("the hypervisor took 9.00 % of the cores"), "{}", verdicts[0].figure);
    }
}
