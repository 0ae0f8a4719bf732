//! The queue actor: batch, handler, loop.
