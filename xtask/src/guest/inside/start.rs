//! Tests of start and mode.

use super::relay::{DOCUMENTED, Relay, all_entries, modes, oxide};
use super::traffic::Server;
use crate::process::{Result, failed};

/// The relay starts with exactly the documented capabilities, and relays both families and 4 to 6.
pub(super) fn documented_capabilities(_: &Server) -> Result<String> {
    let relay = Relay::start_with_capabilities(DOCUMENTED, "")?;
    all_entries(&[64, 1400])?;
    let modes = modes().join(", ");
    relay.stop()?;
    let (_, doctor) = oxide("doctor")?;
    if let Some(line) = doctor.lines().find(|line| line.starts_with("FAIL")) {
        return failed(format!("doctor: {line}"));
    }
    Ok(format!("with {DOCUMENTED}: {modes}"))
}
