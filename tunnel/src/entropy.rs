//! Random bytes of the operating system.

/// Reports that the operating system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("random numbers: getrandom(2) failed: {0}; to fix: allow the system call, or free memory")]
pub struct EntropyError(getrandom::Error);

/// Returns `N` random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], EntropyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(EntropyError)?;
    Ok(bytes)
}
