//! The `oxide` command.
fn main() {}
