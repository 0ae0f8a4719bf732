//! Fuzzes the configuration file: it is refused with a message, or works for everything made from it and reads back
//! equal after it is written.

use oxide_relay::RelayPlan;
use oxide_relay::config::Config;

pub(crate) fn body(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let config = match Config::from_toml(text) {
        Ok(config) => config,
        Err(error) => {
            assert!(error.to_string().len() > 10, "an error needs a message");
            return;
        }
    };
    let written = toml::to_string(&config).unwrap();
    let again =
        Config::from_toml(&written).unwrap_or_else(|e| panic!("an accepted configuration does not read back: {e}"));
    assert_eq!(config, again);
    if let Ok(plan) = RelayPlan::new(&config, &[]) {
        assert_eq!(plan.entries().len(), config.relays.len());
        let _ = plan.check_queues(64);
    }
}
