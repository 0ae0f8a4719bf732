//! Batch kernels behind one dispatch.
