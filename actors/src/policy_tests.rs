#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn policies() -> impl Strategy<Value = RestartPolicy> {
    (0u32..70, 1u64..100_000, 0u64..200, 0u64..20_000).prop_map(|(max_restarts, window, min, more)| RestartPolicy {
        max_restarts,
        window: Duration::from_millis(window),
        backoff_min: Duration::from_millis(min),
        backoff_max: Duration::from_millis(min + more),
    })
}

/// Draws gaps between failures in ms, many of them near the size of the window.
fn gaps() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(prop_oneof![Just(0u64), 1u64..100, 1u64..20_000, 50_000u64..200_000], 1..120)
}

proptest! {
    #[test]
    fn never_more_restarts_than_allowed_in_any_window(policy in policies(), gaps in gaps(), seed: u64) {
        let mut budget = RestartBudget::new(policy, seed);
        let mut now = Instant::now();
        let mut granted: Vec<Instant> = Vec::new();
        for gap in gaps {
            now += Duration::from_millis(gap);
            let in_window = granted.iter().filter(|&&at| now - at < policy.window).count() as u32;
            match budget.on_failure(now) {
                Decision::RestartAfter(_) => {
                    prop_assert!(in_window < policy.max_restarts);
                    granted.push(now);
                }
                // The budget is exhausted only when the window is full, and it reports the correct numbers.
                Decision::GiveUp { restarts, window } => {
                    prop_assert_eq!(restarts, in_window);
                    prop_assert_eq!(restarts, policy.max_restarts);
                    prop_assert_eq!(window, policy.window);
                }
            }
        }
    }

    #[test]
    fn backoff_grows_up_to_jitter_and_stays_within_bounds(policy in policies(), seed: u64) {
        let mut budget = RestartBudget::new(policy, seed);
        let now = Instant::now();
        let mut previous = Duration::ZERO;
        for nth in 0..policy.max_restarts {
            let Decision::RestartAfter(pause) = budget.on_failure(now) else {
                return Err(TestCaseError::fail("no restart within the budget"));
            };
            prop_assert!(pause >= policy.backoff_min && pause <= policy.backoff_max, "{nth}: {pause:?}");
            // The full delay doubles or stays at its maximum; at most a quarter is subtracted.
            prop_assert!(pause >= previous * 3 / 4, "{nth}: {pause:?} after {previous:?}");
            previous = pause;
        }
    }

    #[test]
    fn quiet_window_restores_budget(seed: u64, failures in 1usize..20) {
        let policy = RestartPolicy::default();
        let mut budget = RestartBudget::new(policy, seed);
        let start = Instant::now();
        for _ in 0..failures {
            budget.on_failure(start);
        }
        match budget.on_failure(start + policy.window) {
            Decision::RestartAfter(pause) => prop_assert!(pause <= policy.backoff_min),
            Decision::GiveUp { .. } => prop_assert!(false, "no restart after a quiet window"),
        }
    }

    #[test]
    fn same_seed_gives_same_decisions(policy in policies(), gaps in gaps(), seed: u64) {
        let start = Instant::now();
        let run = || {
            let mut budget = RestartBudget::new(policy, seed);
            let mut now = start;
            gaps.iter().map(|&gap| { now += Duration::from_millis(gap); budget.on_failure(now) }).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }
}

#[test]
fn sixth_failure_within_a_minute_gives_up_until_reset() {
    let mut budget = RestartBudget::new(RestartPolicy::default(), 1);
    let now = Instant::now();
    for nth in 0u32..5 {
        assert!(matches!(budget.on_failure(now + nth * 100 * MS), Decision::RestartAfter(_)), "{nth}");
    }
    let window = Duration::from_secs(60);
    assert_eq!(budget.on_failure(now + 600 * MS), Decision::GiveUp { restarts: 5, window });
    budget.reset();
    assert!(matches!(budget.on_failure(now + 700 * MS), Decision::RestartAfter(_)));
}

#[test]
fn different_seeds_spread_restarts() {
    let now = Instant::now();
    let policy = RestartPolicy { backoff_min: 50 * MS, ..RestartPolicy::default() };
    let mut seconds: Vec<Decision> = (0..16)
        .map(|seed| {
            let mut budget = RestartBudget::new(policy, seed);
            budget.on_failure(now);
            budget.on_failure(now)
        })
        .collect();
    seconds.dedup();
    assert!(seconds.len() > 8, "{seconds:?}");
}
