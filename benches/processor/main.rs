//! Compares the batch processor, the flow table and the relay's whole step with other crates and with their own scalar
//! forms. A measure runs all candidates in turns in one run; `docs/simd.md` has the results.
//!
//! `cargo xtask bench processor [--json FILE]`, or `cargo bench --bench processor -- [--quick] [MEASURE...]`

#![allow(missing_docs)]

mod comparison;
mod frames;
mod hash;
mod lookup;
mod parse;
mod relay;
mod sum;

use comparison::Bench;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--instructions") {
        relay::for_callgrind(arguments.get(at + 1).map_or("", String::as_str));
        return;
    }
    let mut bench = Bench::new(&arguments);
    parse::run(&mut bench);
    hash::run(&mut bench);
    lookup::run(&mut bench);
    sum::run(&mut bench);
    relay::run(&mut bench);
    bench.finish();
}
