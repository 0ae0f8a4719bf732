//! Runs candidates in turns and collects their times.

use std::time::Instant;

use serde::Serialize;

/// Holds one candidate of a measure. The first one is the subject, the others are its peers.
pub(crate) struct Contestant<'a> {
    name: String,
    /// Maximum of subject over this peer; `None` without a limit.
    at_most: Option<f64>,
    turn: Box<dyn FnMut() + 'a>,
}

pub(crate) fn contestant<'a>(name: impl Into<String>, turn: impl FnMut() + 'a) -> Contestant<'a> {
    Contestant { name: name.into(), at_most: None, turn: Box::new(turn) }
}

impl Contestant<'_> {
    pub(crate) fn at_most(self, bound: f64) -> Self {
        Self { at_most: Some(bound), ..self }
    }
}

/// Holds one result in the form that `cargo xtask bench processor` reads.
#[derive(Serialize)]
struct Row {
    measure: String,
    subject: String,
    peer: String,
    at_most: Option<f64>,
    note: String,
    /// Nanoseconds per item of subject and peer, with one pair for each turn.
    pairs: Vec<(f64, f64)>,
}

/// Holds a candidate's name and limit, and its nanoseconds per item in each turn.
pub(crate) type Times = ((String, Option<f64>), Vec<f64>);

pub(crate) struct Bench {
    turns: usize,
    wanted: Vec<String>,
    json: Option<String>,
    rows: Vec<Row>,
}

/// Sets the approximate time of a candidate's turn.
const TURN_NS: f64 = 400_000.0;

impl Bench {
    pub(crate) fn new(arguments: &[String]) -> Self {
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let json = arguments.iter().position(|argument| argument == "--rows").and_then(|at| arguments.get(at + 1));
        let wanted = arguments.iter().filter(|argument| !argument.starts_with('-') && Some(*argument) != json);
        Self { turns: if quick { 7 } else { 25 }, wanted: wanted.cloned().collect(), json: json.cloned(), rows: vec![] }
    }

    pub(crate) fn wants(&self, measure: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|name| measure.contains(name.as_str()))
    }

    /// Runs all candidates in turns. Each call of a candidate handles `items`.
    pub(crate) fn compare(&mut self, measure: &str, note: &str, items: usize, mut contestants: Vec<Contestant<'_>>) {
        if !self.wants(measure) {
            return;
        }
        let mut calls = Vec::new();
        for contestant in &mut contestants {
            let start = Instant::now();
            let warm = 3;
            (0..warm).for_each(|_| (contestant.turn)());
            let each = start.elapsed().as_nanos() as f64 / f64::from(warm);
            calls.push(((TURN_NS / each.max(1.0)) as usize).clamp(1, 1 << 20));
        }
        let mut times = vec![Vec::new(); contestants.len()];
        for _ in 0..self.turns {
            for ((contestant, calls), times) in contestants.iter_mut().zip(&calls).zip(&mut times) {
                let start = Instant::now();
                (0..*calls).for_each(|_| (contestant.turn)());
                times.push(start.elapsed().as_nanos() as f64 / (calls * items) as f64);
            }
        }
        self.add(measure, note, contestants.into_iter().map(|c| (c.name, c.at_most)).zip(times).collect());
    }

    /// Adds a measure with times from elsewhere: name, limit and nanoseconds of each candidate.
    pub(crate) fn add(&mut self, measure: &str, note: &str, times: Vec<Times>) {
        println!("\n{measure}{}{note}", if note.is_empty() { "" } else { ": " });
        let Some((((subject, _), first), _)) = times.split_first() else { return };
        for ((name, at_most), times) in &times {
            let pairs: Vec<(f64, f64)> = first.iter().copied().zip(times.iter().copied()).collect();
            let ratio = median(pairs.iter().map(|(subject, peer)| subject / peer).collect());
            let verdict = match at_most {
                None => String::new(),
                Some(bound) if ratio <= *bound => format!("  <= {bound}"),
                Some(bound) => format!("  MISSED {bound}"),
            };
            println!("  {name:<40} {:>9.2} ns {ratio:>7.2} x{verdict}", median(times.clone()));
            let (measure, note, subject) = (measure.to_owned(), note.to_owned(), subject.clone());
            self.rows.push(Row { measure, subject, peer: name.clone(), at_most: *at_most, note, pairs });
        }
    }

    pub(crate) fn finish(self) {
        let Some(path) = &self.json else { return };
        let written = serde_json::to_vec(&self.rows).map_err(|e| e.to_string());
        if let Err(error) = written.and_then(|rows| std::fs::write(path, rows).map_err(|e| e.to_string())) {
            eprintln!("{path}: {error}");
            std::process::exit(1);
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Returns a sequence of random numbers that is the same in each run.
pub(crate) fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
