#![no_main]

#[path = "../../tests/common/live.rs"]
mod live;
#[path = "../../tests/fuzz/relay.rs"]
mod relay;

libfuzzer_sys::fuzz_target!(|input: &[u8]| relay::body(input));
