#![no_main]

#[path = "../../tests/malformed/oracle.rs"]
mod oracle;
#[path = "../../tests/fuzz/parse.rs"]
mod parse;

libfuzzer_sys::fuzz_target!(|frame: &[u8]| parse::body(frame));
