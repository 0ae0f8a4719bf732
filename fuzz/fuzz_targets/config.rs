#![no_main]

#[path = "../../tests/fuzz/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|text: &[u8]| config::body(text));
