//! One ring cursor, and the in-memory rings on it.
