//! stub
use crate::process::{Cancel, Result};
#[derive(Debug)]
pub(crate) struct Options;
impl Options {
    pub(crate) fn parse(_: &[String]) -> Result<Self> {
        Ok(Self)
    }
}
pub(crate) fn run(_: &Cancel, _: &Options) -> Result<()> {
    Ok(())
}
