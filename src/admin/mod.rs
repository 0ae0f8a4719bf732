//! What operators have of a running engine.

mod scrape;

pub use scrape::scrape;
