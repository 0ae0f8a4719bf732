//! Measures how long the machine stops a core. The cores of both ends spin at the same time and only read the clock.
//! Time that the hypervisor, interrupts or other programs take is a gap between two readings.

use crate::{Error, Result, cpu};
use clap::Args;
use serde::Serialize;
use std::sync::Barrier;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Options {
    /// Duration in milliseconds.
    #[arg(long, default_value_t = 2000)]
    ms: u64,
    /// CPU of the generator: it also spins, as under load, and is not reported.
    #[arg(long, default_value_t = 0)]
    cpu: u32,
    /// CPU of the forwarder.
    #[arg(long, default_value_t = 1)]
    forwarder_cpu: u32,
}

/// Shortest gap that counts. Shorter gaps are ticks and interrupts, whose packets fit into any ring.
const PAUSE_NS: u64 = 500_000;

/// Holds the pauses of one core.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Pauses {
    seconds: f64,
    /// Number of pauses longer than 0.5 ms.
    pauses: u64,
    /// Sum of their durations.
    paused_ns: u64,
    /// Longest gap between two readings, of any length.
    longest_ns: u64,
}

impl Pauses {
    /// Computes the pauses from successive readings of a clock in nanoseconds.
    fn of(mut readings: impl Iterator<Item = u64>) -> Self {
        let Some(start) = readings.next() else { return Self::default() };
        let (mut pauses, mut last) = (Self::default(), start);
        for now in readings {
            let gap = now.saturating_sub(last);
            pauses.longest_ns = pauses.longest_ns.max(gap);
            if gap > PAUSE_NS {
                pauses.pauses += 1;
                pauses.paused_ns += gap;
            }
            last = now;
        }
        pauses.seconds = last.saturating_sub(start) as f64 / 1e9;
        pauses
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let time = Duration::from_millis(options.ms);
    let together = Barrier::new(2);
    let pauses = std::thread::scope(|scope| {
        let other = scope.spawn(|| spin(options.cpu, &together, time));
        let pauses = spin(options.forwarder_cpu, &together, time);
        let other = other.join().map_err(|_| Error::Text("thread on the generator's CPU panicked".to_owned()))?;
        other.and(pauses)
    })?;
    crate::print(&pauses)
}

/// Spins on `cpu`, after the other thread has also arrived.
fn spin(cpu: u32, together: &Barrier, time: Duration) -> Result<Pauses> {
    let pinned = cpu::pin(cpu as usize);
    // The barrier comes even if pinning failed: otherwise the other thread would wait without end.
    together.wait();
    pinned?;
    let (start, mut last) = (Instant::now(), Duration::ZERO);
    // The first reading after the end also counts: it may come after a pause.
    let readings = std::iter::from_fn(|| {
        let more = last < time;
        last = start.elapsed();
        more.then_some(last.as_nanos() as u64)
    });
    Ok(Pauses::of(readings))
}

#[cfg(test)]
mod tests {
    use super::Pauses;

    #[test]
    fn gaps_above_half_a_millisecond_count() {
        let of = Pauses::of([100, 200, 500_200, 1_000_201, 1_000_300, 9_000_300, 9_000_400].into_iter());
        assert_eq!(of, Pauses { seconds: 0.009_000_3, pauses: 2, paused_ns: 8_500_001, longest_ns: 8_000_000 });
    }

    #[test]
    fn uninterrupted_core_still_has_a_longest_gap() {
        let of = Pauses::of((0..=1000).map(|n| n * 1000));
        assert_eq!(of, Pauses { seconds: 0.001, pauses: 0, paused_ns: 0, longest_ns: 1000 });
        assert_eq!(Pauses::of(std::iter::empty()), Pauses::default());
    }
}
